#!/bin/sh
# Builds the Spark program: jars from PyPI into .venv, classes and the input writer into build/. Needs python3, a JDK 17, cargo.
set -eu
cd "$(dirname "$0")"
VERSION=3.5.8
command -v javac >/dev/null || { echo "no JDK: javac is not found" >&2; exit 1; }
if ! ls .venv/lib/python3*/site-packages/pyspark/jars/spark-core_*-$VERSION.jar >/dev/null 2>&1; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --no-deps "pyspark==$VERSION"
fi
mkdir -p build/classes
javac -nowarn -d build/classes -cp "$(echo .venv/lib/python3*/site-packages/pyspark/jars)/*" src/*.java
cp src/log4j2.properties build/classes/
cargo build --release --quiet --manifest-path ../../input/Cargo.toml --target-dir build/cargo

#!/bin/sh
# Builds the Flink program: jars from PyPI into jars/, classes into build/. Needs python3 with pip, and a JDK 17.
# FLINK_JARS=DIR takes the jars from a folder instead.
set -eu
cd "$(dirname "$0")"
VERSION=2.3.0
command -v javac >/dev/null || { echo "no JDK: javac is not found" >&2; exit 1; }
if ! test -e jars/flink-dist-$VERSION.jar; then
    mkdir -p jars
    if test -n "${FLINK_JARS:-}"; then
        cp "$FLINK_JARS"/*.jar jars/
    else
        FOLDER=$(mktemp -d)
        trap 'rm -rf "$FOLDER"' EXIT
        python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$FOLDER" "apache-flink-libraries==$VERSION"
        tar xzf "$FOLDER"/*.tar.gz -C jars --strip-components=3 --wildcards '*/deps/lib/*.jar'
    fi
fi
mkdir -p build/classes/META-INF/services
javac -nowarn -d build/classes -cp "jars/*" src/*.java
cp src/log4j2.properties build/classes/
echo Checksums > build/classes/META-INF/services/org.apache.flink.table.factories.Factory

#!/bin/sh
# Runs the Spark program with the flags that every program understands: writes the input to a folder of its own and becomes the
# JVM, which removes the folder at its end.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
JARS=$(echo "$HERE"/.venv/lib/python3*/site-packages/pyspark/jars)
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
trap 'exit 1' INT TERM
"$HERE/build/cargo/release/bench-input" "$@" --out "$FOLDER"
GC=
case "$*" in *tuned*) GC=-XX:+UseParallelGC ;; esac
OPENS=
for package in java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent \
    java.util.concurrent.atomic sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar; do
    OPENS="$OPENS --add-opens=java.base/$package=ALL-UNNAMED"
done
exec java -Xms6g -Xmx6g -XX:+AlwaysPreTouch $GC $OPENS -XX:+IgnoreUnrecognizedVMOptions -Djdk.reflect.useDirectMethodHandle=false \
    -Djava.io.tmpdir="$FOLDER" -cp "$HERE/build/classes:$JARS/*" Bench "$@" --input "$FOLDER"

#!/bin/sh
# Runs the Flink program with the flags of Bench.java: becomes the JVM, which removes its temporary folder at its end. The heap is
# FLINK_HEAP, 8g by default.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
FOLDER=$(mktemp -d)
# As bin/config.sh of Flink's distribution has it.
OPENS=
for package in java.lang java.net java.io java.nio sun.nio.ch java.lang.reflect java.text java.time java.util \
    java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks; do
    OPENS="$OPENS --add-opens=java.base/$package=ALL-UNNAMED"
done
exec java -Xms"${FLINK_HEAP:-8g}" -Xmx"${FLINK_HEAP:-8g}" -XX:+AlwaysPreTouch -XX:+UseParallelGC $OPENS -Djava.io.tmpdir="$FOLDER" -Dbench.folder="$FOLDER" \
    -cp "$HERE/build/classes:$HERE/jars/*" Bench "$@"

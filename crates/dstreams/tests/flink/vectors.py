#!/usr/bin/env python3
"""Writes input.jsonl and vectors.jsonl: what Apache Flink makes of late records, and when.

    python3 vectors.py      # needs a JDK 17 and, for Flink's jars, pip; a minute and 500 MB in a temporary folder

`FLINK_JARS=DIR` takes the jars from a folder instead. Vectors.java is the job; its comments say how Flink's
watermarks are made to advance as batches do. Times are in milliseconds, the interval is 100.

A line of input.jsonl is a batch: its time, and the records [key, event time, number] that came in it, in order of
arrival. `readings` come in time, late and much too late, a few before their interval, and three from a clock that is
seconds fast; `visits` are few, with pauses; `views` and `clicks` are never later than the slack of their join.

A line of vectors.jsonl is something that Flink emitted: by which case, in which batch, under which watermark. Two runs
write the same bytes. `../it/flink.rs` runs the same input in dstreams; the guide (event time) says what differs.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

FLINK = "2.3.0"
HERE = pathlib.Path(__file__).resolve().parent
# Batches with records, and all batches: after the last one everything is final, the fast clock's records too.
BATCHES, ALL = 30, 75
KEYS = ["a", "b", "c", "ä€"]


def draws(seed):
    """Numbers below a bound, the same in every run and with every Python."""
    state = seed

    def below(bound):
        nonlocal state
        state ^= state << 13 & (1 << 64) - 1
        state ^= state >> 7
        state ^= state << 17 & (1 << 64) - 1
        return (state >> 11) % bound

    return below


def readings(below):
    """Most in their interval; later ones up to eight intervals late; some up to one interval early."""
    batches = []
    for batch in range(1, BATCHES + 1):
        records = []
        # Some batches have none.
        for _ in range(0 if batch % 7 == 5 else 3 + below(5)):
            late = [0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, -1][below(14)]
            at = 100 * (batch - late) - 1 - below(100)
            records.append([KEYS[below(4)], at, below(26) - 5])
        batches.append([record for record in records if record[1] >= 0])
    # The ends of intervals and windows.
    batches[9] += [["a", 1000, 1], ["a", 999, 1], ["b", 900, 1], ["b", 899, 1]]
    # Equal records, late in one batch.
    batches[14] += [["c", 1150, 2], ["c", 1150, 2], ["c", 1151, 2]]
    for batch, ahead in [(4, 1900), (11, 3100), (20, 2600)]:
        batches[batch] += [["fast", 100 * batch + ahead, batch]]
    return batches


def visits(below):
    batches = []
    for batch in range(1, BATCHES + 1):
        records = []
        for _ in range(below(3)):
            late = [0, 0, 0, 1, 1, 2, 3, 5, 7][below(9)]
            at = 100 * (batch - late) - 1 - below(100)
            records.append([["u", "v", "w", "x", "y"][below(5)], at, below(9)])
        batches.append([record for record in records if record[1] >= 0])
    # A late record between two sessions, in time and too late.
    batches[3] += [["bridge", 390, 1], ["drawbridge", 390, 1]]
    batches[6] += [["bridge", 680, 1], ["drawbridge", 680, 1]]
    batches[6] += [["bridge", 530, 1]]
    batches[9] += [["drawbridge", 530, 1]]
    # Exactly the gap after the one before, and a millisecond less.
    batches[15] += [["gap", 1510, 1], ["less", 1510, 1]]
    batches[17] += [["gap", 1710, 1], ["less", 1709, 1]]
    return batches


def pairs(below):
    """At most two intervals late."""
    batches = []
    for batch in range(1, BATCHES + 1):
        records = []
        for _ in range(below(3)):
            at = 100 * (batch - below(3)) - 1 - below(100)
            records.append([["p", "q", "r"][below(3)], at, below(1000)])
        batches.append([record for record in records if record[1] >= 0])
    return batches


def write_input(path):
    streams = {
        "readings": readings(draws(88172645463325252)),
        "visits": visits(draws(2463534242)),
        "views": pairs(draws(123456789)),
        "clicks": pairs(draws(362436069)),
    }
    # Where a record is in time to the millisecond, and the next one is not.
    streams["views"][9] += [["edge", 950, 1]]
    for at in [849, 850, 1150, 1151]:
        streams["clicks"][at // 100] += [["edge", at, at]]
    lines = []
    for at in range(ALL):
        batch = {"batch": 100 * (at + 1)}
        for name, batches in streams.items():
            batch[name] = batches[at] if at < len(batches) else []
        lines.append(json.dumps(batch, ensure_ascii=False, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def jars(folder):
    """A folder with Flink's jars: that of FLINK_JARS, or those in the package of PyPI."""
    if given := os.environ.get("FLINK_JARS"):
        return pathlib.Path(given)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", folder, f"apache-flink-libraries=={FLINK}"], check=True)
    [package] = pathlib.Path(folder).glob("apache*flink*libraries*.tar.gz")
    found = pathlib.Path(folder, "jars")
    found.mkdir()
    with tarfile.open(package) as files:
        for file in files:
            if "/lib/" in file.name and file.name.endswith(".jar"):
                found.joinpath(pathlib.Path(file.name).name).write_bytes(files.extractfile(file).read())
    return found


def main():
    write_input(HERE / "input.jsonl")
    with tempfile.TemporaryDirectory(prefix="vectors-") as folder:
        path = f"{folder}/classes:{jars(folder)}/*"
        subprocess.run(["javac", "-d", f"{folder}/classes", "-cp", path, HERE / "Vectors.java"], check=True)
        opens = ["java.lang", "java.util", "java.util.concurrent", "java.time", "java.nio", "java.net"]
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in opens]
        # Errors alone are logged.
        pathlib.Path(folder, "classes/log4j2.properties").write_text(
            "rootLogger.level = error\nrootLogger.appenderRef.err.ref = err\nappender.err.type = Console\n"
            "appender.err.name = err\nappender.err.target = SYSTEM_ERR\nappender.err.layout.type = PatternLayout\n"
        )
        job = ["java", *opens, f"-Djava.io.tmpdir={folder}", "-cp", path, "Vectors", HERE / "input.jsonl"]
        subprocess.run([*job, f"{folder}/vectors.jsonl"], check=True)
        text = pathlib.Path(folder, "vectors.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        json.loads(line)
    HERE.joinpath("vectors.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

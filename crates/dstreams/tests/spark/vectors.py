#!/usr/bin/env python3
"""Writes vectors.json: what the operators of Spark Streaming give, batch by batch.

    python3 -m venv /tmp/spark && /tmp/spark/bin/pip install pyspark==3.5.9
    /tmp/spark/bin/python vectors.py            # with Java 8, 11 or 17; some minutes

Each case is a program: a Python expression over the streams of INPUTS, which is the text in vectors.json and is
evaluated here. Spark's clock is a manual one that begins at zero, or after `start` intervals: nothing depends on the
time of a run. The interval is one second. A batch has its number (its time in intervals) and its records, sorted,
since Spark promises no order among the records of an RDD. Lists of values are in the order that Spark gave them: the
RDDs of the inputs have one partition, so this is the order of arrival.

Two runs write the same bytes. `../it/spark.rs` runs the same programs in dstreams,
and `docs/spark-streaming.md` says what differs.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
from operator import add, sub

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.resultiterable import ResultIterable
from pyspark.streaming import StreamingContext

# Records of each batch.
INPUTS = {
    # Batches without records; keys that come, go and come again; equal records; empty and non-ASCII keys; negative
    # numbers, sums of zero, a number that no double represents.
    "pairs": [
        [("a", 1), ("b", 2), ("a", -3), ("ä€", 4)],
        [],
        [("b", 5), ("b", 5), ("", 0), ("a", 1)],
        [("c", -7)],
        [],
        [("a", 1), ("a", 1), ("日本", 9007199254740993), ("b", -2)],
        [("c", 7), ("c", 0)],
        [],
        [("a", 2)],
        [("🦀", -1), ("b", 3), ("ä€", 0)],
        [],
        [("a", -1)],
        [],
    ],
    "others": [
        [("a", "x"), ("z", "ß"), ("a", "y")],
        [("a", "only here")],
        [("b", ""), ("b", "b"), ("", ""), ("b", "b")],
        [],
        [],
        [("q", "2"), ("日本", "日"), ("b", "1"), ("b", "1")],
        [("c", "c")],
        [],
        [],
        [("🦀", "🦀"), ("🦀", "🦀")],
        [("a", "late")],
        [("b", "0")],
        [],
    ],
    "words": [
        ["to", "be", "or", "not", "to", "be"],
        [],
        ["", "ä€", "to", ""],
        ["be"],
        [],
        [],
        ["日本", "日本", "🦀"],
        ["to"],
        [],
        [],
    ],
    "numbers": [
        [3, -1, 3, 0],
        [],
        [-5],
        [7, 7],
        [],
        [],
        [],
        [-9007199254740993, 1],
        [2, 2, -2],
        [],
    ],
}

# What programs call by name.
FUNCTIONS = """
def drop_at_zero(values, state):
    total = sum(values) + (state or 0)
    return total if total != 0 else None


def journal(values, state):
    # One text for each call: silent batches are calls too.
    return (state or "") + "[" + " ".join(str(value) for value in values) + "]"


def forget(values, state):
    # A sum, and the number of batches since the last values: with the second one the sum is forgotten.
    if state and state[1] == 1:
        state = None
    if values:
        return (sum(values) + (state[0] if state else 0), 0)
    return (state[0], 1) if state else None
"""

# Name of the case, and the program.
CASES = {
    # Within a batch.
    "map": "pairs.map(lambda pair: (pair[1], pair[0] + '!'))",
    "flatMap": "words.flatMap(lambda word: [c for c in word if c != 'o'])",
    "filter": "pairs.filter(lambda pair: pair[0] != 'b' and pair[1] >= 0)",
    "mapValues": "pairs.mapValues(lambda value: -value)",
    "flatMapValues": "pairs.flatMapValues(lambda value: range(value) if value < 6 else [])",
    "union": "pairs.union(pairs.filter(lambda pair: pair[1] < 0))",
    "union_of_three": "ssc.union(words, words.map(lambda word: word + '?'), words)",
    "count": "words.count()",
    "countByValue": "words.countByValue()",
    "countByValue_of_pairs": "pairs.countByValue()",
    "reduce_sum": "numbers.reduce(add)",
    "reduce_max": "numbers.reduce(max)",
    "reduceByKey_sum": "pairs.reduceByKey(add)",
    "reduceByKey_min": "pairs.reduceByKey(min)",
    "combineByKey": "pairs.combineByKey("
    "lambda value: (value, 1), "
    "lambda held, value: (held[0] + value, held[1] + 1), "
    "lambda one, two: (one[0] + two[0], one[1] + two[1]))",
    "groupByKey": "pairs.groupByKey()",
    "transform_distinct": "pairs.transform(lambda rdd: rdd.distinct())",
    "transform_aggregate": "words.transform(lambda rdd: rdd.map(lambda word: (len(word), 1)).reduceByKey(add))",
    "transformWith_subtract": "pairs.transformWith(lambda one, two: one.subtractByKey(two), others)",
    # Two streams.
    "join": "pairs.join(others)",
    "leftOuterJoin": "pairs.leftOuterJoin(others)",
    "rightOuterJoin": "pairs.rightOuterJoin(others)",
    "fullOuterJoin": "pairs.fullOuterJoin(others)",
    "cogroup": "pairs.cogroup(others)",
    "join_of_windows": "pairs.window(2, 1).join(others.window(3, 1))",
    "fullOuterJoin_of_windows": "pairs.window(3, 2).fullOuterJoin(others.window(2, 2))",
    # Windows.
    "window": "pairs.window(3, 1)",
    "window_tumbling": "pairs.window(2, 2)",
    "window_hopping": "pairs.window(4, 3)",
    "window_sample": "pairs.window(1, 3)",
    "window_of_window": "words.window(2, 1).window(3, 1)",
    "window_groupByKey": "pairs.window(3, 2).groupByKey()",
    "groupByKeyAndWindow": "pairs.groupByKeyAndWindow(3, 2)",
    "countByWindow": "words.countByWindow(3, 1)",
    "countByWindow_long": "words.countByWindow(5, 1)",
    "countByValueAndWindow": "words.countByValueAndWindow(3, 2)",
    "countByValueAndWindow_long": "words.countByValueAndWindow(6, 1)",
    "reduceByWindow": "numbers.reduceByWindow(add, None, 3, 1)",
    "reduceByWindow_max": "numbers.reduceByWindow(max, None, 3, 2)",
    "reduceByWindow_inverse": "numbers.reduceByWindow(add, sub, 3, 1)",
    "reduceByKeyAndWindow": "pairs.reduceByKeyAndWindow(add, None, 3, 2)",
    "reduceByKeyAndWindow_max": "pairs.reduceByKeyAndWindow(max, None, 4, 1)",
    # Spark uses the inverse where the window has five slides or more; shorter ones are reduced as a whole.
    "reduceByKeyAndWindow_inverse_short": "pairs.reduceByKeyAndWindow(add, sub, 4, 1)",
    "reduceByKeyAndWindow_inverse": "pairs.reduceByKeyAndWindow(add, sub, 5, 1)",
    "reduceByKeyAndWindow_inverse_slide": "pairs.reduceByKeyAndWindow(add, sub, 10, 2)",
    "reduceByKeyAndWindow_inverse_filter": "pairs.reduceByKeyAndWindow("
    "add, sub, 5, 1, filterFunc=lambda pair: pair[1] != 0)",
    "window_of_counts": "words.countByValue().reduceByKeyAndWindow(add, None, 4, 2)",
    # States.
    "updateStateByKey": "pairs.updateStateByKey(lambda values, state: sum(values) + (state or 0))",
    "updateStateByKey_drop": "pairs.updateStateByKey(drop_at_zero)",
    "updateStateByKey_initial": "pairs.updateStateByKey("
    "lambda values, state: sum(values) + (state or 0), initialRDD=sc.parallelize([('old', 5), ('a', 100)], 1))",
    "updateStateByKey_last": "others.updateStateByKey(lambda values, state: values[-1] if values else state)",
    "updateStateByKey_silent": "pairs.updateStateByKey(journal)",
    "updateStateByKey_timeout": "pairs.updateStateByKey(forget).mapValues(lambda state: state[0])",
    "updateStateByKey_of_window": "words.countByValueAndWindow(2, 2).updateStateByKey("
    "lambda values, state: max(values + [state or 0]))",
}

# The same with a program that starts after the first interval of the clock: name, and what the clock says at the start.
LATER = {
    "window_started_later": (1, "pairs.window(2, 2)"),
    "reduceByKeyAndWindow_started_later": (2, "pairs.reduceByKeyAndWindow(add, None, 4, 3)"),
}


def plain(value):
    """A record as JSON has it."""
    if isinstance(value, (tuple, list, ResultIterable)):
        return [plain(item) for item in value]
    return value


def run(sc, start, programs):
    """What each program gives, by name: the number of each batch, with its records."""
    ssc = StreamingContext(sc, 1)
    folder = tempfile.mkdtemp(prefix="vectors-")
    # Of the RDDs of states and not of the context, whose checkpoints would contain the closures of outputs.
    sc.setCheckpointDir(folder)
    clock = ssc._jssc.ssc().scheduler().clock()
    clock.setTime(start * 1000)
    names = {"ssc": ssc, "sc": sc, "add": add, "sub": sub}
    exec(FUNCTIONS, names)
    for name, batches in INPUTS.items():
        rdds = [sc.parallelize(batch, 1) for batch in batches]
        names[name] = ssc.queueStream(rdds, default=sc.parallelize([], 1))
    outputs = {name: [] for name in programs}
    done, ended = threading.Condition(), []

    def collect(name):
        def at(time, rdd):
            number = round(time.timestamp())
            records = [plain(record) for record in rdd.collect()]
            records.sort(key=lambda record: json.dumps(record, ensure_ascii=False))
            outputs[name].append((number, records))

        return at

    def end(time, _):
        with done:
            ended.append(round(time.timestamp()))
            done.notify_all()

    for name, program in programs.items():
        eval(program, names).foreachRDD(collect(name))
    # Outputs of a batch run in the order in which they were registered: this one last.
    names["words"].foreachRDD(end)
    ssc.start()
    batches = max(len(batches) for batches in INPUTS.values())
    for number in range(start + 1, start + batches + 1):
        clock.setTime(number * 1000)
        with done:
            if not done.wait_for(lambda: number in ended, timeout=300):
                sys.exit(f"batch {number} did not end")
        print(f"batch {number}", file=sys.stderr)
    ssc.stop(stopSparkContext=False, stopGraceFully=False)
    shutil.rmtree(folder, ignore_errors=True)
    return outputs


def lines(batches):
    """Numbered batches, one a line."""
    dump = lambda it: json.dumps(it, ensure_ascii=False, separators=(",", ":"))
    return ",\n".join(f"      [{number}, {dump(plain(records))}]" for number, records in batches)


def main():
    conf = SparkConf().setMaster("local[1]").setAppName("vectors")
    conf.set("spark.streaming.clock", "org.apache.spark.util.ManualClock")
    conf.set("spark.ui.enabled", "false")
    conf.set("spark.default.parallelism", "1")
    conf.set("spark.ui.showConsoleProgress", "false")
    sc = SparkContext(conf=conf)
    sc.setLogLevel("ERROR")
    cases = [(name, 0, CASES[name], batches) for name, batches in run(sc, 0, CASES).items()]
    for name, (start, program) in LATER.items():
        cases.append((name, start, program, run(sc, start, {name: program})[name]))
    sc.stop()
    inputs = ",\n".join(
        f'    {json.dumps(name)}: [\n{lines(enumerate(batches, 1))}\n    ]' for name, batches in INPUTS.items()
    )
    outputs = ",\n".join(
        f'    {{"name": {json.dumps(name)}, "start": {start},\n     "program": {json.dumps(program, ensure_ascii=False)},\n'
        f'     "batches": [\n{lines(batches)}\n    ]}}'
        for name, start, program, batches in cases
    )
    text = (
        f'{{\n  "pyspark": {json.dumps(pyspark.__version__)},\n  "inputs": {{\n{inputs}\n  }},\n'
        f'  "functions": {json.dumps(FUNCTIONS, ensure_ascii=False)},\n  "cases": [\n{outputs}\n  ]\n}}\n'
    )
    json.loads(text)
    pathlib.Path(__file__).with_name("vectors.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    # Times reach Python in local time; this keeps them free of the machine's zone.
    os.environ["TZ"] = "UTC"
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    main()

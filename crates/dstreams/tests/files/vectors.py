#!/usr/bin/env python3
"""Writes vectors.jsonl, vectors.csv and vectors.parquet: values as other programs write them, and what they are.

    pip install pyarrow==26.0.1
    python3 vectors.py

Each row has a value twice: as text (or in a column of its type, in Parquet), and as the whole number, or the
hexadecimal digits, that it is. `../it/files_vectors.rs` compares both. The numbers are those of Python's `datetime`
and `decimal`, whose arithmetic is exact; years that `datetime` does not have are moved by multiples of 400 years, after
which the Gregorian calendar repeats itself. Two runs write the same bytes.
"""

import csv
import json
import pathlib
import random
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow
import pyarrow.parquet

HERE = pathlib.Path(__file__).parent
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)
# Of 400 years.
ERA_DAYS = 146_097
LEVELS = ["Info", "Warn", None]


def times(random):
    """Texts and milliseconds."""
    for _ in range(120):
        micros = random.randrange(-62_135_596_800, 253_402_300_800) * 1_000_000 + random.randrange(1000) * 1000
        offset = timezone(timedelta(minutes=random.choice([0, 0, 60, -300, 330, random.randrange(-1439, 1440)])))
        at = EPOCH + timedelta(microseconds=micros)
        try:
            local = at.astimezone(offset)
        except OverflowError:
            local = at
        text = local.isoformat(sep=random.choice("T "), timespec=random.choice(["auto", "milliseconds", "microseconds"]))
        if random.random() < 0.3:
            text = text.replace("+00:00", "Z")
        yield text, at
    for text in ["1970-01-01T00:00:00+00:00", "1969-12-31T23:59:59.999+00:00", "2000-02-29T12:00:00+00:00"]:
        yield text, datetime.fromisoformat(text)


def far(text, eras):
    """A text of a year that is so many times 400 years later."""
    year = int(text[:4]) + 400 * eras
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}{text[4:]}"


def rows():
    numbers = random.Random(20261129)
    for text, at in times(numbers):
        ms = (at - EPOCH) // MILLISECOND
        assert EPOCH + ms * MILLISECOND == at
        eras = numbers.choice([0, 0, 0, 1, -1, -20, 25, 700, -700])
        day = date.fromordinal(numbers.randrange(1, 3_652_060))
        days = (day - date(1970, 1, 1)).days
        price = Decimal(numbers.randrange(-10**17, 10**17)) / 10 ** numbers.randrange(0, 5)
        price = price.quantize(Decimal("0.0001")) if abs(price) < 10**14 else Decimal("-0.5")
        id = uuid.UUID(int=numbers.getrandbits(128))
        data = numbers.randbytes(numbers.choice([1, 2, 12, 13, 40]))
        yield {
            "at": far(text, eras),
            "ms": ms + eras * ERA_DAYS * 86_400_000,
            "day": far(day.isoformat(), eras),
            "days": days + eras * ERA_DAYS,
            "price": price,
            "unscaled": int(price.scaleb(4)),
            "id": str(id),
            "id_digits": id.hex,
            "data": data.hex(),
            "length": len(data),
            "level": numbers.choice(LEVELS),
            "maybe": far(text, eras) if numbers.random() < 0.5 else None,
        }


def as_json(row):
    """With nested values; prices in turn as text and as numbers, times in turn as text and as numbers."""
    row = dict(row)
    even = row["length"] % 2 == 0
    ms, at = row["ms"], row["at"]
    row["visits"] = [{"at": ms if even else at, "day": row["day"], "ids": [row["id"]]}, {"ids": [], "at": at}]
    if row["level"] is None:
        del row["level"]
    price = str(row["price"])
    # Not as a float, which is another number.
    text = json.dumps({**row, "price": price}, ensure_ascii=False)
    return text if even else text.replace(f'"price": "{price}"', f'"price": {price}')


def write_parquet():
    """Times in columns of all units and zones, of years that fit into them; nothing finer than a millisecond."""
    numbers = random.Random(1)
    ms = [numbers.randrange(-8_000_000_000_000, 8_000_000_000_000) for _ in range(60)] + [-1, 0, 1, -1000]

    def column(unit, zone, factor):
        return pyarrow.array([n * factor for n in ms], pyarrow.int64()).cast(pyarrow.timestamp(unit, zone))

    table = pyarrow.table({
        "ms": ms,
        "seconds": pyarrow.array([n // 1000 for n in ms], pyarrow.int64()).cast(pyarrow.timestamp("s", "UTC")),
        "millis": column("ms", None, 1),
        "micros": column("us", "America/New_York", 1_000),
        "naive": column("us", None, 1_000),
        "nanos": column("ns", "UTC", 1_000_000),
        "maybe": pyarrow.array([None if n % 2 else n * 1000 for n in ms], pyarrow.timestamp("us", "+02:00")),
        "list": pyarrow.array([[n * 1000, 0] for n in ms], pyarrow.list_(pyarrow.timestamp("us", "UTC"))),
    })
    pyarrow.parquet.write_table(table, HERE / "vectors.parquet", coerce_timestamps=None)


all = list(rows())
(HERE / "vectors.jsonl").write_text("".join(as_json(row) + "\n" for row in all))
with open(HERE / "vectors.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, all[0].keys())
    writer.writeheader()
    writer.writerows(all)
write_parquet()

#!/usr/bin/env python3
"""Sends the lines of a file to a stream of a running dstreams program or cluster, each line once.

    python3 send.py HOST:PORT STREAM FILE [--producer NAME] [--batch-rows N]

A whole client in Python, written from the protocol's documentation (src/protocol.rs of this crate) with
nothing but pyarrow (`pip install pyarrow`). HOST:PORT is a master, a worker, or a program that runs alone;
FILE may be - for standard input. A token, if the cluster wants one, is read from DSTREAMS_TOKEN.

Batches are numbered by their place in the file. So with a --producer of your own, a second run with the same
file and --batch-rows resumes where the first one stopped; a producer's name belongs to one file.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import sys
import time
import uuid

try:
    import pyarrow as pa
    import pyarrow.flight as fl
except ImportError as error:
    sys.exit(f"pyarrow is needed: pip install pyarrow ({error})")

SCHEMA = pa.schema([pa.field("value", pa.string(), nullable=False)])
# Batches sent and not acknowledged.
WINDOW = 16
# Seconds a master may take to answer.
ANSWER = 10.0
# Seconds without progress before giving up, and the shortest and the longest pause between rounds of tries.
GIVE_UP, FIRST_PAUSE, LONGEST_PAUSE = 120.0, 0.05, 5.0
# Pings, in milliseconds, detect a peer that vanished silently.
CHANNEL = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 10_000)]
# NOT_FOUND; INVALID_ARGUMENT, OUT_OF_RANGE and FAILED_PRECONDITION; UNIMPLEMENTED; UNAUTHENTICATED;
# PERMISSION_DENIED. These are final; all other errors of Arrow may be retried.
FINAL = (
    pa.ArrowKeyError,
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    fl.FlightUnauthenticatedError,
    fl.FlightUnauthorizedError,
)
MAY_BE_TRIED_AGAIN = (pa.ArrowException, OSError)


class Broken(Exception):
    """The server ended the call without a reason."""


def batches(file, rows):
    """The lines of a file as record batches of so many rows."""
    lines = []
    for line in file:
        lines.append(line.removesuffix(b"\n").removesuffix(b"\r").decode())
        if len(lines) == rows:
            yield pa.record_batch([pa.array(lines, pa.string())], schema=SCHEMA)
            lines = []
    if lines:
        yield pa.record_batch([pa.array(lines, pa.string())], schema=SCHEMA)


def location(uri, asked):
    """The address of a worker as pyarrow wants it; None for what this protocol does not use."""
    if uri.startswith("arrow-flight-reuse-connection://"):
        return asked
    scheme, _, rest = uri.partition("://")
    return f"grpc://{rest.rstrip('/')}" if scheme in ("grpc", "grpc+tcp", "http") else None


class Sender:
    """One producer of one stream."""

    def __init__(self, address, stream, producer, source, token):
        self.address, self.stream, self.producer = f"grpc://{address}", stream, producer
        self.source = enumerate(source, 1)
        # Batches that are not acknowledged, with their numbers: what is sent again after a break.
        self.window = collections.deque()
        self.acknowledged = 0
        self.rows = self.reconnects = self.resends = 0
        self.known = []
        self.headers = [(b"dstreams-protocol", b"1")]
        if token:
            self.headers.append((b"authorization", b"Bearer " + token.encode()))

    def workers(self):
        """Asks who takes the stream, in this producer's order; those known from before if nobody answers."""
        options = fl.FlightCallOptions(headers=self.headers, timeout=ANSWER)
        question = fl.FlightDescriptor.for_path(self.stream)
        try:
            with fl.connect(self.address, generic_options=CHANNEL) as master:
                info = master.get_flight_info(question, options)
        except pa.ArrowNotImplementedError:
            return [self.address]  # not a master: it takes the records itself
        except FINAL:
            raise
        except MAY_BE_TRIED_AGAIN as error:
            self.last_error = f"{self.address}: {error}"
            return self.known
        found = []
        for endpoint in info.endpoints:
            uris = [where.uri.decode() for where in endpoint.locations]
            found += [location(uri, self.address) for uri in uris] or [self.address]
        found = set(filter(None, found))
        if not found:
            self.last_error = f"{self.address} has no worker for stream {self.stream!r} now"
        self.known = sorted(found, key=self.hash)
        return self.known

    def hash(self, worker):
        """Producers are spread over workers, and each has an order of its own."""
        return hashlib.sha256(f"{self.producer} {worker}".encode()).digest()

    def run(self):
        """Sends everything, on one worker after the other while they fail; True when all is safe."""
        tried, rounds, failing_since = set(), 0, None
        while True:
            workers = self.workers()
            if workers and tried.issuperset(workers):
                tried.clear()
            worker = next((worker for worker in workers if worker not in tried), None)
            if worker is not None:
                before = self.acknowledged
                try:
                    return self.session(worker)
                except FINAL:
                    raise
                except (Broken, *MAY_BE_TRIED_AGAIN) as error:
                    self.last_error = f"{worker}: {error}"
                self.reconnects += 1
                if self.acknowledged > before:
                    tried, rounds, failing_since = set(), 0, None
                tried.add(worker)
                if not tried.issuperset(workers):
                    continue  # the next one, at once
            now = time.monotonic()
            failing_since = failing_since or now
            if now - failing_since > GIVE_UP:
                return False
            pause = min(FIRST_PAUSE * 2**rounds, LONGEST_PAUSE)
            rounds = min(rounds + 1, 16)
            tried.clear()
            time.sleep(pause * random.uniform(0.5, 1))

    def session(self, worker):
        """One call on one worker: True when everything is sent and acknowledged."""
        with fl.connect(worker, generic_options=CHANNEL) as client:
            path = fl.FlightDescriptor.for_path(self.stream, self.producer)
            options = fl.FlightCallOptions(headers=self.headers)
            writer, answers = client.do_put(path, SCHEMA, options)
            try:
                # The records that the server already has are safe; only the rest is sent again.
                self.acknowledge(self.next_ack(answers))
                for number, batch in self.window:
                    self.write(writer, number, batch)
                    self.resends += 1
                while self.fill(writer) or self.window:
                    self.acknowledge(self.next_ack(answers))
                writer.done_writing()
                return True
            except (Broken, *MAY_BE_TRIED_AGAIN):
                # Where a call has failed, reading only ends: closing it raises what the server said.
                writer.close()
                raise

    def fill(self, writer):
        """Sends new batches until the window is full; False when there are no more."""
        while len(self.window) < WINDOW:
            number, batch = next(self.source, (None, None))
            if batch is None:
                return False
            self.rows += batch.num_rows
            if number <= self.acknowledged:
                continue  # an earlier run of this producer has sent it
            self.window.append((number, batch))
            self.write(writer, number, batch)
        return True

    def write(self, writer, number, batch):
        writer.write_with_metadata(batch, json.dumps({"seq": number}).encode())

    def next_ack(self, answers):
        """Waits for an acknowledgement; `{}` says only that the server is alive."""
        while True:
            answer = answers.read()
            if answer is None:
                raise Broken("the server ended the call")
            ack = json.loads(answer.to_pybytes()).get("ack")
            if ack is not None:
                return ack

    def acknowledge(self, number):
        """Everything up to this number is safe. A lower one than before changes nothing."""
        self.acknowledged = max(self.acknowledged, number)
        while self.window and self.window[0][0] <= number:
            self.window.popleft()


def main():
    usage = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usage.add_argument("address", metavar="HOST:PORT")
    usage.add_argument("stream", metavar="STREAM")
    usage.add_argument("file", metavar="FILE")
    usage.add_argument("--producer", default=uuid.uuid4().hex, metavar="NAME")
    usage.add_argument("--batch-rows", default=8192, type=int, metavar="N")
    args = usage.parse_args()
    if args.batch_rows < 1:
        usage.error("--batch-rows must be at least 1")
    with sys.stdin.buffer if args.file == "-" else open(args.file, "rb") as file:
        source = batches(file, args.batch_rows)
        token = os.environ.get("DSTREAMS_TOKEN")
        sender = Sender(args.address, args.stream, args.producer, source, token)
        try:
            done = sender.run()
        except FINAL as error:
            sys.exit(f"refused: {error}")
        except UnicodeDecodeError as error:
            sys.exit(f"{args.file} is not UTF-8 text: {error}")
    safe = f"{sender.acknowledged} batches are acknowledged"
    if not done:
        sys.exit(f"gave up: {sender.last_error}; {safe}")
    again = f"{sender.reconnects} reconnects, {sender.resends} resends"
    print(f"{sender.rows} lines, {safe}, {again}")


if __name__ == "__main__":
    main()

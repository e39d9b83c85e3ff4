//! The wire protocol between a producer of records and a running `dstreams` program, version 1.
//!
//! It is one Arrow Flight `DoPut` call per stream and producer, and on a cluster one `GetFlightInfo` before it to
//! find a worker: simple enough for any Flight library (a Python example is below). This module is its definition:
//! both sides, this crate and the servers in `dstreams`, read and write it only with the functions here.
//!
//! # Finding a worker
//!
//! An address may be a master's, a worker's, or that of a program that runs alone; a client need not know which. It
//! asks `GetFlightInfo` with the `FlightDescriptor` path `[stream]` ([`workers_question`]):
//!
//! | answer | meaning |
//! |---|---|
//! | `FlightInfo` with endpoints | each location is a worker that takes the stream now, best first: `grpc://host:port` (also accepted: `grpc+tcp://` and `http://`). An endpoint without a location, or `arrow-flight-reuse-connection://?`, is the server that was asked. Other kinds of locations are ignored; if there are only such, the answer is an error. Everything else in it (schema, tickets, numbers) is ignored |
//! | `FlightInfo` without endpoints | the stream exists, but no worker takes it now: ask again later, and use no worker known from before |
//! | `UNIMPLEMENTED` | not a master: send to this address itself |
//! | `NOT_FOUND` | no such stream (the message lists the existing ones): final |
//! | `UNAVAILABLE`, or no connection, or no answer | a master that is starting or away: ask again later, and meanwhile use the workers known from before |
//! | other codes | as [below](#refusals) |
//!
//! [`workers_answer`] and [`parse_workers`] write and read it. Any worker of an answer will do for any producer. A
//! simple client takes the first; many producers should not all take the same one: this crate orders the workers by
//! a hash of (producer, worker), so that each producer has a fixed order of its own, and those of a dead worker are
//! spread over the others.
//!
//! # When a worker fails
//!
//! When the connection breaks, or a call ends with a retryable code, the client asks the master again, since it may
//! have new workers by now (for a while it may also name the dead one), and opens the call on the next worker,
//! under the same producer name. That worker's first `{"ack":n}` says what is safe; the client drops its batches up
//! to `n` and sends the rest again, with the same numbers. After trying each worker once it pauses and begins
//! again: longer with each round, bounded in rounds and in time.
//!
//! # The call
//!
//! | step | who | message |
//! |---|---|---|
//! | open | client | a `FlightData` with the Arrow schema; its `FlightDescriptor` is a path, `[stream, producer]` or `[stream]` |
//! | resume | server | `PutResult` with app_metadata `{"ack":n}`: everything up to `n` is safe already; 0 for a new producer |
//! | record batch | client | `FlightData` with one record batch and app_metadata `{"seq":n}` |
//! | acknowledge | server | `PutResult` with app_metadata `{"ack":n}`: everything up to `n` is safe (cumulative) |
//! | alive | server | `PutResult` with app_metadata `{}`, at any time: "alive, under backpressure"; at least every [`ALIVE_EVERY`] while a batch waits, also before the first `ack` |
//! | close | client | ends its side; the server sends the remaining acknowledgements, then ends with status OK |
//!
//! "Safe" is what the `receive` and `blocks` modules of the program promise: the block with these records survives
//! the loss of any one worker (in local mode: of the process, where it has a journal directory).
//!
//! A client stores each batch until it is acknowledged, and bounds how many it sends ahead. Answers come while it
//! sends: it must read them, or both sides may end up waiting. Treat a server that has been silent for some time
//! (this crate: 30 s) while batches wait as a broken connection.
//!
//! # Sequence numbers
//!
//! * Batches are numbered 1, 2, 3... per (stream, producer), across connections. A producer is one writer: two that
//!   write at once need two names.
//! * The server remembers the last number it took. `seq <= last` was taken before: it is acknowledged again and not
//!   stored. `seq == last + 1` is stored. A larger one is a gap, and refused.
//! * A batch without app_metadata counts as `last + 1`: taken, and so never recognised as a repetition. A producer
//!   without a name starts at 0 with each connection. So a naive producer works, at least once.
//! * A producer unknown to the server (new, or forgotten) may start at any number: it sets `last`. Batches in
//!   flight when a server forgets may be stored twice; a server that stores `last` with the blocks forgets nothing.
//! * [`Sequence`] implements this rule.
//! * **One connection at a time.** A reconnecting producer may arrive while the server still stores a batch
//!   from its broken connection. The server must first finish or abandon that batch, then answer the new
//!   connection's first `ack`; after that it must take nothing more from the old one.
//! * **On a cluster all of this holds across workers**, the numbers and the one connection: a worker answers a
//!   producer's first `ack` only when it knows which of its batches will be computed, wherever they are stored, and
//!   that no other worker will still take one. `n` counts all of those, also unacknowledged ones: one that is left
//!   out would be stored twice, one that is counted and then lost would be missing. Until then the worker says
//!   `{}`, or refuses with `UNAVAILABLE`. A worker that knows fewer batches than were acknowledged refuses the next
//!   as a gap: nothing is lost silently.
//!
//! # The token
//!
//! A cluster may require a token that it shares with its clients. It is sent with every call, `GetFlightInfo` and
//! `DoPut`, in the header [`TOKEN_HEADER`]: `authorization: Bearer <token>`, in visible ASCII characters
//! ([`token_metadata`], [`parse_token_metadata`]). A call without it, or with another, is refused with
//! `UNAUTHENTICATED`. A server that requires none ignores it. Connections are not encrypted: the token keeps out
//! unauthorised senders, not listeners.
//!
//! # Data
//!
//! Arrow IPC, one schema per call, no dictionary batches (send the values), no compression. No two buffers share
//! bytes. The texts of views, each counted as often as it is referenced, have at most the bytes of the largest
//! message. A stream of text lines has one column, `value: Utf8` (or LargeUtf8, Utf8View), non-null; see
//! [`lines_schema`].
//!
//! # Refusals
//!
//! A refusal ends the call with a gRPC status that says what was expected, in at most [`MAX_REFUSAL_BYTES`]
//! ([`refusal()`]): a longer text might exceed the client's header limit, and its code be lost. Batches acknowledged
//! before stay safe; those between the last `ack` and the refused one may be stored.
//!
//! | code | when | retry? |
//! |---|---|---|
//! | `NOT_FOUND` | no such stream (the message lists the existing ones) | no |
//! | `INVALID_ARGUMENT` | descriptor, metadata or schema wrong (the message says expected and got) | no |
//! | `OUT_OF_RANGE` | message over the server's limit; a gap in the numbers | no |
//! | `UNAUTHENTICATED` | the token is missing or wrong | no |
//! | `FAILED_PRECONDITION` | the protocol version in the header [`VERSION_HEADER`] is not supported | no |
//! | `ABORTED` | a newer connection of the same producer took over | yes |
//! | `UNAVAILABLE` | the server is stopping, or is not the right one now | yes |
//!
//! Retryable codes are tried on the next address, with backoff. `UNIMPLEMENTED` (of `DoPut`), `PERMISSION_DENIED`,
//! `ALREADY_EXISTS` and `DATA_LOSS` are final too; all others are not.
//!
//! # In Python
//!
//! The shortest client, for one batch; `tests/pyarrow/send.py` beside this crate's sources is a complete one, with
//! discovery, failover and a window, and is tested.
//!
//! ```python
//! import json, pyarrow as pa, pyarrow.flight as fl
//! address, stream = "grpc://127.0.0.1:7077", "lines"
//! try:
//!     info = fl.connect(address).get_flight_info(fl.FlightDescriptor.for_path(stream))
//!     address = info.endpoints[0].locations[0]  # IndexError: no worker yet, ask again later
//! except pa.ArrowNotImplementedError:
//!     pass                                      # not a master: it takes the records itself
//! client = fl.connect(address)
//! schema = pa.schema([pa.field("value", pa.string(), nullable=False)])
//! writer, answers = client.do_put(fl.FlightDescriptor.for_path(stream, "my-producer"), schema)
//! last = json.loads(answers.read().to_pybytes())["ack"]
//! batch = pa.record_batch([pa.array(["one line", "another"])], schema=schema)
//! writer.write_with_metadata(batch, json.dumps({"seq": last + 1}).encode())
//! while json.loads(answers.read().to_pybytes()).get("ack", 0) < last + 1: pass   # now it is safe
//! writer.close()
//! ```

mod refusal;
mod token;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::{FlightDescriptor, PutResult};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};

pub use self::refusal::{MAX_REFUSAL_BYTES, refusal};
pub use self::token::{TOKEN_HEADER, is_token, parse_token_metadata, token_metadata};
pub(crate) use self::workers::is_address;
pub use self::workers::{MAX_WORKERS, parse_workers, workers_answer, workers_question};

/// The version this crate speaks.
pub const VERSION: u32 = 1;

/// gRPC header of every call with the client's protocol version in decimal. Absent (any foreign Flight client)
/// means 1.
pub const VERSION_HEADER: &str = "dstreams-protocol";

/// The longest name of a stream or of a producer, in bytes: bounds a server's memory per producer.
pub const MAX_NAME_BYTES: usize = 256;

/// How often a server with a waiting batch reports that it is alive.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// The name of the only column of a stream of text lines.
pub const LINES_COLUMN: &str = "value";

/// The schema of a stream of text lines on the wire: one non-null `Utf8` column called [`LINES_COLUMN`].
pub fn lines_schema() -> SchemaRef {
    let value = Field::new(LINES_COLUMN, DataType::Utf8, false);
    Arc::new(Schema::new(vec![value]))
}

/// A message that is not of this protocol; the text says what was expected and what came.
///
/// A server answers it with `INVALID_ARGUMENT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Malformed {
    /// The expected and the actual content, in at most [`MAX_REFUSAL_BYTES`].
    pub detail: String,
}

impl Malformed {
    fn new(detail: impl Into<String>) -> Self {
        let detail = refusal::cut(detail.into());
        Self { detail }
    }
}

/// The stream and the producer of a call: the `FlightDescriptor` of the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The stream's name, as the program gave it.
    pub stream: String,
    /// The producer's name; `None` for a naive producer, whose batches are not deduplicated.
    pub producer: Option<String>,
}

impl Opening {
    /// The descriptor to send: a path of one or two elements.
    pub fn descriptor(&self) -> FlightDescriptor {
        let mut path = vec![self.stream.clone()];
        path.extend(self.producer.clone());
        FlightDescriptor::new_path(path)
    }

    /// Reads the descriptor of a first message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if there is none, it is not a path of one or two names, or a name is empty or longer
    /// than [`MAX_NAME_BYTES`].
    pub fn parse(descriptor: Option<&FlightDescriptor>) -> Result<Self, Malformed> {
        let wanted = "expected a descriptor with the path [stream] or [stream, producer]";
        let Some(descriptor) = descriptor else {
            return Err(Malformed::new(format!("{wanted}, got none")));
        };
        if descriptor.r#type != DescriptorType::Path as i32 {
            let got = descriptor.r#type().as_str_name();
            return Err(Malformed::new(format!("{wanted}, got one of type {got}")));
        }
        let too_long = |name: &String| name.is_empty() || name.len() > MAX_NAME_BYTES;
        if descriptor.path.iter().any(too_long) {
            let limit = format!("names of 1 to {MAX_NAME_BYTES} bytes");
            return Err(Malformed::new(format!("{wanted} with {limit}")));
        }
        match descriptor.path.as_slice() {
            [stream] => Ok(Self {
                stream: stream.clone(),
                producer: None,
            }),
            [stream, producer] => Ok(Self {
                stream: stream.clone(),
                producer: Some(producer.clone()),
            }),
            path => Err(Malformed::new(format!(
                "{wanted}, got {} elements",
                path.len()
            ))),
        }
    }
}

/// The app_metadata of a record batch with the number `seq`.
pub fn batch_metadata(seq: u64) -> Bytes {
    Bytes::from(format!("{{\"seq\":{seq}}}"))
}

/// Reads the app_metadata of a record batch: its number, or `None` if it has no metadata at all.
///
/// # Errors
///
/// [`Malformed`] if it is not `{"seq":n}` with n >= 1. Unknown members are ignored.
pub fn parse_batch_metadata(metadata: &[u8]) -> Result<Option<u64>, Malformed> {
    #[derive(Deserialize)]
    struct Batch {
        seq: u64,
    }
    if metadata.is_empty() {
        return Ok(None);
    }
    match object::<Batch>(metadata) {
        Ok(Batch { seq }) if seq >= 1 => Ok(Some(seq)),
        Ok(Batch { seq }) => Err(Malformed::new(format!("numbers start at 1, got {seq}"))),
        Err(error) => Err(Malformed::new(format!(
            "expected the app_metadata {{\"seq\":n}} on a batch, got {:?}: {error}",
            shown(metadata),
        ))),
    }
}

/// The content of a server's `PutResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Everything up to this number is safe.
    Ack(u64),
    /// Alive, under backpressure.
    Alive,
}

impl Answer {
    /// The message to send.
    pub fn to_put_result(self) -> PutResult {
        let app_metadata = match self {
            Self::Ack(ack) => Bytes::from(format!("{{\"ack\":{ack}}}")),
            Self::Alive => Bytes::from_static(b"{}"),
        };
        PutResult { app_metadata }
    }

    /// Reads a server's answer.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is neither `{"ack":n}` nor `{}`: the server speaks another protocol.
    pub fn parse(result: &PutResult) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Ack {
            ack: Option<u64>,
        }
        match object::<Ack>(&result.app_metadata) {
            Ok(Ack { ack: Some(ack) }) => Ok(Self::Ack(ack)),
            Ok(Ack { ack: None }) => Ok(Self::Alive),
            Err(error) => Err(Malformed::new(format!(
                "expected {{\"ack\":n}} from the server, got {:?}: {error}",
                shown(&result.app_metadata),
            ))),
        }
    }
}

/// A server's knowledge of one (stream, producer): the last number it took.
///
/// ```
/// use dstreams_client::protocol::{Offer, Sequence};
/// let mut sequence = Sequence::default();
/// assert_eq!(sequence.offer(Some(1)), Offer::Next(1));
/// sequence.taken(1);
/// assert_eq!(sequence.offer(Some(1)), Offer::Repeated);
/// assert_eq!(sequence.offer(Some(3)), Offer::Gap { expected: 2 });
/// assert_eq!(sequence.offer(None), Offer::Next(2));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence {
    last: Option<u64>,
}

/// The answer to an offered batch. The enum is exhaustive: a server must handle each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Store it, then call [`Sequence::taken`] with this number and acknowledge it.
    Next(u64),
    /// It was stored before: acknowledge [`Sequence::last`] again.
    Repeated,
    /// Numbers are missing: refuse it.
    Gap {
        /// The number expected next.
        expected: u64,
    },
}

impl Sequence {
    /// A sequence that resumes after `last`, for a server that stored it.
    pub fn after(last: u64) -> Self {
        Self { last: Some(last) }
    }

    /// The last number taken, 0 if none: sent in the first `ack` of a connection.
    pub fn last(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// What to do with a batch of this number (`None`: it has none). Changes nothing.
    pub fn offer(&self, seq: Option<u64>) -> Offer {
        let expected = self.last().saturating_add(1);
        match (seq, self.last) {
            (None, _) => Offer::Next(expected),
            (Some(seq), None) => Offer::Next(seq),
            (Some(seq), Some(last)) if seq <= last => Offer::Repeated,
            (Some(seq), Some(_)) if seq == expected => Offer::Next(seq),
            (Some(_), Some(_)) => Offer::Gap { expected },
        }
    }

    /// Records that the batch with this number is stored. A number below the last changes nothing.
    pub fn taken(&mut self, seq: u64) {
        self.last = self.last.max(Some(seq));
    }
}

/// A JSON object; serde would accept a list for a struct too.
fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    match json.trim_ascii_start().first() {
        Some(b'[') => Err(serde_json::Error::custom("expected an object, got a list")),
        _ => serde_json::from_slice(json),
    }
}

fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..64).unwrap_or(bytes);
    String::from_utf8_lossy(start).into_owned()
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_survives_the_wire() {
        for producer in [None, Some("p-1".to_string())] {
            let opening = Opening {
                stream: "lines".into(),
                producer,
            };
            assert_eq!(Opening::parse(Some(&opening.descriptor())), Ok(opening));
        }
    }

    #[test]
    fn other_descriptors_are_refused_with_what_came() {
        let path = |names: &[&str]| {
            FlightDescriptor::new_path(names.iter().map(|name| name.to_string()).collect())
        };
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let cases = [
            (None, "got none"),
            (Some(FlightDescriptor::new_cmd("select 1")), "type CMD"),
            (Some(path(&[])), "got 0 elements"),
            (Some(path(&["a", "b", "c"])), "got 3 elements"),
            (Some(path(&["a", ""])), "names of 1 to"),
            (Some(path(&[&long])), "names of 1 to"),
        ];
        for (descriptor, wanted) in cases {
            let error = Opening::parse(descriptor.as_ref()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error} does not say {wanted}");
        }
    }

    /// The bytes of version 1: a change here breaks deployed clients.
    #[test]
    fn the_bytes_of_version_1() {
        assert_eq!(batch_metadata(7), "{\"seq\":7}");
        assert_eq!(
            parse_batch_metadata(b"{\"seq\": 7, \"new\": 1}"),
            Ok(Some(7))
        );
        assert_eq!(parse_batch_metadata(b""), Ok(None));
        assert!(parse_batch_metadata(b"{\"seq\":0}").is_err());
        assert!(parse_batch_metadata(b"7").is_err());
        assert_eq!(Answer::Ack(3).to_put_result().app_metadata, "{\"ack\":3}");
        assert_eq!(Answer::Alive.to_put_result().app_metadata, "{}");
        for answer in [Answer::Ack(0), Answer::Ack(u64::MAX), Answer::Alive] {
            assert_eq!(Answer::parse(&answer.to_put_result()), Ok(answer));
        }
        let other = PutResult {
            app_metadata: Bytes::from_static(b"hello"),
        };
        assert!(Answer::parse(&other).is_err());
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere_a_known_one_may_not() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.last(), 0);
        assert_eq!(sequence.offer(Some(51)), Offer::Next(51));
        sequence.taken(51);
        assert_eq!(sequence.offer(Some(50)), Offer::Repeated);
        assert_eq!(sequence.offer(Some(53)), Offer::Gap { expected: 52 });
        sequence.taken(50);
        assert_eq!(sequence, Sequence::after(51));
    }
}

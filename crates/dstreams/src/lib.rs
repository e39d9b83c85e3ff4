//! Discretized Streams in Rust: a stream processor on Apache DataFusion.
//!
//! A program computes on an endless stream of records: counts, windows, state for each key, SQL. The engine
//! cuts the input into small **batches**, one for each interval of the clock, and runs each batch as a short,
//! deterministic job. The rest follows from that. A batch gives the same result however often it runs, so a program can
//! resume after a crash with exact results. Batches take effect in order, each once. The same operators work on
//! streams and on files that end. One process is enough; the crate `dstreams-cluster` runs the same program on many.
//!
//! The model is that of [Spark Streaming](https://people.csail.mit.edu/matei/papers/2013/sosp_spark_streaming.pdf). Records
//! are rows of Arrow columns, and closures and SQL work on the same columns.
//!
//! # A first program
//!
//! The words of the last thirty seconds, the most frequent first. Lines come over TCP, from any number of producers.
//!
//! ```
//! use std::time::Duration;
//! use dstreams::{StreamContext, agg::count, text::words};
//!
//! # #[tokio::main] async fn main() -> dstreams::Result<()> {
//! // 1. Describe: inputs, what is made of them, outputs. Nothing runs yet.
//! let interval = Duration::from_millis(100);
//! let mut ctx = StreamContext::new(interval)?;
//! let lines = ctx.tcp_text("lines", "127.0.0.1:0"); // port 0: a free one
//! lines
//!     .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
//!     .keyed()
//!     .window_agg(Duration::from_secs(30), interval, count())?
//!     .top(10)
//!     .print(10);
//!
//! // 2. Run.
//! let running = ctx.start().await?;
//! println!("send lines to {:?}", running.address("lines"));
//!
//! // 3. Stop: what was received is computed first.
//! # if false {
//! tokio::time::sleep(Duration::from_secs(60)).await;
//! # }
//! let summary = running.stop().await?;
//! println!("{} lines in {} batches", summary.records, summary.batches);
//! # Ok(()) }
//! ```
//!
//! To resume after a crash, give the program a directory: [`StreamContext::persist_in`]. To end on SIGTERM, call
//! [`Running::run_until_signal`]. Use a multi-threaded tokio runtime (`#[tokio::main]` starts one).
//!
//! # The guide
//!
//! [Batches and time](guide::batches_and_time) |
//! [Records](guide::records) |
//! [Windows](guide::windows) |
//! [Joins](guide::joins) |
//! [Records that come late](guide::slack) |
//! [Event time and corrections](guide::event_time) |
//! [State](guide::state) |
//! [Restarts and exactly-once](guide::restarts) |
//! [Sources and sinks of one's own](guide::sources_and_sinks) |
//! [Clusters](guide::cluster) |
//! [Testing a program](guide::testing) |
//! [Limits](guide::limits)
//!
//! # Sources
//!
//! All apply backpressure to producers at [`Config::block_memory`]. "Once" includes restarts if the program has a
//! directory.
//!
//! | source | brings | promise | cost |
//! |---|---|---|---|
//! | [`clients`](StreamContext::clients) | records of programs with `dstreams-client` or Arrow Flight | each acknowledged record once | acknowledgements: a sync with a directory, a copy to a second worker on a cluster |
//! | [`files`](StreamContext::files) | lines or rows of [`Files`](files::Files) in a directory or an object store; old ones by their [event time](guide::replay) | each once | a listing twice a second, of an object store every five seconds |
//! | [`tcp_text`](StreamContext::tcp_text) | lines of text | none: no acknowledgements | no copy for each line |
//! | [`queue`](StreamContext::queue) | records that this process pushes | in a batch once `push` has returned | |
//! | [`generator`](StreamContext::generator) | records computed from their number, at a rate | each once | |
//! | [`source`](StreamContext::source) | whatever your [`Source`] pushes | each once if it sets offsets | as acknowledgements |
//! | [`dead_letters`](StreamContext::dead_letters) | input that is not a record, with the reason | the first 64 KiB of each | |
//!
//! # Operators
//!
//! *n* is the number of records of the batch. All are deterministic, and give the same rows in the same order in every
//! run of the batch.
//!
//! | on a [`DStream`] | gives | cost of a batch |
//! |---|---|---|
//! | [`map`](DStream::map), [`filter`](DStream::filter) | one record for each; the matching ones | O(n) |
//! | [`flat_map`](DStream::flat_map) | any number for each; borrowed text is not copied | O(records in and out) |
//! | [`try_map`](DStream::try_map), [`try_flat_map`](DStream::try_flat_map), [`try_sql`](DStream::try_sql) | [`Tried`]: results, and rejected records with the reason | as without `try` |
//! | [`union`](DStream::union), [`StreamContext::union`] | the records of both; of many | O(n) |
//! | [`distinct`](DStream::distinct), [`count_by_value`](DStream::count_by_value) | each record once; how often it is there | O(n) |
//! | [`count`](DStream::count) | one number | O(n) |
//! | [`reduce`](DStream::reduce) | the records combined by a closure | O(n) |
//! | [`count_by_window`](DStream::count_by_window), [`window_agg`](DStream::window_agg), [`named_window_agg`](DStream::named_window_agg) | aggregates of all records over the last batches | O(n), regardless of the length |
//! | [`reduce_by_window`](DStream::reduce_by_window), [`reduce_by_window_with_inverse`](DStream::reduce_by_window_with_inverse) | the same by closures | O(n + batches of the window); O(n) |
//! | [`with_time`](DStream::with_time) | each record with its batch time | O(n), one column |
//! | [`map_partitions`](DStream::map_partitions) | what a closure makes of each partition | O(n), in memory |
//! | [`repartition`](DStream::repartition) | the same records in so many partitions | O(n), moved |
//! | [`sql`](DStream::sql), [`transform`](DStream::transform) | a query, planned once | that of the query |
//! | [`StreamContext::sql`] | a query over several streams, and over tables ([`register_table`](StreamContext::register_table), [`register_frame`](StreamContext::register_frame)); functions of queries are closures ([`register_fn`](StreamContext::register_fn)) | that of the query |
//! | [`window`](DStream::window), [`named_window`](DStream::named_window) | the records of the last batches | O(n) to keep them, O(records of the window) to read it |
//! | [`past`](DStream::past), [`delayed`](DStream::delayed), [`latest`](DStream::latest) | the RDD of some time before, as one of now or as a late one; the newest RDD of a slow stream | O(n), O(records of the RDD) to read it |
//! | [`remember`](DStream::remember) | the last RDDs, for [`Running::slice`] and [`Running::session`] | O(n) |
//! | [`by_time`](DStream::by_time) | [`Timed`]: records in the interval of their event time, and those that are late or ahead | O(n + records released) |
//! | [`key_by`](DStream::key_by), [`key_by_into`](DStream::key_by_into), [`keyed`](DStream::keyed), [`by_key`](DStream::by_key) | [`Keyed`]: keys and values; the last two compute nothing | O(n), O(n), none, none |
//!
//! | on a [`Keyed`] | gives | cost of a batch |
//! |---|---|---|
//! | [`pairs`](Keyed::pairs), [`values`](Keyed::values) | keys and values as records; the values alone | none, O(n) |
//! | [`filter`](Keyed::filter), [`map_values`](Keyed::map_values), [`flat_map_values`](Keyed::flat_map_values) | the matching pairs; another value for each; any number of values | O(records in and out) |
//! | [`sql`](Keyed::sql), [`transform`](Keyed::transform), [`union`](Keyed::union), [`distinct`](Keyed::distinct) | as on a [`DStream`] of the pairs | as there |
//! | [`with_time`](Keyed::with_time) | each value with its batch time | O(n), one column |
//! | [`agg`](Keyed::agg) | aggregates ([`agg`]) of each key, within the batch | O(n), vectorised |
//! | [`count_by_key`](Keyed::count_by_key) | the number of values of each key | O(n) |
//! | [`reduce`](Keyed::reduce), [`combine_by_key`](Keyed::combine_by_key) | the values of each key combined by closures, to the same type or another | O(n) |
//! | [`window_agg`](Keyed::window_agg), [`named_window_agg`](Keyed::named_window_agg) | aggregates of each key over the last batches | O(keys that come or expire), regardless of the length; O(keys) to read it |
//! | [`reduce_by_window`](Keyed::reduce_by_window) | the values of each key over the last batches, combined by a closure | O(n); O(keys of each batch of the window) to read it |
//! | [`reduce_by_window_with_inverse`](Keyed::reduce_by_window_with_inverse) | the same by a closure and its inverse | O(n + keys that expire); O(keys) to read it |
//! | [`join`](Keyed::join), [`left_join`](Keyed::left_join), [`right_join`](Keyed::right_join), [`full_join`](Keyed::full_join) | pairs with equal keys of two streams or windows, in the order of the first | O(records of both + pairs) |
//! | [`cogroup`](Keyed::cogroup), [`group_by_key`](Keyed::group_by_key) | all records of a key as lists | O(records) |
//! | [`join_within`](Keyed::join_within) | pairs of records that come within so much time of each other, each once; and those without a partner | O(records held of its keys + pairs) |
//! | [`with_state`](Keyed::with_state) | each record with the [`State`] of its key | O(n), regardless of the keys stored |
//! | [`window`](Keyed::window), [`past`](Keyed::past), [`delayed`](Keyed::delayed), [`latest`](Keyed::latest), [`remember`](Keyed::remember) | as of a [`DStream`]; equal keys in one partition | as of a [`DStream`] |
//! | [`top`](Keyed::top) | the pairs with the greatest values, in order | O(rows), O(limit) memory |
//! | [`running_agg`](Keyed::running_agg) | [`State`]: aggregates over all batches | O(keys of the batch) |
//! | [`running_agg_for`](Keyed::running_agg_for) | the same, without keys that had no record for so long | O(keys of the batch + keys that expire) |
//! | [`agg_by_time`](Keyed::agg_by_time) | [`ByTime`]: aggregates by intervals of event time, corrected when late records come | O(n + results emitted or final) |
//! | [`session_agg`](Keyed::session_agg) | [`Sessioned`]: aggregates of records that come close upon each other in event time | O(n + open sessions of their keys, and of keys of which one ends) |
//! | [`track`](Keyed::track), [`update_state_by_key`](Keyed::update_state_by_key) | [`State`] by closures, with [timeouts](Track::timeout) and [times to live](Track::live) | O(n + keys that expire) |
//! | [`map_with_state`](Keyed::map_with_state) | records made from events, states and [timers](KeyState::wake_at), and the [`State`] | O(n + keys that expire or are woken) |
//!
//! | on a [`State`] | gives | cost of a batch |
//! |---|---|---|
//! | [`changes`](State::changes) | keys with a new value, and that value | O(changes) |
//! | [`timed_out`](State::timed_out) | expired keys with their last state | O(keys that expire) |
//! | [`all`](State::all) | everything | O(keys) |
//! | [`Running::session`] | SQL over all states and remembered streams, while the program runs | O(keys, records remembered) for each call |
//!
//! [`StreamContext::explain`] and [`explain_mermaid`](StreamContext::explain_mermaid) show what a program is made of.
//!
//! | on a [`ByTime`] | gives | cost of a batch |
//! |---|---|---|
//! | [`first`](ByTime::first), [`finals`](ByTime::finals) | results when their slack ends; when they are final | O(results emitted), O(results that end) |
//! | [`updates`](ByTime::updates), [`changelog`](ByTime::changelog) | results and corrections: with versions; as -1 and +1 | O(results emitted) |
//! | [`corrections`](ByTime::corrections) | [`Correction`]s alone, with what the result was | O(corrections) |
//! | [`all`](ByTime::all) | everything that is not final | O(intervals and keys) |
//! | [`late`](ByTime::late), [`ahead`](ByTime::ahead) | records that count in no result | O(n) |
//!
//! # Outputs
//!
//! Outputs of a batch take effect after those of all earlier batches. A slow one delays later batches.
//!
//! | output | does | promise |
//! |---|---|---|
//! | [`write_files`](DStream::write_files) | a directory of files for each batch | exactly once |
//! | [`sink`](DStream::sink) | your [`Sink`]: prepares by partition, commits by batch | exactly once if it keeps [its contract](contract::sink()) |
//! | [`for_each_rdd`](DStream::for_each_rdd), [`try_for_each_rdd`](DStream::try_for_each_rdd) | a closure gets each [`Rdd`]; the second may fail, and is retried | at least once |
//! | [`print`](DStream::print) | the first rows to standard output | at least once |
//! | [`collect`](DStream::collect) | RDDs into an unbounded channel | at least once |
//!
//! # What is missing
//!
//! No watermarks: `by_time`, `agg_by_time` and `session_agg` wait for late records for times that the program sets, and to
//! all other operators a record belongs to the batch in which it is received. No connector to
//! Kafka or other brokers. No web page. Windows and states hold aggregates of fixed size. The chapter
//! [limits](guide::limits) has the list, with what to do instead.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExamples;

// The derive macro names this crate.
extern crate self as dstreams;

#[allow(missing_docs)] // public to `internal` only
mod blocks;
mod checkpoint;
mod commit;
mod config;
mod console;
pub mod contract;
mod crash;
mod debug;
mod encoding;
mod error;
#[allow(missing_docs)] // public to `internal` only
mod execute;
mod group;
pub mod guide;
mod journal;
mod node;
#[allow(missing_docs)] // public to `internal` only
mod plan;
mod program;
mod receive;
#[allow(missing_docs)] // public to `internal` only
mod state;
mod stream;
pub mod testing;

pub use async_trait::async_trait;
pub use datafusion;
pub use datafusion::arrow;
pub use dstreams_control::{BatchReport, BatchTime};
pub use dstreams_derive::Record;

pub use checkpoint::{
    BatchLineage, CheckpointFailures, CheckpointInfo, Inspection, JournalInfo, Lineage, inspect,
};
pub use commit::RddReceiver;
pub use config::{Config, OnFailure};
pub use error::{BoxError, Cause, Error, Operator, Result};
pub use node::{Running, Status, Summary};
pub use program::{Clock, Listener, ManualClock, SqlInput, StreamContext};
pub use receive::{Clients, DeadLetter, Generator, Ingest, Queue, Source, StopSignal, TcpText};
pub use stream::by_time::{ByTime, Intervals};
pub use stream::correction::{Correction, CorrectionRef};
pub use stream::dstream::DStream;
pub use stream::join_within::{Joined, Within};
pub use stream::key_state::{KeyState, Values};
pub use stream::keyed::Keyed;
pub use stream::output::{FencingToken, Guarantee, Prepared, Rdd, Sink};
pub use stream::partitions::PartitionRecords;
pub use stream::record::{Bytes, Date, Decimal, Key, Millis, Out, Record, Uuid};
pub use stream::sessions::{Sessioned, Sessions};
pub use stream::slack::{Slack, Timed};
pub use stream::state::State;
pub use stream::track::{MapWithState, Track};
pub use stream::tried::Tried;
pub use stream::with_state::AsOf;
pub use stream::{agg, text};

/// Internal API for the crate `dstreams-cluster` and the benchmarks.
///
/// Not for programs. Version numbers promise nothing about it: it may change or disappear without notice.
#[doc(hidden)]
pub mod internal {
    pub use crate::blocks::{Block, BlockStore, Bounds, Budget};
    pub use crate::checkpoint::{
        BlockJournal, CONCURRENT_READS, CheckpointPlan, Durable, PartAt, RecoveryBatch,
        RecoverySource, Restored, Store, Writing, WrittenFile, blocking, dir_of, load, on_disk,
        state_file, write,
    };
    pub use crate::commit::{Dataset, Outputs};
    pub use crate::console::Console;
    pub use crate::crash::{POINTS, point};
    pub use crate::encoding::{ByteInput, ByteOutput, compact};
    pub use crate::error::engine_message;
    pub use crate::execute::{BatchSequence, PreviousBatch, StateInstaller, run_task};
    pub use crate::journal::{DirLock, Owner, Ticket, stand_by};
    pub use crate::node::{
        Durability, Inbox, Mailbox, NewReceiver, Receivers, ReportedWhen, Usage, Workers,
        log_reachable, of_master, open_source, replay, run_on,
    };
    pub use crate::plan::split::{Run, split, tasks_for};
    pub use crate::plan::{
        Datasets, Partitions, Plans, ProbeStep, Read, Route, Slot, Stage, Step, Template,
    };
    pub use crate::program::Description;
    pub use crate::receive::message;
    pub use crate::receive::{Acceptor, Claims, Embedded, Intake, SourcePlacement};
    pub use crate::state::{StateMemoryBudget, States, versioned};
}

/// Files: read from a directory or an object store as they appear, and written batch by batch.
pub mod files {
    pub use crate::commit::FileSink;
    pub use crate::receive::Files;
    pub use crate::stream::format::Format;
}

/// Records: the traits that `#[derive(Record)]` implements, and Arrow batches of records.
pub mod record {
    pub use crate::stream::record::{
        Builder, ColumnReader, Columns, Items, Key, Leaf, Out, Push, Record, RecordShape,
        TextBuilder, VariantCols, Variants, batch_of, field_name, records_of, variant_field,
    };
    pub use datafusion::arrow::array::ArrayRef;
    pub use datafusion::arrow::buffer::Buffer;
    pub use datafusion::arrow::datatypes::Field;
}

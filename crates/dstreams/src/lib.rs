//! Discretized Streams in Rust: a stream processor on Apache DataFusion.
//!
//! A stream is a sequence of small batches, one for each interval; a batch is a dataset; what is
//! computed from batches is deterministic. See [`StreamContext`] to begin.
//!
//! ```
//! use std::time::Duration;
//! use dstreams::{StreamContext, agg::count, text::words};
//!
//! # #[tokio::main] async fn main() -> dstreams::Result<()> {
//! let mut ctx = StreamContext::new(Duration::from_millis(100))?;
//! let lines = ctx.tcp_text("lines", "127.0.0.1:0");
//! lines
//!     .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
//!     .keyed()
//!     .window_agg(Duration::from_secs(30), Duration::from_millis(100), count())?
//!     .top(10)
//!     .print(10);
//! let running = ctx.start().await?;
//! println!("send lines to {:?}", running.address("lines"));
//! # running.stop().await?;
//! # Ok(()) }
//! ```

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
mod journal;
mod node;
#[allow(missing_docs)] // public to `internal` only
mod plan;
mod program;
mod receive;
#[allow(missing_docs)] // public to `internal` only
mod state;
mod stream;

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
pub use program::{Clock, Listener, ManualClock, Named, StreamContext};
pub use receive::{Clients, Closing, DeadLetter, Generator, Ingest, Queue, Source, TcpText};
pub use stream::dstream::DStream;
pub use stream::key_state::{KeyState, Values};
pub use stream::keyed::Keyed;
pub use stream::output::{Guarantee, Prepared, Rdd, Sink};
pub use stream::record::{Key, Out, Record};
pub use stream::state::State;
pub use stream::track::{MapWithState, Track};
pub use stream::tried::Tried;
pub use stream::{agg, text};

/// Internal: what the crate `dstreams-cluster` (and the benchmarks) build on.
///
/// Not for programs. It is no part of what version numbers promise: it changes, and goes, without notice.
#[doc(hidden)]
pub mod internal {
    pub use crate::blocks::{Block, BlockStore, Bounds, Budget};
    pub use crate::checkpoint::{
        BlockJournal, CheckpointPlan, Durable, Earlier, PartAt, READ_AT_ONCE, Restored, Store,
        Writing, WrittenFile, blocking, dir_of, load, on_disk, state_file, write,
    };
    pub use crate::commit::{Dataset, Outputs};
    pub use crate::console::Console;
    pub use crate::crash::{POINTS, point};
    pub use crate::encoding::{ByteInput, ByteOutput, compact};
    pub use crate::error::said;
    pub use crate::execute::{Installs, run_task};
    pub use crate::journal::{DirLock, Owner, Ticket};
    pub use crate::node::{
        Durability, Inbox, Mailbox, NewReceiver, Receivers, ReportedWhen, Usage, Workers,
        of_master, open_source, replay, run_on, say_reachable,
    };
    pub use crate::plan::split::{Run, split, tasks_for};
    pub use crate::plan::{Datasets, Partitions, Plans, Read, Route, Slot, Stage, Step, Template};
    pub use crate::program::Description;
    pub use crate::receive::message;
    pub use crate::receive::{Acceptor, Claims, Embedded, Intake, SourcePlacement};
    pub use crate::state::{Room, States, versioned};
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
        Builder, ColumnReader, Columns, Items, Key, Leaf, Out, Push, Record, batch_of, field_name,
        records_of,
    };
    pub use datafusion::arrow::array::ArrayRef;
    pub use datafusion::arrow::buffer::Buffer;
    pub use datafusion::arrow::datatypes::Field;
}

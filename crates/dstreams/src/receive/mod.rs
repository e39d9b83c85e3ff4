//! Receive: bytes become blocks of Arrow columns.
//!
//! **In**: bytes from TCP producers, client programs, files, queues and generators. **Out**: sealed [`Block`](crate::blocks::Block)s at
//! the end of each interval. **Promise**: a bad record never stops the stream: it is counted and stored as a dead
//! letter with its reason; a good one is never lost. Memory is bounded: at the bound, receiving waits
//! (backpressure). **On failure**: a failing producer loses only its own connection; a source that fails stops with
//! its error, and the context continues with the others.

mod accept;
pub(crate) mod client;
mod dead_letter;
mod files;
mod first;
mod generator;
mod give_time;
mod ingest;
mod intake;
mod largest;
mod lines;
pub mod message;
mod queue;
mod source;
mod source_time;
mod tcp;

pub use client::{Claims, Clients, Embedded};
pub use dead_letter::DeadLetter;
pub use files::Files;
pub use generator::Generator;
pub use ingest::Ingest;
pub use queue::Queue;
pub use source::{Source, SourcePlacement, StopSignal};
pub use tcp::TcpText;

pub use accept::Acceptor;
pub use dead_letter::DeadLetters;
pub use intake::Intake;
pub(crate) use source_time::{SourceTime, wall_time};

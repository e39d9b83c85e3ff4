//! The client library of `dstreams`: send records to a running program, and know what is safe.
//!
//! ```no_run
//! use dstreams_client::{Client, Options};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dstreams_client::Error> {
//! let client = Client::connect("127.0.0.1:7077", Options::default()).await?;
//! let mut lines = client.lines("lines").await?;
//! for line in std::io::stdin().lines().map_while(Result::ok) {
//!     lines.send(&line).await?; // waits when the program is behind
//! }
//! let report = lines.finish().await?; // everything is safe now
//! println!("{} lines in {} bytes", report.records_acknowledged, report.bytes);
//! # Ok(())
//! # }
//! ```
//!
//! * **Safe** means acknowledged: the program stores the record as its `replicate` stage promises.
//! * **Exactly once** into the program, for as long as a sender lives: batches are numbered, and those in flight
//!   when a connection broke are sent again and recognised. A producer that restarts must know its own offset.
//! * **Clusters**: given the address of a master, a sender asks it for the workers that take its stream, and fails
//!   over to another one ([`protocol`] says how).
//! * **Bounded**: messages and bytes in flight are bounded ([`Options`]); `send` waits (backpressure).
//! * **Errors** are typed ([`Error`]): refusals are not retried, broken connections are, with bounded backoff;
//!   [`Error::tally`] says how many records were safe.
//!
//! Other languages: any Arrow Flight library works, see [`protocol`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod backoff;
mod batches;
mod client;
mod connect;
mod discover;
mod encode;
mod error;
mod lines;
mod link;
mod options;
mod pack;
pub mod protocol;
mod route;
mod sender;
mod session;
mod window;

pub use address::ToAddresses;
/// The version of Arrow whose batches are sent.
pub use arrow;
pub use batches::BatchSender;
pub use client::Client;
pub use error::{Error, Outcome, Tally};
pub use lines::LineSender;
pub use options::{Options, Retry};
pub use sender::Report;

//! The decisions of `dstreams`: when a batch is cut, run, rerun, committed, given up, and how everything stops.
//!
//! **Deciding is not doing.** [`Controller`] is a pure state machine: [`step`](Controller::step) takes an [`Event`]
//! and the time, and returns a list of [`Command`]s. It does no I/O, has no clock and no threads, so the same
//! events give the same commands, and thousands of failure schedules run in the time of one real cluster test
//! (`tests/sim`). The node executes the commands; the local engine and the cluster use the same controller. In a
//! cluster, [`cluster::Cluster`] decides beside it which worker receives and stores what (`tests/cluster`).
//! [`durable::Replay`] decides where a killed program resumes (`tests/durable`).
//!
//! # Driving it
//!
//! Feed `Start`, then every event as it comes, one at a time. Execute the commands in order; whatever takes time is
//! started and not awaited. Each of these is eventually answered by an event:
//!
//! | command | answer |
//! |---|---|
//! | `WakeAt` | `Tick` at that time or later; a newer `WakeAt` replaces it |
//! | `Seal` | `Reported` or `Left`, one per receiver; the last one when its source has ended, or at `StopWaiting` |
//! | `Run` | `Finished` or `Failed`, with the same batch and attempt |
//! | `SetAside` | `SetAside` or `SetAsideFailed` |
//! | `Commit` | `Committed` or `CommitFailed` |
//! | `AskDue` | `Due`, with the same batch |
//!
//! `SetAside` replaces `Fail` where [`Config::max_set_aside`] allows it.
//!
//! Receivers may come (`Joined`) and go (`Left`, with all surviving blocks) at any time; `Left` also answers their
//! `Seal`.
//!
//! The others (`Cut`, `StopWaiting`, `Abort`, `CloseReceivers`, `Completed`, `Forget`, `Fail`) need no answer.
//! `Stopped` is the last. Commands, events and entries of the journal are exhaustive enums on purpose: a driver must
//! handle each.
//!
//! A batch goes `Seal`, `Cut`, `Run`, `Commit`, `Completed`, `Forget`:
//!
//! ```
//! use dstreams_control::{BatchTime, BlockId, BlockMeta, Command, Config, Controller, Event, ReceiverId, Timestamp};
//!
//! let mut controller = Controller::new(Config::new(1_000)?);
//! let at = Timestamp::from_millis;
//! let receiver = ReceiverId(0);
//! let batch = BatchTime(8_000);
//!
//! let commands = controller.step(Event::Start { receivers: vec![receiver] }, at(7_300));
//! assert_eq!(commands, [Command::WakeAt(at(8_000))]);
//!
//! let commands = controller.step(Event::Tick, at(8_000));
//! assert_eq!(commands, [Command::Seal { batch }, Command::WakeAt(at(8_500))]); // waits half a second for the reports
//!
//! let id = BlockId { receiver, seq: 0 };
//! let blocks = vec![BlockMeta { id, rows: 10, bytes: 640 }];
//! let commands = controller.step(Event::Reported { batch, receiver, blocks: blocks.clone() }, at(8_001));
//! let run = Command::Run { batch, attempt: 1 };
//! assert_eq!(commands, [Command::Cut { batch, blocks }, run, Command::WakeAt(at(9_000))]);
//!
//! let commands = controller.step(Event::Failed { batch, attempt: 1, retryable: true, of_batch: false }, at(8_100));
//! assert_eq!(commands, [Command::Run { batch, attempt: 2 }]);
//! let commands = controller.step(Event::Finished { batch, attempt: 2 }, at(8_200));
//! assert_eq!(commands, [Command::Commit { batch, attempt: 2 }]);
//!
//! let commands = controller.step(Event::Committed { batch }, at(8_210));
//! let [Command::Completed(report), forget] = &commands[..] else { unreachable!() };
//! assert_eq!((report.records, report.attempts, report.processing_time().as_millis()), (10, 2, 209));
//! assert_eq!(forget, &Command::Forget { batch, blocks: vec![id] });
//! # Ok::<(), dstreams_control::ConfigError>(())
//! ```
//!
//! # Promises
//!
//! * Every multiple of the interval after the start is one batch, empty or not, in order, however the clock behaves.
//!   After a stall the missed ones follow each other at once; while the clock is behind, none is made.
//! * With [`Config::skip_missed`], and if more are missed at once, those that [`Due`] does not name are skipped. A `Seal`
//!   is for all that the clock has passed, so no block that comes later is put before them. With
//!   [`Config::mark_intervals`] the last one has a batch in any case, and so has the one before the first.
//! * A block is in one cut at most, even if it is reported twice or late, or receivers leave meanwhile.
//! * Up to [`Config::max_running`] batches run at once (default 1; 2 on a cluster). A batch commits when an attempt of it
//!   has finished and the batch before it has committed. Its `Commit` is repeated only after a retryable
//!   `CommitFailed`, for the same attempt.
//! * A graceful stop without failures puts every received block into a batch, and commits it.
//! * After `Fail` nothing runs or commits; after `Stopped` nothing happens.
//!
//! Not promised: that a commit takes effect once (sinks ensure that, by batch and attempt), and that a stop ends if
//! a command is never answered and there is no deadline.

pub mod cluster;
mod command;
mod config;
mod controller;
pub mod durable;
mod elapsed;
mod event;
mod ids;
mod intake;
mod pipeline;
mod quiet;
mod report;
mod restored;
mod seq_set;
mod state;
mod time;

pub use command::Command;
pub use config::{Config, ConfigError};
pub use controller::Controller;
pub use event::{Due, Event};
pub use ids::{BlockId, BlockMeta, ReceiverId};
pub use report::BatchReport;
pub use restored::Restored;
pub use state::State;
pub use time::{BatchTime, Timestamp};

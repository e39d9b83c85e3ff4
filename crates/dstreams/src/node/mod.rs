//! Node: wires the stages of one process together.
//!
//! **In**: a described program. **Out**: a [`Running`] one. **Promise**: the controller's commands are carried out
//! in their order; anything slow runs in the background. **On failure**: a batch that cannot be run or committed
//! stops the context, with the batch, the operator and the cause.

mod clock;
#[allow(missing_docs)] // public to `internal` only
mod durability;
mod end;
mod lane;
mod local;
mod mailbox;
mod master;
mod receivers;
mod replay;
mod running;
mod set_aside;
mod signals;
mod slice;
mod source;
mod sources_end;
mod start;
mod workers;

pub use running::{Running, Status, Summary};

pub use durability::{Durability, ReportedWhen, of_master};
pub use mailbox::{Inbox, Mailbox};
pub use receivers::{NewReceiver, Receivers};
pub use source::{log_reachable, open_source};
pub use start::{replay, run_on};
pub use workers::{Usage, Workers};

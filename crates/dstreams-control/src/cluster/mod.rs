//! Who is there, who receives, who holds which block, who holds which partition of state, and which worker takes a
//! producer's records: what the master of a cluster decides beside the [`Controller`](crate::Controller).
//!
//! [`Cluster`] is a pure state machine too: [`step`](Cluster::step) takes a [`ClusterEvent`] and returns a list of
//! [`ClusterCommand`]s. It has no clock: who is lost, and how long to wait before a failure is told, the node decides.
//!
//! # Driving it
//!
//! Tell it everything as it comes, one event at a time, and carry out the commands in order; what takes time is started
//! and not awaited. What the master tells one worker must arrive in order; what workers tell the master may come late,
//! twice and in any order. Each of these is answered, in the end, unless the worker is lost:
//!
//! | command | answer |
//! |---|---|
//! | `Fence` | `Fenced` |
//! | `Copy` | `Stored` or `CopyFailed` |
//! | `Revoke` | `Revoked` |
//! | `CopyState`, `StateLost` and its `Assign` | `Installed` or `StateCopyFailed` |
//! | `Retire` | `Retired` |
//! | `Drained` | `Lost`, when it has left |
//!
//! The two machines meet here: `Receive` is the controller's `Joined`, `Gone` is its `Left`, and its `Forget` is
//! `Forgotten` here. What a worker reports for a batch is `Stored` first and then `Reported`, so that no cut names a
//! block of which no holder is known; what a lost worker reports is not passed on, `Gone` brings it.
//!
//! ```
//! use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, StoredBlock, WorkerId};
//! use dstreams_control::{BlockId, BlockMeta, ReceiverId};
//!
//! let mut cluster = Cluster::new(ClusterConfig::new(vec![InputKind::Everywhere], 0));
//! let [one, two] = [WorkerId(1), WorkerId(2)];
//! let receive = |worker, receiver| ClusterCommand::Receive { worker, input: 0, receiver: ReceiverId(receiver), positions: vec![] };
//! let peer = |worker, to| ClusterCommand::Peer { worker, to };
//!
//! assert_eq!(cluster.step(ClusterEvent::Joined { worker: one }), [receive(one, 1)]);
//! let commands = cluster.step(ClusterEvent::Joined { worker: two });
//! assert_eq!(commands, [peer(one, Some(two)), peer(two, Some(one)), receive(two, 2)]);
//!
//! // Worker 1 has received a block, and worker 2 has its copy.
//! let id = BlockId { receiver: ReceiverId(1), seq: 0 };
//! let meta = BlockMeta { id, rows: 10, bytes: 640 };
//! let blocks = vec![StoredBlock { meta, marks: vec![] }];
//! cluster.step(ClusterEvent::Stored { worker: two, blocks: blocks.clone() });
//! assert_eq!(cluster.holders(id), [one, two]);
//!
//! // What survives of worker 1 is known when everyone refuses it.
//! let commands = cluster.step(ClusterEvent::Lost { worker: one });
//! assert_eq!(commands, [ClusterCommand::Fence { at: two, lost: one }, peer(two, None)]);
//! let commands = cluster.step(ClusterEvent::Fenced { worker: two, lost: one, blocks });
//! assert_eq!(commands, [ClusterCommand::Gone { receiver: ReceiverId(1), blocks: vec![meta] }]);
//! ```
//!
//! # Promises
//!
//! As long as no more workers are lost than the copies bear before their number is restored, and workers do as
//! [`ClusterEvent`] says:
//!
//! * A block that was acknowledged is among the survivors of its receiver; of the others, those are whose records
//!   will not be sent again.
//! * One worker takes a producer's records at a time, from the first that is not safe on: a client that goes elsewhere
//!   sends again what is not safe, and nothing is taken twice.
//! * The number of copies is restored, as fast as the bound on copies under way allows.
//! * A partition's holder has all of its state that is committed, or `StateLost` was said.
//!
//! If more are lost, it is told: `BlockLost` of a block that is known, `SurvivorsUnknown` where one may be gone that is
//! not, `StateLost`; all of them before the `Gone` that leaves it out. A master whose workers keep journals ends then and
//! carries out nothing more: the next one finds in them what was acknowledged.
//!
//! Whatever is lost: no command is for a lost worker, no receiver id is used twice, what is forgotten is dropped by all
//! who hold it.
//!
//! Not promised: anything about records that a worker without a peer acknowledged and then was lost. Such a worker must
//! ask the master before it acknowledges, and a master answers none that it has given up, or a client believes one that
//! nobody hears.

mod blocks;
mod command;
mod config;
mod copies;
mod event;
mod fences;
mod groups;
mod ids;
mod machine;
mod partitions;
mod producers;
mod receivers;
mod roster;
mod spread;

pub use command::ClusterCommand;
pub use config::{ClusterConfig, InputKind};
pub use event::ClusterEvent;
pub use ids::{Mark, StoredBlock, WorkerId};
pub use machine::Cluster;

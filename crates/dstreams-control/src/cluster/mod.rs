//! Workers, receivers, replicas of blocks, partitions of state, and the owners of producers: what the master of a
//! cluster decides beside the [`Controller`](crate::Controller).
//!
//! [`Cluster`] is a pure state machine too: [`step`](Cluster::step) takes a [`ClusterEvent`] and returns a list of
//! [`ClusterCommand`]s. It has no clock: [`Liveness`] decides when a silent worker is lost, and the node how long to wait before it
//! reports a failure.
//!
//! # Driving it
//!
//! Feed every event as it comes, one at a time, and execute the commands in order; whatever takes time is started and
//! not awaited. The master's messages to one worker must arrive in order; workers' messages to the master may come
//! late, repeatedly and in any order. Each of these is eventually answered, unless the worker is lost:
//!
//! | command | answer |
//! |---|---|
//! | `Fence` | `Fenced` |
//! | `Copy` | `Stored` or `CopyFailed` |
//! | `Revoke` | `Revoked` |
//! | `CopyState`, `StateLost` and its `Assign` | `Installed` or `StateCopyFailed` |
//! | `Adopt` | `Adopted` |
//! | `Retire` | `Retired` |
//! | `Drained` | `Lost`, when it has left |
//!
//! The two machines meet here: `Receive` is the controller's `Joined`, `ReceiverLost` is its `Left`, and its `Forget`
//! is `Forgotten` here. A worker's report for a batch is passed on as `Stored` first and then as `Reported`, so no cut
//! names a block that no worker is known to store. A lost worker's reports are not passed on: `ReceiverLost` brings its
//! blocks.
//!
//! ```
//! use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, StoredBlock, WorkerId};
//! use dstreams_control::{BlockId, BlockMeta, ReceiverId};
//!
//! let mut cluster = Cluster::new(ClusterConfig::new(vec![InputKind::Everywhere], 0));
//! let [one, two] = [WorkerId(1), WorkerId(2)];
//! let receive = |worker, receiver| ClusterCommand::Receive { worker, input: 0, receiver: ReceiverId(receiver), offsets: vec![] };
//! let peer = |worker, to| ClusterCommand::Peer { worker, to };
//!
//! assert_eq!(cluster.step(ClusterEvent::Joined { worker: one }), [receive(one, 1)]);
//! let commands = cluster.step(ClusterEvent::Joined { worker: two });
//! assert_eq!(commands, [peer(one, Some(two)), peer(two, Some(one)), receive(two, 2)]);
//!
//! // Worker 1 has received a block, and worker 2 has its replica.
//! let id = BlockId { receiver: ReceiverId(1), seq: 0 };
//! let meta = BlockMeta { id, rows: 10, bytes: 640 };
//! let blocks = vec![StoredBlock { meta, offsets: vec![] }];
//! cluster.step(ClusterEvent::Stored { worker: two, blocks: blocks.clone() });
//! assert_eq!(cluster.stored_on(id), [one, two]);
//!
//! // The survivors of worker 1 are known once every other worker refuses it.
//! let commands = cluster.step(ClusterEvent::Lost { worker: one });
//! assert_eq!(commands, [ClusterCommand::Fence { at: two, lost: one }, peer(two, None)]);
//! let commands = cluster.step(ClusterEvent::Fenced { worker: two, lost: one, blocks });
//! assert_eq!(commands, [ClusterCommand::ReceiverLost { receiver: ReceiverId(1), blocks: vec![meta] }]);
//! ```
//!
//! # Promises
//!
//! As long as no more workers are lost than the copies tolerate before they are restored, and workers behave as
//! [`ClusterEvent`] says:
//!
//! * An acknowledged block is among the survivors of its receiver; of the others, those are whose records will not be
//!   sent again.
//! * One worker at a time takes a producer's records, starting after the safe offset: a client that moves to another
//!   worker sends again what is not safe, and nothing is taken twice.
//! * The number of copies is restored, as fast as the bound on concurrent copies allows.
//! * A partition's primary has all of its committed state, or `StateLost` was given.
//!
//! If more are lost, the machine reports it: `BlockLost` for a block it knows, `SurvivorsUnknown` where an unknown
//! one may be gone, `StateLost`; all of them before the `ReceiverLost` that leaves the block out. Where workers keep
//! [`journals`](ClusterConfig::journals), no acknowledged block is lost however many workers are: `Adopt` is given in
//! the place of the first two, and the master reads what is missing.
//!
//! Whatever is lost: no command addresses a lost worker, no receiver id is used twice, and a forgotten block is
//! dropped by every worker that stores it.
//!
//! Not promised: anything about records that a worker without a peer acknowledged before it was lost. Such a worker
//! must ask the master before it acknowledges, and the master must not answer a worker it has given up; or a client
//! trusts a worker that nobody listens to.

mod adoptions;
mod blocks;
mod command;
mod config;
mod copies;
mod event;
mod fences;
mod groups;
mod ids;
mod lease;
mod liveness;
mod machine;
mod partitions;
mod producers;
mod receivers;
mod recovery;
mod roster;
mod slow_workers;
mod speculation;
mod spread;

pub use command::ClusterCommand;
pub use config::{ClusterConfig, InputKind};
pub use event::ClusterEvent;
pub use ids::{ProducerOffset, StoredBlock, WorkerId};
pub use lease::{Lease, LeaseLook, LeaseVerdict, LeaseWatch, tick as lease_tick};
pub use liveness::{Liveness, Look, Suspicion};
pub use machine::Cluster;
pub use recovery::{Finish, Recovery};
pub use slow_workers::SlowWorkers;
pub use speculation::{Speculation, SpeculationConfig, StageTask, Verdict};

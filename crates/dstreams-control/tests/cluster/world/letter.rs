//! [`Letter`]: the messages between master, workers and clients.

use std::rc::Rc;
use std::sync::Arc;

use dstreams_control::cluster::{ClusterEvent, StoredBlock, WorkerId};
use dstreams_control::{BatchTime, BlockId, ReceiverId};

use super::Block;

/// A sender or addressee.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub enum End {
    Master,
    Worker(WorkerId),
    Client(usize),
}

/// A batch's change of a partition: from which version to which.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Change {
    pub before: Option<BatchTime>,
    pub version: BatchTime,
    /// Its records are then set aside.
    pub bad: bool,
}

#[derive(Clone, Debug)]
pub enum Letter {
    // From the master to a worker.
    Peer(Option<WorkerId>),
    Fence(WorkerId),
    Retire,
    Copy {
        block: BlockId,
        from: WorkerId,
    },
    Drop(Vec<BlockId>),
    Grant {
        producer: usize,
        connection: u64,
        token: u64,
        last: u64,
    },
    /// The claim will not be granted.
    Refuse {
        producer: usize,
        connection: u64,
    },
    Revoke {
        producer: usize,
        token: u64,
    },
    Receive {
        receiver: ReceiverId,
        input: u32,
        /// The offset of its source.
        position: u64,
    },
    Seal(BatchTime),
    /// A block that the master received.
    Keep(Rc<Block>),
    CopyState {
        partition: u32,
        from: WorkerId,
        copy: u64,
    },
    /// The primary runs the batch's task of a partition.
    Run {
        partition: u32,
        change: Change,
    },
    /// The batch's change is available there.
    Install {
        partition: u32,
        version: BatchTime,
        from: WorkerId,
    },
    /// The batch is committed: its changes and those before can be released, except of these partitions after these
    /// versions.
    Forget {
        batch: BatchTime,
        but: Vec<(u32, BatchTime)>,
    },
    /// The recovered state.
    Remade {
        partition: u32,
        copy: u64,
        versions: Vec<BatchTime>,
    },
    Release {
        partition: u32,
    },

    // From a worker to the master.
    Said(ClusterEvent),
    Reported {
        batch: BatchTime,
        receiver: ReceiverId,
        blocks: Vec<StoredBlock>,
    },
    Connected {
        producer: usize,
        connection: u64,
    },
    InstallFailed {
        partition: u32,
        version: BatchTime,
    },
    // From the engine and the outputs to the master.
    Ran {
        batch: BatchTime,
        attempt: u32,
    },
    Committed,

    // Between workers.
    Push(Rc<Block>),
    Pushed(BlockId),
    Want(BlockId),
    Have(Rc<Block>),
    HaveNot(BlockId),
    WantState {
        partition: u32,
        copy: u64,
    },
    HaveState {
        partition: u32,
        copy: u64,
        versions: Vec<BatchTime>,
        bad: Option<BatchTime>,
    },
    NoState {
        partition: u32,
        copy: u64,
    },
    WantChange {
        partition: u32,
        version: BatchTime,
    },
    HaveChange {
        partition: u32,
        change: Change,
    },
    NoChange {
        partition: u32,
        version: BatchTime,
        /// The worker there is dead.
        silent: bool,
    },

    // From a client to a worker.
    Hello {
        connection: u64,
    },
    Batch {
        connection: u64,
        number: u64,
    },
    // From a worker to a client.
    Ready {
        connection: u64,
        ack: u64,
    },
    Ack {
        connection: u64,
        number: u64,
    },
    Closed {
        connection: u64,
    },
}

impl Letter {
    /// The reply in place of an answer when the worker is dead.
    pub fn bounce(self, _dead: WorkerId) -> Option<Self> {
        match self {
            Self::Want(block) => Some(Self::HaveNot(block)),
            Self::WantState { partition, copy } => Some(Self::NoState { partition, copy }),
            Self::WantChange { partition, version } => Some(Self::NoChange {
                partition,
                version,
                silent: true,
            }),
            Self::Hello { connection } | Self::Batch { connection, .. } => {
                Some(Self::Closed { connection })
            }
            _ => None,
        }
    }

    /// Whether it may reach the master twice.
    pub fn may_repeat(&self) -> bool {
        !matches!(
            self,
            Self::Connected { .. } | Self::Ran { .. } | Self::Committed
        )
    }
}

/// The name of a producer.
pub fn name(producer: usize) -> Arc<str> {
    Arc::from(producer.to_string())
}

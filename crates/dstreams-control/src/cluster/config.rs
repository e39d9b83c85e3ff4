//! [`ClusterConfig`]: what the program needs of a cluster, and the bounds of what is under way at once.
//!
//! A bound of zero counts as one.

use super::Mark;
use crate::BatchTime;

/// Who receives an input.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum InputKind {
    /// One receiver on each worker (clients, which connect to any).
    Everywhere,
    /// One receiver on one worker; a new one on another when that worker is lost, which goes on where that had come.
    One,
    /// The master itself. No `Receive` is given for it and it never leaves. Its blocks are the master's own affair, unless
    /// it tells `Stored` of them, under the receiver id that is the input's number.
    Master,
}

/// Settings of a [`Cluster`](super::Cluster).
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct ClusterConfig {
    /// Workers that hold a block. Default 2: what was acknowledged survives the loss of any one worker. With 1, blocks
    /// have no second holder; those beyond 2 are copied after a block was acknowledged.
    pub copies: usize,
    /// Partitions of state; 0 if the program has none.
    pub partitions: u32,
    /// The inputs by their number.
    pub inputs: Vec<InputKind>,
    /// The first id that `Receive` uses, if not below the number of inputs. Default 0; a master that goes on where
    /// another stopped begins above every id that one gave.
    pub first_receiver: u64,
    /// The batch as of which an earlier master left the state: each partition is to be made as of it, on the first
    /// worker that is assigned to it, which says `Installed` with copy 1 then.
    pub restored: Option<BatchTime>,
    /// By input and producer: the last record that an earlier master left safe; of those that sent longest ago first.
    pub known: Vec<Mark>,
    /// Copies of blocks under way at once, and copies of partitions' states apart from them. Default 16: enough to
    /// keep some links busy, without starving the batches.
    pub max_copying: usize,
    /// Producers without a live owner whose numbers are remembered, some 200 bytes each. Default 100 000. One that
    /// was forgotten starts anew: what it sends again may be taken twice. Parts of a source that one worker receives are
    /// not among them: they are remembered whatever their number.
    pub max_producers: usize,
    /// Committed batches in which a standby that is behind may come no further before its state is copied anew. Default
    /// 8: news of an install that is on its way must not cost a copy of the whole state.
    pub max_standby_lag: u64,
}

impl ClusterConfig {
    /// The defaults for these inputs and so many partitions of state.
    #[must_use]
    pub const fn new(inputs: Vec<InputKind>, partitions: u32) -> Self {
        Self {
            copies: 2,
            partitions,
            inputs,
            first_receiver: 0,
            restored: None,
            known: Vec::new(),
            max_copying: 16,
            max_producers: 100_000,
            max_standby_lag: 8,
        }
    }
}

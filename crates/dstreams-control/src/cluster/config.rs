//! [`ClusterConfig`]: what the program needs of a cluster, and the bounds on concurrent work.
//!
//! A bound of zero counts as one.

use super::ProducerOffset;
use crate::BatchTime;

/// Which process receives an input.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum InputKind {
    /// One receiver on each worker (clients, which connect to any).
    Everywhere,
    /// One receiver on one worker. When that worker is lost, a new one on another worker resumes at its offsets.
    One,
    /// The master itself. No `Receive` is given for it and it never leaves. The master manages its blocks itself,
    /// unless it reports them as `Stored`, with the input's number as receiver id.
    Master,
}

/// Settings of a [`Cluster`](super::Cluster).
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct ClusterConfig {
    /// Workers that store a block. Default 2: acknowledged records survive the loss of any one worker. With 1,
    /// blocks have no replica; copies beyond 2 are made after the acknowledgement.
    pub copies: usize,
    /// Partitions of state; 0 if the program has none.
    pub partitions: u32,
    /// The inputs by their number.
    pub inputs: Vec<InputKind>,
    /// The first id that `Receive` uses, if not below the number of inputs. Default 0; a master that resumes begins
    /// above every id that an earlier one gave.
    pub first_receiver: u64,
    /// The batch as of which an earlier master left the state. The first worker assigned to a partition restores it
    /// as of that batch, then reports `Installed` with copy 1.
    pub restored: Option<BatchTime>,
    /// The last durable record by input and producer, from an earlier master; least recently active first.
    pub producer_offsets: Vec<ProducerOffset>,
    /// Whether each worker writes the blocks that it receives to a journal that outlives it, before others get them.
    /// Blocks of lost workers that no worker stores are then taken from there (`Adopt`), not lost. Default: no.
    pub journals: bool,
    /// Whether each partition of state has a standby. Without, its state is lost with its primary (`StateLost`), and
    /// installs cost one worker's work; a worker that drains still hands its partitions over. Default: yes.
    pub standbys: bool,
    /// Concurrent copies of blocks, and separately of states of partitions. Default 16: enough to keep some links
    /// busy, without starving the batches.
    pub max_concurrent_copies: usize,
    /// Producers without a live owner whose offsets are remembered, some 200 bytes each. Default 100 000. A
    /// forgotten producer starts from scratch: what it sends again may be taken twice. Parts of a source with one
    /// receiver do not count: they are always remembered.
    pub max_producers: usize,
    /// Committed batches for which a lagging standby may make no progress before its state is copied again. Default
    /// 8: a late report of an install must not cost a copy of the whole state.
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
            producer_offsets: Vec::new(),
            journals: false,
            standbys: true,
            max_concurrent_copies: 16,
            max_producers: 100_000,
            max_standby_lag: 8,
        }
    }
}

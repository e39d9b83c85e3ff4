//! The rules one by one, as written-out schedules.
//!
//! Workers are named by number; block `(r, n)` is block `n` of receiver `r`.

mod blocks;
mod members;
mod producers;
mod state;

use std::sync::Arc;

use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, ProducerOffset, StoredBlock,
    WorkerId,
};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

const W1: WorkerId = WorkerId(1);
const W2: WorkerId = WorkerId(2);
const W3: WorkerId = WorkerId(3);

/// A cluster with clients as the only input, and workers 1 to `workers`.
fn cluster(workers: u32, partitions: u32) -> Cluster {
    joined(
        ClusterConfig::new(vec![InputKind::Everywhere], partitions),
        workers,
    )
}

fn joined(config: ClusterConfig, workers: u32) -> Cluster {
    let mut cluster = Cluster::new(config);
    for worker in 1..=workers {
        cluster.step(join(WorkerId(worker)));
    }
    cluster
}

fn join(worker: WorkerId) -> ClusterEvent {
    ClusterEvent::Joined { worker }
}

fn lost(worker: WorkerId) -> ClusterEvent {
    ClusterEvent::Lost { worker }
}

fn id((receiver, seq): (u32, u64)) -> BlockId {
    let receiver = ReceiverId(u64::from(receiver));
    BlockId { receiver, seq }
}

fn meta(block: (u32, u64)) -> BlockMeta {
    BlockMeta {
        id: id(block),
        rows: 10,
        bytes: 100,
    }
}

fn plain(blocks: &[(u32, u64)]) -> Vec<StoredBlock> {
    let stored = |&block| StoredBlock {
        meta: meta(block),
        offsets: Vec::new(),
    };
    blocks.iter().map(stored).collect()
}

fn stored(worker: WorkerId, blocks: &[(u32, u64)]) -> ClusterEvent {
    let blocks = plain(blocks);
    ClusterEvent::Stored { worker, blocks }
}

/// A block with records of the producer `p` up to `last`.
fn marked(block: (u32, u64), last: u64) -> StoredBlock {
    let offset = ProducerOffset {
        input: 0,
        producer: Arc::from("p"),
        last,
    };
    StoredBlock {
        meta: meta(block),
        offsets: vec![offset],
    }
}

fn fenced(worker: WorkerId, lost: WorkerId, blocks: &[(u32, u64)]) -> ClusterEvent {
    ClusterEvent::Fenced {
        worker,
        lost,
        blocks: plain(blocks),
    }
}

fn forgotten(blocks: &[(u32, u64)]) -> ClusterEvent {
    let blocks = blocks.iter().copied().map(id).collect();
    ClusterEvent::Forgotten { blocks }
}

fn copy(block: (u32, u64), from: WorkerId, to: WorkerId) -> ClusterCommand {
    let block = id(block);
    ClusterCommand::Copy { block, from, to }
}

fn receiver_lost(receiver: u64, blocks: &[(u32, u64)]) -> ClusterCommand {
    ClusterCommand::ReceiverLost {
        receiver: ReceiverId(receiver),
        blocks: blocks.iter().copied().map(meta).collect(),
    }
}

fn dropped(worker: WorkerId, blocks: &[(u32, u64)]) -> ClusterCommand {
    ClusterCommand::Drop {
        worker,
        blocks: blocks.iter().copied().map(id).collect(),
    }
}

fn installed(worker: WorkerId, partition: u32, version: u64, copy: u64) -> ClusterEvent {
    ClusterEvent::Installed {
        worker,
        partition,
        version: BatchTime(version),
        copy,
    }
}

fn committed(batch: u64) -> ClusterEvent {
    let batch = BatchTime(batch);
    ClusterEvent::Committed { batch }
}

//! The rules one by one, as written-out journals.

mod replay;
mod retention;

use dstreams_control::durable::{CheckpointMeta, CheckpointedBlocks, Entry, Replay, Restart};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

const B1: BatchTime = BatchTime(100);
const B2: BatchTime = BatchTime(200);
const B3: BatchTime = BatchTime(300);

fn id(receiver: u64, seq: u64) -> BlockId {
    BlockId {
        receiver: ReceiverId(receiver),
        seq,
    }
}

fn meta(receiver: u64, seq: u64) -> BlockMeta {
    BlockMeta {
        id: id(receiver, seq),
        rows: 10,
        bytes: 100,
    }
}

/// A block with records of producer `p` up to `last`.
fn block(receiver: u64, seq: u64, last: u64) -> Entry {
    Entry::Block {
        input: 4,
        meta: meta(receiver, seq),
        offsets: vec![("p".into(), last)],
    }
}

fn cut(batch: BatchTime, blocks: &[BlockId]) -> Entry {
    Entry::Cut {
        batch,
        after: None,
        blocks: blocks.to_vec(),
    }
}

fn cut_after(after: BatchTime, batch: BatchTime) -> Entry {
    Entry::Cut {
        batch,
        after: Some(after),
        blocks: Vec::new(),
    }
}

fn committed(batch: BatchTime) -> Entry {
    Entry::Committed { batch }
}

fn receiver_lost(receiver: u64, blocks: &[BlockId]) -> Entry {
    Entry::ReceiverLost {
        receiver: ReceiverId(receiver),
        blocks: blocks.to_vec(),
    }
}

/// A checkpoint by process 5, with records of producer `p` up to 7.
fn point(batch: BatchTime, checkpointed_blocks: CheckpointedBlocks) -> Option<CheckpointMeta> {
    Some(CheckpointMeta {
        batch,
        incarnation: 5,
        offsets: [((4, "p".to_owned()), 7)].into(),
        checkpointed_blocks,
    })
}

/// The decision, with the entries taken in any order and repeatedly.
fn decided(point: Option<CheckpointMeta>, entries: &[Entry]) -> Restart {
    let of = |entries: &mut dyn Iterator<Item = &Entry>| {
        let mut replay = Replay::new(point.clone());
        entries.for_each(|entry| replay.take(entry.clone()));
        replay.decide().unwrap()
    };
    let restart = of(&mut entries.iter());
    assert_eq!(restart, of(&mut entries.iter().rev()));
    assert_eq!(restart, of(&mut entries.iter().chain(entries)));
    restart
}

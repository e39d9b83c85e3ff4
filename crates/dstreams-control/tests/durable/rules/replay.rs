//! Decisions of a restart.

use dstreams_control::durable::{CheckpointedBlocks, Entry, JournalRetention, Replay, ReplayError};
use dstreams_control::{BatchTime, ReceiverId, Restored};

use super::{
    B1, B2, B3, block, committed, cut, cut_after, decided, id, meta, point, receiver_lost,
};

fn offsets(last: u64) -> std::collections::BTreeMap<(u32, String), u64> {
    [((4, "p".to_owned()), last)].into()
}

#[test]
fn an_empty_directory_is_a_first_process() {
    let restart = decided(None, &[]);
    assert_eq!(restart.incarnation, 0);
    assert_eq!(restart.controller, Restored::default());
    assert!(restart.offsets.is_empty() && restart.blocks.is_empty());
}

#[test]
fn without_a_checkpoint_all_batches_are_replayed() {
    let opened = Entry::Opened { incarnation: 0 };
    let blocks = [block(0, 0, 3), block(0, 1, 8), block(0, 2, 9)];
    let cuts = [cut(B1, &[id(0, 0)]), cut(B2, &[id(0, 1)]), cut(B3, &[])];
    let entries = [&[opened][..], &blocks, &cuts, &[committed(B1)]].concat();
    let restart = decided(None, &entries);
    assert_eq!(restart.incarnation, 1);
    assert_eq!(restart.committed, [(B1, vec![meta(0, 0)])]);
    let controller = Restored {
        last_cut: Some(B3),
        begin_after: None,
        last_committed: Some(B1),
        pending: vec![(B2, vec![meta(0, 1)]), (B3, vec![])],
        uncut: vec![meta(0, 2)],
        ..Restored::default()
    };
    assert_eq!(restart.controller, controller);
    assert_eq!(restart.offsets, offsets(9));
    assert!(restart.checkpoint_offsets.is_empty());
    assert_eq!(
        restart.blocks,
        [(id(0, 0), 4), (id(0, 1), 4), (id(0, 2), 4)].into()
    );
}

/// The offsets of its blocks still count: nothing of it comes again.
#[test]
fn a_batch_stays_set_aside_and_its_offsets_count() {
    let blocks = [block(0, 0, 3), block(0, 1, 8)];
    let cuts = [cut(B1, &[id(0, 0)]), cut(B2, &[id(0, 1)])];
    let set_aside = [B1, B2].map(|batch| Entry::SetAside { batch });
    let entries = [
        &blocks[..],
        &cuts,
        &set_aside,
        &[committed(B1), Entry::Committing { batch: B2 }],
    ]
    .concat();
    let restart = decided(None, &entries);
    assert_eq!(restart.committed, [(B1, vec![meta(0, 0)])]);
    assert_eq!(restart.controller.pending, [(B2, vec![meta(0, 1)])]);
    assert_eq!(restart.controller.set_aside, [B1, B2].into());
    assert_eq!(restart.controller.committing, [B2].into());
    assert_eq!(restart.offsets, offsets(8));
}

#[test]
fn blocks_in_the_checkpoint_are_not_needed() {
    let blocks = [block(0, 0, 6), block(0, 1, 7), block(0, 2, 8)];
    let cuts = [
        cut(B1, &[id(0, 0)]),
        cut(B2, &[id(0, 1)]),
        cut(B3, &[id(0, 2)]),
    ];
    let ends = [committed(B1), Entry::Opened { incarnation: 2 }];
    let point = point(B2, CheckpointedBlocks::default());
    let restart = decided(point, &[&blocks[..], &cuts, &ends].concat());
    assert_eq!(
        restart.incarnation, 6,
        "after the one that wrote the checkpoint"
    );
    assert_eq!(restart.committed, []);
    assert_eq!(restart.controller.last_committed, Some(B2));
    assert_eq!(restart.controller.pending, [(B3, vec![meta(0, 2)])]);
    assert_eq!(
        (restart.offsets, restart.checkpoint_offsets),
        (offsets(8), offsets(7))
    );
    assert_eq!(restart.blocks, [(id(0, 2), 4)].into());
}

#[test]
fn a_restart_resumes_from_a_checkpoint_alone() {
    let restart = decided(point(B2, CheckpointedBlocks::default()), &[]);
    assert_eq!(restart.controller.last_cut, Some(B2));
    assert_eq!(restart.controller.last_committed, Some(B2));
    assert_eq!(restart.offsets, offsets(7));
}

#[test]
fn survivors_of_a_gone_receiver_count() {
    let blocks = [block(1, 0, 3), block(1, 1, 5), block(2, 0, 4)];
    let restart = decided(
        None,
        &[&blocks[..], &[receiver_lost(1, &[id(1, 0)])]].concat(),
    );
    assert_eq!(restart.controller.uncut, [meta(1, 0), meta(2, 0)]);
    assert_eq!(restart.offsets, offsets(4), "not of what does not count");
    assert_eq!(
        restart.lost_receivers,
        [(ReceiverId(1), vec![id(1, 0)])].into()
    );
    assert_eq!(restart.ended, [(ReceiverId(2), vec![id(2, 0)])].into());
}

/// A lost worker may have had blocks of batches that took effect: they were forgotten, and do not survive.
#[test]
fn a_cut_block_counts_even_if_its_receiver_is_gone() {
    let entries = [
        block(1, 0, 3),
        cut(B1, &[id(1, 0)]),
        committed(B1),
        receiver_lost(1, &[]),
    ];
    let restart = decided(None, &entries);
    assert_eq!(restart.committed, [(B1, vec![meta(1, 0)])]);
    assert_eq!(restart.offsets, offsets(3));
}

/// The block is still in a worker's journal; the master's journal has released its cut.
#[test]
fn a_checkpoint_knows_its_blocks_without_their_cuts() {
    let mut master = JournalRetention::default();
    master.cut(B1, vec![id(1, 0), id(2, 0)], 1);
    master.receiver_lost(ReceiverId(2), &[id(2, 0)], 2);
    let point = point(B1, master.checkpointed(B1));
    let blocks = [
        block(1, 0, 6),
        block(1, 1, 8),
        block(2, 0, 7),
        block(2, 1, 9),
    ];
    let restart = decided(point, &blocks);
    assert_eq!(restart.controller.uncut, [meta(1, 1)]);
    assert_eq!(restart.offsets, offsets(8));
    assert_eq!(restart.ended, [(ReceiverId(1), vec![id(1, 1)])].into());
    assert!(restart.lost_receivers.is_empty());
}

#[test]
fn a_missing_block_is_an_error() {
    let mut replay = Replay::new(None);
    replay.take(cut(B1, &[id(0, 4)]));
    let error = replay.decide().unwrap_err();
    assert_eq!(
        error.to_string(),
        "batch 100 ms names block 0/4, which is in no journal"
    );
}

#[test]
fn two_different_cuts_of_a_batch_are_an_error() {
    let mut replay = Replay::new(None);
    for entry in [block(0, 0, 1), cut(B1, &[id(0, 0)]), cut(B1, &[])] {
        replay.take(entry);
    }
    assert_eq!(
        replay.decide().unwrap_err(),
        ReplayError::CutTwice { batch: B1 }
    );
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let most = u64::MAX;
    let opened = Entry::Opened { incarnation: most };
    let restart = decided(
        point(BatchTime(most), CheckpointedBlocks::default()),
        &[opened],
    );
    assert_eq!(restart.incarnation, most);
}

#[test]
fn a_skip_follows_the_batch_before_it() {
    let day = BatchTime(86_400_000);
    let entries = [
        cut(B1, &[]),
        cut_after(B1, day),
        cut_after(day, BatchTime(2 * day.0)),
    ];
    let restart = decided(None, &[&entries[..], &[committed(day)]].concat());
    assert_eq!(restart.committed, [(B1, vec![]), (day, vec![])]);
    assert_eq!(restart.controller.pending, [(BatchTime(2 * day.0), vec![])]);
    let skipped = [(day, B1), (BatchTime(2 * day.0), day)];
    assert_eq!(restart.skipped, skipped.into());

    // After a checkpoint only those matter that are after it.
    let restart = decided(point(B1, CheckpointedBlocks::default()), &entries[1..]);
    assert_eq!(restart.skipped, skipped.into());
    let restart = decided(point(day, CheckpointedBlocks::default()), &entries);
    assert_eq!(restart.skipped, skipped[1..].iter().copied().collect());
    let newest = point(BatchTime(2 * day.0), CheckpointedBlocks::default());
    assert!(decided(newest, &entries).skipped.is_empty());
}

#[test]
fn a_skip_after_a_batch_that_is_not_there_is_refused() {
    let day = BatchTime(86_400_000);
    for (point, before) in [
        (None, vec![]),
        (None, vec![cut(B1, &[])]),
        (point(B1, CheckpointedBlocks::default()), vec![]),
        (None, vec![cut(B2, &[]), cut(B3, &[])]),
    ] {
        let mut replay = Replay::new(point);
        before.into_iter().for_each(|entry| replay.take(entry));
        replay.take(cut_after(B2, day));
        let missing = ReplayError::CutMissing {
            batch: day,
            after: B2,
        };
        assert_eq!(replay.decide(), Err(missing));
    }
}

//! Which entries of a journal must stay.

use dstreams_control::ReceiverId;
use dstreams_control::durable::{CheckpointedBlocks, JournalRetention};

use super::{B1, B2, B3, block, cut, decided, id, receiver_lost};

/// One machine: blocks at 1, 2 and 5, cuts at 3, 4 and 6.
fn machine() -> JournalRetention<u32> {
    let mut retention = JournalRetention::default();
    retention.block(id(0, 0), 1);
    retention.block(id(0, 1), 2);
    retention.cut(B1, vec![id(0, 0)], 3);
    retention.cut(B2, vec![id(0, 1)], 4);
    retention.block(id(0, 2), 5);
    retention.cut(B3, vec![id(0, 2)], 6);
    retention
}

#[test]
fn blocks_in_a_checkpoint_are_released() {
    let mut retention = machine();
    assert_eq!(retention.first(), Some(1));
    let checkpointed_blocks = retention.checkpointed(B1);
    assert_eq!(retention.release(B1, &checkpointed_blocks), Some(2));
    assert_eq!(retention.release(B2, &retention.checkpointed(B2)), Some(5));
    assert_eq!(retention.release(B3, &retention.checkpointed(B3)), None);
    assert!(retention.checkpointed(B3).contains(id(0, 0)), "permanently");
}

#[test]
fn with_one_journal_a_checkpoint_need_not_list_its_blocks() {
    let mut retention = machine();
    assert_eq!(
        retention.release(B2, &CheckpointedBlocks::default()),
        Some(5)
    );
}

#[test]
fn a_cut_of_blocks_in_other_journals_stays_until_a_checkpoint_has_them() {
    let mut master = JournalRetention::default();
    master.cut(B1, vec![id(7, 0)], 1);
    assert_eq!(master.release(B1, &CheckpointedBlocks::default()), Some(1));
    assert_eq!(master.release(B1, &master.checkpointed(B1)), None);
}

#[test]
fn a_worker_may_learn_coverage_from_any_checkpoint() {
    let (mut master, mut worker) = (JournalRetention::default(), JournalRetention::default());
    for seq in 0..3 {
        worker.block(id(7, seq), seq);
    }
    master.cut(B1, vec![id(7, 0)], 1);
    master.cut(B2, vec![id(7, 1)], 2);
    assert_eq!(worker.release(B2, &master.checkpointed(B2)), Some(2));
    assert_eq!(
        worker.release(B1, &master.checkpointed(B1)),
        Some(2),
        "late"
    );
}

#[test]
fn a_gone_stays_until_a_checkpoint_has_all_relevant_blocks() {
    let mut master = JournalRetention::default();
    master.receiver_lost(ReceiverId(7), &[id(7, 0), id(7, 1)], 1);
    master.cut(B1, vec![id(7, 0)], 2);
    master.cut(B2, vec![id(7, 1)], 3);
    let checkpointed_blocks = master.checkpointed(B1);
    assert!(!checkpointed_blocks.contains(id(7, 1)));
    assert_eq!(master.release(B1, &checkpointed_blocks), Some(1));
    let checkpointed_blocks = master.checkpointed(B2);
    assert!(checkpointed_blocks.is_closed(ReceiverId(7)));
    assert_eq!(master.release(B2, &checkpointed_blocks), None);
}

/// It was cut and forgotten before its receiver was lost, and does not survive.
#[test]
fn a_receiver_with_a_block_in_a_later_batch_is_not_closed() {
    let mut master = JournalRetention::default();
    master.cut(B1, vec![], 1);
    master.cut(B2, vec![id(7, 0)], 2);
    master.receiver_lost(ReceiverId(7), &[], 3);
    assert!(!master.checkpointed(B1).contains(id(7, 0)));
    assert!(master.checkpointed(B2).is_closed(ReceiverId(7)));
}

#[test]
fn entries_needed_by_a_restart_stay_after_it() {
    let entries = [
        block(1, 0, 1),
        block(2, 0, 1),
        block(2, 1, 1),
        cut(B1, &[id(1, 0)]),
        receiver_lost(2, &[id(2, 0)]),
    ];
    let mut retention = JournalRetention::after(&decided(None, &entries), 0);
    retention.cut(B2, vec![id(2, 0)], 9);
    assert_eq!(retention.release(B1, &retention.checkpointed(B1)), Some(0));
    let checkpointed_blocks = retention.checkpointed(B2);
    assert!(
        checkpointed_blocks.is_closed(ReceiverId(1))
            && checkpointed_blocks.is_closed(ReceiverId(2))
    );
    assert_eq!(retention.release(B2, &checkpointed_blocks), None);
}

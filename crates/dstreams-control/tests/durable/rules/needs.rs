//! Which entries of a journal must stay.

use dstreams_control::ReceiverId;
use dstreams_control::durable::{Covered, Needs};

use super::{B1, B2, B3, block, cut, decided, gone, id};

/// One machine: blocks at 1, 2 and 5, cuts at 3, 4 and 6.
fn machine() -> Needs<u32> {
    let mut needs = Needs::default();
    needs.block(id(0, 0), 1);
    needs.block(id(0, 1), 2);
    needs.cut(B1, vec![id(0, 0)], 3);
    needs.cut(B2, vec![id(0, 1)], 4);
    needs.block(id(0, 2), 5);
    needs.cut(B3, vec![id(0, 2)], 6);
    needs
}

#[test]
fn blocks_in_a_checkpoint_are_released() {
    let mut needs = machine();
    assert_eq!(needs.first(), Some(1));
    let covered = needs.covered(B1);
    assert_eq!(needs.release(B1, &covered), Some(2));
    assert_eq!(needs.release(B2, &needs.covered(B2)), Some(5));
    assert_eq!(needs.release(B3, &needs.covered(B3)), None);
    assert!(needs.covered(B3).contains(id(0, 0)), "permanently");
}

#[test]
fn with_one_journal_a_checkpoint_need_not_list_its_blocks() {
    let mut needs = machine();
    assert_eq!(needs.release(B2, &Covered::default()), Some(5));
}

#[test]
fn a_cut_of_blocks_in_other_journals_stays_until_a_checkpoint_has_them() {
    let mut master = Needs::default();
    master.cut(B1, vec![id(7, 0)], 1);
    assert_eq!(master.release(B1, &Covered::default()), Some(1));
    assert_eq!(master.release(B1, &master.covered(B1)), None);
}

#[test]
fn a_worker_may_learn_coverage_from_any_checkpoint() {
    let (mut master, mut worker) = (Needs::default(), Needs::default());
    for seq in 0..3 {
        worker.block(id(7, seq), seq);
    }
    master.cut(B1, vec![id(7, 0)], 1);
    master.cut(B2, vec![id(7, 1)], 2);
    assert_eq!(worker.release(B2, &master.covered(B2)), Some(2));
    assert_eq!(worker.release(B1, &master.covered(B1)), Some(2), "late");
}

#[test]
fn a_gone_stays_until_a_checkpoint_has_all_relevant_blocks() {
    let mut master = Needs::default();
    master.gone(ReceiverId(7), &[id(7, 0), id(7, 1)], 1);
    master.cut(B1, vec![id(7, 0)], 2);
    master.cut(B2, vec![id(7, 1)], 3);
    let covered = master.covered(B1);
    assert!(!covered.contains(id(7, 1)));
    assert_eq!(master.release(B1, &covered), Some(1));
    let covered = master.covered(B2);
    assert!(covered.is_closed(ReceiverId(7)));
    assert_eq!(master.release(B2, &covered), None);
}

/// It was cut and forgotten before its receiver was lost, and does not survive.
#[test]
fn a_receiver_with_a_block_in_a_later_batch_is_not_closed() {
    let mut master = Needs::default();
    master.cut(B1, vec![], 1);
    master.cut(B2, vec![id(7, 0)], 2);
    master.gone(ReceiverId(7), &[], 3);
    assert!(!master.covered(B1).contains(id(7, 0)));
    assert!(master.covered(B2).is_closed(ReceiverId(7)));
}

#[test]
fn entries_needed_by_a_restart_stay_after_it() {
    let entries = [
        block(1, 0, 1),
        block(2, 0, 1),
        block(2, 1, 1),
        cut(B1, &[id(1, 0)]),
        gone(2, &[id(2, 0)]),
    ];
    let mut needs = Needs::after(&decided(None, &entries), 0);
    needs.cut(B2, vec![id(2, 0)], 9);
    assert_eq!(needs.release(B1, &needs.covered(B1)), Some(0));
    let covered = needs.covered(B2);
    assert!(covered.is_closed(ReceiverId(1)) && covered.is_closed(ReceiverId(2)));
    assert_eq!(needs.release(B2, &covered), None);
}

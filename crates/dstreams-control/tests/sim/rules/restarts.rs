//! A controller that resumes after another one.

use Command::{Commit, Run, Seal, WakeAt};
use dstreams_control::{BatchTime, Command, Config, Controller, Event, ReceiverId, Restored};

use super::{B1, B2, at, block, cut, reported, step};

const B3: BatchTime = BatchTime(300);

fn restored() -> Controller {
    let restored = Restored {
        last_cut: Some(B2),
        begin_after: None,
        last_committed: None,
        pending: vec![(B1, vec![block(0, 0)]), (B2, vec![])],
        uncut: vec![block(0, 7)],
        ..Restored::default()
    };
    Controller::restored(Config::new(100).unwrap(), restored)
}

#[test]
fn pending_batches_run_and_commit_in_order() {
    let mut it = restored();
    let receivers = vec![ReceiverId(1)];
    let run = |batch| Run { batch, attempt: 1 };
    let started = it.step(Event::Start { receivers }, at(250));
    assert_eq!(started, [run(B1), WakeAt(at(300))]);
    let finished = |batch| Event::Finished { batch, attempt: 1 };
    let commit = |batch| Commit { batch, attempt: 1 };
    assert_eq!(step(&mut it, finished(B1), 251), [commit(B1)]);
    let commands = step(&mut it, Event::Committed { batch: B1 }, 252);
    assert_eq!(commands.last(), Some(&run(B2)));
    assert_eq!(step(&mut it, finished(B2), 253), [commit(B2)]);
    assert_eq!(it.last_committed(), Some(B1));
}

#[test]
fn downtime_intervals_become_batches_and_the_first_takes_uncut_blocks() {
    let mut it = restored();
    let receivers = vec![ReceiverId(1)];
    let commands = it.step(Event::Start { receivers }, at(520));
    assert_eq!(commands[0], Seal { batch: B3 });
    let report = reported(B3, 1, &[block(1, 0)]);
    let commands = step(&mut it, report, 521);
    let b4 = BatchTime(400);
    assert_eq!(
        commands,
        [cut(B3, &[block(0, 7), block(1, 0)]), Seal { batch: b4 }]
    );
}

#[test]
fn the_next_cut_waits_for_a_clock_behind_the_last() {
    let mut it = restored();
    let receivers = vec![];
    let commands = it.step(Event::Start { receivers }, at(10));
    assert_eq!(commands.last(), Some(&WakeAt(at(300))));
}

/// Outputs have a batch that an earlier program made ahead of the clock.
#[test]
fn the_first_batch_comes_after_those_in_outputs() {
    for (after, first) in [
        (B1, B2),
        (BatchTime(150), B2),
        (BatchTime(20), B1),
        (B2, B3),
    ] {
        let restored = Restored {
            begin_after: Some(after),
            ..Restored::default()
        };
        let mut it = Controller::restored(Config::new(100).unwrap(), restored);
        let commands = it.step(Event::Start { receivers: vec![] }, at(30));
        assert_eq!(commands, [WakeAt(first.timestamp())], "after {after}");
    }
}

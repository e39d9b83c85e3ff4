//! A permanently failing batch is set aside, where that is allowed.

use Command::{CloseReceivers, Commit, Fail, Forget, Run, SetAside, Stopped, WakeAt};
use dstreams_control::{BatchTime, Command, Config, Controller, Event, ReceiverId, Restored};

use super::{B1, B2, at, block, reported, step};

/// With one receiver, two tries of a batch, and the first batch running since 101 ms.
fn running(max_set_aside: u32) -> Controller {
    let config = Config {
        max_attempts: 2,
        max_set_aside,
        ..Config::new(100).unwrap()
    };
    let mut it = Controller::new(config);
    let receivers = vec![ReceiverId(0)];
    it.step(Event::Start { receivers }, at(30));
    it.step(Event::Tick, at(100));
    it.step(reported(B1, 0, &[block(0, 0)]), at(101));
    it
}

fn failed(batch: BatchTime, attempt: u32, retryable: bool) -> Event {
    Event::Failed {
        batch,
        attempt,
        retryable,
        of_batch: true,
    }
}

fn fail(batch: BatchTime, attempts: u32) -> [Command; 3] {
    let fail = Fail { batch, attempts };
    [fail, CloseReceivers, Stopped { unfinished: 1 }]
}

fn set_aside(batch: BatchTime, attempts: u32) -> [Command; 1] {
    [SetAside { batch, attempts }]
}

#[test]
fn a_set_aside_batch_commits_without_records_and_the_next_follows() {
    let mut it = running(1);
    assert_eq!(step(&mut it, failed(B1, 1, false), 110), set_aside(B1, 1));
    let run = |batch, attempt| Run { batch, attempt };
    let done = Event::SetAside { batch: B1 };
    assert_eq!(step(&mut it, done.clone(), 111), [run(B1, 2)]);
    assert_eq!(step(&mut it, done, 112), []);
    let finished = Event::Finished {
        batch: B1,
        attempt: 2,
    };
    let commit = Commit {
        batch: B1,
        attempt: 2,
    };
    assert_eq!(step(&mut it, finished, 113), [commit]);
    let commands = step(&mut it, Event::Committed { batch: B1 }, 114);
    let [Command::Completed(report), Forget { blocks, .. }] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!((report.records, report.set_aside), (0, 10));
    assert_eq!(blocks, &[block(0, 0).id]);
    it.step(Event::Tick, at(200));
    let commands = step(&mut it, reported(B2, 0, &[block(0, 1)]), 201);
    assert_eq!(commands.last(), Some(&run(B2, 1)));
    // The bound is reached.
    assert_eq!(step(&mut it, failed(B2, 1, false), 202), fail(B2, 1));
}

#[test]
fn a_set_aside_batch_has_all_its_tries_again_and_is_not_set_aside_twice() {
    let mut it = running(5);
    assert_eq!(step(&mut it, failed(B1, 1, true), 110).len(), 1);
    assert_eq!(step(&mut it, failed(B1, 2, true), 111), set_aside(B1, 2));
    step(&mut it, Event::SetAside { batch: B1 }, 112);
    let run = Run {
        batch: B1,
        attempt: 4,
    };
    assert_eq!(step(&mut it, failed(B1, 3, true), 113), [run]);
    assert_eq!(step(&mut it, failed(B1, 4, true), 114), fail(B1, 4));
}

#[test]
fn a_batch_that_cannot_be_set_aside_is_given_up() {
    let mut it = running(5);
    step(&mut it, failed(B1, 1, false), 110);
    let event = Event::SetAsideFailed { batch: B1 };
    assert_eq!(step(&mut it, event, 111), fail(B1, 1));
}

/// For example a lost machine: the records are not to blame, and the last attempt decides.
#[test]
fn a_batch_that_failed_for_its_environment_is_not_set_aside() {
    let of_machine = |attempt, retryable| Event::Failed {
        batch: B1,
        attempt,
        retryable,
        of_batch: false,
    };
    let mut it = running(5);
    assert_eq!(step(&mut it, of_machine(1, false), 110), fail(B1, 1));
    let mut it = running(5);
    step(&mut it, failed(B1, 1, true), 110);
    assert_eq!(step(&mut it, of_machine(2, true), 111), fail(B1, 2));
    let mut it = running(5);
    step(&mut it, of_machine(1, true), 110);
    assert_eq!(step(&mut it, failed(B1, 2, true), 111), set_aside(B1, 2));
}

#[test]
fn a_commit_that_failed_is_not_set_aside() {
    let mut it = running(5);
    let finished = Event::Finished {
        batch: B1,
        attempt: 1,
    };
    step(&mut it, finished, 110);
    let failed = Event::CommitFailed {
        batch: B1,
        retryable: false,
    };
    assert_eq!(step(&mut it, failed, 111), fail(B1, 1));
}

#[test]
fn a_batch_that_may_have_committed_is_not_set_aside() {
    let restored = Restored {
        last_cut: Some(B1),
        pending: vec![(B1, vec![block(0, 0)])],
        committing: [B1].into_iter().collect(),
        ..Restored::default()
    };
    let config = Config {
        max_set_aside: 5,
        ..Config::new(100).unwrap()
    };
    let mut it = Controller::restored(config, restored);
    let receivers = vec![];
    it.step(Event::Start { receivers }, at(150));
    assert_eq!(step(&mut it, failed(B1, 1, false), 151), fail(B1, 1));
}

#[test]
fn batches_set_aside_by_earlier_processes_count_and_stay() {
    let restored = Restored {
        last_cut: Some(B1),
        pending: vec![(B1, vec![block(0, 0)])],
        set_aside: [B1].into_iter().collect(),
        set_aside_before: 1,
        ..Restored::default()
    };
    let config = Config {
        max_set_aside: 2,
        ..Config::new(100).unwrap()
    };
    let mut it = Controller::restored(config, restored);
    let receivers = vec![];
    let commands = it.step(Event::Start { receivers }, at(150));
    let run = Run {
        batch: B1,
        attempt: 1,
    };
    assert_eq!(commands, [run, WakeAt(at(200))]);
    assert_eq!(step(&mut it, failed(B1, 1, false), 151), fail(B1, 1));
}

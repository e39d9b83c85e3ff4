//! Intervals that were missed, many at once: those in which nothing happens are skipped.

use Command::{AskDue, CloseReceivers, Seal, WakeAt};
use dstreams_control::{BatchTime, Command, Config, Controller, Due, Event, ReceiverId, Restored};

use super::{B1, B2, at, block, cut, reported, step};

const B3: BatchTime = BatchTime(300);
const DAY: u64 = 24 * 3_600_000;

fn config() -> Config {
    Config {
        skip_missed: Some(5),
        ..Config::new(100).unwrap()
    }
}

/// Started at 30 ms, with one receiver.
fn skipping() -> Controller {
    let mut it = Controller::new(config());
    let receivers = vec![ReceiverId(0)];
    it.step(Event::Start { receivers }, at(30));
    it
}

/// Runs and commits what is pending; returns the last commands.
fn finish(it: &mut Controller, ms: u64) -> Vec<Command> {
    let mut last = Vec::new();
    loop {
        let first = it.running().next();
        let Some((batch, attempt)) = first else {
            return last;
        };
        step(it, Event::Finished { batch, attempt }, ms);
        last = it.step(Event::Committed { batch }, at(ms));
    }
}

fn due(after: BatchTime, from: u64, to: u64) -> Event {
    let due = Some(Due {
        from: BatchTime(from),
        to: BatchTime(to),
    });
    Event::Due { after, due }
}

fn never(after: BatchTime) -> Event {
    Event::Due { after, due: None }
}

/// A process that comes later knows from the cuts where blocks belong that are in none.
#[test]
fn intervals_are_marked_by_batches_before_them() {
    let mut it = Controller::new(Config {
        mark_intervals: true,
        ..config()
    });
    let receivers = vec![ReceiverId(0)];
    let commands = it.step(Event::Start { receivers }, at(130));
    assert_eq!(commands.first(), Some(&Seal { batch: B1 }));
    assert_eq!(
        it.open_interval(),
        None,
        "the interval before the first is not cut"
    );
    step(&mut it, reported(B1, 0, &[]), 131);
    assert_eq!(it.open_interval(), Some(B2));
    finish(&mut it, 132);
    step(&mut it, Event::Tick, DAY + 10);
    step(&mut it, reported(B2, 0, &[block(0, 0)]), DAY + 10);
    finish(&mut it, DAY + 11);
    assert_eq!(it.open_interval(), None, "it is not known what is skipped");
    let commands = it.step(never(B2), at(DAY + 12));
    let (last, open) = (BatchTime(DAY), BatchTime(DAY + 100));
    assert_eq!(commands.first(), Some(&cut(last, &[])));
    assert_eq!(it.open_interval(), Some(open));
    finish(&mut it, DAY + 13);
    let seal = step(&mut it, Event::Tick, DAY + 100);
    assert_eq!(seal, [Seal { batch: open }]);
    assert_eq!(it.open_interval(), None, "receivers are asked");
}

#[test]
fn intervals_in_which_nothing_happens_are_skipped() {
    let mut it = skipping();
    assert_eq!(step(&mut it, Event::Tick, DAY + 10), [Seal { batch: B1 }]);
    let commands = step(&mut it, reported(B1, 0, &[block(0, 0)]), DAY + 10);
    assert_eq!(commands.first(), Some(&cut(B1, &[block(0, 0)])));
    // What came until then is in it; nothing more is cut until it is known what happens next.
    assert!(finish(&mut it, DAY + 11).contains(&AskDue { after: B1 }));
    // A window has it for two intervals, which run at once.
    let commands = it.step(due(B1, 200, 300), at(DAY + 12));
    assert_eq!(commands.first(), Some(&cut(B2, &[])));
    assert_eq!(commands.last(), Some(&WakeAt(at(300))));
    assert_eq!(it.step(Event::Tick, at(DAY + 12)), [cut(B3, &[])]);
    assert!(finish(&mut it, DAY + 13).contains(&AskDue { after: B3 }));
    // Something times out half a day later, at its own time.
    let noon = BatchTime(DAY / 2);
    let commands = it.step(due(B3, noon.0, noon.0), at(DAY + 14));
    assert_eq!(commands.first(), Some(&cut(noon, &[])));
    assert!(finish(&mut it, DAY + 15).contains(&AskDue { after: noon }));
    // Then comes the first interval that has not ended.
    let next = BatchTime(DAY + 100);
    assert_eq!(
        it.step(never(noon), at(DAY + 16)),
        [WakeAt(next.timestamp())]
    );
    assert_eq!(
        step(&mut it, Event::Tick, DAY + 100),
        [Seal { batch: next }]
    );
    step(&mut it, reported(next, 0, &[]), DAY + 101);
    finish(&mut it, DAY + 102);
    assert_eq!(it.last_committed(), Some(next));
}

#[test]
fn what_is_due_after_the_gap_does_not_shorten_it() {
    let mut it = skipping();
    step(&mut it, Event::Tick, 10_010);
    step(&mut it, reported(B1, 0, &[]), 10_010);
    finish(&mut it, 10_011);
    step(&mut it, due(B1, 500_000, 500_000), 10_012);
    assert_eq!(it.next_boundary(), Some(BatchTime(10_100)));
}

/// A time between two intervals, and one that is past, are the next interval.
#[test]
fn what_is_due_between_two_intervals_is_due_with_the_later_one() {
    for (from, first) in [(0, 200), (201, 300), (9_950, 10_000)] {
        let mut it = skipping();
        step(&mut it, Event::Tick, 10_010);
        step(&mut it, reported(B1, 0, &[]), 10_010);
        finish(&mut it, 10_011);
        let commands = step(&mut it, due(B1, from, from), 10_012);
        assert_eq!(commands.first(), Some(&cut(BatchTime(first), &[])));
    }
}

#[test]
fn a_few_missed_intervals_have_a_batch_each() {
    let mut it = skipping();
    assert_eq!(step(&mut it, Event::Tick, 699), [Seal { batch: B1 }]);
    for batch in (1..=6).map(|number| BatchTime(100 * number)) {
        let commands = step(&mut it, reported(batch, 0, &[]), 699);
        assert_eq!(commands.first(), Some(&cut(batch, &[])));
    }
    assert_eq!(it.next_boundary(), Some(BatchTime(700)));
}

#[test]
fn a_late_report_is_before_what_is_skipped() {
    let mut it = skipping();
    step(&mut it, Event::Tick, 10_010);
    // The receiver is silent.
    step(&mut it, Event::Tick, 10_060);
    assert!(finish(&mut it, 10_061).contains(&AskDue { after: B1 }));
    step(&mut it, never(B1), 10_062);
    assert_eq!(it.next_boundary(), Some(BatchTime(10_100)));
    let commands = step(&mut it, reported(B1, 0, &[block(0, 0)]), 10_063);
    assert_eq!(commands.first(), Some(&cut(B2, &[block(0, 0)])));
    // An answer from before is of no use.
    step(&mut it, never(B1), 10_064);
    assert!(finish(&mut it, 10_065).contains(&AskDue { after: B2 }));
}

#[test]
fn a_clock_that_was_a_day_ahead_for_a_moment_costs_no_interval() {
    let mut it = skipping();
    step(&mut it, Event::Tick, DAY);
    step(&mut it, reported(B1, 0, &[]), DAY);
    finish(&mut it, DAY);
    step(&mut it, never(B1), DAY);
    assert_eq!(it.next_boundary(), Some(BatchTime(DAY + 100)));
    // It is right again before that one is sealed.
    assert_eq!(step(&mut it, Event::Tick, 350), []);
    assert_eq!(it.next_boundary(), Some(BatchTime(400)));
    let sealed = [Seal {
        batch: BatchTime(400),
    }];
    assert_eq!(step(&mut it, Event::Tick, 400), sealed);
}

#[test]
fn a_stop_in_a_gap_takes_what_came_since() {
    for (answer, last) in [
        (None, B2),
        (Some(never(B1)), BatchTime(10_100)),
        (Some(due(B1, 500, 500)), BatchTime(600)),
    ] {
        let mut it = skipping();
        step(&mut it, Event::Tick, 10_010);
        step(&mut it, reported(B1, 0, &[]), 10_010);
        finish(&mut it, 10_011);
        answer.map(|answer| step(&mut it, answer, 10_012));
        let stop = Event::Stop {
            graceful: true,
            deadline: None,
        };
        let commands = step(&mut it, stop, 10_020);
        assert_eq!(commands, [CloseReceivers, Seal { batch: last }]);
        let commands = step(&mut it, reported(last, 0, &[block(0, 0)]), 10_021);
        assert_eq!(commands.first(), Some(&cut(last, &[block(0, 0)])));
    }
}

#[test]
fn a_clock_that_is_an_hour_back_is_waited_for_and_nothing_is_skipped() {
    let hour = 3_600_000;
    let mut it = skipping();
    for ms in [100, 200] {
        let commands = step(&mut it, Event::Tick, hour + ms);
        let Some(Seal { batch }) = commands.first().cloned() else {
            panic!("{commands:?}");
        };
        step(&mut it, reported(batch, 0, &[]), hour + ms);
        finish(&mut it, hour + ms);
        step(&mut it, never(batch), hour + ms);
    }
    let last = it.last_committed().unwrap();
    let next = BatchTime(last.0 + 100);
    for ms in (200..hour).step_by(600_000) {
        assert_eq!(it.step(Event::Tick, at(ms)), [WakeAt(next.timestamp())]);
    }
    let commands = step(&mut it, Event::Tick, next.0);
    assert_eq!(commands, [Seal { batch: next }]);
}

/// Records that a new process receives belong to the interval in which it receives them.
#[test]
fn a_new_process_asks_before_it_seals() {
    let restored = Restored {
        last_cut: Some(B2),
        last_committed: Some(B2),
        ..Restored::default()
    };
    let receivers = vec![ReceiverId(1)];
    let start = Event::Start { receivers };
    let mut it = Controller::restored(config(), restored.clone());
    let commands = it.step(start.clone(), at(DAY + 10));
    assert_eq!(commands, [AskDue { after: B2 }]);
    let next = BatchTime(DAY + 100);
    let commands = it.step(never(B2), at(DAY + 11));
    assert_eq!(commands, [WakeAt(next.timestamp())]);

    // After what was pending, and with what was in no batch.
    let pending = Restored {
        last_committed: Some(B1),
        pending: vec![(B2, vec![])],
        uncut: vec![block(0, 7)],
        ..restored.clone()
    };
    let mut it = Controller::restored(config(), pending);
    let commands = step(&mut it, start.clone(), DAY + 10);
    assert_eq!(commands[0], cut(B3, &[block(0, 7)]));
    assert!(finish(&mut it, DAY + 11).contains(&AskDue { after: B3 }));

    // After a few intervals, as ever; with a clock that is behind, never.
    let mut it = Controller::restored(config(), restored.clone());
    assert_eq!(step(&mut it, start.clone(), 700), [Seal { batch: B3 }]);
    let ahead = Restored {
        last_cut: Some(BatchTime(DAY)),
        last_committed: Some(BatchTime(DAY)),
        ..restored
    };
    let mut it = Controller::restored(config(), ahead);
    assert_eq!(it.step(start, at(10)), [WakeAt(at(DAY + 100))]);
}

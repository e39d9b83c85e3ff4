//! Every way to stop:
//! graceful, abrupt, at a deadline, twice, before the start.

use Command::{
    Abort, CloseReceivers, Completed, Cut, Forget, Run, Seal, StopWaiting, Stopped, WakeAt,
};
use dstreams_control::{Command, Config, Controller, Event, State};

use super::{B1, B2, at, block, reported, running, started, step};

const GRACEFUL: Event = Event::Stop {
    graceful: true,
    deadline: None,
};
const ABRUPT: Event = Event::Stop {
    graceful: false,
    deadline: None,
};

#[test]
fn a_graceful_stop_commits_everything_received() {
    let mut it = running();
    assert_eq!(
        it.step(GRACEFUL, at(110)),
        [CloseReceivers, Seal { batch: B2 }, WakeAt(at(610))]
    );
    assert_eq!(it.state(), State::Draining);
    let cut = Cut {
        batch: B2,
        blocks: vec![block(0, 1)],
    };
    assert_eq!(it.step(reported(B2, 0, &[block(0, 1)]), at(111)), [cut]);
    step(
        &mut it,
        Event::Finished {
            batch: B1,
            attempt: 1,
        },
        112,
    );
    let commands = step(&mut it, Event::Committed { batch: B1 }, 113);
    assert_eq!(
        commands.last(),
        Some(&Run {
            batch: B2,
            attempt: 1
        })
    );
    step(
        &mut it,
        Event::Finished {
            batch: B2,
            attempt: 1,
        },
        114,
    );
    let commands = step(&mut it, Event::Committed { batch: B2 }, 115);
    assert_eq!(commands.last(), Some(&Stopped { unfinished: 0 }));
    assert_eq!(it.state(), State::Stopped);
}

#[test]
fn a_graceful_stop_waits_for_the_outstanding_seal_and_overdue_reports() {
    let mut it = started(1);
    it.step(Event::Tick, at(100));
    assert_eq!(it.step(GRACEFUL, at(110)), [CloseReceivers]);
    let cut = |batch, blocks| Cut { batch, blocks };
    assert_eq!(
        step(&mut it, Event::Tick, 150),
        [
            cut(B1, vec![]),
            Seal { batch: B2 },
            Run {
                batch: B1,
                attempt: 1
            }
        ]
    );
    assert_eq!(step(&mut it, reported(B2, 0, &[block(0, 1)]), 151), []);
    assert_eq!(step(&mut it, Event::Tick, 649), []);
    assert_eq!(
        step(&mut it, reported(B1, 0, &[block(0, 0)]), 649),
        [cut(B2, vec![block(0, 0), block(0, 1)])]
    );
}

#[test]
fn the_last_cut_waits_for_a_bounded_time() {
    let mut it = started(1);
    assert_eq!(
        step(&mut it, GRACEFUL, 40),
        [CloseReceivers, Seal { batch: B1 }]
    );
    assert_eq!(step(&mut it, Event::Tick, 539), []);
    let stop_waiting = StopWaiting { batch: B1 };
    assert_eq!(step(&mut it, Event::Tick, 540), [stop_waiting]);
    assert_eq!(step(&mut it, Event::Tick, 1_539), []);
    assert_eq!(
        step(&mut it, Event::Tick, 1_540),
        [
            Cut {
                batch: B1,
                blocks: vec![]
            },
            Run {
                batch: B1,
                attempt: 1
            }
        ]
    );
    assert_eq!(step(&mut it, reported(B1, 0, &[block(0, 0)]), 1_541), []);
    assert_eq!(it.overdue_reports(), 1);
    // That receiver's blocks are in no batch: the program does not end as if they were.
    step(
        &mut it,
        Event::Finished {
            batch: B1,
            attempt: 1,
        },
        1_542,
    );
    let commands = step(&mut it, Event::Committed { batch: B1 }, 1_543);
    assert_eq!(commands.last(), Some(&Stopped { unfinished: 1 }));
}

/// Also with a clock that is set forward by an hour while the last reports are due.
#[test]
fn a_clock_that_is_set_forward_does_not_shorten_the_last_cut() {
    let passed = std::time::Duration::from_millis;
    let hour = 3_600_000;
    let mut it = started(1);
    it.step_at(Event::Tick, at(100), passed(1_100));
    it.step_at(reported(B1, 0, &[]), at(101), passed(1_101));
    let commands = it.step_at(GRACEFUL, at(110), passed(1_110));
    assert_eq!(commands.first(), Some(&CloseReceivers));
    assert!(commands.contains(&Seal { batch: B2 }) && commands.contains(&WakeAt(at(610))));
    // After 10 ms sources have 490 ms more to end.
    let commands = it.step_at(Event::Tick, at(hour), passed(1_120));
    assert_eq!(commands, [WakeAt(at(hour + 490))]);
    let cut = Cut {
        batch: B2,
        blocks: vec![block(0, 1)],
    };
    let last = reported(B2, 0, &[block(0, 1)]);
    let commands = it.step_at(last, at(hour + 20), passed(1_140));
    assert!(commands.contains(&cut), "{commands:?}");
}

#[test]
fn sources_have_half_the_time_until_the_deadline() {
    let stop = |deadline| Event::Stop {
        graceful: true,
        deadline: Some(at(deadline)),
    };
    let mut it = started(1);
    let sealed = [CloseReceivers, Seal { batch: B1 }, WakeAt(at(5_040))];
    assert_eq!(it.step(stop(10_040), at(40)), sealed);
    assert_eq!(
        it.step(stop(8_040), at(50)),
        [WakeAt(at(4_045))],
        "a second stop shortens it"
    );
    assert_eq!(it.step(stop(20_000), at(60)), []);
    let stopped_waiting = [StopWaiting { batch: B1 }, WakeAt(at(5_045))];
    assert_eq!(it.step(Event::Tick, at(4_045)), stopped_waiting);
    let cut = Cut {
        batch: B1,
        blocks: vec![block(0, 0)],
    };
    assert_eq!(
        step(&mut it, reported(B1, 0, &[block(0, 0)]), 4_060)[0],
        cut
    );
}

#[test]
fn an_abrupt_stop_aborts_a_run_and_waits_for_a_commit() {
    let abort = Abort {
        batch: B1,
        attempt: 1,
    };
    assert_eq!(
        step(&mut running(), ABRUPT, 110),
        [abort, CloseReceivers, Stopped { unfinished: 1 }]
    );

    let mut it = running();
    step(
        &mut it,
        Event::Finished {
            batch: B1,
            attempt: 1,
        },
        105,
    );
    assert_eq!(it.step(ABRUPT, at(110)), [CloseReceivers]);
    assert_eq!(it.state(), State::Halting);
    assert_eq!(it.step(Event::Tick, at(500)), []);
    let commands = step(&mut it, Event::Committed { batch: B1 }, 510);
    assert!(
        matches!(
            &commands[..],
            [Completed(_), Forget { .. }, Stopped { unfinished: 0 }]
        ),
        "{commands:?}"
    );
}

#[test]
fn nothing_begins_at_the_deadline() {
    let stop = |graceful| Event::Stop {
        graceful,
        deadline: Some(at(180)),
    };
    let mut it = running();
    let commands = it.step(stop(true), at(110));
    assert_eq!(
        commands,
        [CloseReceivers, Seal { batch: B2 }, WakeAt(at(145))]
    );
    let over = [
        Abort {
            batch: B1,
            attempt: 1,
        },
        Stopped { unfinished: 2 },
    ];
    assert_eq!(
        it.step(
            Event::Finished {
                batch: B1,
                attempt: 1
            },
            at(180)
        ),
        over
    );

    let mut it = running();
    step(
        &mut it,
        Event::Finished {
            batch: B1,
            attempt: 1,
        },
        105,
    );
    assert_eq!(
        it.step(stop(false), at(110)),
        [CloseReceivers, WakeAt(at(180))]
    );
    assert_eq!(it.step(Event::Tick, at(180)), [Stopped { unfinished: 1 }]);
}

#[test]
fn a_second_stop_only_shortens() {
    let stop = |deadline| Event::Stop {
        graceful: true,
        deadline,
    };
    let mut it = running();
    it.step(stop(Some(at(180))), at(110));
    assert_eq!(it.step(stop(Some(at(500))), at(111)), []);
    assert_eq!(it.step(stop(None), at(111)), []);
    assert_eq!(it.step(stop(Some(at(170))), at(112)), [WakeAt(at(141))]);
    assert_eq!(
        step(&mut it, ABRUPT, 113),
        [
            Abort {
                batch: B1,
                attempt: 1
            },
            Stopped { unfinished: 2 }
        ]
    );
}

#[test]
fn a_stop_before_the_start_stops() {
    let mut it = Controller::new(Config::new(100).unwrap());
    assert_eq!(
        it.step(GRACEFUL, at(1)),
        [CloseReceivers, Stopped { unfinished: 0 }]
    );
    assert_eq!(it.step(Event::Start { receivers: vec![] }, at(2)), []);
}

//! From the boundary to the commit:
//! reports, receivers that come and go, stalls, clocks, retries.

use Command::{CloseReceivers, Commit, Completed, Cut, Fail, Forget, Run, Seal, Stopped, WakeAt};
use dstreams_control::{BatchTime, Command, Config, Controller, Event, ReceiverId};

use super::{B1, B2, at, block, cut, joined, left, reported, running, started, step};

const B3: BatchTime = BatchTime(300);

#[test]
fn blocks_are_sorted_and_a_repeated_report_adds_nothing() {
    let mut it = started(2);
    assert_eq!(step(&mut it, Event::Tick, 99), []);
    assert_eq!(step(&mut it, Event::Tick, 100), [Seal { batch: B1 }]);
    let report = reported(B1, 1, &[block(1, 1), block(1, 0)]);
    assert_eq!(step(&mut it, report.clone(), 101), []);
    assert_eq!(step(&mut it, report.clone(), 102), []);
    let cut = Cut {
        batch: B1,
        blocks: vec![block(0, 0), block(1, 0), block(1, 1)],
    };
    assert_eq!(
        step(&mut it, reported(B1, 0, &[block(0, 0)]), 103),
        [
            cut,
            Run {
                batch: B1,
                attempt: 1
            }
        ]
    );
    assert_eq!(step(&mut it, report, 200), [Seal { batch: B2 }]);
    step(&mut it, reported(B2, 0, &[]), 201);
    assert_eq!(
        step(&mut it, reported(B2, 1, &[]), 201),
        [Cut {
            batch: B2,
            blocks: vec![]
        }]
    );
}

#[test]
fn a_late_report_goes_into_the_next_cut() {
    let mut it = started(2);
    it.step(Event::Tick, at(100));
    assert_eq!(it.step(reported(B1, 0, &[block(0, 0)]), at(101)), []);
    let cut = Cut {
        batch: B1,
        blocks: vec![block(0, 0)],
    };
    assert_eq!(
        step(&mut it, Event::Tick, 150),
        [
            cut,
            Run {
                batch: B1,
                attempt: 1
            }
        ]
    );
    assert_eq!(it.overdue_reports(), 1);
    step(&mut it, reported(B1, 1, &[block(1, 0)]), 160);
    assert_eq!(it.overdue_reports(), 0);
    step(&mut it, Event::Tick, 200);
    step(&mut it, reported(B2, 0, &[]), 201);
    assert_eq!(
        step(&mut it, reported(B2, 1, &[]), 201),
        [Cut {
            batch: B2,
            blocks: vec![block(1, 0)]
        }]
    );
}

#[test]
fn missed_boundaries_follow_at_once_after_a_stall() {
    let mut it = started(1);
    assert_eq!(step(&mut it, Event::Tick, 310), [Seal { batch: B1 }]);
    let cut = |batch| Cut {
        batch,
        blocks: vec![],
    };
    assert_eq!(
        step(&mut it, reported(B1, 0, &[]), 311),
        [
            cut(B1),
            Seal { batch: B2 },
            Run {
                batch: B1,
                attempt: 1
            }
        ]
    );
    assert_eq!(
        step(&mut it, reported(B2, 0, &[]), 312),
        [cut(B2), Seal { batch: B3 }]
    );
    assert_eq!(
        it.step(reported(B3, 0, &[]), at(313)),
        [cut(B3), WakeAt(at(400))]
    );
    assert_eq!(it.pending(), 3);
}

#[test]
fn without_receivers_a_year_of_stall_is_one_batch_per_step() {
    let mut it = started(0);
    let year = at(365 * 24 * 3_600_000);
    for _ in 0..3 {
        let commands = it.step(Event::Tick, year);
        assert!(commands.len() <= 4, "{commands:?}");
        assert!(
            matches!(commands.last(), Some(WakeAt(time)) if *time <= year),
            "{commands:?}"
        );
    }
    assert_eq!(
        (it.pending(), it.next_boundary()),
        (3, Some(BatchTime(400)))
    );
}

#[test]
fn a_clock_that_steps_back_repeats_no_boundary_and_lengthens_no_timeout() {
    let mut it = started(1);
    assert_eq!(
        it.step(Event::Tick, at(100)),
        [Seal { batch: B1 }, WakeAt(at(150))]
    );
    assert_eq!(it.step(Event::Tick, at(20)), [WakeAt(at(70))]);
    assert_eq!(
        step(&mut it, Event::Tick, 70),
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
    assert_eq!(it.step(Event::Tick, at(100)), [WakeAt(at(200))]);
    assert_eq!(step(&mut it, Event::Tick, 200), [Seal { batch: B2 }]);
}

#[test]
fn the_next_batch_runs_after_the_commit() {
    let mut it = running();
    step(&mut it, Event::Tick, 200);
    assert_eq!(
        step(&mut it, reported(B2, 0, &[]), 201),
        [Cut {
            batch: B2,
            blocks: vec![]
        }]
    );
    assert_eq!(step(&mut it, Event::Committed { batch: B1 }, 202), []);
    assert_eq!(
        step(
            &mut it,
            Event::Finished {
                batch: B1,
                attempt: 1
            },
            203
        ),
        [Commit {
            batch: B1,
            attempt: 1
        }]
    );
    assert_eq!(
        step(
            &mut it,
            Event::Failed {
                batch: B1,
                attempt: 1,
                retryable: false,
                of_batch: true,
            },
            204
        ),
        []
    );
    let commands = step(&mut it, Event::Committed { batch: B1 }, 205);
    let [Completed(report), forget, run] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(
        (report.batch, report.records, report.bytes, report.attempts),
        (B1, 10, 100, 1)
    );
    assert_eq!(
        (report.cut_at, report.finished_at, report.committed_at),
        (at(101), at(203), at(205))
    );
    assert_eq!(
        *forget,
        Forget {
            batch: B1,
            blocks: vec![block(0, 0).id]
        }
    );
    assert_eq!(
        *run,
        Run {
            batch: B2,
            attempt: 1
        }
    );
    assert_eq!((it.last_committed(), it.pending()), (Some(B1), 1));
}

#[test]
fn a_batch_is_tried_as_often_as_allowed() {
    let failed = |attempt, retryable| Event::Failed {
        batch: B1,
        attempt,
        retryable,
        of_batch: true,
    };
    let mut it = running();
    assert_eq!(
        step(&mut it, failed(1, true), 110),
        [Run {
            batch: B1,
            attempt: 2
        }]
    );
    assert_eq!(step(&mut it, failed(1, true), 111), []);
    let over = |attempts| {
        [
            Fail {
                batch: B1,
                attempts,
            },
            CloseReceivers,
            Stopped { unfinished: 1 },
        ]
    };
    assert_eq!(step(&mut it, failed(2, true), 112), over(2));
    assert_eq!(step(&mut it, Event::Tick, 200), []);
    assert_eq!(step(&mut running(), failed(1, false), 110), over(1));
}

#[test]
fn a_commit_is_repeated_for_the_same_attempt() {
    let again = Event::CommitFailed {
        batch: B1,
        retryable: true,
    };
    let commit = Commit {
        batch: B1,
        attempt: 1,
    };
    let mut it = running();
    assert_eq!(step(&mut it, again.clone(), 105), []);
    assert_eq!(
        step(
            &mut it,
            Event::Finished {
                batch: B1,
                attempt: 1
            },
            110
        ),
        std::slice::from_ref(&commit)
    );
    assert_eq!(step(&mut it, again.clone(), 111), [commit]);
    let over = [
        Fail {
            batch: B1,
            attempts: 1,
        },
        CloseReceivers,
        Stopped { unfinished: 1 },
    ];
    assert_eq!(step(&mut it, again, 112), over);
}

#[test]
fn the_next_seal_waits_for_a_new_receiver() {
    let mut it = started(1);
    step(&mut it, Event::Tick, 100);
    assert_eq!(step(&mut it, joined(1), 101), []);
    let run = Run {
        batch: B1,
        attempt: 1,
    };
    assert_eq!(
        step(&mut it, reported(B1, 0, &[]), 102),
        [cut(B1, &[]), run]
    );
    assert_eq!(step(&mut it, Event::Tick, 200), [Seal { batch: B2 }]);
    assert_eq!(step(&mut it, reported(B2, 0, &[]), 201), []);
    assert_eq!(
        step(&mut it, reported(B2, 1, &[block(1, 0)]), 202),
        [cut(B2, &[block(1, 0)])]
    );
}

#[test]
fn a_cut_does_not_wait_for_a_lost_receiver_and_takes_its_survivors_once() {
    let mut it = started(2);
    step(&mut it, Event::Tick, 100);
    step(&mut it, reported(B1, 0, &[block(0, 0)]), 101);
    let survives = [block(1, 1), block(1, 0), block(0, 7)];
    let cut_b1 = cut(B1, &[block(0, 0), block(1, 0), block(1, 1)]);
    assert_eq!(step(&mut it, left(1, &survives), 102)[0], cut_b1);
    assert_eq!(step(&mut it, joined(1), 103), []);
    assert_eq!(step(&mut it, left(1, &[block(1, 2)]), 104), []);
    assert_eq!(step(&mut it, reported(B1, 1, &[block(1, 3)]), 105), []);
    assert_eq!(step(&mut it, Event::Tick, 200), [Seal { batch: B2 }]);
    assert_eq!(step(&mut it, reported(B2, 0, &[]), 201), [cut(B2, &[])]);
}

#[test]
fn a_reported_block_that_is_lost_is_in_no_later_cut() {
    let mut it = started(2);
    step(&mut it, Event::Tick, 100);
    step(&mut it, reported(B1, 1, &[block(1, 0), block(1, 1)]), 101);
    step(&mut it, left(1, &[block(1, 1), block(1, 2)]), 102);
    assert_eq!(
        step(&mut it, reported(B1, 0, &[]), 103)[0],
        cut(B1, &[block(1, 1), block(1, 2)])
    );
}

#[test]
fn a_lost_receiver_owes_no_reports() {
    let mut it = started(2);
    step(&mut it, Event::Tick, 100);
    step(&mut it, reported(B1, 0, &[]), 101);
    step(&mut it, Event::Tick, 150);
    assert_eq!(it.overdue_reports(), 1);
    step(&mut it, left(1, &[block(1, 0)]), 151);
    assert_eq!(it.overdue_reports(), 0);
    step(&mut it, Event::Tick, 200);
    assert_eq!(
        step(&mut it, reported(B2, 0, &[]), 201),
        [cut(B2, &[block(1, 0)])]
    );
}

#[test]
fn without_receivers_batches_are_cut_at_once() {
    let mut it = started(1);
    step(&mut it, Event::Tick, 100);
    assert_eq!(step(&mut it, left(0, &[]), 101)[0], cut(B1, &[]));
    assert_eq!(
        step(&mut it, Event::Tick, 200),
        [Seal { batch: B2 }, cut(B2, &[])]
    );
}

#[test]
fn joining_and_leaving_before_the_start_count() {
    let mut it = Controller::new(Config::new(100).unwrap());
    step(&mut it, joined(0), 1);
    step(&mut it, joined(1), 2);
    step(&mut it, left(1, &[block(1, 0)]), 3);
    step(&mut it, left(2, &[block(2, 0)]), 4);
    let receivers = vec![ReceiverId(1), ReceiverId(2)];
    step(&mut it, Event::Start { receivers }, 30);
    assert_eq!(step(&mut it, Event::Tick, 100), [Seal { batch: B1 }]);
    assert_eq!(
        step(&mut it, reported(B1, 0, &[]), 101)[0],
        cut(B1, &[block(1, 0), block(2, 0)])
    );
}

/// A day of downtime: waiting batches do not grow with it, and each interval still has its batch.
#[test]
fn missed_intervals_wait_on_the_clock() {
    let mut it = started(1);
    let day = 24 * 60 * 60 * 1_000;
    let (mut waiting, mut most) = (std::collections::VecDeque::new(), 0);
    let (mut sealed, mut ticks) = (None, 1);
    for done in 1..=2_000u64 {
        // All steps due by time and reports alone.
        while ticks > 0 || sealed.is_some() {
            let event = match sealed.take() {
                Some(batch) => reported(batch, 0, &[]),
                None => {
                    ticks -= 1;
                    Event::Tick
                }
            };
            for command in step(&mut it, event, day) {
                match command {
                    WakeAt(at) if at.0 <= day * 1_000 => ticks = 1,
                    Command::Seal { batch } => sealed = Some(batch),
                    Command::Cut { batch, .. } => waiting.push_back(batch),
                    _ => {}
                }
            }
        }
        most = most.max(it.pending());
        let batch = waiting.pop_front().unwrap();
        assert_eq!(batch, BatchTime(done * 100));
        let commit = step(&mut it, Event::Finished { batch, attempt: 1 }, day);
        assert!(commit.contains(&Command::Commit { batch, attempt: 1 }));
        for command in step(&mut it, Event::Committed { batch }, day) {
            match command {
                WakeAt(at) if at.0 <= day * 1_000 => ticks = 1,
                Command::Seal { batch } => sealed = Some(batch),
                _ => {}
            }
        }
    }
    assert_eq!(most, 17, "16 that wait, and the one that runs");
}

#[test]
fn concurrent_batches_commit_in_order() {
    let config = Config {
        max_running: 2,
        ..Config::new(100).unwrap()
    };
    let mut it = Controller::new(config);
    let receivers = vec![];
    step(&mut it, Event::Start { receivers }, 30);
    let run = |batch, attempt| Run { batch, attempt };
    let finished = |batch, attempt| Event::Finished { batch, attempt };
    assert_eq!(step(&mut it, Event::Tick, 100).last(), Some(&run(B1, 1)));
    assert_eq!(step(&mut it, Event::Tick, 200).last(), Some(&run(B2, 1)));
    step(&mut it, Event::Tick, 300);
    assert!(it.running().eq([(B1, 1), (B2, 1)]));

    assert_eq!(step(&mut it, finished(B2, 1), 301), []);
    let failed = Event::Failed {
        batch: B1,
        attempt: 1,
        retryable: true,
        of_batch: true,
    };
    assert_eq!(step(&mut it, failed, 302), [run(B1, 2)]);
    let commit = |batch, attempt| Commit { batch, attempt };
    assert_eq!(step(&mut it, finished(B1, 2), 303), [commit(B1, 2)]);
    let commands = step(&mut it, Event::Committed { batch: B1 }, 304);
    assert_eq!(commands[2..], [commit(B2, 1), run(B3, 1)]);

    // B3 is lost: B2 takes effect all the same.
    let failed = Event::Failed {
        batch: B3,
        attempt: 1,
        retryable: false,
        of_batch: true,
    };
    assert_eq!(step(&mut it, failed, 305), []);
    let commands = step(&mut it, Event::Committed { batch: B2 }, 306);
    let over = [
        Fail {
            batch: B3,
            attempts: 1,
        },
        CloseReceivers,
        Stopped { unfinished: 1 },
    ];
    assert_eq!(commands[2..], over);
}

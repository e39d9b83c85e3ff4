//! Any events in any order: nothing panics, with any numbers; and every invariant holds.
//!
//! The first test takes any numbers, the largest included. The second picks them so that they often match what the
//! controller waits for, or nearly; proptest shrinks what it finds.

use dstreams_control::{
    BatchTime, BlockId, BlockMeta, Command, Config, Controller, Due, Event, ReceiverId, Timestamp,
};
use proptest::prelude::*;

use crate::judge::Judge;
use crate::ledger::Ledger;
use crate::program::Program;

const RECEIVERS: u64 = 2;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(1_000),
        0u64..10_000,
        any::<u64>(),
        Just(u64::MAX),
        Just(u64::MAX / 1_000)
    ]
}

fn any_block() -> impl Strategy<Value = BlockMeta> {
    (0..RECEIVERS + 1, number(), number()).prop_map(|(receiver, seq, size)| BlockMeta {
        id: BlockId {
            receiver: ReceiverId(receiver),
            seq,
        },
        rows: size,
        bytes: size,
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let batch = || number().prop_map(BatchTime);
    let receiver = || (0..RECEIVERS + 1).prop_map(ReceiverId);
    let attempt = || prop_oneof![0u32..4, Just(u32::MAX)];
    prop_oneof![
        1 => prop::collection::vec(receiver(), 0..3).prop_map(|receivers| Event::Start { receivers }),
        1 => receiver().prop_map(|receiver| Event::Joined { receiver }),
        1 => (receiver(), prop::collection::vec(any_block(), 0..4))
            .prop_map(|(receiver, blocks)| Event::Left { receiver, blocks }),
        4 => Just(Event::Tick),
        4 => (batch(), receiver(), prop::collection::vec(any_block(), 0..4))
            .prop_map(|(batch, receiver, blocks)| Event::Reported { batch, receiver, blocks }),
        2 => (batch(), attempt()).prop_map(|(batch, attempt)| Event::Finished { batch, attempt }),
        1 => (batch(), attempt(), any::<bool>(), any::<bool>()).prop_map(
            |(batch, attempt, retryable, of_batch)| Event::Failed { batch, attempt, retryable, of_batch }
        ),
        1 => batch().prop_map(|batch| Event::SetAside { batch }),
        1 => batch().prop_map(|batch| Event::SetAsideFailed { batch }),
        2 => (batch(), prop::option::of((batch(), batch()))).prop_map(|(after, due)| Event::Due {
            after,
            due: due.map(|(from, to)| Due { from, to }),
        }),
        2 => batch().prop_map(|batch| Event::Committed { batch }),
        1 => (batch(), any::<bool>()).prop_map(|(batch, retryable)| Event::CommitFailed { batch, retryable }),
        1 => (prop::bool::weighted(0.9), prop::option::of(number().prop_map(Timestamp)))
            .prop_map(|(graceful, deadline)| Event::Stop { graceful, deadline }),
    ]
}

fn any_config() -> impl Strategy<Value = Config> {
    let attempts = prop_oneof![0u32..4, Just(u32::MAX)];
    let running = prop_oneof![0usize..4, Just(usize::MAX)];
    let set_aside = prop_oneof![Just(0u32), 1u32..3, Just(u32::MAX)];
    (
        number(),
        attempts,
        set_aside,
        running,
        number(),
        number(),
        0usize..3,
    )
        .prop_map(
            |(
                interval_ms,
                max_attempts,
                max_set_aside,
                max_running,
                report_timeout_ms,
                final_report_timeout_ms,
                max_overdue_reports,
            )| Config {
                interval_ms,
                max_attempts,
                max_set_aside,
                max_running,
                report_timeout_ms,
                final_report_timeout_ms,
                source_timeout_ms: final_report_timeout_ms / 2,
                max_overdue_reports,
                max_empty_waiting: max_overdue_reports * 2,
                skip_missed: (final_report_timeout_ms % 7).checked_sub(1),
                mark_intervals: final_report_timeout_ms % 2 == 0,
            },
        )
}

/// An event relative to what the controller waits for: which one, how well it matches, and how the clock moved.
#[derive(Clone, Debug)]
struct Choice {
    kind: u8,
    misfit: u8,
    retryable: bool,
    blocks: Vec<(u64, u64)>,
    clock_us: i64,
}

fn any_choice() -> impl Strategy<Value = Choice> {
    let clock = prop_oneof![8 => 0i64..3_000, 1 => -20_000i64..0, 1 => 0i64..40_000];
    let blocks = prop::collection::vec((0..RECEIVERS, 0u64..60), 0..4);
    let misfit = prop_oneof![6 => Just(0u8), 1 => 1u8..5];
    (0u8..44, misfit, any::<bool>(), blocks, clock).prop_map(
        |(kind, misfit, retryable, blocks, clock_us)| Choice {
            kind,
            misfit,
            retryable,
            blocks,
            clock_us,
        },
    )
}

fn event(choice: &Choice, ledger: &Ledger) -> Event {
    let misfit = u64::from(choice.misfit);
    let open = ledger.open.map_or(0, |open| open.batch.0);
    let attempts: Vec<_> = ledger.attempts.values().collect();
    let attempt = attempts.get(choice.blocks.len() % attempts.len().max(1));
    let current = attempt.map_or(BatchTime(0), |attempt| {
        BatchTime(attempt.batch.0 - 10 * (misfit / 4))
    });
    let attempt = attempt.map_or(1, |attempt| attempt.attempt - u32::from(choice.misfit) % 2);
    let (graceful, deadline) = (
        choice.misfit == 0,
        choice.retryable.then_some(Timestamp(ledger.now.0 + 30_000)),
    );
    let block = |&(receiver, seq): &(u64, u64)| {
        let id = BlockId {
            receiver: ReceiverId(receiver),
            seq,
        };
        BlockMeta {
            id,
            rows: 1,
            bytes: receiver + seq,
        }
    };
    match choice.kind {
        0..10 => Event::Tick,
        10..24 => Event::Reported {
            batch: BatchTime(open.saturating_sub(10 * misfit)),
            receiver: ReceiverId(u64::from(choice.kind) % RECEIVERS + u64::from(choice.misfit) / 4),
            blocks: choice.blocks.iter().map(block).collect(),
        },
        24..30 => Event::Finished {
            batch: current,
            attempt,
        },
        30..32 => Event::Failed {
            batch: current,
            attempt,
            retryable: choice.misfit < 4,
            of_batch: choice.retryable,
        },
        32..36 => Event::Committed { batch: current },
        36..38 => Event::CommitFailed {
            batch: current,
            retryable: choice.misfit < 4,
        },
        40 | 41 => Event::Joined {
            receiver: ReceiverId(u64::from(choice.misfit)),
        },
        42 => Event::Left {
            receiver: ReceiverId(u64::from(choice.misfit)),
            blocks: choice.blocks.iter().map(block).collect(),
        },
        38 if choice.blocks.is_empty() => Event::Stop { graceful, deadline },
        39 => {
            let after = ledger
                .asked
                .map_or(misfit, |asked| asked.0 - 10 * (misfit / 4));
            let after = BatchTime(after);
            let due = ledger.program.due(&ledger.cuts, ledger.config.interval_ms);
            Event::Due { after, due }
        }
        _ => Event::Start {
            receivers: Vec::new(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        config in any_config(),
        start in prop::bool::weighted(0.9),
        events in prop::collection::vec((any_event(), number()), 0..60),
    ) {
        let mut controller = Controller::new(config);
        let mut stopped = false;
        if start {
            let receivers = (0..RECEIVERS).map(ReceiverId).collect();
            controller.step(Event::Start { receivers }, Timestamp(0));
        }
        for (event, now) in events {
            let commands = controller.step(event, Timestamp(now));
            prop_assert!(!stopped || commands.is_empty(), "after Stopped: {commands:?}");
            let others = commands.iter().filter(|command| !matches!(command, Command::Abort { .. }));
            prop_assert!(others.count() < 16, "a long list: {commands:?}");
            stopped |= commands.iter().any(|command| matches!(command, Command::Stopped { .. }));
        }
    }

    #[test]
    fn every_invariant_holds(
        receivers in 0..=RECEIVERS,
        timeout_ms in 1u64..30,
        max_running in 1usize..4,
        skip_missed in prop::option::of(0u64..4),
        program in (0u64..4, 0u64..9),
        choices in prop::collection::vec(any_choice(), 0..150),
    ) {
        let config = Config { report_timeout_ms: timeout_ms, final_report_timeout_ms: 50, max_running, skip_missed, ..Config::new(10).unwrap() };
        let mut controller = Controller::new(config.clone());
        let program = Program { window: program.0, timeout: program.1 };
        let mut judge = Judge::new(config, program, false);
        let mut now = 1_000_000;
        let mut next = Event::Start { receivers: (0..receivers).map(ReceiverId).collect() };
        for choice in choices {
            let step = judge.step(&mut controller, next, Timestamp(now), |_, _| ());
            prop_assert!(step.is_ok(), "{step:?}");
            now = now.saturating_add_signed(choice.clock_us);
            next = event(&choice, &judge.ledger);
        }
    }
}

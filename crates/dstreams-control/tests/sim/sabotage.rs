//! [`Sabotaged`]: a sabotaged controller. Each [`Fault`] alters what the real controller says; the simulation must
//! name the invariant it breaks. The list is in the documentation of `main.rs`.

use dstreams_control::{BatchTime, BlockMeta, Command, Config, Controller, Due, Event, Timestamp};

use crate::machine::Machine;

/// A fault of the controller; each has an invariant that must find it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Fault {
    CutDropsABlock,
    CutRepeatsABlock,
    CutUnsorted,
    CutWithoutWaiting,
    BoundarySkipped,
    SealTwice,
    RunBeforeCommitted,
    RetryNeverRun,
    CommitTwice,
    CommitUnfinished,
    CommitOutOfTurn,
    FailOutOfTurn,
    ForgetBeforeCommitted,
    ForgetTwice,
    ReportMiscounts,
    FailThenRun,
    SetAsideBeyondTheBound,
    SetAsideNeverRun,
    FailInsteadOfSetAside,
    SpeaksAfterStopped,
    CloseForgotten,
    AbortForgotten,
    SealAfterAbruptStop,
    WakeForgotten,
    WakeLate,
    StopIgnored,
    LeaverWaitedFor,
    LeaverBlocksDropped,
    LostBlockCut,
    LeaverBlockCutAgain,
    JoinerNotAsked,
    StopWaitingForgotten,
    SkippedThoughDue,
    SkippedThoughFew,
    SkippedThoughEachCounts,
    NeverSkipped,
    DueNotAsked,
    DueAskedTooEarly,
}

pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::CutDropsABlock, "nothing-left-out"),
    (Fault::CutRepeatsABlock, "block-once"),
    (Fault::CutUnsorted, "block-once"),
    (Fault::CutWithoutWaiting, "cut-waits"),
    (Fault::BoundarySkipped, "skips"),
    (Fault::SealTwice, "boundaries"),
    (Fault::RunBeforeCommitted, "runs"),
    (Fault::RetryNeverRun, "liveness"),
    (Fault::CommitTwice, "commit-once"),
    (Fault::CommitUnfinished, "commit-once"),
    (Fault::CommitOutOfTurn, "commit-once"),
    (Fault::FailOutOfTurn, "failed"),
    (Fault::ForgetBeforeCommitted, "forget"),
    (Fault::ForgetTwice, "forget"),
    (Fault::ReportMiscounts, "completed"),
    (Fault::FailThenRun, "failed"),
    (Fault::SetAsideBeyondTheBound, "set-aside"),
    (Fault::SetAsideNeverRun, "set-aside"),
    (Fault::FailInsteadOfSetAside, "failed"),
    (Fault::SpeaksAfterStopped, "stopped"),
    (Fault::CloseForgotten, "stopped"),
    (Fault::AbortForgotten, "stopping"),
    (Fault::SealAfterAbruptStop, "stopping"),
    (Fault::WakeForgotten, "wakes"),
    (Fault::WakeLate, "wakes"),
    (Fault::StopIgnored, "stopping"),
    (Fault::LeaverWaitedFor, "cut-waits"),
    (Fault::LeaverBlocksDropped, "nothing-left-out"),
    (Fault::LostBlockCut, "block-once"),
    (Fault::LeaverBlockCutAgain, "block-once"),
    (Fault::JoinerNotAsked, "cut-waits"),
    (Fault::StopWaitingForgotten, "stopping"),
    (Fault::SkippedThoughDue, "skips"),
    (Fault::SkippedThoughFew, "boundaries"),
    (Fault::SkippedThoughEachCounts, "boundaries"),
    (Fault::NeverSkipped, "skips"),
    (Fault::DueNotAsked, "skips"),
    (Fault::DueAskedTooEarly, "skips"),
];

pub struct Sabotaged {
    inner: Controller,
    interval_ms: u64,
    fault: Fault,
    last_cut: Option<(BatchTime, Vec<BlockMeta>)>,
    /// The batch that was set aside last.
    set_aside: Option<BatchTime>,
    /// Every block that a report named.
    reported: Vec<BlockMeta>,
    /// A block that was cut before its receiver left.
    cut_before: Option<BlockMeta>,
    stopped: bool,
    /// How often the fault was injected.
    pub fired: u64,
}

impl Sabotaged {
    pub fn new(config: Config, fault: Fault) -> Self {
        let interval_ms = config.interval_ms;
        let skip_missed = match fault {
            Fault::SkippedThoughFew => config.skip_missed.map(|_| 0),
            Fault::SkippedThoughEachCounts => config.skip_missed.or(Some(0)),
            _ => config.skip_missed,
        };
        let fired = u64::from(skip_missed != config.skip_missed);
        let config = Config {
            skip_missed,
            ..config
        };
        Self {
            inner: Controller::new(config),
            interval_ms,
            fault,
            last_cut: None,
            set_aside: None,
            reported: Vec::new(),
            cut_before: None,
            stopped: false,
            fired,
        }
    }

    /// The commands in place of `command`.
    fn alter(&mut self, command: Command) -> Vec<Command> {
        let said = command.clone();
        let with = |other: Command| Some(vec![said.clone(), other]);
        let altered = match (self.fault, command) {
            (Fault::CutDropsABlock, Command::Cut { batch, mut blocks }) => {
                blocks.pop().map(|_| vec![Command::Cut { batch, blocks }])
            }
            (Fault::CutRepeatsABlock, Command::Cut { batch, blocks }) => {
                self.repeat_block(batch, blocks)
            }
            (Fault::LeaverBlockCutAgain, Command::Cut { batch, mut blocks }) => {
                self.last_cut = Some((batch, blocks.clone()));
                self.cut_before.take().map(|block| {
                    blocks.push(block);
                    blocks.sort_by_key(|block| block.id);
                    vec![Command::Cut { batch, blocks }]
                })
            }
            (Fault::CutUnsorted, Command::Cut { batch, mut blocks }) => {
                blocks.reverse();
                (blocks.len() > 1).then_some(vec![Command::Cut { batch, blocks }])
            }
            (Fault::CutWithoutWaiting, Command::Seal { batch }) => with(Command::Cut {
                batch,
                blocks: Vec::new(),
            }),
            (Fault::BoundarySkipped, Command::Seal { batch }) => Some(vec![Command::Seal {
                batch: BatchTime(batch.0 + self.interval_ms),
            }]),
            (Fault::SealTwice, Command::Seal { batch }) => with(Command::Seal { batch }),
            (Fault::RunBeforeCommitted, Command::Commit { batch, .. }) => with(Command::Run {
                batch: BatchTime(batch.0 + self.interval_ms),
                attempt: 1,
            }),
            (
                Fault::SetAsideNeverRun,
                Command::Run {
                    batch,
                    attempt: 2..,
                },
            ) if self.set_aside == Some(batch) => Some(Vec::new()),
            (
                Fault::RetryNeverRun,
                Command::Run {
                    batch,
                    attempt: 2..,
                },
            ) if self.set_aside != Some(batch) => Some(Vec::new()),
            (Fault::SetAsideBeyondTheBound, Command::Fail { batch, attempts }) => {
                Some(vec![Command::SetAside { batch, attempts }])
            }
            (Fault::FailInsteadOfSetAside, Command::SetAside { batch, attempts }) => {
                Some(vec![Command::Fail { batch, attempts }])
            }
            (Fault::CommitTwice, Command::Commit { .. }) => with(said.clone()),
            (Fault::CommitUnfinished, Command::Run { batch, attempt }) => {
                with(Command::Commit { batch, attempt })
            }
            (Fault::ForgetBeforeCommitted, Command::Commit { batch, .. }) => {
                let blocks = self
                    .last_cut
                    .iter()
                    .flat_map(|(_, blocks)| blocks)
                    .map(|block| block.id)
                    .collect();
                Some(vec![Command::Forget { batch, blocks }, said.clone()])
            }
            (Fault::ForgetTwice, Command::Forget { .. }) => with(said.clone()),
            (Fault::ReportMiscounts, Command::Completed(mut report)) => {
                report.records += 1;
                Some(vec![Command::Completed(report)])
            }
            (Fault::FailThenRun, Command::Fail { batch, attempts }) => with(Command::Run {
                batch,
                attempt: attempts + 1,
            }),
            (Fault::CloseForgotten, Command::CloseReceivers) => Some(Vec::new()),
            (Fault::AbortForgotten, Command::Abort { .. }) => Some(Vec::new()),
            (Fault::SealAfterAbruptStop, Command::Abort { batch, .. }) => {
                with(Command::Seal { batch })
            }
            (Fault::StopWaitingForgotten, Command::StopWaiting { .. }) => Some(Vec::new()),
            (Fault::DueNotAsked, Command::AskDue { .. }) => Some(Vec::new()),
            (Fault::DueAskedTooEarly, Command::Run { batch, .. }) => {
                with(Command::AskDue { after: batch })
            }
            (Fault::WakeForgotten, Command::WakeAt(_)) => Some(Vec::new()),
            (Fault::WakeLate, Command::WakeAt(at)) => {
                Some(vec![Command::WakeAt(Timestamp(at.0 + 1))])
            }
            (_, command) => {
                self.note(&command);
                None
            }
        };
        self.fired += u64::from(altered.is_some());
        altered.unwrap_or_else(|| vec![said])
    }

    /// The event in place of `event`.
    fn alter_event(&mut self, event: Event) -> Event {
        let altered = match (self.fault, event.clone()) {
            (Fault::LeaverWaitedFor, Event::Left { receiver, blocks }) => Some(Event::Reported {
                batch: BatchTime(0),
                receiver,
                blocks,
            }),
            (Fault::LeaverBlocksDropped, Event::Left { receiver, .. }) => Some(Event::Left {
                receiver,
                blocks: Vec::new(),
            }),
            (
                Fault::LostBlockCut,
                Event::Left {
                    receiver,
                    mut blocks,
                },
            ) => {
                blocks.extend(&self.reported);
                Some(Event::Left { receiver, blocks })
            }
            (Fault::LeaverBlockCutAgain, Event::Left { receiver, .. }) => {
                let cut = self.last_cut.iter().flat_map(|(_, blocks)| blocks);
                self.cut_before = cut.copied().find(|block| block.id.receiver == receiver);
                None
            }
            (Fault::JoinerNotAsked, Event::Joined { .. }) => Some(Event::Tick),
            (
                Fault::SkippedThoughDue,
                Event::Due {
                    after,
                    due: Some(_),
                },
            ) => Some(Event::Due { after, due: None }),
            (Fault::NeverSkipped, Event::Due { after, .. }) => {
                let next = BatchTime(after.0 + self.interval_ms);
                let due = Some(Due {
                    from: next,
                    to: next,
                });
                Some(Event::Due { after, due })
            }
            (_, Event::Reported { blocks, .. }) => {
                self.reported.extend(blocks);
                None
            }
            _ => None,
        };
        self.fired += u64::from(altered.is_some());
        altered.unwrap_or(event)
    }

    /// The command for a batch as if it were its turn.
    fn answer_at_once(&self, event: &Event) -> Option<Command> {
        let (fault, is_running) = (self.fault, |of| self.inner.running().any(|it| it == of));
        match *event {
            Event::Finished { batch, attempt } if is_running((batch, attempt)) => {
                (fault == Fault::CommitOutOfTurn).then_some(Command::Commit { batch, attempt })
            }
            Event::Failed { batch, attempt, .. } if is_running((batch, attempt)) => {
                let attempts = attempt;
                (fault == Fault::FailOutOfTurn).then_some(Command::Fail { batch, attempts })
            }
            _ => None,
        }
    }

    fn note(&mut self, command: &Command) {
        match command {
            Command::Cut { batch, blocks } => self.last_cut = Some((*batch, blocks.clone())),
            Command::SetAside { batch, .. } => self.set_aside = Some(*batch),
            Command::Stopped { .. } => self.stopped = true,
            _ => {}
        }
    }

    fn repeat_block(&mut self, batch: BatchTime, blocks: Vec<BlockMeta>) -> Option<Vec<Command>> {
        let (_, earlier) = self.last_cut.replace((batch, blocks.clone()))?;
        let mut all = blocks;
        all.push(*earlier.first()?);
        all.sort_by_key(|block| block.id);
        Some(vec![Command::Cut { batch, blocks: all }])
    }
}

impl Machine for Sabotaged {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        if self.fault == Fault::StopIgnored && matches!(event, Event::Stop { .. }) {
            self.fired += 1;
            return Vec::new();
        }
        if self.fault == Fault::SpeaksAfterStopped && self.stopped {
            self.fired += 1;
            return vec![Command::WakeAt(now)];
        }
        let event = self.alter_event(event);
        let hasty = self.answer_at_once(&event);
        let commands = self.inner.step(event, now);
        if let Some(hasty) = hasty.filter(|_| commands.is_empty()) {
            self.fired += 1;
            return vec![hasty];
        }
        commands
            .into_iter()
            .flat_map(|command| self.alter(command))
            .collect()
    }
}

//! [`Fault`]: what can be wrong with the protocol or with the decisions. The world does it wrong where it asks
//! [`Faults::on`]; the simulation must name the invariant that breaks. The list is in the documentation of
//! `main.rs`.

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Fault {
    AckedBeforeSynced,
    AckedBeforeHeard,
    EffectBeforeSynced,
    ReportedBeforeSynced,
    OpenedNotAwaited,
    GoneNotAwaited,
    GoneNotRead,
    CoveredNotKept,
    AllLetGo,
    LetGoTooEarly,
    NothingLetGo,
    CoveredNotUsed,
    InstalledTwice,
    InstallForgotten,
    StateExportedLate,
    SetAsideNotSynced,
    SetAsideNotUndone,
    CommittingNotSynced,
    SetAsideForgotten,
    BatchNotReplayed,
    BatchReplayedTwice,
    MarksForgotten,
    MarksAhead,
    UncutForgotten,
    PendingForgotten,
    PendingCutAgain,
    LastCutForgotten,
    ReadNotSynced,
    WrittenWhenRead,
    RevokedBeforeSynced,
    CommittedTwice,
    OutputDiffers,
    RepeatedTaken,
    LostHeard,
    CutSyncIgnored,
    SkipForgotten,
}

/// Each with the invariant that sees it first, and one that it breaks in the end.
pub const FAULTS: &[(Fault, &str, Option<&str>)] = &[
    (Fault::AckedBeforeSynced, "safe-synced", None),
    (Fault::AckedBeforeHeard, "acked-kept", None),
    (Fault::EffectBeforeSynced, "effect-synced", None),
    (
        Fault::ReportedBeforeSynced,
        "effect-synced",
        Some("restart-possible"),
    ),
    (Fault::OpenedNotAwaited, "block-named-once", None),
    (Fault::GoneNotAwaited, "record-once", None),
    (Fault::GoneNotRead, "record-once", None),
    (Fault::CoveredNotKept, "needs-kept", Some("record-once")),
    (Fault::AllLetGo, "needs-kept", Some("acked-kept")),
    (Fault::LetGoTooEarly, "acked-kept", None),
    (Fault::NothingLetGo, "nothing-leaks", None),
    (Fault::CoveredNotUsed, "nothing-leaks", None),
    (Fault::InstalledTwice, "state-folds", None),
    (Fault::InstallForgotten, "state-folds", None),
    (Fault::StateExportedLate, "state-folds", None),
    (Fault::SetAsideNotSynced, "set-aside-stays", None),
    (Fault::CommittingNotSynced, "set-aside-stays", None),
    (Fault::SetAsideNotUndone, "state-folds", None),
    (
        Fault::SetAsideForgotten,
        "state-folds",
        Some("set-aside-stays"),
    ),
    (Fault::BatchNotReplayed, "state-folds", None),
    (Fault::BatchReplayedTwice, "state-folds", None),
    (Fault::MarksForgotten, "record-once", None),
    (Fault::MarksAhead, "safe-synced", None),
    (Fault::UncutForgotten, "acked-once", None),
    (Fault::PendingForgotten, "contiguous", None),
    (Fault::PendingCutAgain, "batch-fixed", None),
    (Fault::LastCutForgotten, "contiguous", None),
    (Fault::ReadNotSynced, "safe-synced", None),
    (Fault::WrittenWhenRead, "record-once", None),
    (Fault::RevokedBeforeSynced, "safe-synced", None),
    (Fault::CommittedTwice, "output-once", None),
    (Fault::OutputDiffers, "output-once", None),
    (Fault::RepeatedTaken, "record-once", None),
    (Fault::LostHeard, "acked-kept", None),
    (Fault::CutSyncIgnored, "liveness", None),
    (Fault::SkipForgotten, "state-folds", None),
];

/// The injected fault, if any.
pub struct Faults {
    fault: Option<Fault>,
    /// How often it was injected.
    pub fired: u64,
}

impl Faults {
    pub const fn new(fault: Option<Fault>) -> Self {
        Self { fault, fired: 0 }
    }

    /// Whether to do this wrong.
    pub fn on(&mut self, fault: Fault) -> bool {
        let on = self.fault == Some(fault);
        self.fired += u64::from(on);
        on
    }
}

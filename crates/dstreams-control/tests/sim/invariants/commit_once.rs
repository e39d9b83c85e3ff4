//! Commits go in batch order. The first of a batch follows `Finished` of its current attempt and the commit of the
//! batch before, at once; a repetition only a retryable `CommitFailed`, for the same attempt, up to the bound.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Outcome};

pub struct CommitOnce;

impl Invariant for CommitOnce {
    fn name(&self) -> &'static str {
        "commit-once"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Commit { batch, attempt } = command else {
            return Ok(());
        };
        if let Some(commit) = ledger.commit {
            let same = (commit.batch, commit.attempt) == (*batch, *attempt);
            let may_repeat =
                commit.failed == Some(true) && commit.tries < ledger.config.max_attempts;
            return ensure(same && may_repeat, || {
                format!("attempt {attempt} of {batch} is committed after {commit:?}")
            });
        }
        let first = ledger.first_pending().map(|cut| cut.batch);
        ensure(first == Some(*batch), || {
            format!("{batch} is committed, but the first pending is {first:?}")
        })?;
        let now = ledger.first_attempt();
        let finished = now.is_some_and(|now| {
            (now.batch, now.attempt) == (*batch, *attempt)
                && matches!(now.outcome, Some(Outcome::Finished { .. }))
        });
        ensure(finished, || {
            format!("attempt {attempt} of {batch} is committed after {now:?}")
        })
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let finished = ledger
            .first_attempt()
            .filter(|now| matches!(now.outcome, Some(Outcome::Finished { .. })));
        let waits = ledger.commit.is_none() && ledger.stopped.is_none();
        ensure(finished.is_none() || !waits, || {
            format!("{finished:?} and no commit")
        })
    }
}

//! [`Members`]: workers that joined, left, or became slow since the last look.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::{ClusterStatus, LossReason, WorkerStatus};

/// The workers at the last look.
#[derive(Debug, Default)]
pub struct Members(BTreeMap<u32, Member>);

#[derive(Debug, Clone, Copy)]
struct Member {
    pid: u32,
    slow: bool,
}

/// A worker that joined, left, or became slow, or is no longer slow: a line for people, an object for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Change {
    /// It joined.
    Joined {
        /// Its number.
        worker: u32,
        /// Its process.
        pid: u32,
        /// Its address for clients.
        ingest: String,
        /// Tasks it runs at once.
        cores: usize,
    },
    /// It left or was lost.
    Gone {
        /// Its number.
        gone: u32,
        /// Its process.
        pid: u32,
        /// Why, if the master still knows.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<LossReason>,
        /// See [`LostWorker::after_ms`](crate::LostWorker::after_ms).
        #[serde(skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// It is slow: see [`WorkerStatus::slow`](crate::WorkerStatus::slow).
    Slow {
        /// Its number.
        slow: u32,
        /// Its process.
        pid: u32,
    },
    /// It is no longer slow.
    KeepsUp {
        /// Its number.
        keeps_up: u32,
        /// Its process.
        pid: u32,
    },
}

impl Members {
    /// The changes since the last call; lost workers come first.
    pub fn changes(&mut self, status: &ClusterStatus) -> Vec<Change> {
        let member = |worker: &WorkerStatus| Member {
            pid: worker.pid,
            slow: worker.slow,
        };
        let now = status.workers.iter();
        let now: BTreeMap<u32, Member> = now.map(|worker| (worker.id, member(worker))).collect();
        let gone = self.0.iter().filter(|(id, _)| !now.contains_key(id));
        let gone = gone.map(|(id, member)| {
            let lost = status.lost.iter().find(|lost| lost.id == *id);
            Change::Gone {
                gone: *id,
                pid: member.pid,
                why: lost.map(|lost| lost.why),
                after_ms: lost.map(|lost| lost.after_ms),
            }
        });
        let new = status
            .workers
            .iter()
            .filter(|w| !self.0.contains_key(&w.id));
        let new = new.map(|worker| Change::Joined {
            worker: worker.id,
            pid: worker.pid,
            ingest: worker.ingest.clone(),
            cores: worker.cores,
        });
        let speeds = now.iter().filter_map(|(id, member)| {
            let was_slow = self.0.get(id).is_some_and(|before| before.slow);
            let (id, pid) = (*id, member.pid);
            match (was_slow, member.slow) {
                (false, true) => Some(Change::Slow { slow: id, pid }),
                (true, false) => Some(Change::KeepsUp { keeps_up: id, pid }),
                _ => None,
            }
        });
        let changes = gone.chain(new).chain(speeds).collect();
        self.0 = now;
        changes
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Joined {
                worker,
                pid,
                ingest,
                cores,
            } => write!(
                f,
                "worker {worker} at {ingest} (pid {pid}, {cores} core(s))"
            ),
            Change::Gone {
                gone,
                pid,
                why: Some(why),
                after_ms: Some(after_ms),
            } => write!(
                f,
                "worker {gone} is gone (pid {pid}) after {after_ms} ms: {why}"
            ),
            Change::Gone { gone, pid, .. } => write!(f, "worker {gone} is gone (pid {pid})"),
            Change::Slow { slow, pid } => write!(
                f,
                "worker {slow} is slow (pid {pid}): others do its work for a while"
            ),
            Change::KeepsUp { keeps_up, pid } => {
                write!(f, "worker {keeps_up} is no longer slow (pid {pid})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LostWorker;

    #[test]
    fn a_lost_worker_is_reported_with_the_reason() {
        let mut members = Members::default();
        members.changes(&status(&[1]));
        let mut after = status(&[]);
        let why = (LossReason::Silent, std::time::Duration::from_millis(1_900));
        after.lost = vec![LostWorker::new(1, (101, "a:1"), why)];
        let changes = members.changes(&after);
        assert_eq!(
            changes[0].to_string(),
            "worker 1 is gone (pid 101) after 1900 ms: it was silent"
        );
        let json = serde_json::to_string(&changes[0]).unwrap();
        assert_eq!(
            json,
            r#"{"gone":1,"pid":101,"why":"silent","after_ms":1900}"#
        );
    }

    #[test]
    fn a_slow_worker_is_reported_when_it_becomes_slow_and_when_it_keeps_up() {
        let mut members = Members::default();
        let mut lines = |slow: bool| -> Vec<String> {
            let mut status = status(&[1]);
            status.workers[0].slow = slow;
            let changes = members.changes(&status);
            let json = |change: &Change| serde_json::to_string(change).unwrap();
            changes
                .iter()
                .map(|it| json(it) + " " + &it.to_string())
                .collect()
        };
        assert_eq!(lines(false).len(), 1);
        assert_eq!(
            lines(true),
            [r#"{"slow":1,"pid":101} worker 1 is slow (pid 101): others do its work for a while"#]
        );
        assert_eq!(lines(true), [""; 0]);
        assert_eq!(
            lines(false),
            [r#"{"keeps_up":1,"pid":101} worker 1 is no longer slow (pid 101)"#]
        );
    }

    fn status(ids: &[u32]) -> ClusterStatus {
        let workers = ids.iter().map(|id| WorkerStatus {
            id: *id,
            pid: 100 + id,
            ..WorkerStatus::default()
        });
        ClusterStatus {
            workers: workers.collect(),
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn each_change_is_reported_once() {
        let mut members = Members::default();
        let mut lines = |ids: &[u32]| -> Vec<String> {
            let changes = members.changes(&status(ids));
            changes
                .iter()
                .map(|c| json(c) + " " + &c.to_string())
                .collect()
        };
        fn json(change: &Change) -> String {
            serde_json::to_string(change).unwrap()
        }
        assert_eq!(lines(&[]), [""; 0]);
        assert_eq!(lines(&[1, 2]).len(), 2);
        assert_eq!(lines(&[1, 2]), [""; 0]);
        assert_eq!(
            lines(&[2, 3]),
            [
                r#"{"gone":1,"pid":101} worker 1 is gone (pid 101)"#,
                r#"{"worker":3,"pid":103,"ingest":"","cores":0} worker 3 at  (pid 103, 0 core(s))"#,
            ]
        );
    }
}

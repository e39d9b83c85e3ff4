//! The slow worker of the demo: a process that stands still for four fifths of the time.

use std::process::{Child, Command, Stdio};

use super::stage::Stage;
use crate::cluster::signal;
use crate::error::Error;
use crate::output::warn;

/// A shell stops and continues a process in turn, until that process has ended, even if the demo is killed first.
const LOOP: &str =
    "while kill -s STOP \"$0\"; do sleep 0.08; kill -s CONT \"$0\"; sleep 0.02; done";

/// Keeps one worker slow.
pub struct Slowdown(Option<Victim>);

/// A worker, and the shell that slows it down.
struct Victim {
    pid: u32,
    shell: Child,
}

impl Slowdown {
    /// No worker is slow yet.
    pub const fn new() -> Self {
        Slowdown(None)
    }

    /// If no worker is being slowed down, picks the one that joined last: `--kill-every` kills it last.
    pub fn look(&mut self, stage: &Stage) -> Result<(), Error> {
        let workers = stage.own_workers();
        let there = |victim: &Victim| workers.iter().any(|worker| worker.pid == victim.pid);
        if self.0.as_ref().is_some_and(there) {
            return Ok(());
        }
        self.0 = None;
        let Some(newest) = workers.into_iter().max_by_key(|worker| worker.id) else {
            return Ok(());
        };
        let (id, pid) = (newest.id, newest.pid);
        let mut shell = Command::new("sh");
        shell.args(["-c", LOOP, &pid.to_string()]);
        let shell = shell.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let shell = shell.map_err(Error::Start)?;
        warn(format_args!(
            "slows down worker {id} (pid {pid}): it stands still for four fifths of the time"
        ));
        self.0 = Some(Victim { pid, shell });
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        signal(self.pid, "CONT");
    }
}

//! The slow worker of the demo: a process that stands still for four fifths of the time.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::stage::Stage;
use crate::cluster::signal;
use crate::error::Error;
use crate::output::warn;

/// A shell stops and continues a process in turn, until that process or the demo has ended. It leaves it running.
const LOOP: &str = "while kill -0 \"$PPID\" && kill -s STOP \"$0\"; do \
                    sleep 0.08; kill -s CONT \"$0\"; sleep 0.02; done";

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
        let is_slowed = |victim: &mut Victim| {
            let works = matches!(victim.shell.try_wait(), Ok(None));
            works && workers.iter().any(|worker| worker.pid == victim.pid)
        };
        if self.0.as_mut().is_some_and(is_slowed) {
            return Ok(());
        }
        self.0 = None;
        let Some(newest) = workers.into_iter().max_by_key(|worker| worker.id) else {
            return Ok(());
        };
        let (id, pid) = (newest.id, newest.pid);
        let mut shell = Command::new("sh");
        shell.args(["-c", LOOP, &pid.to_string()]);
        shell.stdin(Stdio::null()).stdout(Stdio::null());
        // Ctrl-C is for the demo alone, and its reader does not wait for this.
        let shell = shell.stderr(Stdio::null()).process_group(0).spawn();
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

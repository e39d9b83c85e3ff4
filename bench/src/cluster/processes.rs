//! Processes of this executable: workers, producers, servers. Each ends when the process that started it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dstreams_cluster::{WorkerOptions, run_worker};

use super::program::{Spec, build};
use crate::own::{Outcome, flag};

/// Time limit for a process to end by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a worker tries to reach its master.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tells a process that its parent holds its standard input open.
const GUARDED_FLAG: &str = "--guarded";

/// A process that was started here.
pub struct Process {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this executable with these arguments.
    pub fn own(words: &[String]) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words).arg(GUARDED_FLAG);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let out = child.stdout.take().map(BufReader::new);
        Ok(Process { child, out })
    }

    /// A worker of one core.
    pub fn worker(master: &str) -> Outcome<Self> {
        Self::own(&["worker".into(), master.into()])
    }

    /// Waits for the next line that it prints.
    pub fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        let out = self.out.as_mut().ok_or("it prints nothing")?;
        match out.read_line(&mut line)? {
            0 => Err("a process ended before it was ready".into()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub fn join(&mut self) -> Outcome<()> {
        let start = Instant::now();
        while start.elapsed() < EXIT_TIMEOUT {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("a process ended with {status}").into()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Err("a process did not end".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when its parent has ended.
pub fn guard(flags: &[String]) {
    if !flags.iter().any(|flag| flag == GUARDED_FLAG) {
        return;
    }
    std::thread::spawn(|| {
        let mut nothing = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut nothing);
        std::process::exit(1);
    });
}

/// `bench worker MASTER [--cores N]`
pub fn worker(flags: &[String]) -> Outcome<()> {
    guard(flags);
    dstreams_cluster::logs::to_stderr();
    let master = flags.first().ok_or("a worker needs its master's address")?;
    let mut options = WorkerOptions::new(master);
    options.cores = flag(flags, "--cores", 1)?;
    options.retry = CONNECT_TIMEOUT;
    let program = |arguments: &[String]| Ok(build(&Spec::parse(arguments)?)?.ctx);
    Ok(run_worker(&options, &program, &|_| {})?)
}

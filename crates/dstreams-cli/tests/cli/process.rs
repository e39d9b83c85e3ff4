//! Processes of the command: start them, read their output, stop and kill them.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The limit of every wait; ends tests that hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The command under test.
pub const DSTREAMS: &str = env!("CARGO_BIN_EXE_dstreams");

pub fn dstreams(arguments: &[&str]) -> Command {
    program(DSTREAMS, arguments)
}

pub fn program(path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env_remove("DSTREAMS_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end, with `input` on its standard input.
pub fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = dstreams(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    end_of(child)
}

/// Waits for the end of a command; kills it when it hangs.
pub fn end_of(child: Child) -> Output {
    let pid = child.id();
    let (ended, end) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill("KILL", pid.into());
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    output
}

/// The standard error of a command; checks that it ended with `code`.
pub fn message(output: Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(
        !message.contains("panicked") && !message.contains("backtrace"),
        "{message}"
    );
    message
}

/// Sends `kill -SIGNAL` to a process.
pub fn kill(signal: &str, pid: u64) {
    let kill = format!("kill -{signal} {pid}");
    let done = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(done.success(), "{kill}");
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| state != b'Z')
}

/// Waits until a condition holds.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}: not yet");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running command that prints JSON.
pub struct Running {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
    /// Its first line.
    pub first: Value,
    pub batches: Vec<Value>,
}

/// The lines of an output, read by a thread.
pub fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    let from = BufReader::new(from).lines();
    std::thread::spawn(move || from.map_while(|line| sender.send(line.ok()?).ok()).count());
    lines
}

impl Running {
    /// Starts it, and waits for its first line.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut dstreams(arguments)).listening()
    }

    /// Starts it.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        // None if standard error is redirected.
        let errors = child.stderr.take().map_or_else(|| channel().1, lines);
        Running {
            child,
            output,
            errors,
            first: Value::Null,
            batches: Vec::new(),
        }
    }

    /// Waits for its first line.
    pub fn listening(mut self) -> Self {
        self.first = self.next();
        self
    }

    pub fn next(&self) -> Value {
        match self.output.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap(),
            Err(error) => panic!(
                "{error}; it said: {:?}",
                self.errors.try_iter().collect::<Vec<_>>()
            ),
        }
    }

    /// The next line on standard error.
    pub fn complaint(&self) -> String {
        self.errors.recv_timeout(PATIENCE).unwrap()
    }

    /// The first line on standard error that contains this; logs may come before.
    pub fn complaint_with(&self, text: &str) -> String {
        loop {
            let line = self.complaint();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The value of `name` in its first line.
    pub fn said(&self, name: &str) -> &str {
        self.first[name].as_str().unwrap()
    }

    pub fn pid(&self) -> u64 {
        self.child.id().into()
    }

    pub fn records(&self) -> u64 {
        let records = |batch: &Value| batch["records"].as_u64().unwrap();
        self.batches.iter().map(records).sum()
    }

    /// Reads batches until they have exactly `records` records.
    pub fn wait_for(&mut self, records: u64) {
        self.wait_for_some(records);
        assert_eq!(self.records(), records);
    }

    /// Reads batches until they have at least `records` records.
    pub fn wait_for_some(&mut self, records: u64) {
        while self.records() < records {
            let batch = self.next();
            self.batches.push(batch);
        }
    }

    pub fn terminate(&self) {
        kill("TERM", self.pid());
    }

    /// Waits for its end; returns the unread rest of its standard error.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut errors = String::new();
        let since = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(since.elapsed());
            match self.errors.recv_timeout(left) {
                Ok(line) => errors += &(line + "\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {errors}"),
            }
        }
        (self.child.wait().unwrap(), errors)
    }

    /// Reads the remaining batches; returns the total and the rest of standard error.
    pub fn end(&mut self) -> (u64, String) {
        let total = loop {
            let line = self.next();
            match line.get("records_total") {
                Some(total) => break total.as_u64().unwrap(),
                None if line.get("gone").is_some() => {}
                None => self.batches.push(line),
            }
        };
        let (status, errors) = self.wait();
        assert_eq!(status.code(), Some(0), "{errors}");
        let more = self.output.recv_timeout(PATIENCE);
        assert!(more.is_err(), "there is more after the end: {more:?}");
        assert_eq!(total, self.records());
        (total, errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A signal to a child process.

use std::process::{Command, Stdio};

/// Sends SIGTERM to a process, by the shell's own `kill`. Nothing happens if it has ended.
pub fn terminate(pid: u32) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s TERM \"$0\"", &pid.to_string()]);
    // It may have ended.
    let _ = shell.stdin(Stdio::null()).stderr(Stdio::null()).status();
}

//! A signal to a child process.

use std::process::{Command, Stdio};

/// Sends a signal (`TERM`) to a process, by the shell's own `kill`. Nothing happens if it has ended.
pub fn signal(pid: u32, name: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$1\" \"$0\"", &pid.to_string(), name]);
    // It may have ended.
    let _ = shell.stdin(Stdio::null()).stderr(Stdio::null()).status();
}

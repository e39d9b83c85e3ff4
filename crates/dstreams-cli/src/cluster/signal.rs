//! A signal to a child process.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Sends a signal (`TERM`) to a process, by the shell's own `kill`. Nothing happens if it has ended.
pub fn signal(pid: u32, name: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$1\" \"$0\"", &pid.to_string(), name]);
    // It may have ended.
    let _ = shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A second Ctrl-C must not keep it from being sent.
        .process_group(0)
        .status();
}

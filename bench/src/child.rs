//! Runs one program as a process of its own and reads the line of JSON it prints.

use serde_json::Value;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time limit of a program, after which it is killed and counts as failed.
const TIMEOUT: Duration = Duration::from_secs(1_800);
/// How often a running program is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of its messages that are shown when it fails.
const SHOWN_LINES: usize = 12;

/// The JSON that a program printed about answers that it checked: see [`output`].
pub fn measure(command: &mut Command) -> Result<Value, String> {
    let result = output(command)?;
    match result["checked"] == Value::Bool(true) {
        true => Ok(result),
        false => Err("it did not check its answers".into()),
    }
}

/// The JSON that a program printed, with the peak of its resident memory as `peak_rss_mb` if the system reports it.
pub fn output(command: &mut Command) -> Result<Value, String> {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("it cannot be started: {error}"))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let start = Instant::now();
    let mut peak = None;
    let status = loop {
        match child
            .try_wait()
            .map_err(|error| format!("it cannot be waited for: {error}"))?
        {
            Some(status) => break status,
            None if start.elapsed() > TIMEOUT => {
                end(&mut child);
                return Err(format!("it took more than {} s", TIMEOUT.as_secs()));
            }
            None => {
                peak = resident(child.id()).max(peak);
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    };
    let (out, err) = (text(out), text(err));
    if !status.success() {
        let lines: Vec<&str> = err.lines().collect();
        return Err(format!(
            "{status}: {}",
            lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
        ));
    }
    let line = out
        .lines()
        .rfind(|line| line.starts_with('{'))
        .ok_or("it printed no result")?;
    let mut result: Value =
        serde_json::from_str(line).map_err(|error| format!("its result is not JSON: {error}"))?;
    if let Some(peak) = peak {
        result["peak_rss_mb"] = peak.into();
    }
    Ok(result)
}

fn end(child: &mut Child) {
    // Both fail only if the process has ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Output before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// Peak resident memory in MiB.
fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

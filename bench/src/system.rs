//! The system's view of processes: processor time, memory, files, and the bytes sent between them.

use std::path::Path;
use std::time::Duration;

/// Clock ticks per second in which Linux reports processor time.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

fn read(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default()
}

/// Processor time that a process has used, with a resolution of ten milliseconds.
pub fn cpu(process: u32) -> Duration {
    let stat = read(process, "stat");
    // The name, in parentheses, may have spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|n| n.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// Resident memory of a process in MiB.
pub fn resident_mb(process: u32) -> f64 {
    let statm = read(process, "statm");
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    (pages.unwrap_or(0u64) * PAGE_BYTES) as f64 / f64::from(1 << 20)
}

/// Threads of a process.
pub fn threads(process: u32) -> u64 {
    let status = read(process, "status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Files and sockets that a process has open.
pub fn open_files(process: u32) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{process}/fd"));
    files.map_or(0, |files| files.count() as u64)
}

/// Bytes that a process has written to files (without sockets).
pub fn written(process: u32) -> u64 {
    let io = read(process, "io");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Bytes that all processes of this machine have sent to each other over loopback, headers included.
pub fn loopback() -> u64 {
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = devices.lines().find_map(|l| l.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    bytes.unwrap_or(0)
}

/// Bytes of the files in which workers exchange rows.
pub fn exchanged(workers: &[u32]) -> u64 {
    let Ok(entries) = std::fs::read_dir("/dev/shm") else {
        return 0;
    };
    let ours = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name
            .strip_prefix("dstreams-worker-")
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| workers.iter().any(|worker| worker.to_string() == pid))
    });
    ours.map(|entry| size(&entry.path())).sum()
}

fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |meta| meta.len());
    };
    entries.flatten().map(|entry| size(&entry.path())).sum()
}

//! The machine and the time of the measurements.

use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The processor's name, as reported by the system.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Processors this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The name of the folder for today's run on this machine.
pub fn slug() -> String {
    let plain = cpu().replace("(R)", "").replace("(TM)", "").to_lowercase();
    let name = plain.split(" @ ").next().unwrap_or_default();
    let words: Vec<&str> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    format!("{}-{}-{}cores", &now()[..10], words.join("-"), cores())
}

/// The time in UTC, as `2026-01-31T23:59:59Z`.
pub fn now() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days, in years that begin in March of year 0.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The load averages.
pub fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The machine and the versions.
pub fn environment() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = [
        "sse4_2",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512vbmi",
        "hypervisor",
    ];
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .unwrap_or_default();
    let flags: Vec<&str> = wanted
        .into_iter()
        .filter(|flag| flags.split_whitespace().any(|f| f == *flag))
        .collect();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .map(|kb| kb.trim().to_owned());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .ok();
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"])
        .map(|line| !line.is_empty());
    json!({
        "cpu": cpu(),
        "cpu_flags": flags,
        "cores": cores(),
        "memory": memory,
        "kernel": kernel,
        "rustc": first_line("rustc", &["--version"]),
        "rustflags": std::env::var("RUSTFLAGS").unwrap_or_default(),
        "java": first_line("java", &["-version"]),
        "commit": first_line("git", &["rev-parse", "HEAD"]),
        "uncommitted_changes": changed,
    })
}

/// The first line that a command prints; `None` if there is no such command or it fails.
fn first_line(command: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(command)
        .args(args)
        .current_dir(crate::programs::folder())
        .output()
        .ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    output.status.success().then(|| {
        String::from_utf8_lossy(&text)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    })
}

//! The resources of a soak, sampled each second: memory, descriptors and threads of processes, and the size of the
//! program's directory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A sample of a process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds since the start.
    at: u64,
    pid: u32,
    /// In MiB.
    memory: u64,
    descriptors: u64,
    threads: u64,
}

#[derive(Default)]
struct Looks {
    /// The live processes, by role.
    live: Vec<(String, u32)>,
    samples: BTreeMap<String, Vec<Sample>>,
    /// Seconds since the start, and MiB of the program's directory.
    disk: Vec<(u64, u64)>,
}

/// Takes samples in a thread of its own.
pub struct Watch {
    looks: Arc<Mutex<Looks>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn look(pid: u32, at: u64) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Sample {
        at,
        pid,
        memory: number("VmRSS:")? >> 10,
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
        threads: number("Threads:")?,
    })
}

/// Bytes of the files below a directory, which may change meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A measure of a process: its name, its value, and the growth allowed in addition to a quarter.
type Measure = (&'static str, fn(&Sample) -> u64, u64);

impl Watch {
    pub fn start(dir: PathBuf) -> Self {
        let (looks, stop) = (Arc::<Mutex<Looks>>::default(), Arc::<AtomicBool>::default());
        let (to, end) = (Arc::clone(&looks), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            while !end.load(Ordering::SeqCst) {
                let at = begun.elapsed().as_secs();
                let mib = size(&dir) >> 20;
                let mut looks = to.lock().unwrap();
                looks.disk.push((at, mib));
                for (role, pid) in looks.live.clone() {
                    if let Some(sample) = look(pid, at) {
                        looks.samples.entry(role).or_default().push(sample);
                    }
                }
                drop(looks);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Watch {
            looks,
            stop,
            thread: Some(thread),
        }
    }

    /// Sets the live processes.
    pub fn live(&self, live: Vec<(String, u32)>) {
        self.looks.lock().unwrap().live = live;
    }

    /// The report: medians and maxima by role and sixth of the time.
    pub fn report(&self) -> String {
        let looks = self.looks.lock().unwrap();
        let mut text = String::new();
        let end = looks.disk.last().map_or(0, |(at, _)| at + 1);
        for (role, samples) in &looks.samples {
            let mut line = format!("  {role:12} MiB (median, most) by sixths of the time:");
            for sixth in 0..6 {
                let of = |at: u64| at * 6 / end == sixth;
                let samples = samples.iter().filter(|sample| of(sample.at));
                let mut memory: Vec<_> = samples.map(|sample| sample.memory).collect();
                memory.sort();
                let middle = memory.get(memory.len() / 2).copied().unwrap_or(0);
                let most = memory.last().copied().unwrap_or(0);
                write!(line, " {middle}/{most}").unwrap();
            }
            let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
            writeln!(
                text,
                "{line}; most descriptors {}, threads {}",
                most(|sample| sample.descriptors),
                most(|sample| sample.threads)
            )
            .unwrap();
        }
        let mut line = "  directory    MiB (most) by sixths of the time:".to_owned();
        for sixth in 0..6 {
            let of = |at: u64| at * 6 / end == sixth;
            let of = looks.disk.iter().filter(|(at, _)| of(*at));
            let most = of.map(|(_, mib)| *mib).max().unwrap_or(0);
            write!(line, " {most}").unwrap();
        }
        text + &line
    }

    /// Checks that memory, descriptors and threads of long-lived processes do not grow after the first half: the last
    /// quarter needs little more than the quarter before.
    pub fn check(&self, least_life: Duration) {
        let looks = self.looks.lock().unwrap();
        for (role, samples) in &looks.samples {
            let mut lives: BTreeMap<u32, Vec<Sample>> = BTreeMap::new();
            for sample in samples {
                lives.entry(sample.pid).or_default().push(*sample);
            }
            for (pid, life) in lives {
                let lived = life.last().unwrap().at - life[0].at;
                if lived < least_life.as_secs() {
                    continue;
                }
                let quarter = life.len() / 4;
                let middle = |quarter_at: usize, of: fn(&Sample) -> u64| {
                    let from = quarter * quarter_at;
                    let mut all: Vec<_> = life[from..from + quarter].iter().map(of).collect();
                    all.sort();
                    all[all.len() / 2]
                };
                let of: [Measure; 3] = [
                    ("MiB of memory", |sample| sample.memory, 64),
                    ("descriptors", |sample| sample.descriptors, 32),
                    ("threads", |sample| sample.threads, 32),
                ];
                for (what, of, some) in of {
                    let (before, last) = (middle(2, of), middle(3, of));
                    println!("  {role} {pid}, {lived} s: {what} {before}, then {last}");
                    assert!(
                        last <= before + before / 4 + some,
                        "{role} {pid}: {what} grew from {before} to {last} in the last quarter of {lived} s"
                    );
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

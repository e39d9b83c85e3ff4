//! The program: keyed state of many keys, keys that time out, a window, and outputs that describe the records and
//! results of each batch, small enough to store an hour of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::files::Format;
use dstreams::record::records_of;
use dstreams::{
    BatchTime, BoxError, Clients, Config, Guarantee, Prepared, Sink, StreamContext, Track, Values,
    async_trait,
};

/// Length of the window in intervals.
pub const WINDOW: usize = 4;
/// Number of keys of the window.
pub const GROUPS: u64 = 100;
/// Number of silent intervals that end a session.
pub const SILENT: u64 = 3;
/// Number of records of a producer per session.
const SESSION_RECORDS: i64 = 1000;
/// Memory limit of states in every second process: small, so that most state is spilled there.
const STATE_MEMORY: usize = 8 << 20;
/// The producer that sends every key once, before all others.
pub const FILL: i64 = 0;

/// The directories of outputs; the last is written by the library's own sink.
pub const EVENTS: &str = "events";
pub const TOTALS: &str = "totals";
pub const SESSIONS: &str = "sessions";
pub const WINDOWS: &str = "windows";

/// Hashes a number (splitmix64).
pub fn mix(of: u64) -> u64 {
    let mut z = of.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of a producer's record. The first producer has each key once; of the others' records, half have any key and
/// half have one of a few frequent keys.
pub fn key_of(producer: i64, sequence: i64, keys: u64) -> u64 {
    if producer == FILL {
        return sequence as u64 % keys;
    }
    let hash = mix(mix(producer as u64) ^ sequence as u64);
    match hash % 2 {
        0 => (hash >> 8) % keys,
        _ => {
            let bits = (hash >> 1) % u64::from(64 - keys.leading_zeros());
            (hash >> 8) % (1 << bits) % keys
        }
    }
}

/// The session of a producer's record.
pub fn session_of(producer: i64, sequence: i64) -> i64 {
    (producer << 32) + sequence / SESSION_RECORDS
}

/// The digest of (key, total); the sum of digests identifies the results of a batch.
pub fn digest_of(key: u64, total: u64) -> u64 {
    mix(mix(key) ^ total)
}

/// The content of a batch's file. It depends on the rows alone, not on their partitions.
#[derive(Clone, Copy)]
enum Kind {
    /// `producer from to` for each run of records.
    Runs,
    /// `rows digest` of keys and totals.
    Digest,
    /// `key count` for each row.
    Rows,
}

/// Writes a file for each batch atomically.
struct Files(PathBuf, Kind);

impl Files {
    fn of_rows(&self, rows: &[RecordBatch]) -> Result<Vec<(i64, i64)>, BoxError> {
        let mut all = Vec::new();
        for rows in rows {
            all.extend(records_of::<(i64, i64)>(rows)?);
        }
        Ok(all)
    }
}

/// The numbers on a line.
pub fn numbers<const N: usize>(line: &str) -> [i128; N] {
    let mut words = line.split(' ').map(|word| word.parse().unwrap());
    std::array::from_fn(|_| words.next().unwrap())
}

#[async_trait]
impl Sink for Files {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        let mut newest = None;
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let batch = name.to_str().and_then(|name| name.parse().ok());
            newest = newest.max(batch.map(BatchTime));
        }
        Ok(newest)
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let rows = self.of_rows(rows)?;
        let lines: Vec<String> = match self.1 {
            Kind::Runs => {
                let mut runs: Vec<(i64, i64, i64)> = Vec::new();
                for (producer, sequence) in rows {
                    match runs.last_mut() {
                        Some((of, _, to)) if *of == producer && *to == sequence => *to += 1,
                        _ => runs.push((producer, sequence, sequence + 1)),
                    }
                }
                let line = |(producer, from, to)| format!("{producer} {from} {to}");
                runs.into_iter().map(line).collect()
            }
            Kind::Digest => {
                let digest = rows.iter().fold(0u64, |sum, (key, total)| {
                    sum.wrapping_add(digest_of(*key as u64, *total as u64))
                });
                vec![format!("{} {digest}", rows.len())]
            }
            Kind::Rows => {
                let line = |(key, count)| format!("{key} {count}");
                rows.into_iter().map(line).collect()
            }
        };
        Ok(Prepared(lines.join("\n").into_bytes()))
    }

    async fn commit(&self, batch: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
        let parts = parts
            .into_iter()
            .map(|part| String::from_utf8(part.0))
            .collect::<Result<Vec<_>, _>>()?;
        let lines = parts.iter().flat_map(|part| part.lines());
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        match self.1 {
            Kind::Digest => {
                let (mut rows, mut digest) = (0, 0u64);
                for line in &lines {
                    let [more, of] = numbers(line);
                    rows += more;
                    digest = digest.wrapping_add(of as u64);
                }
                lines = vec![format!("{rows} {digest}")];
            }
            Kind::Runs => {
                // One run may be split between tasks, at other places when the program runs with other threads.
                let mut runs: BTreeMap<(i128, i128), i128> = BTreeMap::new();
                for line in &lines {
                    let [producer, from, to] = numbers(line);
                    if let Some(before) = runs.insert((producer, from), to) {
                        return Err(format!("{producer} {from} to {to} and {before}").into());
                    }
                }
                let mut joined: Vec<[i128; 3]> = Vec::new();
                for ((producer, from), to) in runs {
                    match joined.last_mut() {
                        Some([of, _, end]) if *of == producer && *end == from => *end = to,
                        _ => joined.push([producer, from, to]),
                    }
                }
                let line = |[producer, from, to]: [i128; 3]| format!("{producer} {from} {to}");
                lines = joined.into_iter().map(line).collect();
            }
            Kind::Rows => lines.sort(),
        }
        let bytes = lines.join("\n");
        let path = self.0.join(format!("{}", batch.0));
        if let Ok(there) = std::fs::read_to_string(&path) {
            // Aborting the process fails the test.
            if there != bytes {
                eprintln!("SOAK: {} would change:\n{bytes}", path.display());
                std::process::abort();
            }
            return Ok(());
        }
        let hidden = self.0.join(format!(".{}", batch.0));
        std::fs::write(&hidden, bytes)?;
        std::fs::rename(hidden, path)?;
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

/// The parameters of the program, the same in all its processes.
#[derive(Clone)]
pub struct Shape {
    pub dir: PathBuf,
    pub keys: u64,
    pub interval: Duration,
}

impl Shape {
    /// As the value of an environment variable.
    pub fn to_text(&self) -> String {
        let dir = self.dir.display();
        format!("{}|{}|{dir}", self.keys, self.interval.as_millis())
    }

    pub fn from_text(text: &str) -> Self {
        let mut parts = text.splitn(3, '|');
        let keys = parts.next().unwrap().parse().unwrap();
        let interval = Duration::from_millis(parts.next().unwrap().parse().unwrap());
        let dir = Path::new(parts.next().unwrap()).to_owned();
        Shape {
            dir,
            keys,
            interval,
        }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The program, new or restored from its directory.
    pub fn open(&self, listen: &str, threads: usize) -> dstreams::Result<StreamContext> {
        let mut ctx = self.build(listen, threads)?;
        ctx.persist_in(self.state());
        Ok(ctx)
    }

    fn build(&self, listen: &str, threads: usize) -> dstreams::Result<StreamContext> {
        let mut config = Config::new(self.interval);
        config.threads = threads;
        config.checkpoint_every = 5;
        config.state_memory = (threads % 2 == 1).then_some(STATE_MEMORY);
        let mut ctx = StreamContext::with_config(config)?;
        let [events_to, totals_to, sessions_to] = [
            (EVENTS, Kind::Runs),
            (TOTALS, Kind::Digest),
            (SESSIONS, Kind::Rows),
        ]
        .map(|(name, kind)| {
            let dir = self.dir.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            Files(dir, kind)
        });
        let keys = self.keys;
        let events = ctx.clients::<(i64, i64)>("events", &Clients::listen(listen));
        events.sink(EVENTS, events_to);
        let by_key = events.key_by(move |(producer, at)| key_of(producer, at, keys) as i64);
        let totals = by_key.running_agg("totals", count())?;
        totals.changes().pairs().sink(TOTALS, totals_to);
        let by_group =
            events.key_by(move |(producer, at)| (key_of(producer, at, keys) % GROUPS) as i64);
        let length = self.interval * WINDOW as u32;
        let window = by_group.window_agg(length, self.interval, count())?;
        let windows = self.dir.join(WINDOWS);
        window.pairs().write_files(windows, Format::JsonLines)?;
        let sessions = Track::by_batch(
            |_: i64, values: Values<'_, (i64, i64)>, count: Option<i64>| {
                Some(count.unwrap_or(0) + values.len() as i64)
            },
        );
        let sessions = sessions.timeout(self.interval * SILENT as u32);
        let by_session = events.key_by(|(producer, at)| session_of(producer, at));
        let sessions = by_session.track("sessions", sessions)?;
        sessions.timed_out().pairs().sink(SESSIONS, sessions_to);
        Ok(ctx)
    }
}

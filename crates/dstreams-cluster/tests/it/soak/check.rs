//! The expected batches, recounted key by key from the runs of records that each batch reports.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use super::program::{
    EVENTS, GROUPS, SESSIONS, SILENT, Shape, TOTALS, WINDOW, WINDOWS, digest_of, key_of, numbers,
    session_of,
};

/// The reference counts, as of some batch.
pub struct Check {
    shape: Shape,
    interval: u64,
    /// The next batch to check, once there is one.
    next: Option<u64>,
    pub batches: u64,
    pub records: u64,
    /// The number of records of each key.
    pub totals: Vec<u32>,
    /// By key, the number of the last batch that changed it.
    touched: Vec<u32>,
    window: VecDeque<Vec<u64>>,
    /// By session: its number of records, and its last batch.
    sessions: BTreeMap<i64, (i64, u64)>,
    /// By producer: the runs seen so far, by their start; they neither touch nor overlap.
    seen: BTreeMap<i64, BTreeMap<i64, i64>>,
}

impl Check {
    pub fn new(shape: &Shape) -> Self {
        Check {
            interval: shape.interval.as_millis() as u64,
            totals: vec![0; shape.keys as usize],
            touched: vec![0; shape.keys as usize],
            shape: shape.clone(),
            next: None,
            batches: 0,
            records: 0,
            window: VecDeque::new(),
            sessions: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn file(&self, output: &str, at: u64) -> PathBuf {
        self.shape.dir.join(output).join(at.to_string())
    }

    /// Whether all outputs have this batch.
    fn is_there(&self, at: u64) -> bool {
        let outputs = [EVENTS, TOTALS, SESSIONS];
        outputs.iter().all(|output| self.file(output, at).exists())
    }

    fn first(&self) -> Option<u64> {
        let files = std::fs::read_dir(self.shape.dir.join(EVENTS)).ok()?;
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.parse().ok()).min()
    }

    /// Checks the batches so far, except the newest one, whose outputs may be incomplete.
    pub fn advance(&mut self) {
        if self.next.is_none() {
            self.next = self.first();
        }
        while let Some(at) = self.next
            && self.is_there(at)
            && self.is_there(at + self.interval)
        {
            self.batch(at);
        }
    }

    /// Checks all batches, after the last write.
    pub fn finish(&mut self) {
        self.advance();
        while let Some(at) = self.next
            && self.is_there(at)
        {
            self.batch(at);
        }
        let newest = |output: &str, prefix: &str| {
            let files = std::fs::read_dir(self.shape.dir.join(output)).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let at = |name: String| name.strip_prefix(prefix)?.parse::<u64>().ok();
            names.filter_map(at).max()
        };
        for output in [EVENTS, TOTALS, SESSIONS] {
            let newest = newest(output, "").unwrap();
            let next = self.next.unwrap();
            assert_eq!(
                newest + self.interval,
                next,
                "a batch is missing before {newest} of {output}"
            );
        }
    }

    fn take(&mut self, producer: i64, from: i64, to: i64, at: u64) {
        let seen = self.seen.entry(producer).or_default();
        let (mut begin, mut end) = (from, to);
        if let Some((before, until)) = seen.range(..=from).next_back().map(|(f, t)| (*f, *t)) {
            assert!(
                until <= from,
                "batch {at}: records {from} to {to} of producer {producer}: those before {until} were in a batch already"
            );
            if until == from {
                begin = before;
            }
        }
        if let Some((after, until)) = seen.range(from..).next().map(|(f, t)| (*f, *t)) {
            assert!(
                to <= after,
                "batch {at}: records {from} to {to} of producer {producer}: those from {after} were in a batch already"
            );
            if after == to {
                seen.remove(&after);
                end = until;
            }
        }
        seen.insert(begin, end);
    }

    fn batch(&mut self, at: u64) {
        let read = |output: &str| {
            let path = self.file(output, at);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let (events, totals, timed_out) = (read(EVENTS), read(TOTALS), read(SESSIONS));
        let stamp = (at / self.interval) as u32;
        let (mut rows, mut digest) = (0, 0u64);
        let mut groups = vec![0; GROUPS as usize];
        let mut left = Vec::new();
        let silent = SILENT * self.interval;
        self.sessions.retain(|session, (count, last)| {
            let stays = *last + silent > at;
            if !stays {
                left.push(format!("{session} {count}"));
            }
            stays
        });
        left.sort();
        for line in events.lines() {
            let [producer, from, to] = numbers(line).map(|number| number as i64);
            self.take(producer, from, to, at);
            self.records += (to - from) as u64;
            for sequence in from..to {
                let key = key_of(producer, sequence, self.shape.keys);
                groups[(key % GROUPS) as usize] += 1;
                let total = &mut self.totals[key as usize];
                if self.touched[key as usize] == stamp {
                    digest = digest.wrapping_sub(digest_of(key, u64::from(*total)));
                } else {
                    self.touched[key as usize] = stamp;
                    rows += 1;
                }
                *total += 1;
                digest = digest.wrapping_add(digest_of(key, u64::from(*total)));
                let session = session_of(producer, sequence);
                let (count, last) = self.sessions.entry(session).or_default();
                (*count, *last) = (*count + 1, at);
            }
        }
        assert_eq!(totals, format!("{rows} {digest}"), "totals of batch {at}");
        assert_eq!(timed_out, left.join("\n"), "sessions that are over at {at}");
        self.window.push_back(groups);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        self.check_window(at);
        self.batches += 1;
        self.next = Some(at + self.interval);
    }

    fn check_window(&self, at: u64) {
        let mut wanted = BTreeMap::new();
        for groups in &self.window {
            for (group, count) in (0..).zip(groups).filter(|(_, count)| **count > 0) {
                *wanted.entry(group).or_default() += count;
            }
        }
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        let dir = self.shape.dir.join(WINDOWS).join(format!("batch={at}"));
        for file in std::fs::read_dir(&dir).into_iter().flatten() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let number = |name: &str| row[name].as_u64().unwrap();
                let before = found.insert(number("key"), number("value"));
                assert_eq!(before, None, "{} has a group twice", dir.display());
            }
        }
        assert_eq!(found, wanted, "the window at {at}");
    }

    /// The number of records of a producer; they must be its first ones, without a gap.
    pub fn of_producer(&self, producer: i64) -> i64 {
        let none = BTreeMap::new();
        let seen = self.seen.get(&producer).unwrap_or(&none);
        match seen.len() {
            0 => 0,
            _ => {
                let all: Vec<_> = seen.iter().collect();
                assert!(
                    all.len() == 1 && *all[0].0 == 0,
                    "of producer {producer} these are there, and not what is between: {all:?}"
                );
                *all[0].1
            }
        }
    }
}

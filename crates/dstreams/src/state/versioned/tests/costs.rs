//! Costs in counted rows and bytes: proportional to the changes, whatever the size of the state.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use dstreams_control::BatchTime;

use crate::state::versioned::index::Index;
use crate::state::versioned::{Delta, KeyedPartition, Shape, Work};

fn shape() -> Arc<Shape> {
    let number = |name| Field::new(name, DataType::UInt64, false);
    let schema = Schema::new(vec![number("key"), number("count")]);
    Shape::new(Arc::new(schema), 1).unwrap()
}

fn column(numbers: impl IntoIterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(numbers))
}

/// A state of counts by number, and a generator of numbers.
struct Counts {
    state: KeyedPartition,
    batch: u64,
    random: u64,
    /// Bytes of memory, sampled.
    memory: Vec<usize>,
}

impl Counts {
    fn of(keys: u64) -> Self {
        let state = KeyedPartition::new(shape());
        let (batch, random) = (0, 0x9e37_79b9_7f4a_7c15);
        let mut counts = Counts {
            state,
            batch,
            random,
            memory: Vec::new(),
        };
        let mut from = 0;
        while from < keys {
            let to = keys.min(from + 50_000);
            counts.install(from..to, []);
            counts.compact();
            from = to;
        }
        counts
    }

    fn install(
        &mut self,
        changed: impl IntoIterator<Item = u64>,
        deleted: impl IntoIterator<Item = u64>,
    ) {
        self.batch += 1;
        let keys = column(changed);
        let columns = vec![Arc::clone(&keys), keys];
        let rows = RecordBatch::try_new(Arc::clone(self.state.shape().schema()), columns).unwrap();
        let batch = BatchTime(self.batch);
        let delta = Delta::new(self.state.shape(), batch, &rows, None, &[column(deleted)]);
        self.state.install(&delta.unwrap()).unwrap();
    }

    fn compact(&mut self) {
        while self.state.compact(BatchTime(self.batch), 1_000).unwrap() {}
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Distinct random keys.
    fn some(&mut self, count: usize, of: u64) -> Vec<u64> {
        let mut keys = std::collections::BTreeSet::new();
        while keys.len() < count {
            keys.insert(self.random(of));
        }
        keys.into_iter().collect()
    }

    /// Looks keys up, changes them, compacts; returns the cost of each.
    fn batch(&mut self, keys: &[u64]) -> [Work; 3] {
        let start = self.state.work();
        let found = self.state.latest(&[column(keys.iter().copied())]).unwrap();
        assert_eq!(found.existing(), keys.len());
        found.values().unwrap();
        let looked = self.state.work();
        self.install(keys.iter().copied(), []);
        let installed = self.state.work();
        self.compact();
        [
            looked - start,
            installed - looked,
            self.state.work() - installed,
        ]
    }

    fn segments(&self) -> usize {
        self.state.segments.iter().flatten().count()
    }
}

#[test]
fn a_batch_costs_the_same_with_many_keys_as_with_few() {
    let mut costs = Vec::new();
    for keys in [10_000, 1_000_000] {
        let mut counts = Counts::of(keys);
        let changed = counts.some(1_000, keys);
        let [looked, installed, _] = counts.batch(&changed);
        assert_eq!(looked.rows_written, 0);
        let exact = (1_000, 1_000 * 16, 0);
        let found = (
            installed.rows_written,
            installed.bytes_written,
            installed.rehashed,
        );
        assert_eq!(found, exact, "over {keys}");
        // Each key once, and rarely another with a similar hash; then its value.
        for (work, once) in [(looked, 2_000), (installed, 1_000)] {
            let rows = once..once + 200;
            assert!(rows.contains(&work.rows_read), "{work:?} over {keys}");
            assert!(work.bytes_read < 8 * rows.end, "{work:?} over {keys}");
        }
        // Compaction, over as many batches as it takes to change every key of the small one ten times.
        let before = counts.state.work();
        for _ in 0..100 {
            let changed = counts.some(1_000, keys);
            counts.batch(&changed);
        }
        costs.push((
            counts.state.work() - before,
            counts.state.memory() as u64 / keys,
        ));
    }
    let [(few, _), (many, memory)] = costs[..] else {
        panic!("two sizes");
    };
    for (few, many) in [
        (few.rows_read, many.rows_read),
        (few.rows_written, many.rows_written),
        (few.bytes_read, many.bytes_read),
        (few.bytes_written, many.bytes_written),
    ] {
        assert!(
            many <= few + few / 4,
            "{many} over many keys, {few} over few"
        );
    }
    // Written once on install, and less than twice by compaction.
    assert!(many.rows_written < 3 * 100_000, "{many:?}");
    assert!(memory <= 64, "{memory} bytes a key");
}

#[test]
fn a_key_takes_64_bytes_at_most() {
    let keys = 150_000;
    let mut counts = Counts::of(keys);
    for batch in 0..150 {
        let changed = counts.some(5_000, keys);
        counts.batch(&changed);
        if batch >= 50 {
            let memory = counts.state.memory();
            counts.memory.push(memory);
        }
    }
    let most = counts.memory.iter().max().unwrap() / keys as usize;
    let mean = counts.memory.iter().sum::<usize>() / counts.memory.len() / keys as usize;
    assert!(
        most <= 64 && mean <= 52,
        "{most} bytes a key at most, {mean} on average"
    );
}

/// Even if all batches are above the watermark: no row moves before it may.
#[test]
fn nothing_is_compacted_above_the_watermark() {
    let mut counts = Counts::of(1_000);
    let low = BatchTime(counts.batch);
    let all: Vec<u64> = (0..1_000).collect();
    for _ in 0..20 {
        counts.install(all.iter().copied(), []);
    }
    let before = counts.state.work();
    while counts.state.compact(low, 1_000).unwrap() {}
    assert_eq!((counts.state.work() - before).rows_written, 0);
    assert_eq!(counts.segments(), 21);
    counts.compact();
    assert_eq!(counts.segments(), 1);
    assert_eq!(
        counts
            .state
            .segments
            .iter()
            .flatten()
            .next()
            .unwrap()
            .rows(),
        1_000
    );
}

#[test]
fn expiring_costs_only_the_expired_rows() {
    let mut counts = Counts::of(0);
    // 200 batches of 1,000 keys; half of each is touched again 20 batches later.
    for batch in 0..200u64 {
        let new = 1_000 * batch..1_000 * (batch + 1);
        let old = 1_000 * batch.saturating_sub(20)..1_000 * batch.saturating_sub(20) + 500;
        let old = old.filter(|_| batch >= 20);
        counts.install(new.chain(old), []);
        if batch % 3 == 0 {
            counts.compact();
        }
    }
    assert_eq!(counts.state.len(), 200_000);
    for until in 1..100u64 {
        let before = counts.state.work();
        let expired = counts.state.expired(BatchTime(until)).unwrap();
        let expired: Vec<u64> = expired
            .iter()
            .flat_map(|rows| {
                let keys = rows.column(0).as_any().downcast_ref::<UInt64Array>();
                keys.unwrap().values().to_vec()
            })
            .collect();
        let work = counts.state.work() - before;
        // The untouched keys of the batch itself, and the touched ones of an earlier batch.
        let touched = if until > 20 { 500 } else { 0 };
        assert_eq!(expired.len(), 500 + touched, "{until}");
        assert_eq!(work.rows_read, expired.len() as u64, "{until}");
        counts.install([], expired);
        let before = counts.state.work();
        assert!(counts.state.expired(BatchTime(until)).unwrap().is_empty());
        assert_eq!(counts.state.work(), before);
        if until % 5 == 0 {
            counts.compact();
        }
    }
}

/// Keeps `expired` cheap: superseded rows are skipped once.
#[test]
fn superseded_rows_are_skipped_once() {
    let mut counts = Counts::of(0);
    for _ in 0..50 {
        counts.install(0..1_000, []);
    }
    let due: Vec<_> = counts.state.due.iter().collect();
    assert_eq!(due.len(), 1, "segments without newest rows are not visited");
    assert_eq!(due[0].0, BatchTime(50));
}

#[test]
fn small_batches_are_joined_in_powers_of_eight() {
    let mut counts = Counts::of(0);
    let batches = 4_000;
    for batch in 0..batches {
        counts.install(10 * batch..10 * (batch + 1), []);
        counts.compact();
    }
    let work = counts.state.work();
    // Installed, and copied once for each power of eight up to a segment's rows: at most five.
    assert!(work.rows_written <= 6 * 10 * batches, "{work:?}");
    assert!(counts.segments() < 40, "{} segments", counts.segments());
    assert_eq!(counts.state.len(), 40_000);
}

#[test]
fn a_compaction_step_is_bounded() {
    let mut counts = Counts::of(200_000);
    for _ in 0..40 {
        let changed = counts.some(10_000, 200_000);
        counts.install(changed, []);
    }
    let (mut calls, mut most) = (0, 0);
    loop {
        let before = counts.state.work();
        let more = counts
            .state
            .compact(BatchTime(counts.batch), 5_000)
            .unwrap();
        let work = counts.state.work() - before;
        most = most.max(work.rows_written);
        calls += 1;
        if !more {
            break;
        }
    }
    assert!(calls > 20, "{calls} calls");
    assert!(most <= 5_000 + 16_384, "{most} rows");
}

#[test]
fn growing_rehashes_a_table_at_a_time() {
    let mut counts = Counts::of(0);
    let mut most = 0;
    for batch in 0..600 {
        let before = counts.state.work();
        counts.install(500 * batch..500 * (batch + 1), []);
        most = most.max((counts.state.work() - before).rehashed);
    }
    // A table that is split has about 6,600 keys, all of them visited and half of them moved.
    assert!(most < 20_000, "{most} hashes for 500 new keys");
    let work = counts.state.work();
    assert!(work.rehashed < 3 * 300_000, "{work:?}");
    let (tables, fullest) = counts.state.index.tables();
    assert_eq!(tables, 300_000 / 3_300 + 1);
    assert!(fullest < 7_168, "{fullest} keys in one table");
}

#[test]
fn an_index_finds_its_rows_whatever_the_hashes() {
    // All equal; equal in the bits of the table; equal in the others.
    let hashes: [fn(u32) -> u64; 4] = [
        |_| 7,
        |row| u64::from(row) << 36,
        |row| u64::from(row),
        |row| u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    ];
    for hash in hashes {
        let mut index = Index::new(4);
        let key = |row: u32| row % 200;
        for row in 0..400 {
            let hash_of = |row: u32| hash(key(row));
            let old = index.find(hash_of(row), |old| key(old) == key(row));
            assert_eq!(old, row.checked_sub(200));
            match old {
                Some(old) => assert!(index.replace(hash_of(row), old, Some(row))),
                None => index.insert(hash_of(row), row, hash_of),
            }
            assert!(index.guess(hash_of(row)).is_some());
        }
        assert_eq!(index.len(), 200);
        for row in 200..400 {
            let find = |index: &Index, row| index.find(hash(key(row)), |found| found == row);
            assert_eq!(find(&index, row), Some(row));
            assert!(!index.replace(hash(key(row)), row - 200, None));
            assert!(index.replace(hash(key(row)), row, Some(row + 1_000)));
            assert_eq!(find(&index, row), None);
            assert!(index.replace(hash(key(row)), row + 1_000, None));
        }
        assert_eq!(index.len(), 0);
    }
}

/// Rows are spilled until memory is below the limit, least recently changed first; the index and small segments
/// stay.
#[test]
fn rows_beyond_the_memory_limit_are_spilled() {
    let dir = std::env::temp_dir();
    let mut counts = Counts::of(200_000);
    counts.compact();
    let before = counts.state.memory();
    let less = counts.state.spill(&dir, before / 4).unwrap();
    let segment = before / counts.segments();
    assert!(
        (before / 4..before / 4 + segment).contains(&less),
        "{less} of {before}"
    );
    let spilled = |counts: &Counts| {
        let by_age = counts.state.ages.values();
        let segments = by_age.map(|slot| counts.state.segment(*slot).unwrap());
        let large = segments.filter(|segment| segment.rows() >= 8_192);
        large.map(|segment| segment.spilled).collect::<Vec<_>>()
    };
    assert!(spilled(&counts).is_sorted_by(|older, newer| older >= newer));
    counts.state.spill(&dir, usize::MAX).unwrap();
    assert!(spilled(&counts).iter().all(|spilled| *spilled));
    // Keys and values are 16 bytes, the index at most 12.5, and two bits.
    let held = counts.state.memory();
    assert!(held <= 200_000 * 13 + 200_000, "{held} bytes");
    assert!(held + 190_000 * 16 <= before, "{held} of {before} bytes");
    assert_eq!(counts.state.spill(&dir, usize::MAX).unwrap(), 0);
}

#[test]
fn state_stays_in_memory_if_spilling_fails() {
    let mut counts = Counts::of(50_000);
    counts.compact();
    let before = counts.state.memory();
    let error = counts.state.spill(Path::new("/proc/nothing"), usize::MAX);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/proc/nothing"), "{error}");
    assert_eq!(counts.state.memory(), before);
    assert_eq!(
        counts
            .state
            .latest(&[column(0..50_000)])
            .unwrap()
            .existing(),
        50_000
    );
}

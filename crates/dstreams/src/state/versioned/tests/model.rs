//! Installs, repeats, deletions, timeouts, compaction, export and restores, in any order, compared with maps that
//! are copied for each version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch, UInt64Array};
use dstreams_control::BatchTime;
use proptest::prelude::*;

use super::rows::{Kind, bits};
use crate::encoding::ByteInput;
use crate::state::versioned::partition::Sizes;
use crate::state::versioned::segment::place;
use crate::state::versioned::{Delta, KeyedPartition};

const KEY_COUNT: u16 = 48;

#[derive(Debug, Clone)]
enum Step {
    Install {
        changed: Vec<(u16, u32, u8)>,
        deleted: Vec<u16>,
        wait: u64,
    },
    /// Deletes (or touches) some expired keys.
    Expire {
        idle: u64,
        touch: bool,
    },
    Repeat,
    Compact {
        back: u64,
        budget: usize,
    },
    Settle,
    /// Spills all rows that may be in files.
    Spill,
    Import,
    /// Restores a snapshot of an older version and the deltas since.
    Restore {
        back: u64,
    },
    /// Restores a checkpoint of an older version and the merged changes since.
    Checkpoint {
        back: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let changed = prop::collection::vec((0..KEY_COUNT, any::<u32>(), 0..9u8), 0..40);
    let deleted = prop::collection::vec(0..KEY_COUNT, 0..12);
    prop_oneof![
        8 => (changed, deleted, 1..3u64)
            .prop_map(|(changed, deleted, wait)| Step::Install { changed, deleted, wait }),
        2 => (0..6u64, any::<bool>()).prop_map(|(idle, touch)| Step::Expire { idle, touch }),
        1 => Just(Step::Repeat),
        4 => (0..6u64, 0..60usize).prop_map(|(back, budget)| Step::Compact { back, budget }),
        1 => Just(Step::Settle),
        2 => Just(Step::Spill),
        1 => Just(Step::Import),
        1 => (0..5u64).prop_map(|back| Step::Restore { back }),
        2 => (0..6usize).prop_map(|back| Step::Checkpoint { back }),
    ]
}

/// A row: its key number, its value, its last event, and the batch and place of its last change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    key: u16,
    value: u32,
    last: u64,
    at: (u64, usize),
}

pub(super) type State = BTreeMap<usize, Row>;

pub(super) struct Model {
    pub(super) kind: Kind,
    pub(super) sizes: Sizes,
    /// The group of each key according to DataFusion.
    groups: Vec<usize>,
    versions: BTreeMap<u64, State>,
    pub(super) deltas: BTreeMap<u64, Delta>,
    pub(super) low: Option<u64>,
    pub(super) state: KeyedPartition,
}

impl Model {
    fn new(kind: Kind, segment: usize, table: usize) -> Self {
        let sizes = Sizes { segment, table };
        Model {
            kind,
            sizes,
            groups: kind.groups(&(0..KEY_COUNT).collect::<Vec<_>>()),
            versions: BTreeMap::new(),
            deltas: BTreeMap::new(),
            low: None,
            state: KeyedPartition::with_sizes(kind.shape(), sizes),
        }
    }

    pub(super) fn newest(&self) -> (u64, State) {
        let newest = self.versions.last_key_value();
        newest.map_or((10, State::new()), |(at, state)| (*at, state.clone()))
    }

    fn at(&self, version: u64) -> State {
        let mut before = self.versions.range(..=version);
        before
            .next_back()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    fn rows(&self, state: &State) -> RecordBatch {
        let mut rows: Vec<_> = state.values().collect();
        rows.sort_by_key(|row| row.at);
        // The stored key: zero without its sign.
        let key = |row: &Row| match (self.kind, row.key) {
            (Kind::Float | Kind::FloatAndNumber, 0) if self.kind == Kind::Float => 1,
            (_, key) => key,
        };
        let rows: Vec<_> = rows.iter().map(|row| (key(row), row.value)).collect();
        self.kind.batch(&rows)
    }

    fn install(&mut self, changed: &[(u16, u32, u8)], deleted: &[u16], wait: u64) {
        let (newest, mut state) = self.newest();
        let batch = newest + wait;
        let mut seen = BTreeSet::new();
        let changed: Vec<_> = changed
            .iter()
            .filter(|row| seen.insert(self.groups[usize::from(row.0)]))
            .collect();
        let deleted: Vec<u16> = deleted
            .iter()
            .copied()
            .filter(|key| seen.insert(self.groups[usize::from(*key)]))
            .collect();
        for (place, (key, value, back)) in changed.iter().enumerate() {
            let row = Row {
                key: *key,
                value: *value,
                last: batch.saturating_sub(u64::from(*back).saturating_sub(4)),
                at: (batch, place),
            };
            state.insert(self.groups[usize::from(*key)], row);
        }
        for key in &deleted {
            state.remove(&self.groups[usize::from(*key)]);
        }
        let last = changed
            .iter()
            .map(|(key, _, _)| state[&self.groups[usize::from(*key)]].last);
        let last = UInt64Array::from_iter_values(last);
        let rows: Vec<_> = changed
            .iter()
            .map(|(key, value, _)| (*key, *value))
            .collect();
        let same = last.values().iter().all(|last| *last == batch);
        let last = (!same).then_some(&last);
        let rows = self.kind.batch(&rows);
        let keys = match deleted.is_empty() {
            true => vec![],
            false => self.kind.keys(&deleted),
        };
        let shape = self.state.shape();
        let mut delta = Delta::new(shape, BatchTime(batch), &rows, last, &keys).unwrap();
        if batch.is_multiple_of(2)
            && let Some(version) = self.state.version()
        {
            delta = delta.on(version);
        }
        let bytes = delta.to_bytes().unwrap();
        let read = Delta::from_bytes(shape, &bytes).unwrap();
        assert_eq!(read.to_bytes().unwrap().len(), bytes.len());
        let installed = match same && keys.is_empty() && batch.is_multiple_of(3) {
            true => {
                let columns = &rows.columns()[..shape.key_columns_len()];
                let found = self.state.latest(columns).unwrap();
                let (delta, newest) = found.delta(BatchTime(batch), &rows).unwrap();
                if let Some(low) = self.low {
                    // Rows may move.
                    self.state.compact(BatchTime(low), usize::MAX).unwrap();
                }
                self.state.install_found(&delta, &newest)
            }
            false => self.state.install(&read),
        };
        assert!(installed.unwrap());
        self.versions.insert(batch, state);
        self.deltas.insert(batch, delta);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Install {
                changed,
                deleted,
                wait,
            } => self.install(changed, deleted, *wait),
            Step::Expire { idle, touch } => {
                let (newest, state) = self.newest();
                let expired = state.values().filter(|row| row.last + idle <= newest);
                let keys: Vec<u16> = expired.map(|row| row.key).collect();
                let rows: Vec<_> = keys.iter().map(|key| (*key, u32::from(*key), 0)).collect();
                match touch {
                    true => self.install(&rows, &[], 1),
                    false => self.install(&[], &keys, 1),
                }
            }
            Step::Repeat => {
                let work = self.state.work();
                for delta in self.deltas.values() {
                    assert!(!self.state.install(delta).unwrap());
                }
                assert_eq!(self.state.work(), work);
            }
            Step::Compact { back, budget } => {
                let low = self.newest().0.saturating_sub(*back);
                let before = self.state.work();
                self.state.compact(BatchTime(low), *budget).unwrap();
                // One segment's rows beyond the budget, each read and some looked up.
                let most = budget + self.sizes.segment * 2 + 40;
                let work = self.state.work() - before;
                assert!(work.rows_written as usize <= most, "{work:?} for {budget}");
                if !self.versions.is_empty() {
                    self.low = self.low.max(Some(low));
                }
            }
            Step::Settle => self.settle(),
            Step::Spill => {
                let before = self.state.memory();
                let less = self.state.spill(&std::env::temp_dir(), usize::MAX).unwrap();
                assert_eq!(self.state.memory(), before - less);
                let full = self.sizes.segment / 2;
                let mut segments = self.state.segments.iter().flatten();
                assert!(segments.all(|it| it.spilled || it.before.is_some() || it.rows() < full));
            }
            Step::Import => {
                let bytes = self.state.export().unwrap();
                let empty = KeyedPartition::with_sizes(self.kind.shape(), self.sizes);
                let imported = empty.filled(&mut ByteInput::of(bytes.clone())).unwrap();
                // `check` compares the rows. Their bytes may differ: bits after the last of a column's nulls are
                // arbitrary, and a few bytes of texts that nothing shows any more are not written again.
                assert!(imported.export().unwrap().len() <= bytes.len());
                self.state = imported;
            }
            Step::Restore { back } => {
                let version = self.newest().0.saturating_sub(*back);
                let Ok(whole) = self.state.snapshot(BatchTime(version)) else {
                    assert!(self.versions.is_empty() || self.low > Some(version));
                    return;
                };
                let mut restored = KeyedPartition::with_sizes(self.kind.shape(), self.sizes);
                let whole = Delta::from_bytes(&self.kind.shape(), &whole.to_bytes().unwrap());
                assert!(restored.install(&whole.unwrap()).unwrap());
                for delta in self.deltas.values() {
                    // A delta based on a version before the snapshot's does not apply to it.
                    if delta.batch() > BatchTime(version) {
                        let mut delta = delta.clone();
                        delta.on = None;
                        restored.install(&delta).unwrap();
                    }
                }
                self.low = self.low.max(Some(version));
                self.state = restored;
            }
            Step::Checkpoint { back } => self.checkpoint(*back),
        }
    }

    /// Compacts until nothing is left to do: then at most as many rows are dead as live.
    fn settle(&mut self) {
        let (newest, state) = self.newest();
        let mut calls = 0;
        while self.state.compact(BatchTime(newest), 7).unwrap() {
            calls += 1;
            assert!(calls < 5_000, "it does not terminate");
        }
        if self.versions.is_empty() {
            return;
        }
        self.low = Some(newest);
        let segments = || self.state.segments.iter().flatten();
        let rows: usize = segments().map(|segment| segment.rows()).sum();
        assert!(rows <= 2 * state.len(), "{rows} rows of {}", state.len());
        assert!(segments().all(|segment| segment.before.is_none() && !segment.deleted));
        // Between two large ones there are fewer than eight of each size.
        let tiers = 1 + self.sizes.segment.ilog(8) as usize;
        let full = 1 + 2 * state.len() / (self.sizes.segment / 2);
        let count = segments().count();
        assert!(count <= (full + 1) * (1 + 7 * tiers), "{count} segments");
    }

    fn check(&self) {
        self.check_caches();
        let (newest, now) = self.newest();
        let version = (!self.versions.is_empty()).then_some(BatchTime(newest));
        assert_eq!(self.state.version(), version);
        assert_eq!(self.state.low(), self.low.map(BatchTime));
        assert_eq!(self.state.len(), now.len());
        if version.is_none() {
            return;
        }
        let first = self.low.unwrap_or(newest.saturating_sub(12));
        for version in first..=newest {
            let state = self.at(version);
            let read = self.state.read(BatchTime(version)).unwrap();
            assert_eq!(
                self.canonical(&read),
                self.canonical(&[self.rows(&state)]),
                "{version}"
            );
            self.check_latest(version, &state);
            if Some(version) != self.low {
                self.check_changes(version);
            }
        }
        assert!(self.state.read(BatchTime(newest + 1)).is_err());
        if let Some(below) = self.low.and_then(|low| low.checked_sub(1)) {
            assert!(self.state.read(BatchTime(below)).is_err());
            assert!(
                self.state
                    .latest_at(&self.kind.keys(&[1]), BatchTime(below))
                    .is_err()
            );
        }
        for until in newest.saturating_sub(6)..=newest {
            let expired = now.iter().filter(|(_, row)| row.last <= until);
            let expired = expired.map(|(group, row)| (*group, row.clone())).collect();
            let read = self.state.expired(BatchTime(until)).unwrap();
            assert_eq!(
                self.canonical(&read),
                self.canonical(&[self.rows(&expired)]),
                "{until}"
            );
        }
    }

    /// The bits of rows, with unsigned zeros in key columns.
    fn canonical(&self, rows: &[RecordBatch]) -> Vec<Vec<u8>> {
        let keys = self.kind.shape().key_columns_len();
        let zero = datafusion::common::utils::normalize_float_zero;
        let rows = rows.iter().map(|rows| {
            let columns = rows.columns().iter().enumerate();
            let columns = columns.map(|(at, column)| match at < keys {
                true => zero(column),
                false => Arc::clone(column),
            });
            RecordBatch::try_new(rows.schema(), columns.collect()).unwrap()
        });
        bits(&rows.collect::<Vec<_>>())
    }

    fn check_latest(&self, version: u64, state: &State) {
        // All keys, some of them twice.
        let keys: Vec<u16> = (0..KEY_COUNT).chain([3, 0]).collect();
        let columns = self.kind.keys(&keys);
        let found = self.state.latest_at(&columns, BatchTime(version)).unwrap();
        let rows: Vec<_> = keys
            .iter()
            .map(|key| state.get(&self.groups[usize::from(*key)]))
            .collect();
        let there = rows.iter().filter(|row| row.is_some()).count();
        assert_eq!((found.len(), found.existing()), (keys.len(), there));
        let last: UInt64Array = rows.iter().map(|row| row.map(|row| row.last)).collect();
        assert_eq!(found.last(), last);
        let mask = found.mask();
        let values: Vec<u32> = rows.iter().flatten().map(|row| row.value).collect();
        let expected = self.kind.value_columns(&values);
        for (column, expected) in found.values().unwrap().iter().zip(&expected) {
            assert!((0..keys.len()).all(|key| found.exists(key) == mask.value(key)));
            assert!((0..keys.len()).all(|key| found.exists(key) == rows[key].is_some()));
            let absent = |key: &usize| !found.exists(*key);
            assert!(
                (0..keys.len())
                    .filter(absent)
                    .all(|key| column.is_null(key))
            );
            let there = datafusion::arrow::compute::filter(column, &mask).unwrap();
            assert_eq!(&there, expected, "{version}");
        }
    }

    fn check_changes(&self, batch: u64) {
        let changes = self.state.changes(BatchTime(batch)).unwrap();
        let Some(delta) = self.deltas.get(&batch) else {
            assert!(changes.is_empty());
            return;
        };
        assert_eq!(changes.len(), delta.len());
        assert_eq!(bits(&changes.rows().unwrap()), bits(&delta.rows().unwrap()));
        assert_eq!(
            bits(&changes.deleted().unwrap()),
            bits(&delta.deleted().unwrap())
        );
        let last = |delta: &Delta| -> Vec<u64> {
            delta
                .last()
                .iter()
                .flat_map(|last| last.values().to_vec())
                .collect()
        };
        assert_eq!(last(&changes), last(delta));
    }

    /// The caches agree with the rows.
    fn check_caches(&self) {
        let state = &self.state;
        let segments = state.segments.iter().enumerate();
        let segments: Vec<_> = segments
            .into_iter()
            .filter_map(|(slot, segment)| Some((slot as u32, segment.as_ref()?)))
            .collect();
        let ages: BTreeMap<_, _> = segments.iter().map(|(slot, s)| (s.age, *slot)).collect();
        assert_eq!(ages, state.ages);
        assert_eq!(segments.len() + state.free.len(), state.segments.len());
        let due = segments
            .iter()
            .filter_map(|(slot, s)| Some((s.due()?, *slot)));
        assert_eq!(due.collect::<BTreeSet<_>>(), state.due);
        let unsettled = segments.iter().filter(|(_, s)| s.before.is_some());
        assert_eq!(unsettled.count(), state.unsettled.len());
        let mut replaced = BTreeSet::new();
        for (_, segment) in &segments {
            for before in segment
                .before
                .iter()
                .flatten()
                .filter(|row| **row != u32::MAX)
            {
                let (slot, row) = place(*before);
                let older = state.segment(slot as u32).unwrap();
                assert!(older.superseded.has(row) && !older.dead.has(row));
                assert!(replaced.insert(*before), "a row is replaced once");
            }
        }
        let mut newest = 0;
        for (slot, segment) in &segments {
            let count =
                |has: &dyn Fn(usize) -> bool| (0..segment.rows()).filter(|row| has(*row)).count();
            assert_eq!(
                count(&|row| segment.superseded.has(row)),
                segment.superseded_rows
            );
            assert_eq!(count(&|row| segment.dead.has(row)), segment.dead_rows);
            let rows =
                (0..segment.rows()).map(|row| crate::state::versioned::segment::number(*slot, row));
            for (row, number) in rows.enumerate() {
                let hash = segment.piece.keys.hash(row);
                let indexed = state.index.find(hash, |found| found == number).is_some();
                assert_eq!(indexed, !segment.superseded.has(row));
                newest += usize::from(indexed);
                let kept = segment.superseded.has(row) && !segment.dead.has(row);
                assert_eq!(
                    kept,
                    replaced.contains(&number),
                    "a replaced row can be found"
                );
            }
        }
        assert_eq!(newest, state.index.len());
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_version_equals_the_model(
        kind in kind(),
        segment in prop::sample::select(&[4usize, 16, 64][..]),
        table in 1..9usize,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut model = Model::new(kind, segment, table);
        for step in &steps {
            model.step(step);
            model.check();
        }
        model.settle();
        model.check();
    }
}

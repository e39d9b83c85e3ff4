//! One partition of the state of one operator: its segments, the index over them, and installing.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dstreams_control::BatchTime;

use super::cost::{Counters, Work};
use super::delta::Delta;
use super::index::Index;
use super::keys::KeyColumns;
use super::lookup::NewestRows;
use super::rows::RowChunk;
use super::segment::{NONE, SEGMENT_ROWS, SLOTS, Segment, number, place};
use super::shape::Shape;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Keys per lookup-then-update pass, sized to stay in L1/L2.
pub(super) const AT_ONCE: usize = 512;

/// Sizes that tests reduce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The most rows of a segment.
    pub segment: usize,
    /// The most rows per table of the index on average: twice as many fit 8,192 buckets.
    pub table: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            segment: SEGMENT_ROWS,
            table: 3_300,
        }
    }
}

/// One partition of one operator's state: the values of each key at each retained version.
///
/// A version is the batch time of the delta that created it. Versions from the low watermark
/// ([`KeyedPartition::compact`] moves it) to the newest are readable; installing newer ones does not change older
/// ones. Nothing here depends on time, threads or files.
///
/// # Costs
///
/// Installing, looking up, expiring and compacting cost as much as the number of keys changed, looked up or
/// expired, not as the size of the state. Each call also has a small cost per segment (4 bytes in
/// [`KeyedPartition::latest`]); a segment has 8,192 keys or more if the state is large.
///
/// An 8-byte key with an 8-byte value takes at most 61 bytes, and 34 to 40 if keys change at random: rows of 24.25
/// bytes (key, value, last event, two bits; less if the last events of a segment are equal), at most as many dead
/// as live ones once compaction has caught up with the low watermark, and 6 to 12.5 bytes of index. Rows of
/// batches above the low watermark take 4 bytes more.
pub struct KeyedPartition {
    pub(super) shape: Arc<Shape>,
    pub(super) sizes: Sizes,
    pub(super) version: Option<BatchTime>,
    pub(super) low: Option<BatchTime>,
    pub(super) segments: Vec<Option<Segment>>,
    pub(super) free: Vec<u32>,
    /// The slots of segments by age.
    pub(super) ages: BTreeMap<u64, u32>,
    next_age: u64,
    pub(super) index: Index,
    /// Segments by the earliest last event among their newest rows.
    pub(super) due: BTreeSet<(BatchTime, u32)>,
    /// Unsettled segments, by batch.
    pub(super) unsettled: VecDeque<u32>,
    /// Slots for compaction to consider.
    pub(super) touched: VecDeque<u32>,
    pub(super) live: usize,
    /// Counts operations that moved rows.
    pub(super) edits: u64,
    pub(super) work: Counters,
}

debug_as!(KeyedPartition);

impl KeyedPartition {
    /// A state without rows and without versions.
    pub fn new(shape: Arc<Shape>) -> Self {
        KeyedPartition::with_sizes(shape, Sizes::default())
    }

    pub(super) fn with_sizes(shape: Arc<Shape>, sizes: Sizes) -> Self {
        KeyedPartition {
            index: Index::new(sizes.table),
            shape,
            sizes,
            version: None,
            low: None,
            segments: Vec::new(),
            free: Vec::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            due: BTreeSet::new(),
            unsettled: VecDeque::new(),
            touched: VecDeque::new(),
            live: 0,
            edits: 0,
            work: Counters::default(),
        }
    }

    /// The columns.
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The newest version; none if nothing was installed.
    pub fn version(&self) -> Option<BatchTime> {
        self.version
    }

    /// The oldest readable version; none if all since the beginning are.
    pub fn low(&self) -> Option<BatchTime> {
        self.low
    }

    /// The number of keys at the newest version.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no key at the newest version.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The total work so far.
    pub fn work(&self) -> Work {
        self.work.total()
    }

    /// Bytes of memory: columns that are not in files, caches and index. Visits each segment, but no rows.
    ///
    /// A column with shared buffers (of a retained delta) counts in full.
    pub fn memory(&self) -> usize {
        let segments = self.segments.iter().flatten().map(Segment::memory);
        let heads = self.segments.capacity() * size_of::<Option<Segment>>();
        // Arrow's own structures, for each column.
        let columns = 256 * self.ages.len() * (1 + self.shape.values_len());
        let slots = 4 * (self.free.capacity() + self.unsettled.capacity());
        let queues = slots + 4 * self.touched.capacity() + 64 * self.ages.len();
        segments.sum::<usize>() + heads + columns + queues + self.index.memory()
    }

    /// Applies the changes of a batch: the only visible mutation. Returns whether it did: a batch that is not
    /// after the newest version is already installed, and changes nothing.
    ///
    /// Costs one lookup per key. A new key costs two more hashes when the index grows, for at most one table of
    /// some thousand keys at once.
    ///
    /// # Errors
    ///
    /// [`Error::Gap`] if the delta builds on another version than the newest, or is full and something was
    /// installed; [`Error::Schema`] if its columns do not match the state, or there are too many segments
    /// (260,000, each of a batch above the low watermark). Nothing changes then.
    pub fn install(&mut self, delta: &Delta) -> Result<bool> {
        self.install_at(delta, None)
    }

    /// The same, without looking up the keys again if nothing has changed since
    /// ([`LookedUpRows::delta`](super::LookedUpRows::delta)).
    ///
    /// # Errors
    ///
    /// Those of [`KeyedPartition::install`].
    pub fn install_found(&mut self, delta: &Delta, newest: &NewestRows) -> Result<bool> {
        self.install_at(delta, newest.rows(self.edits))
    }

    fn install_at(&mut self, delta: &Delta, newest: Option<&[u32]>) -> Result<bool> {
        if self.version.is_some_and(|version| delta.batch <= version) {
            return Ok(false);
        }
        if delta.shape != self.shape {
            return Err(Error::Schema {
                what: format!("changes of batch {} in a state", delta.batch),
                expected: format!("{:?}", self.shape),
                found: format!("{:?}", delta.shape),
            });
        }
        let other = delta.on.is_some() && delta.on != self.version;
        if other || delta.whole && self.version.is_some() {
            return Err(Error::Gap {
                batch: delta.batch,
                on: delta.on,
                version: self.version,
            });
        }
        let entries = self.entries(delta)?;
        let free = SLOTS - (self.segments.len() - self.free.len());
        if entries.len() > free {
            return Err(Error::Schema {
                what: format!("segments of a state for batch {}", delta.batch),
                expected: format!("{free} more at most; release old versions"),
                found: entries.len().to_string(),
            });
        }
        self.edits += 1;
        let mut from = 0;
        for (piece, deleted, hashes) in entries {
            let to = from + hashes.len();
            self.enter(
                delta,
                piece,
                deleted,
                hashes,
                newest.map(|rows| &rows[from..to]),
            );
            from = to;
        }
        self.version = Some(delta.batch);
        if delta.whole {
            self.low = Some(delta.batch);
        }
        Ok(true)
    }

    /// The pieces of a delta, cut to the size of segments, each with its hashes.
    fn entries<'a>(&self, delta: &'a Delta) -> Result<Vec<(RowChunk, bool, &'a [u64])>> {
        let changed = delta.changed.iter().map(|piece| (piece, false));
        let deleted = delta.deleted.iter().map(|piece| (piece, true));
        let mut entries = Vec::new();
        for ((piece, deleted), hashes) in changed.chain(deleted).zip(&delta.hashes) {
            if piece.rows() <= self.sizes.segment {
                entries.push((piece.clone(), deleted, &hashes[..]));
                continue;
            }
            let mut from = 0;
            for hashes in hashes.chunks(self.sizes.segment) {
                entries.push((piece.slice(from, hashes.len())?, deleted, hashes));
                from += hashes.len();
            }
        }
        Ok(entries)
    }

    /// Adds a piece as a segment. `known` are the newest rows of its keys, if they were looked up.
    fn enter(
        &mut self,
        delta: &Delta,
        piece: RowChunk,
        deleted: bool,
        hashes: &[u64],
        known: Option<&[u32]>,
    ) {
        let keys = piece.keys.clone();
        let age = self.next_age;
        self.next_age += 1;
        let segment = Segment::new(delta.batch, age, piece, deleted);
        self.work.wrote(
            segment.rows(),
            segment.rows() * (segment.key_bytes + segment.value_bytes),
        );
        let slot = self.place_segment(segment);
        let mut before = Vec::with_capacity(hashes.len());
        let reads = Reads::default();
        // In passes whose memory stays in the caches.
        for hashes in hashes.chunks(AT_ONCE) {
            let from = before.len();
            match known {
                Some(rows) => {
                    self.index.fetch(hashes);
                    before.extend(&rows[from..from + hashes.len()]);
                }
                None => self.newest(&keys, from, hashes, &mut before),
            }
            for (row, (hash, old)) in (from..).zip(hashes.iter().zip(&before[from..])) {
                let new = number(slot, row);
                if *old == NONE {
                    let segments = &self.segments;
                    self.index
                        .insert(*hash, new, |row| reads.hash(segments, row));
                } else {
                    self.index.replace(*hash, *old, Some(new));
                    self.live -= usize::from(self.supersede(*old));
                }
            }
        }
        self.work.rehashed(reads.rows.get(), reads.bytes.get());
        self.live += if deleted { 0 } else { hashes.len() };
        if delta.whole {
            // There is no earlier version.
            self.touched.push_back(slot);
            return;
        }
        self.unsettled.push_back(slot);
        if let Some(segment) = self.segment_mut(slot) {
            segment.before = Some(before);
        }
    }

    /// Appends the newest row of each key, from the one at `from` on, or [`NONE`].
    ///
    /// Works in passes, each of which waits for several memory accesses at once: if the state is much larger than
    /// the processor's caches, this halves the time.
    pub(super) fn newest(
        &self,
        keys: &KeyColumns,
        from: usize,
        hashes: &[u64],
        newest: &mut Vec<u32>,
    ) {
        let reads = Reads::default();
        let first = newest.len();
        let guesses = hashes.iter().map(|hash| self.index.guess(*hash));
        newest.extend(guesses.map(|guess| guess.unwrap_or(NONE)));
        for ((row, hash), found) in (from..).zip(hashes).zip(&mut newest[first..]) {
            if *found != NONE && !reads.equal(&self.segments, *found, keys, row) {
                let same = |old| reads.equal(&self.segments, old, keys, row);
                *found = self.index.find(*hash, same).unwrap_or(NONE);
            }
        }
        self.work.read(reads.rows.get(), reads.bytes.get());
    }

    /// Marks a row as superseded; returns whether it had values.
    fn supersede(&mut self, old: u32) -> bool {
        let (slot, row) = place(old);
        let Some(segment) = self.segment_mut(slot as u32) else {
            return false;
        };
        let due = segment.due_row() == Some(row);
        let from = due.then(|| segment.due()).flatten();
        segment.supersede(row);
        let (to, deleted) = (due.then(|| segment.due()).flatten(), segment.deleted);
        if from != to {
            self.set_due(slot as u32, from, to);
        }
        !deleted
    }

    pub(super) fn set_due(&mut self, slot: u32, from: Option<BatchTime>, to: Option<BatchTime>) {
        from.map(|from| self.due.remove(&(from, slot)));
        to.map(|to| self.due.insert((to, slot)));
    }

    /// Gives a segment a slot, which exists: see [`KeyedPartition::install`].
    pub(super) fn place_segment(&mut self, segment: Segment) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() as u32 - 1
        });
        self.ages.insert(segment.age, slot);
        self.set_due(slot, None, segment.due());
        self.segments[slot as usize] = Some(segment);
        slot
    }

    pub(super) fn remove_segment(&mut self, slot: u32) {
        if let Some(segment) = self.segments[slot as usize].take() {
            self.ages.remove(&segment.age);
            self.set_due(slot, segment.due(), None);
            self.free.push(slot);
        }
    }

    pub(super) fn segment(&self, slot: u32) -> Option<&Segment> {
        self.segments.get(slot as usize)?.as_ref()
    }

    pub(super) fn segment_mut(&mut self, slot: u32) -> Option<&mut Segment> {
        self.segments.get_mut(slot as usize)?.as_mut()
    }
}

/// Counts rows whose keys are read.
#[derive(Default)]
pub(super) struct Reads {
    pub rows: Cell<usize>,
    pub bytes: Cell<usize>,
}

impl Reads {
    #[inline]
    pub fn count(&self, bytes: usize) {
        self.rows.set(self.rows.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Whether row `old` has the same key as `row` of `keys`.
    #[inline]
    pub fn equal(
        &self,
        segments: &[Option<Segment>],
        old: u32,
        keys: &KeyColumns,
        row: usize,
    ) -> bool {
        let (slot, at) = place(old);
        match &segments[slot] {
            Some(segment) => {
                self.count(segment.key_bytes);
                segment.piece.keys.equal(at, keys, row)
            }
            None => false,
        }
    }

    pub fn hash(&self, segments: &[Option<Segment>], row: u32) -> u64 {
        let (slot, at) = place(row);
        segments[slot].as_ref().map_or(0, |segment| {
            self.count(segment.key_bytes);
            segment.piece.keys.hash(at)
        })
    }
}

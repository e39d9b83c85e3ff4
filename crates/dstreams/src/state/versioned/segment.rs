//! A segment: immutable rows, and what this process knows about them.
//!
//! The rows are those that one batch changed or deleted, or (after compaction) the live rows of several segments.
//! The rest is a cache that can be rebuilt: which rows have a newer one of their key ([`Segment::superseded`]),
//! which of these no readable version needs ([`Segment::dead`]), the older row that each replaced
//! ([`Segment::before`]), and the order in which they expire.

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::buffer::BooleanBuffer;
use dstreams_control::BatchTime;

use super::rows::RowChunk;

/// Bits of a row number for its place in a segment; the others are the segment's slot.
const ROW_BITS: u32 = 14;
/// The most rows of a segment.
pub(super) const SEGMENT_ROWS: usize = 1 << ROW_BITS;
/// The most segments; the last slot is unused, because of [`NONE`].
pub(super) const SLOTS: usize = (1 << (32 - ROW_BITS)) - 1;
/// No row.
pub(super) const NONE: u32 = u32::MAX;

/// The number of a row.
#[inline]
pub(super) fn number(slot: u32, row: usize) -> u32 {
    slot << ROW_BITS | row as u32
}

/// The slot and the place of a row.
#[inline]
pub(super) fn place(number: u32) -> (usize, usize) {
    let row = number & (SEGMENT_ROWS as u32 - 1);
    ((number >> ROW_BITS) as usize, row as usize)
}

/// A set of rows.
#[derive(Debug, Clone)]
pub(super) struct RowSet(Vec<u64>);

impl RowSet {
    pub fn none(rows: usize) -> Self {
        RowSet(vec![0; rows.div_ceil(64)])
    }

    #[inline]
    pub fn has(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    #[inline]
    pub fn add(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    #[inline]
    pub fn remove(&mut self, row: usize) {
        self.0[row / 64] &= !(1 << (row % 64));
    }

    pub fn bytes(&self) -> usize {
        8 * self.0.capacity()
    }
}

#[derive(Debug)]
pub(super) struct Segment {
    /// The rows are visible from this version on. After compaction, it is the newest of their versions, which is
    /// not above the low watermark: no readable version is earlier.
    pub batch: BatchTime,
    /// The rank of the segment by age; its rows are ordered by age too.
    pub age: u64,
    pub piece: RowChunk,
    /// Whether the rows are in a file.
    pub spilled: bool,
    /// Whether the rows are deleted keys.
    pub deleted: bool,
    /// The row that each row replaced, or [`NONE`]; none once no version before this segment's is readable.
    pub before: Option<Vec<u32>>,
    /// Rows that a newer one replaced.
    pub superseded: RowSet,
    pub superseded_rows: usize,
    /// Rows that no readable version needs.
    pub dead: RowSet,
    pub dead_rows: usize,
    /// The average bytes of a key, and of values.
    pub key_bytes: usize,
    pub value_bytes: usize,
    /// The rows in the order in which they are due, unless they already are.
    order: Option<Box<[u16]>>,
    /// The place in that order before which all rows are superseded.
    next: usize,
}

impl Segment {
    pub fn new(batch: BatchTime, age: u64, piece: RowChunk, deleted: bool) -> Self {
        let rows = piece.rows();
        Segment {
            batch,
            age,
            deleted,
            before: None,
            superseded: RowSet::none(rows),
            superseded_rows: 0,
            dead: RowSet::none(rows),
            dead_rows: 0,
            key_bytes: piece.key_bytes().div_ceil(rows.max(1)),
            value_bytes: piece.value_bytes().div_ceil(rows.max(1)),
            order: piece.times.order(rows),
            next: 0,
            piece,
            spilled: false,
        }
    }

    pub fn rows(&self) -> usize {
        self.piece.rows()
    }

    /// The number of rows that readable versions need.
    pub fn kept_rows(&self) -> usize {
        self.rows() - self.dead_rows
    }

    /// A mask of the rows that no newer one replaced.
    pub fn newest(&self) -> BooleanArray {
        let newest = |row| !self.superseded.has(row);
        BooleanArray::new(BooleanBuffer::collect_bool(self.rows(), newest), None)
    }

    /// Whether its rows may be moved: no earlier version is readable, and its deletions are done.
    pub fn is_settled(&self) -> bool {
        self.before.is_none()
    }

    /// Records that a newer row replaced `row`.
    #[inline]
    pub fn supersede(&mut self, row: usize) {
        self.superseded.add(row);
        self.superseded_rows += 1;
        while self.due_row().is_some_and(|row| self.superseded.has(row)) {
            self.next += 1;
        }
    }

    /// The newest row that is due first.
    #[inline]
    pub fn due_row(&self) -> Option<usize> {
        (self.next < self.rows()).then(|| self.in_order(self.next))
    }

    #[inline]
    fn in_order(&self, at: usize) -> usize {
        match &self.order {
            Some(order) => order[at].into(),
            None => at,
        }
    }

    /// When the first of the newest rows is due.
    #[inline]
    pub fn due(&self) -> Option<BatchTime> {
        let row = self.due_row().filter(|_| !self.deleted)?;
        Some(self.piece.times.due(row))
    }

    /// The newest rows that are due at `until` or before, the earliest first.
    ///
    /// Visits these, and superseded rows after the first of them.
    pub fn expired(&self, until: BatchTime) -> impl Iterator<Item = usize> {
        let rows = (self.next..self.rows()).map(|at| self.in_order(at));
        rows.take_while(move |row| self.piece.times.due(*row) <= until)
            .filter(|row| !self.superseded.has(*row))
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let before = self.before.as_ref().map_or(0, |rows| 4 * rows.capacity());
        let order = self.order.as_ref().map_or(0, |rows| 2 * rows.len());
        let sets = self.superseded.bytes() + self.dead.bytes();
        let rows = match self.spilled {
            true => 0,
            false => self.piece.key_bytes() + self.piece.value_bytes(),
        };
        rows + before + order + sets
    }
}

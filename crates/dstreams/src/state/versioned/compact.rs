//! Compaction: reclaims rows that no readable version needs, a slice at a time.
//!
//! It touches only segments below the low watermark, and joins only neighbours by age, so that rows keep their
//! order. A segment is considered when it comes below the watermark, and when half of its rows are dead; never
//! because time passes. Small neighbours of about the same size are joined, eight of them or half a segment's
//! worth: a row is copied once for each power of eight up to the size of a segment. A segment of which half is
//! dead is copied without those rows, which costs one copied row for each dead one. Rows of readable versions are
//! copied too.

use dstreams_control::BatchTime;

use super::partition::{AT_ONCE, KeyedPartition, Reads};
use super::read::copy_rows;
use super::rows::{RowChunk, owned};
use super::segment::{NONE, SLOTS, Segment, number, place};
use crate::error::Result;

/// The number of neighbours of one size that are joined.
const JOIN_FAN: usize = 8;
/// The most segments that are joined at once.
const MAX_JOINED: usize = 4 * JOIN_FAN;

impl KeyedPartition {
    /// Releases versions before `low` (the newest, if that is lower), and then reclaims space: visits about
    /// `budget` rows, plus the excess of the last step (at most 32,768 rows visited and 16,384 copied). Returns
    /// whether there is more to do. Repeated calls terminate; no readable version changes.
    ///
    /// The watermark moves at once, whatever the budget, and never back.
    ///
    /// # Errors
    ///
    /// Those of Arrow (strings of one segment that exceed their offsets); the segments are unchanged then.
    pub fn compact(&mut self, low: BatchTime, budget: usize) -> Result<bool> {
        let Some(version) = self.version else {
            return Ok(false);
        };
        self.low = self.low.max(Some(low.min(version)));
        self.edits += 1;
        let mut done = 0;
        while done < budget {
            if let Some(slot) = self.settles_next() {
                self.unsettled.pop_front();
                done += self.settle(slot);
            } else if let Some(slot) = self.touched.pop_front() {
                done += self.tidy(slot)?;
            } else {
                return Ok(false);
            }
        }
        Ok(self.settles_next().is_some() || !self.touched.is_empty())
    }

    fn settles_next(&self) -> Option<u32> {
        let slot = *self.unsettled.front()?;
        let batch = self.segment(slot)?.batch;
        (Some(batch) <= self.low).then_some(slot)
    }

    /// Settles a segment: no version before it is readable. The rows that it replaced are dead, and so is the
    /// segment itself if it only has deletions.
    fn settle(&mut self, slot: u32) -> usize {
        let Some(segment) = self.segment_mut(slot) else {
            return 0;
        };
        let before = segment.before.take().unwrap_or_default();
        let rows = before.len();
        for number in before.into_iter().filter(|number| *number != NONE) {
            self.mark_dead(number);
        }
        let Some(segment) = self.segment(slot).filter(|segment| segment.deleted) else {
            self.touched.push_back(slot);
            return rows;
        };
        let keys = segment.piece.keys.clone();
        self.work.read(rows, rows * segment.key_bytes);
        for (row, hash) in keys.hashes().into_iter().enumerate() {
            self.repoint(hash, number(slot, row), None);
        }
        self.remove_segment(slot);
        2 * rows
    }

    fn mark_dead(&mut self, old: u32) {
        let (slot, row) = place(old);
        if let Some(segment) = self.segment_mut(slot as u32) {
            let few = 2 * segment.dead_rows < segment.rows();
            segment.dead.add(row);
            segment.dead_rows += 1;
            if few && 2 * segment.dead_rows >= segment.rows() {
                self.touched.push_back(slot as u32);
            }
        }
    }

    /// Replaces the row `from` by `to`, with the same key, where it is referenced: in the index, or as the
    /// predecessor of a newer row. Without `to`, removes the reference.
    fn repoint(&mut self, hash: u64, from: u32, to: Option<u32>) {
        if self.index.replace(hash, from, to) {
            return;
        }
        let (slot, row) = place(from);
        let Some(keys) = self.segment(slot as u32).map(|segment| &segment.piece.keys) else {
            return;
        };
        let reads = Reads::default();
        let newest = self.index.find(hash, |newest| {
            reads.equal(&self.segments, newest, keys, row)
        });
        let mut number = newest.unwrap_or(NONE);
        while number != NONE {
            let (slot, row) = place(number);
            let newer = self.segment_mut(slot as u32);
            let Some(before) = newer.and_then(|newer| newer.before.as_mut()) else {
                break;
            };
            if before[row] == from {
                before[row] = to.unwrap_or(NONE);
                break;
            }
            number = before[row];
        }
        self.work.read(reads.rows.get(), reads.bytes.get());
    }

    /// Joins a segment with its neighbours, or copies its live rows, if that is worth it.
    fn tidy(&mut self, slot: u32) -> Result<usize> {
        let Some(segment) = self.segment(slot).filter(|segment| segment.is_settled()) else {
            return Ok(1);
        };
        let half = 2 * segment.dead_rows >= segment.rows();
        match self.neighbours(slot, segment) {
            run if run.len() > 1 => self.join(&run),
            _ if half => self.join(&[slot]),
            _ => Ok(1),
        }
    }

    /// The segment with the neighbours to join, by age; alone if there are too few.
    fn neighbours(&self, slot: u32, segment: &Segment) -> Vec<u32> {
        let full = self.sizes.segment / 2;
        let mut rows = segment.kept_rows();
        let tier = tier_of(rows);
        let mut run = vec![slot];
        if rows >= full {
            return run;
        }
        let mut take = |run: &mut Vec<u32>, slot: u32| {
            let Some(next) = self.segment(slot).filter(|next| next.is_settled()) else {
                return false;
            };
            let more = next.kept_rows();
            let fits = more < full && tier_of(more) <= tier && run.len() < MAX_JOINED;
            let fits = fits && rows + more <= self.sizes.segment;
            if fits {
                rows += more;
                run.push(slot);
            }
            fits
        };
        let older = self.ages.range(..segment.age).rev();
        for (_, slot) in older {
            if !take(&mut run, *slot) {
                break;
            }
        }
        run.reverse();
        for (_, slot) in self.ages.range(segment.age + 1..) {
            if !take(&mut run, *slot) {
                break;
            }
        }
        match run.len() >= JOIN_FAN || rows >= full {
            true => run,
            false => vec![slot],
        }
    }

    /// Copies the live rows of some neighbours into one segment, in their place.
    fn join(&mut self, run: &[u32]) -> Result<usize> {
        let segments: Vec<&Segment> = run.iter().filter_map(|slot| self.segment(*slot)).collect();
        let looked: usize = segments.iter().map(|segment| segment.rows()).sum();
        let mut at = Vec::new();
        for (source, segment) in segments.iter().enumerate() {
            let kept = (0..segment.rows()).filter(|row| !segment.dead.has(*row));
            at.extend(kept.map(|row| (source, row)));
        }
        let Some(age) = segments
            .first()
            .map(|first| first.age)
            .filter(|_| !at.is_empty())
        else {
            run.iter().for_each(|slot| self.remove_segment(*slot));
            return Ok(looked);
        };
        if self.segments.len() >= SLOTS && self.free.is_empty() {
            return Ok(1);
        }
        let piece = copy_rows(&self.shape, &segments, &at)?;
        let values = piece.values.iter().map(owned).collect::<Result<_>>()?;
        let keys = piece.keys.clone();
        let keys = super::keys::KeyColumns::new(owned(keys.array())?)?;
        let piece = RowChunk {
            keys,
            values,
            times: piece.times,
        };
        let batch = segments.iter().map(|segment| segment.batch).max();
        let mut joined = Segment::new(batch.unwrap_or(BatchTime(0)), age, piece, false);
        for (row, (source, old)) in at.iter().enumerate() {
            if segments[*source].superseded.has(*old) {
                joined.supersede(row);
            }
        }
        let bytes = segments
            .iter()
            .map(|s| s.rows() * (s.key_bytes + s.value_bytes));
        self.work.read(looked, bytes.sum());
        let row_bytes = joined.key_bytes + joined.value_bytes;
        self.work.wrote(at.len(), at.len() * row_bytes);
        let hashes = joined.piece.keys.hashes();
        // The joined segment takes the first one's place among the ages.
        let slot = self.place_segment(joined);
        for (from, hashes) in (0..).step_by(AT_ONCE).zip(hashes.chunks(AT_ONCE)) {
            self.index.fetch(hashes);
            for ((row, hash), (source, old)) in (from..).zip(hashes).zip(&at[from..]) {
                self.repoint(*hash, number(run[*source], *old), Some(number(slot, row)));
            }
        }
        run.iter().for_each(|slot| self.remove_segment(*slot));
        self.ages.insert(age, slot);
        self.touched.push_back(slot);
        Ok(looked)
    }
}

/// The power of [`JOIN_FAN`] of a number of rows.
fn tier_of(rows: usize) -> u32 {
    rows.max(1).ilog(JOIN_FAN)
}

//! Consistent copies of a state for a checkpoint while batches continue: the full state, or the merged changes of
//! several batches.
//!
//! Creating one costs as much as there are segments, or deltas; another thread may write it.

use std::sync::Arc;

use dstreams_control::BatchTime;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::delta::Delta;
use super::partition::KeyedPartition;
use super::rows::{MaskedRows, RowChunk};
use super::shape::Shape;
use super::transfer::{DELTA, Rows};
use crate::encoding::ByteOutput;
use crate::error::Result;

/// The full partition as of its newest version. Later installs do not change it.
#[derive(Debug)]
pub struct Frozen {
    shape: Arc<Shape>,
    version: BatchTime,
    /// Rows by age, with masks of those that are the newest of their keys.
    pieces: Vec<MaskedRows>,
}

impl KeyedPartition {
    /// The partition as of its newest version; none if nothing was installed.
    ///
    /// Costs one bit per row, and shares the rows.
    pub fn freeze(&self) -> Option<Frozen> {
        let segments = self.ages.values().filter_map(|slot| self.segment(*slot));
        let rows = segments.filter(|segment| !segment.deleted);
        Some(Frozen {
            shape: Arc::clone(&self.shape),
            version: self.version?,
            pieces: rows
                .map(|segment| MaskedRows {
                    piece: segment.piece.clone(),
                    rows: Some(segment.newest()),
                })
                .collect(),
        })
    }
}

impl Frozen {
    /// Writes it in the format of [`Delta::read`].
    pub fn write(self, to: &mut ByteOutput<'_>) -> Result<()> {
        let rows = Rows {
            shape: self.shape,
            of: (self.version, None, true),
            changed: self.pieces,
            deleted: Vec::new(),
        };
        rows.write(to)
    }
}

/// The changes of several consecutive deltas merged: the final state of each key.
///
/// Installed on version `on`, it gives the same rows in the same order. There must be at least one delta.
pub fn merged(on: Option<BatchTime>, deltas: &[Delta]) -> Result<Rows> {
    let Some(last) = deltas.last() else {
        return Err(DELTA.wrong("there are no deltas"));
    };
    let newest = newest(deltas);
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    for (delta, newest) in deltas.iter().zip(newest) {
        for (at, (piece, newest)) in delta.pieces().zip(newest).enumerate() {
            let shown = MaskedRows {
                piece: piece.clone(),
                rows: Some(newest.into()),
            };
            match at < delta.changed.len() {
                true => changed.push(shown),
                false => deleted.push(shown),
            }
        }
    }
    Ok(Rows {
        shape: Arc::clone(&last.shape),
        of: (last.batch, on, false),
        changed,
        deleted,
    })
}

/// For each piece of each delta, a mask of the keys that are in no later delta.
fn newest(deltas: &[Delta]) -> Vec<Vec<Vec<bool>>> {
    let rows = deltas
        .iter()
        .map(|delta| delta.hashes.iter().map(Vec::len).sum::<usize>());
    let mut seen: HashTable<(usize, usize, usize)> =
        HashTable::with_capacity(rows.max().unwrap_or(0));
    let pieces: Vec<Vec<&RowChunk>> = deltas
        .iter()
        .map(|delta| delta.pieces().collect())
        .collect();
    let hash_of = |at: &(usize, usize, usize)| deltas[at.0].hashes[at.1][at.2];
    let mut newest = Vec::with_capacity(deltas.len());
    for (number, delta) in deltas.iter().enumerate().rev() {
        let of_delta = delta.hashes.iter().enumerate().map(|(piece, hashes)| {
            let of_piece = hashes.iter().enumerate().map(|(row, hash)| {
                let keys = &pieces[number][piece].keys;
                let same =
                    |at: &(usize, usize, usize)| pieces[at.0][at.1].keys.equal(at.2, keys, row);
                match seen.entry(*hash, same, hash_of) {
                    Entry::Vacant(entry) => {
                        entry.insert((number, piece, row));
                        true
                    }
                    Entry::Occupied(_) => false,
                }
            });
            of_piece.collect()
        });
        newest.push(of_delta.collect());
    }
    newest.reverse();
    newest
}

//! The encoding of a partition of a history: a table of its pieces, then the rows of all in one stream.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use dstreams_control::BatchTime;

use super::event_time::Released;
use super::{HistoryPartition, Piece};
use crate::encoding::{ByteInput, ByteOutput, FrameFormat, each_batch, encode_in_parts, length_of};
use crate::error::Result;
use crate::plan::HistorySpec;
use crate::state::capture::Content;
use crate::state::encoding::wrong;

/// A part of a checkpoint: all pieces, or those of the batches since the part before.
const HISTORY: FrameFormat = FrameFormat {
    what: "a partition of a history",
    magic: *b"dstr-hst",
    version: 1,
};

/// The latest credible batch time: adding a length to it does not overflow.
const MAX_BATCH_TIME: u64 = u64::MAX / 4;

/// Pieces of a partition, which they share with it.
#[derive(Debug)]
pub struct HistorySnapshot {
    spec: Arc<HistorySpec>,
    version: Option<BatchTime>,
    released: Released,
    pub(super) pieces: Vec<Arc<Piece>>,
}

impl HistorySnapshot {
    /// Writes the pieces. Only some of their rows are copied at a time.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.put_bytes(self.spec.contents().as_bytes())?;
        to.put_number(self.version.map_or(0, BatchTime::millis))?;
        to.put_number(self.released.before as u64)?;
        to.put_number(self.released.now as u64)?;
        to.put_number(self.pieces.len() as u64)?;
        for piece in &self.pieces {
            to.put_number(piece.interval as u64)?;
            to.put_number(piece.batch.millis())?;
            to.put_number(piece.rows.num_rows() as u64)?;
        }
        let encode = |each: &mut dyn FnMut(&[u8]) -> Result<()>| {
            let rows = self.pieces.iter();
            let rows = rows.map(|piece| Ok((piece.rows.clone(), None)));
            encode_in_parts(&self.spec.schema, rows, each)
        };
        to.put_number(length_of(encode)?)?;
        encode(&mut |bytes| to.put(bytes))
    }

    /// The same as a part of a checkpoint.
    pub fn write_sealed(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.begin(&HISTORY)?;
        self.write(to)?;
        to.seal()
    }

    fn read(spec: Arc<HistorySpec>, from: &mut ByteInput<'_>) -> Result<Self> {
        let (theirs, ours) = (from.text()?, spec.contents());
        if theirs != ours {
            return Err(wrong(format!(
                "they are a history of {theirs}, this program has one of {ours}"
            )));
        }
        let version = Some(BatchTime(from.number()?)).filter(|version| version.millis() > 0);
        let released = Released {
            before: from.number()? as i64,
            now: from.number()? as i64,
        };
        let mut table = Vec::new();
        for _ in 0..from.number()? {
            let (interval, batch) = (from.number()? as i64, BatchTime(from.number()?));
            if Some(batch) > version || batch.millis() > MAX_BATCH_TIME {
                return Err(wrong(format!("rows of batch {batch} in {version:?}")));
            }
            table.push((interval, batch, from.number()?));
        }
        let pieces = from.part(|from| rows_of(&spec, &table, from))?;
        Ok(HistorySnapshot {
            spec,
            version,
            released,
            pieces,
        })
    }
}

/// The pieces with these intervals, batches and numbers of rows.
fn rows_of(
    spec: &HistorySpec,
    table: &[(i64, BatchTime, u64)],
    from: &mut ByteInput<'_>,
) -> Result<Vec<Arc<Piece>>> {
    let mut missing: VecDeque<_> = table.iter().copied().collect();
    // The rows so far of the first piece that is missing.
    let (mut pieces, mut some) = (Vec::new(), Vec::new());
    let schemas = std::slice::from_ref(&spec.schema);
    each_batch(
        "rows of a history",
        from,
        schemas,
        |mut rows: RecordBatch| {
            while rows.num_rows() > 0 {
                let Some((interval, batch, lacks)) = missing.front_mut() else {
                    return Err(wrong("there are rows of no batch"));
                };
                let (interval, batch) = (*interval, *batch);
                let taken = rows
                    .num_rows()
                    .min((*lacks).try_into().unwrap_or(usize::MAX));
                some.push(rows.slice(0, taken));
                rows = rows.slice(taken, rows.num_rows() - taken);
                *lacks -= taken as u64;
                if *lacks > 0 {
                    continue;
                }
                missing.pop_front();
                let rows = concat_batches(&spec.schema, &std::mem::take(&mut some))?;
                pieces.push(Arc::new(Piece {
                    interval,
                    batch,
                    rows,
                }));
            }
            Ok(())
        },
    )?;
    match missing.is_empty() {
        true => Ok(pieces),
        false => Err(wrong("rows of a batch are missing")),
    }
}

impl HistoryPartition {
    fn snapshot_of(&self, pieces: Vec<Arc<Piece>>) -> HistorySnapshot {
        HistorySnapshot {
            spec: self.spec(),
            version: self.version,
            released: self.released,
            pieces,
        }
    }

    /// A snapshot of the state, which shares its rows.
    pub fn snapshot(&self) -> HistorySnapshot {
        self.snapshot_of(self.pieces.values().flatten().cloned().collect())
    }

    /// The exported partition.
    pub fn import(spec: Arc<HistorySpec>, from: &mut ByteInput<'_>) -> Result<Self> {
        let mut history = HistoryPartition::new(Arc::clone(&spec));
        history.take_in(HistorySnapshot::read(spec, from)?);
        Ok(history)
    }

    fn take_in(&mut self, snapshot: HistorySnapshot) {
        snapshot
            .pieces
            .into_iter()
            .for_each(|piece| self.add(piece));
        self.version = self.version.max(snapshot.version);
        self.released = snapshot.released;
        if let Some(version) = self.version {
            self.evict(version);
        }
    }

    /// The pieces after version `since`, if that is known; else all.
    pub fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        let version = self.version?;
        if let Some(changes) = since.and_then(|since| self.changes.since(since)) {
            let pieces = self.snapshot_of(changes.iter().flatten().cloned().collect());
            return (!changes.is_empty()).then_some((since, Content::History(pieces)));
        }
        self.changes.begin(version);
        Some((None, Content::History(self.snapshot())))
    }

    /// A checkpoint of `batch` is complete.
    pub fn checkpointed(&mut self, batch: BatchTime) {
        if let Some(version) = self.version {
            self.changes.checkpointed(batch, version);
        }
    }

    /// Restores a captured part: a full one, or an incremental one that follows the current version.
    pub fn restore(&mut self, whole: bool, from: &mut ByteInput<'_>) -> Result<()> {
        from.open(&HISTORY)?;
        let snapshot = HistorySnapshot::read(self.spec(), from)?;
        from.close()?;
        if whole {
            *self = HistoryPartition::new(self.spec());
        }
        self.take_in(snapshot);
        Ok(())
    }
}

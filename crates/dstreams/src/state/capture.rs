//! [`Captured`]: the state of one partition for a checkpoint, captured between two batches.

use std::sync::Arc;

use dstreams_control::BatchTime;

use super::history::HistorySnapshot;
use super::versioned::{Delta, Frozen, merged};
use super::window::WindowSnapshot;
use crate::encoding::{ByteInput, ByteOutput, FrameFormat};
use crate::error::Result;

/// A full window.
pub(super) const WINDOW: FrameFormat = FrameFormat {
    what: "a partition of a window",
    magic: *b"dstr-wst",
    version: 1,
};

/// Changes of a window.
const PANES: FrameFormat = FrameFormat {
    what: "what batches added to a window",
    magic: *b"dstr-wch",
    version: 1,
};

/// One partition of one state as of a batch, for a checkpoint. Cheap to take; another thread may encode it.
#[derive(Debug)]
pub struct Captured {
    /// The number of the state.
    pub state: usize,
    /// The version after it.
    pub version: BatchTime,
    /// The version on which it builds; none if it is full.
    pub on: Option<BatchTime>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A full window.
    Window(WindowSnapshot),
    /// Batches and the bytes of their partial results.
    Panes(Vec<(BatchTime, Arc<[u8]>)>),
    /// A full keyed state.
    Keyed(Frozen),
    Deltas(Vec<Delta>),
    /// The pieces of a history, or those that batches added.
    History(HistorySnapshot),
}

impl Captured {
    /// A capture with these bytes.
    #[cfg(test)]
    pub(crate) fn of_bytes(state: usize, version: BatchTime, bytes: Vec<u8>) -> Self {
        Captured {
            state,
            version,
            on: None,
            content: Content::Panes(vec![(version, bytes.into())]),
        }
    }

    /// Writes one part of a checkpoint. Only some of its rows are copied at a time.
    pub fn write(self, to: &mut ByteOutput<'_>) -> Result<()> {
        match self.content {
            Content::Window(window) => window.write_sealed(to),
            Content::Panes(panes) => write_panes(&panes, to),
            Content::Keyed(frozen) => frozen.write(to),
            Content::History(pieces) => pieces.write_sealed(to),
            Content::Deltas(deltas) => merged(self.on, &deltas)?.write(to),
        }
    }
}

fn write_panes(panes: &[(BatchTime, Arc<[u8]>)], to: &mut ByteOutput<'_>) -> Result<()> {
    to.begin(&PANES)?;
    to.put_number(panes.len() as u64)?;
    for (batch, rows) in panes {
        to.put_number(batch.millis())?;
        to.put_bytes(rows)?;
    }
    to.seal()
}

/// Calls `each` with each batch and the rows it added, as an Arrow IPC stream.
pub(super) fn panes(
    from: &mut ByteInput<'_>,
    mut each: impl FnMut(BatchTime, &mut ByteInput<'_>) -> Result<()>,
) -> Result<()> {
    from.open(&PANES)?;
    for _ in 0..from.number()? {
        let batch = BatchTime(from.number()?);
        from.part(|from| each(batch, from))?;
    }
    from.close()
}

//! [`Captured`]: what a checkpoint writes of one partition of one state, taken between two batches.

use std::sync::Arc;

use dstreams_control::BatchTime;

use super::versioned::{Delta, Frozen, merged};
use super::window::WindowSnapshot;
use crate::encoding::{ByteInput, ByteOutput, FrameFormat};
use crate::error::Result;

/// All of a window.
pub(super) const WINDOW: FrameFormat = FrameFormat {
    what: "a partition of a window",
    magic: *b"dstr-wst",
    version: 1,
};

/// What batches added to a window.
const PANES: FrameFormat = FrameFormat {
    what: "what batches added to a window",
    magic: *b"dstr-wch",
    version: 1,
};

/// One partition of one state as of a batch, for a checkpoint.
/// Cheap to take; making bytes of it can be left to another thread.
#[derive(Debug)]
pub struct Captured {
    /// The number of the state.
    pub state: usize,
    /// The version it leads to.
    pub version: BatchTime,
    /// The version it goes on from; none where it is all there is.
    pub on: Option<BatchTime>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A whole window.
    Window(WindowSnapshot),
    /// Batches and the bytes of their partial results.
    Panes(Vec<(BatchTime, Arc<[u8]>)>),
    /// A whole keyed state.
    Keyed(Frozen),
    Deltas(Vec<Delta>),
}

impl Captured {
    /// With these bytes in it.
    #[cfg(test)]
    pub(crate) fn of_bytes(state: usize, version: BatchTime, bytes: Vec<u8>) -> Self {
        Captured {
            state,
            version,
            on: None,
            content: Content::Panes(vec![(version, bytes.into())]),
        }
    }

    /// Writes the bytes of it: one part of a checkpoint. Some of its rows are in memory once more, however many it has.
    pub fn write(self, to: &mut ByteOutput<'_>) -> Result<()> {
        match self.content {
            Content::Window(window) => window.write_sealed(to),
            Content::Panes(panes) => write_panes(&panes, to),
            Content::Keyed(frozen) => frozen.write(to),
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

/// Batches, and what each added, as an Arrow IPC stream.
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

//! [`Captured`]: what a checkpoint writes of one partition of one state, taken between two batches.

use std::sync::Arc;

use dstreams_control::BatchTime;

use super::bytes::{Reader, put_bytes, put_number};
use super::keyed::{Delta, Frozen, merged};
use crate::error::Result;
use crate::replicate::Format;

/// All of a window.
pub(super) const WINDOW: Format = Format {
    what: "a partition of a window",
    magic: *b"dstr-wst",
    version: 1,
};

/// What batches added to a window.
const PANES: Format = Format {
    what: "what batches added to a window",
    magic: *b"dstr-wch",
    version: 1,
};

/// See the module. Cheap to take; making bytes of it can be left to another thread.
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
    /// A whole window, as bytes.
    Window(Vec<u8>),
    /// Batches and the bytes of their partial results.
    Panes(Vec<(BatchTime, Arc<[u8]>)>),
    /// A whole keyed state.
    Keyed(Frozen),
    Deltas(Vec<Delta>),
}

impl Captured {
    /// A whole window with these bytes.
    #[cfg(test)]
    pub(crate) fn of_window(state: usize, version: BatchTime, bytes: Vec<u8>) -> Self {
        Captured {
            state,
            version,
            on: None,
            content: Content::Window(bytes),
        }
    }

    /// The bytes: one part of a checkpoint.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self.content {
            Content::Window(bytes) => Ok(bytes),
            Content::Panes(panes) => Ok(panes_to_bytes(&panes)),
            Content::Keyed(frozen) => frozen.to_bytes(),
            Content::Deltas(deltas) => merged(self.on, &deltas),
        }
    }
}

fn panes_to_bytes(panes: &[(BatchTime, Arc<[u8]>)]) -> Vec<u8> {
    let mut bytes = PANES.begin(panes.iter().map(|(_, rows)| 16 + rows.len()).sum());
    put_number(&mut bytes, panes.len() as u64);
    for (batch, rows) in panes {
        put_number(&mut bytes, batch.0);
        put_bytes(&mut bytes, rows);
    }
    PANES.seal(bytes)
}

/// Batches, and the bytes of what each added.
pub(super) fn panes(bytes: &[u8]) -> Result<Vec<(BatchTime, &[u8])>> {
    let mut from = Reader(PANES.open(bytes)?);
    let mut panes = Vec::new();
    for _ in 0..from.number()? {
        panes.push((BatchTime(from.number()?), from.bytes()?));
    }
    from.end()?;
    Ok(panes)
}

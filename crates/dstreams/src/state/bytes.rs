//! The bytes of a partition's states.

use crate::error::Error;
use crate::replicate::Format;

/// The bytes of a partition's state.
pub(super) const STATE: Format = Format {
    what: "a partition's states",
    magic: *b"dstr-win",
    version: 1,
};

pub(super) fn wrong(message: impl Into<String>) -> Error {
    STATE.wrong(message)
}

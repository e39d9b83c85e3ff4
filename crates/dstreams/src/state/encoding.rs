//! The encoding of a partition's states.

use crate::encoding::FrameFormat;
use crate::error::Error;

/// The format of a partition's states.
pub(super) const STATE: FrameFormat = FrameFormat {
    what: "a partition's states",
    magic: *b"dstr-win",
    version: 1,
};

pub(super) fn wrong(message: impl Into<String>) -> Error {
    STATE.wrong(message)
}

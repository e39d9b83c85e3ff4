//! [`JournalEntry`]: the entries of a journal, and their bytes.

use dstreams_control::{BatchTime, BlockId, ReceiverId};
use serde::{Deserialize, Serialize};

use crate::encoding::ByteChunks;
use crate::error::{Error, Result};

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JournalEntry {
    /// The first entry of each file of a program's journal.
    Opening(Box<Opening>),
    /// A process began to write: the n-th of this directory. Earlier programs wrote it instead of an `Opening`.
    Opened { incarnation: u64 },
    /// A block of an input was received. Its bytes are those of `Block::to_pieces`; the entry's checksum covers
    /// them.
    Block { input: u32, bytes: ByteChunks },
    /// The same with a checksum of its own (`Block::to_bytes`). Earlier programs wrote it.
    SealedBlock { input: u32, bytes: ByteChunks },
    /// The blocks of a batch, and the batch before it if intervals in between were skipped.
    Cut {
        batch: BatchTime,
        after: Option<BatchTime>,
        blocks: Vec<BlockId>,
    },
    /// The records of a batch are set aside; it takes effect without them.
    SetAside { batch: BatchTime },
    /// A batch is about to take effect.
    Committing { batch: BatchTime },
    /// A batch has taken effect.
    Committed { batch: BatchTime },
    /// A receiver was lost with its worker. These of its blocks survive.
    ReceiverLost {
        receiver: ReceiverId,
        blocks: Vec<BlockId>,
    },
}

/// The process that writes a file, and what the next one needs to resume after it. A program that does not match
/// is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// The process is the n-th of this directory.
    pub incarnation: u64,
    /// A random name of this directory; its checkpoints have it too.
    pub directory: String,
    /// The batch interval.
    pub interval_ms: u64,
    /// Name and columns of each input.
    pub inputs: Vec<String>,
    /// The place of checkpoints, for messages.
    pub checkpoints: String,
    /// The number of the checkpoint that covers everything removed from this journal; none if nothing was removed.
    pub checkpoint: Option<u64>,
    /// The names of states with times that must not change, and these times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<(String, String)>,
}

const OPENED: u8 = 1;
const SEALED_BLOCK: u8 = 2;
/// With 32-bit receivers, like `RECEIVER_LOST_1`. Earlier programs wrote both.
const CUT_1: u8 = 3;
const COMMITTED: u8 = 4;
const RECEIVER_LOST_1: u8 = 5;
const BLOCK: u8 = 6;
const OPENING: u8 = 7;
const CUT: u8 = 8;
const RECEIVER_LOST: u8 = 9;
const SET_ASIDE: u8 = 10;
const COMMITTING: u8 = 11;
/// With the batch before it.
const CUT_AFTER: u8 = 12;

impl JournalEntry {
    /// Its bytes.
    pub fn to_pieces(&self) -> ByteChunks {
        let mut to = Vec::new();
        match self {
            JournalEntry::Opening(opening) => {
                to.push(OPENING);
                // Numbers and strings always serialize; the reader would refuse anything else.
                to.extend(serde_json::to_vec(opening).unwrap_or_default());
            }
            JournalEntry::Opened { incarnation } => {
                to.push(OPENED);
                to.extend(incarnation.to_le_bytes());
            }
            JournalEntry::Block { input, bytes } | JournalEntry::SealedBlock { input, bytes } => {
                to.push(match self {
                    JournalEntry::Block { .. } => BLOCK,
                    _ => SEALED_BLOCK,
                });
                to.extend(input.to_le_bytes());
                let mut pieces = ByteChunks::from(to);
                pieces.append(bytes.clone());
                return pieces;
            }
            JournalEntry::Cut {
                batch,
                after,
                blocks,
            } => {
                to.push(match after {
                    Some(_) => CUT_AFTER,
                    None => CUT,
                });
                to.extend(batch.millis().to_le_bytes());
                to.extend(after.iter().flat_map(|after| after.millis().to_le_bytes()));
                put_ids(blocks, &mut to);
            }
            JournalEntry::SetAside { batch }
            | JournalEntry::Committing { batch }
            | JournalEntry::Committed { batch } => {
                to.push(match self {
                    JournalEntry::SetAside { .. } => SET_ASIDE,
                    JournalEntry::Committing { .. } => COMMITTING,
                    _ => COMMITTED,
                });
                to.extend(batch.millis().to_le_bytes());
            }
            JournalEntry::ReceiverLost { receiver, blocks } => {
                to.push(RECEIVER_LOST);
                to.extend(receiver.0.to_le_bytes());
                put_ids(blocks, &mut to);
            }
        }
        ByteChunks::from(to)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (kind, rest) = bytes.split_first().ok_or_else(|| wrong("it is empty"))?;
        Ok(match *kind {
            OPENING => JournalEntry::Opening(
                serde_json::from_slice(rest).map_err(|error| wrong(error.to_string()))?,
            ),
            OPENED => JournalEntry::Opened {
                incarnation: number(rest)?.0,
            },
            BLOCK | SEALED_BLOCK => {
                let (input, bytes) = rest
                    .split_first_chunk()
                    .ok_or_else(|| wrong("it ends too early"))?;
                let (input, bytes) = (u32::from_le_bytes(*input), bytes.to_vec().into());
                match *kind {
                    BLOCK => JournalEntry::Block { input, bytes },
                    _ => JournalEntry::SealedBlock { input, bytes },
                }
            }
            CUT | CUT_1 => {
                let (batch, rest) = number(rest)?;
                JournalEntry::Cut {
                    batch: BatchTime(batch),
                    after: None,
                    blocks: block_ids(rest, *kind == CUT)?,
                }
            }
            CUT_AFTER => {
                let (batch, rest) = number(rest)?;
                let (after, rest) = number(rest)?;
                JournalEntry::Cut {
                    batch: BatchTime(batch),
                    after: Some(BatchTime(after)),
                    blocks: block_ids(rest, true)?,
                }
            }
            SET_ASIDE => JournalEntry::SetAside {
                batch: BatchTime(number(rest)?.0),
            },
            COMMITTING => JournalEntry::Committing {
                batch: BatchTime(number(rest)?.0),
            },
            COMMITTED => JournalEntry::Committed {
                batch: BatchTime(number(rest)?.0),
            },
            RECEIVER_LOST | RECEIVER_LOST_1 => {
                let (receiver, rest) = receiver(rest, *kind == RECEIVER_LOST)?;
                let blocks = block_ids(rest, *kind == RECEIVER_LOST)?;
                JournalEntry::ReceiverLost { receiver, blocks }
            }
            other => {
                return Err(wrong(format!(
                    "its kind is {other}: a newer program wrote it"
                )));
            }
        })
    }
}

fn put_ids(blocks: &[BlockId], to: &mut Vec<u8>) {
    for block in blocks {
        to.extend(block.receiver.0.to_le_bytes());
        to.extend(block.seq.to_le_bytes());
    }
}

fn block_ids(mut bytes: &[u8], is_wide: bool) -> Result<Vec<BlockId>> {
    let mut ids = Vec::with_capacity(bytes.len() / 12);
    while !bytes.is_empty() {
        let (receiver, rest) = receiver(bytes, is_wide)?;
        let (seq, rest) = number(rest)?;
        ids.push(BlockId { receiver, seq });
        bytes = rest;
    }
    Ok(ids)
}

fn receiver(bytes: &[u8], is_wide: bool) -> Result<(ReceiverId, &[u8])> {
    if is_wide {
        let (receiver, rest) = number(bytes)?;
        return Ok((ReceiverId(receiver), rest));
    }
    let split = bytes.split_first_chunk();
    let (receiver, rest) = split.ok_or_else(|| wrong("it ends too early"))?;
    let receiver = u64::from(u32::from_le_bytes(*receiver));
    Ok((ReceiverId(receiver), rest))
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let split = bytes.split_first_chunk();
    let (number, rest) = split.ok_or_else(|| wrong("it ends too early"))?;
    Ok((u64::from_le_bytes(*number), rest))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::Bytes {
        what: "an entry of a journal".into(),
        message: message.into(),
    }
}

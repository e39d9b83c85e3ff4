//! [`Entry`]: what a journal has entries of, and its bytes.

use dstreams_control::{BatchTime, BlockId, ReceiverId};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::replicate::Pieces;

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// What each file of a program's journal begins with.
    Opening(Box<Opening>),
    /// A process began to write: the n-th of this directory. Earlier programs wrote it, in place of an `Opening`.
    Opened { incarnation: u64 },
    /// A block was received, of an input; its bytes are those of `Block::to_pieces`: the entry's checksum is theirs.
    Block { input: u32, bytes: Pieces },
    /// The same with a checksum of its own (`Block::to_bytes`): earlier programs wrote it.
    SealedBlock { input: u32, bytes: Pieces },
    /// A batch has these blocks.
    Cut {
        batch: BatchTime,
        blocks: Vec<BlockId>,
    },
    /// A batch has taken effect.
    Committed { batch: BatchTime },
    /// A receiver was lost with its worker: these blocks of it survive.
    Gone {
        receiver: ReceiverId,
        blocks: Vec<BlockId>,
    },
}

/// Which process writes a file, and what another one needs to go on after it: without that it is refused.
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
    /// Where checkpoints are, for messages.
    pub checkpoints: String,
    /// The number of the checkpoint that has all that is not in this journal any more; none where it has all there was.
    pub checkpoint: Option<u64>,
}

const OPENED: u8 = 1;
const SEALED_BLOCK: u8 = 2;
const CUT: u8 = 3;
const COMMITTED: u8 = 4;
const GONE: u8 = 5;
const BLOCK: u8 = 6;
const OPENING: u8 = 7;

impl Entry {
    /// Its bytes.
    pub fn to_pieces(&self) -> Pieces {
        let mut to = Vec::new();
        match self {
            Entry::Opening(opening) => {
                to.push(OPENING);
                // Numbers and texts are always JSON; bytes that were not would be refused by who reads them.
                to.extend(serde_json::to_vec(opening).unwrap_or_default());
            }
            Entry::Opened { incarnation } => {
                to.push(OPENED);
                to.extend(incarnation.to_le_bytes());
            }
            Entry::Block { input, bytes } | Entry::SealedBlock { input, bytes } => {
                to.push(match self {
                    Entry::Block { .. } => BLOCK,
                    _ => SEALED_BLOCK,
                });
                to.extend(input.to_le_bytes());
                let mut pieces = Pieces::from(to);
                pieces.append(bytes.clone());
                return pieces;
            }
            Entry::Cut { batch, blocks } => {
                to.push(CUT);
                to.extend(batch.0.to_le_bytes());
                put_ids(blocks, &mut to);
            }
            Entry::Committed { batch } => {
                to.push(COMMITTED);
                to.extend(batch.0.to_le_bytes());
            }
            Entry::Gone { receiver, blocks } => {
                to.push(GONE);
                to.extend(receiver.0.to_le_bytes());
                put_ids(blocks, &mut to);
            }
        }
        Pieces::from(to)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (kind, rest) = bytes.split_first().ok_or_else(|| wrong("it is empty"))?;
        Ok(match *kind {
            OPENING => Entry::Opening(
                serde_json::from_slice(rest).map_err(|error| wrong(error.to_string()))?,
            ),
            OPENED => Entry::Opened {
                incarnation: number(rest)?.0,
            },
            BLOCK | SEALED_BLOCK => {
                let (input, bytes) = rest
                    .split_first_chunk()
                    .ok_or_else(|| wrong("it ends too early"))?;
                let (input, bytes) = (u32::from_le_bytes(*input), bytes.to_vec().into());
                match *kind {
                    BLOCK => Entry::Block { input, bytes },
                    _ => Entry::SealedBlock { input, bytes },
                }
            }
            CUT => {
                let (batch, rest) = number(rest)?;
                Entry::Cut {
                    batch: BatchTime(batch),
                    blocks: block_ids(rest)?,
                }
            }
            COMMITTED => Entry::Committed {
                batch: BatchTime(number(rest)?.0),
            },
            GONE => {
                let (receiver, rest) = rest
                    .split_first_chunk()
                    .ok_or_else(|| wrong("it ends too early"))?;
                Entry::Gone {
                    receiver: ReceiverId(u32::from_le_bytes(*receiver)),
                    blocks: block_ids(rest)?,
                }
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

fn block_ids(bytes: &[u8]) -> Result<Vec<BlockId>> {
    let (ids, rest) = bytes.as_chunks::<12>();
    if !rest.is_empty() {
        return Err(wrong("it ends within a block's name"));
    }
    let id = |id: &[u8; 12]| {
        let (mut receiver, mut seq) = ([0; 4], [0; 8]);
        receiver.copy_from_slice(&id[..4]);
        seq.copy_from_slice(&id[4..]);
        BlockId {
            receiver: ReceiverId(u32::from_le_bytes(receiver)),
            seq: u64::from_le_bytes(seq),
        }
    };
    Ok(ids.iter().map(id).collect())
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

//! The footer of a Parquet file, which locates everything else, and the checks before it is decoded.
//!
//! It is encoded in Thrift's compact protocol. The Parquet reader allocates memory for as many row groups as the
//! footer claims before it reads any: a few damaged bytes could ask for hundreds of gigabytes, which ends the
//! process. So the claim is checked first.

use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{FooterTail, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::chunks::Chunks;

/// Bytes after the footer: its length, and the magic bytes of the format.
const TAIL_BYTES: u64 = 8;
/// The Parquet reader accepts no more.
const MAX_ROW_GROUPS: u64 = 1 << 15;
/// The field of the footer that contains the row groups.
const ROW_GROUPS_FIELD: i64 = 4;
/// Maximum nesting of structures in a footer: Parquet has about six levels.
const MAX_DEPTH: usize = 32;

/// Reads and decodes the footer of a file.
pub(super) fn read(file: &Chunks) -> Result<ArrowReaderMetadata> {
    let wrong = |message: String| Err(ParquetError::General(message));
    let Some(end) = file.len().checked_sub(TAIL_BYTES) else {
        return wrong("it has no footer: it is too short".into());
    };
    let tail = file.get_bytes(end, TAIL_BYTES as usize)?;
    let tail = tail.first_chunk().ok_or(ParquetError::NeedMoreData(8))?;
    let tail = FooterTail::try_new(tail)?;
    if tail.is_encrypted_footer() {
        return wrong("its footer is encrypted, which is not read".into());
    }
    let bytes = tail.metadata_length();
    let Some(start) = end.checked_sub(bytes as u64) else {
        return wrong(format!(
            "its footer has {bytes} bytes by its length, and the file has fewer"
        ));
    };
    let footer = file.get_bytes(start, bytes)?;
    match row_groups(&footer) {
        Some(groups) if groups <= MAX_ROW_GROUPS => {}
        Some(groups) => return wrong(format!("its footer claims {groups} row groups")),
        None => return wrong("its footer cannot be read".into()),
    }
    let metadata = Arc::new(ParquetMetaDataReader::decode_metadata(&footer)?);
    ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())
}

/// The number of row groups that a footer claims; `None` if it is cut off.
fn row_groups(footer: &[u8]) -> Option<u64> {
    let (mut rest, mut id) = (Compact(footer), 0);
    while let Some(kind) = rest.field(&mut id)? {
        if id == ROW_GROUPS_FIELD && kind == LIST {
            return Some(rest.list()?.0);
        }
        rest.skip(kind, MAX_DEPTH)?;
    }
    Some(0)
}

const LIST: u8 = 9;

/// A reader of Thrift's compact protocol.
struct Compact<'a>(&'a [u8]);

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(number);
            }
        }
        None
    }

    fn skip_bytes(&mut self, bytes: u64) -> Option<()> {
        let (_, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(())
    }

    /// The kind of the next field of a structure; `Some(None)` at its end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = match head >> 4 {
            0 => self
                .number()
                .map(|id| (id >> 1) as i64 ^ -((id & 1) as i64))?,
            more => id.checked_add(i64::from(more))?,
        };
        Some(Some(head & 15))
    }

    /// Number and kind of the items of a list.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let items = match head >> 4 {
            15 => self.number()?,
            items => u64::from(items),
        };
        Some((items, head & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // A boolean field has its value in its kind.
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.number().map(drop),
            7 => self.skip_bytes(8),
            8 => {
                let bytes = self.number()?;
                self.skip_bytes(bytes)
            }
            LIST | 10 => {
                let (items, kind) = self.list()?;
                for _ in 0..items {
                    match kind {
                        1 | 2 => self.skip_bytes(1)?,
                        kind => self.skip(kind, depth)?,
                    }
                }
                Some(())
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            // Parquet uses no others.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_groups_are_counted_without_decoding_the_footer() {
        // Version; a list of two structures, one of them empty; rows; row groups.
        let begin = [
            0x15, 2, 0x19, 0x2c, 0x15, 4, 0x18, 2, b'a', b'b', 0, 0, 0x16, 200, 1, 0x19,
        ];
        let of = |end: &[u8]| row_groups(&[&begin, end].concat());
        assert_eq!(of(&[0x3c]), Some(3));
        assert_eq!(
            of(&[0xfc, 0xff, 0xff, 0xff, 0xff, 7]),
            Some(i32::MAX as u64)
        );
        assert_eq!(of(&[]), None);
        assert_eq!(row_groups(&begin[..9]), None);
        assert_eq!(row_groups(&[0]), Some(0));
        assert_eq!(row_groups(&[0x19, 0xfc, 0xff, 0xff, 0x7f, 0]), None);
        assert_eq!(row_groups(&[0x1c; 1000]), None, "levels");
    }
}

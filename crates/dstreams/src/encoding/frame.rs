//! The frame of bytes that leave the process: their kind, their version, and a checksum.
//!
//! A magic of 8 bytes, the version as a `u32`, the body, and `xxh3_64` of everything before it. Numbers are
//! little-endian, here and in the bodies.

use xxhash_rust::xxh3::xxh3_64;

use crate::encoding::ByteChunks;
use crate::error::{Error, Result};

/// Bytes before the body.
const HEAD_BYTES: usize = 12;
/// Bytes after it.
const TAIL_BYTES: usize = 8;

/// A kind of bytes.
pub(crate) struct FrameFormat {
    /// For messages.
    pub what: &'static str,
    pub magic: [u8; 8],
    pub version: u32,
}

impl FrameFormat {
    /// Bytes to which a body of about `expected` bytes is appended.
    pub fn begin(&self, expected: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + expected + TAIL_BYTES);
        bytes.extend(self.magic);
        bytes.extend(self.version.to_le_bytes());
        bytes
    }

    /// Completes a frame from [`FrameFormat::begin`].
    pub fn seal(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// The same for bytes in chunks.
    pub fn seal_pieces(&self, pieces: &ByteChunks) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(pieces.len() + TAIL_BYTES);
        pieces.iter().for_each(|piece| bytes.extend(piece));
        self.seal(bytes)
    }

    /// The body of sealed bytes.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        // Checks the kind first: other kinds have another end.
        self.open_unsealed(bytes)?;
        match bytes.split_last_chunk() {
            Some((sealed, sum))
                if sealed.len() >= HEAD_BYTES && xxh3_64(sealed) == u64::from_le_bytes(*sum) =>
            {
                Ok(&sealed[HEAD_BYTES..])
            }
            _ => Err(self.wrong("they are damaged: their checksum does not match")),
        }
    }

    /// The body of a frame without a checksum.
    pub fn open_unsealed<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let Some(rest) = bytes.strip_prefix(&self.magic) else {
            return Err(self.wrong("their first bytes are wrong"));
        };
        // I14 (ARCHITECTURE.md).
        let Some((version, body)) = rest.split_first_chunk() else {
            return Err(self.wrong("they end too early"));
        };
        match u32::from_le_bytes(*version) {
            version if version == self.version => Ok(body),
            version => {
                let ours = self.version;
                Err(self.wrong(format!(
                    "they have format {version}, and this program reads format {ours}"
                )))
            }
        }
    }

    /// An error about these bytes.
    pub fn wrong(&self, message: impl Into<String>) -> Error {
        Error::Bytes {
            what: self.what.to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: FrameFormat = FrameFormat {
        what: "a test",
        magic: *b"dstr-tst",
        version: 3,
    };

    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = FORMAT.begin(body.len());
        bytes.extend(body);
        FORMAT.seal(bytes)
    }

    #[test]
    fn sealed_bytes_can_be_opened() {
        for body in [&b""[..], b"x", b"some longer body"] {
            assert_eq!(FORMAT.open(&sealed(body)).unwrap(), body);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut bytes = sealed(b"some body");
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FORMAT.open(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(FORMAT.open(&bytes).is_ok());
    }

    #[test]
    fn bytes_that_are_cut_or_extended_are_refused() {
        let bytes = sealed(b"some body");
        for end in 0..bytes.len() {
            assert!(FORMAT.open(&bytes[..end]).is_err(), "{end} bytes");
        }
        assert!(FORMAT.open(&[&bytes[..], b"x"].concat()).is_err());
    }

    /// The last byte of the version as the first of the checksum: one magic in 256 makes that possible.
    #[test]
    fn head_and_sum_do_not_overlap() {
        let short = (0u64..).find_map(|magic| {
            let mut bytes = magic.to_le_bytes().to_vec();
            bytes.extend(&3u32.to_le_bytes()[..3]);
            let sum = xxh3_64(&bytes).to_le_bytes();
            bytes.extend(sum);
            (sum[0] == 0).then_some(bytes)
        });
        let short = short.unwrap();
        let magic = *short.first_chunk().unwrap();
        let error = FrameFormat { magic, ..FORMAT }.open(&short).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn bytes_of_another_kind_are_refused() {
        let magic = *b"dstr-oth";
        let bytes = sealed(b"some body");
        let error = FrameFormat { magic, ..FORMAT }.open(&bytes).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("first bytes are wrong"), "{error}");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sealed(b"some body");
        bytes[8] = 4;
        let error = FORMAT.open(&bytes).unwrap_err().to_string();
        assert!(error.contains("format 4"), "{error}");
        assert!(error.contains("format 3"), "{error}");
    }
}

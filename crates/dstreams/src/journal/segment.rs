//! One file of a journal: a header, then consecutive entries.
//!
//! Header: magic, version, number of the file, length of the file before it, checksum. Entry: magic, length
//! of the body, bytes of this file that were synced when it was written, its own place, `xxh3_64` of these
//! three, the number of the file and the body; then the body. Numbers are little-endian.

use memchr::memmem;
use xxhash_rust::xxh3::Xxh3;

use crate::encoding::{ByteChunks, FrameFormat};

const HEADER: FrameFormat = FrameFormat {
    what: "a journal",
    magic: *b"dstr-jrn",
    version: 1,
};
/// Bytes of the header of a file.
pub(super) const HEADER_BYTES: u64 = 12 + 16 + 8;
const MAGIC: [u8; 4] = *b"\xD5jr\n";
const HEAD: usize = 4 + 4 + 8 + 8 + 8;

/// The name of a journal file.
pub(super) fn name(number: u64) -> String {
    format!("journal-{number:010}.log")
}

/// The number in the name of a journal file; none for other files.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal-")?.strip_suffix(".log")?;
    digits.parse().ok()
}

/// The header of a journal file.
pub(super) fn header(number: u64, before: u64) -> Vec<u8> {
    let mut bytes = HEADER.begin(16);
    bytes.extend(number.to_le_bytes());
    bytes.extend(before.to_le_bytes());
    HEADER.seal(bytes)
}

/// Reads a header: the number of the file, and the length of the one before.
pub(super) fn open(bytes: &[u8]) -> crate::Result<(u64, u64)> {
    let header = bytes.get(..HEADER_BYTES as usize);
    let body = HEADER.open(header.ok_or_else(|| HEADER.wrong("it ends within its header"))?)?;
    let (number, before) = body.split_at(8);
    Ok((u64_of(number), u64_of(before)))
}

/// The header of an entry with these bytes that will be written at `at`. An entry too long for the length field is
/// an error; the limit on received data is far lower.
pub(super) fn head(number: u64, at: u64, synced: u64, body: &ByteChunks) -> crate::Result<Vec<u8>> {
    let length = u32::try_from(body.len()).map_err(|_| {
        let bytes = body.len();
        HEADER.wrong(format!("an entry of {bytes} bytes exceeds 4 GiB"))
    })?;
    let length = length.to_le_bytes();
    let (synced, place) = (synced.to_le_bytes(), at.to_le_bytes());
    let sum = checksum(number, [&length, &synced, &place], body.iter());
    let parts: [&[u8]; 5] = [&MAGIC, &length, &synced, &place, &sum.to_le_bytes()];
    Ok(parts.concat())
}

fn checksum<'a>(number: u64, head: [&[u8]; 3], body: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&number.to_le_bytes());
    head.iter().for_each(|part| sum.update(part));
    body.for_each(|part| sum.update(part));
    sum.digest()
}

/// An entry found in a file.
struct EntryLocation<'a> {
    body: &'a [u8],
    synced: u64,
    end: usize,
}

/// The entry at `at`, if it is complete and its checksum matches.
fn entry(bytes: &[u8], number: u64, at: usize) -> Option<EntryLocation<'_>> {
    let head = bytes.get(at..at.checked_add(HEAD)?)?;
    let length = head.get(4..8)?;
    let end = at + HEAD + u32::from_le_bytes(length.try_into().ok()?) as usize;
    let body = bytes.get(at + HEAD..end)?;
    let (synced, place) = (head.get(8..16)?, head.get(16..24)?);
    let sum = checksum(number, [length, synced, place], std::iter::once(body));
    let right = head.starts_with(&MAGIC) && u64_of(&head[24..]) == sum;
    (right && u64_of(place) == at as u64).then(|| EntryLocation {
        body,
        synced: u64_of(synced),
        end,
    })
}

/// How the entries of a file end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentEnd {
    /// At the end of the file.
    Complete,
    /// Here; the rest was never synced.
    Torn(u64),
    /// Damage here, and after it an entry which shows that this place had been synced.
    Damaged(u64),
}

/// Calls `each` with each entry of a file, and its place there.
pub(super) fn scan(bytes: &[u8], number: u64, mut each: impl FnMut(usize, &[u8])) -> SegmentEnd {
    let mut at = HEADER_BYTES as usize;
    while at < bytes.len() {
        let Some(found) = entry(bytes, number, at) else {
            let later = memmem::find_iter(&bytes[at + 1..], &MAGIC).map(|next| at + 1 + next);
            let mut later = later.filter_map(|next| entry(bytes, number, next));
            return match later.any(|later| later.synced > at as u64) {
                true => SegmentEnd::Damaged(at as u64),
                false => SegmentEnd::Torn(at as u64),
            };
        };
        if !found.body.is_empty() {
            each(at + HEAD, found.body);
        }
        at = found.end;
    }
    SegmentEnd::Complete
}

fn u64_of(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

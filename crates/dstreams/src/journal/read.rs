//! Reading a journal: to recover after a crash, or to inspect it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::entry::{JournalEntry, Opening};
use super::lock::{Owner, random_name};
use super::segment::{self, SegmentEnd};
use super::sync::sync_dir;
use crate::encoding::FrameFormat;
use crate::error::{Error, Result};

/// The journal found in a directory.
#[derive(Debug, Default)]
pub(crate) struct JournalContents {
    /// The entries, in order, each with the number of its file.
    pub entries: Vec<(u64, JournalEntry)>,
    /// The number of the first file.
    pub first: Option<u64>,
    /// The number of the last file, and its length.
    pub last: Option<(u64, u64)>,
    /// The length of the file before the last.
    pub before_last: u64,
    /// Bytes at the end that were never synced and have been cut off.
    pub torn: u64,
    /// A last file with half a header, which an earlier program has left.
    half: Option<PathBuf>,
    /// The valid length of each file.
    lengths: JournalLengths,
}

/// By number of the file.
type JournalLengths = BTreeMap<u64, u64>;

/// The file with the valid lengths of a journal to which a lost process may still write.
const LENGTHS: &str = "lengths";
const LENGTHS_FORMAT: FrameFormat = FrameFormat {
    what: "the lengths of a journal",
    magic: *b"dstr-len",
    version: 1,
};

/// Where the bytes of an entry are in a journal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryPlace {
    /// The number of its file.
    pub file: u64,
    at: u64,
    length: usize,
}

/// A visitor of the entries of a journal.
type Each<'e> = &'e mut dyn FnMut(EntryPlace, JournalEntry) -> Result<()>;

/// The changes that reading makes to the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repair {
    /// Changes nothing.
    No,
    /// Syncs them.
    Sync,
    /// Also cuts off a torn end.
    Cut,
}

/// A last file of at most this size is rewritten; a longer one is followed by another.
const MAX_REWRITTEN_BYTES: u64 = 1 << 20;

impl JournalContents {
    /// The opening of the newest file; none if an earlier program wrote it.
    pub fn opening(&self) -> Option<&Opening> {
        let mut entries = self.entries.iter().rev();
        entries.find_map(|(_, entry)| match entry {
            JournalEntry::Opening(opening) => Some(&**opening),
            _ => None,
        })
    }

    /// A new file in which the journal resumes. The former process may still write to the last one.
    pub fn follow(&self) -> NextSegment {
        let Some((last, length)) = self.last else {
            return NextSegment::default();
        };
        NextSegment {
            number: last + 1,
            before: length,
            again: None,
        }
    }

    /// The file in which the journal resumes. A short last file is rewritten, so that short-lived processes do not leave a
    /// file each.
    pub fn next(&self) -> NextSegment {
        let Some((last, length)) = self.last else {
            return NextSegment::default();
        };
        if length > MAX_REWRITTEN_BYTES {
            return self.follow();
        }
        let begins = |entry: &JournalEntry| matches!(entry, JournalEntry::Opening(_));
        let of_last = self.entries.iter().filter(|(file, _)| *file == last);
        let entries = of_last.map(|(_, entry)| entry);
        NextSegment {
            number: last,
            before: self.before_last,
            again: Some(entries.filter(|entry| !begins(entry)).cloned().collect()),
        }
    }
}

/// The file in which a journal resumes.
#[derive(Debug)]
pub(crate) struct NextSegment {
    pub(super) number: u64,
    /// The length of the file before it.
    pub(super) before: u64,
    /// The entries of the file of this number that it replaces.
    pub(super) again: Option<Vec<JournalEntry>>,
}

impl Default for NextSegment {
    /// The first file of a directory.
    fn default() -> Self {
        NextSegment {
            number: 1,
            before: 0,
            again: None,
        }
    }
}

/// Reads the journal of a directory, which may have none, and cuts off a torn end. The rest is on disk when this
/// returns: a killed process may have written it without syncing it.
pub(crate) fn read(dir: &Path) -> Result<JournalContents> {
    read_files(dir, Repair::Cut, None)
}

/// Does the same where a former process may still run: what it writes late, a later file declares void, so nothing is cut
/// off. The caller must still own the directory afterwards, and continue with [`JournalContents::follow`].
pub(crate) fn read_shared(dir: &Path, owner: &Owner) -> Result<JournalContents> {
    let found = read_files(dir, Repair::Sync, None)?;
    if let Some(half) = &found.half {
        owner.check()?;
        std::fs::remove_file(half).map_err(|error| Error::file("remove", half, error))?;
    }
    Ok(found)
}

/// The same without changing anything: another process may be writing. Of a journal that was taken away, its
/// contents at that time.
pub(crate) fn look(dir: &Path) -> Result<JournalContents> {
    read_files(dir, Repair::No, lengths(dir)?)
}

/// Reads a journal that was taken away from a process that may still be running and writing to its files. Stores
/// the valid length of each file once, durably, so that every later read has the same entries.
pub(crate) fn read_taken(dir: &Path) -> Result<JournalContents> {
    collect(|each| take_each(dir, each))
}

/// Does the same for a visitor, which gets one entry at a time. At most one file is in memory.
pub(crate) fn read_each_taken(dir: &Path, each: Each<'_>) -> Result<()> {
    take_each(dir, each).map(drop)
}

/// Like [`look`], for a visitor, which gets one entry at a time. At most one file is in memory.
pub(crate) fn look_at_each(dir: &Path, each: Each<'_>) -> Result<()> {
    scan_files(dir, Repair::No, lengths(dir)?, Some(each)).map(drop)
}

/// One entry, of which the checksum was verified when its place was found.
pub(crate) fn read_entry(dir: &Path, place: EntryPlace) -> Result<JournalEntry> {
    let path = dir.join(segment::name(place.file));
    let mut bytes = vec![0; place.length];
    let mut read = || {
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(place.at))?;
        file.read_exact(&mut bytes)
    };
    read().map_err(|error| Error::file("read", &path, error))?;
    JournalEntry::from_bytes(&bytes).map_err(|error| damaged(&path, place.at, &error.to_string()))
}

fn take_each(dir: &Path, each: Each<'_>) -> Result<JournalContents> {
    if let Some(lengths) = lengths(dir)? {
        return scan_files(dir, Repair::No, Some(lengths), Some(each));
    }
    let found = scan_files(dir, Repair::Sync, None, None)?;
    let path = dir.join(LENGTHS);
    let hidden = dir.join(format!(".{LENGTHS}.{}.tmp", random_name()));
    let mut bytes = LENGTHS_FORMAT.begin(0);
    let json = serde_json::to_writer(&mut bytes, &found.lengths);
    json.map_err(|error| LENGTHS_FORMAT.wrong(error.to_string()))?;
    let write = || {
        let mut file = File::create(&hidden)?;
        file.write_all(&LENGTHS_FORMAT.seal(bytes))?;
        file.sync_all()?;
        // Unlike a rename, a link replaces nothing: a former process that takes the same journal late has no say.
        match std::fs::hard_link(&hidden, &path) {
            Ok(()) => std::fs::remove_file(&hidden),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => std::fs::remove_file(&hidden),
            // A file system without hard links.
            Err(_) => std::fs::rename(&hidden, &path),
        }
    };
    write().map_err(|error| Error::file("write", &path, error))?;
    sync_dir(dir)?;
    scan_files(dir, Repair::No, lengths(dir)?, Some(each))
}

fn lengths(dir: &Path) -> Result<Option<JournalLengths>> {
    let path = dir.join(LENGTHS);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", &path, error)),
    };
    let lengths = LENGTHS_FORMAT.open(&bytes).and_then(|json| {
        let lengths = serde_json::from_slice(json);
        lengths.map_err(|error| LENGTHS_FORMAT.wrong(error.to_string()))
    });
    lengths
        .map(Some)
        .map_err(|error| damaged(&path, 0, &error.to_string()))
}

fn read_files(
    dir: &Path,
    repair: Repair,
    lengths: Option<JournalLengths>,
) -> Result<JournalContents> {
    collect(|each| scan_files(dir, repair, lengths, Some(each)))
}

/// The contents with all entries.
fn collect(scan: impl FnOnce(Each<'_>) -> Result<JournalContents>) -> Result<JournalContents> {
    let mut entries = Vec::new();
    let found = scan(&mut |place, entry| {
        entries.push((place.file, entry));
        Ok(())
    })?;
    Ok(JournalContents { entries, ..found })
}

/// Reads the files of a journal, one after the other; the entries are not in what it returns. Without a visitor they are
/// not decoded.
fn scan_files(
    dir: &Path,
    repair: Repair,
    lengths: Option<JournalLengths>,
    mut each: Option<Each<'_>>,
) -> Result<JournalContents> {
    let mut found = JournalContents::default();
    let mut files = files(dir)?;
    if let Some(lengths) = &lengths {
        files.retain(|(number, _)| lengths.contains_key(number));
        let there = |number: &u64| files.iter().any(|(file, _)| file == number);
        if let Some(number) = lengths.keys().find(|number| !there(number)) {
            return Err(damaged(&dir.join(segment::name(*number)), 0, "it is gone"));
        }
    }
    if let Some((_, path)) = files.last()
        && is_half(path)
    {
        let bytes = std::fs::metadata(path).map(|found| found.len());
        found.torn += bytes.map_err(|error| Error::file("read", path, error))?;
        if repair == Repair::Cut {
            std::fs::remove_file(path).map_err(|error| Error::file("remove", path, error))?;
        } else {
            found.half = Some(path.clone());
        }
        files.pop();
    }
    if lengths.is_none() {
        leave_out_late(&mut files)?;
    }
    let last = files.last().map(|(number, _)| *number);
    for (at, (number, path)) in files.iter().enumerate() {
        let number = *number;
        let mut bytes = std::fs::read(path).map_err(|error| Error::file("read", path, error))?;
        // Bytes that a fenced process wrote after another had taken the directory were never acknowledged.
        if let Some((_, next)) = files.get(at + 1)
            && let Some((of, length)) = header_of(next)
            && of == number + 1
        {
            bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        if let Some(length) = lengths.as_ref().and_then(|lengths| lengths.get(&number)) {
            if (bytes.len() as u64) < *length {
                let text = format!("it had {length} bytes, and has {}", bytes.len());
                return Err(damaged(path, bytes.len() as u64, &text));
            }
            bytes.truncate(usize::try_from(*length).unwrap_or(usize::MAX));
        }
        let is_last = Some(number) == last;
        let header = segment::open(&bytes);
        let (is, before) = header.map_err(|error| damaged(path, 0, &error.to_string()))?;
        if is != number {
            return Err(damaged(path, 0, &format!("it is file {is} by its header")));
        }
        if let Some((previous, length)) = found.last
            && (previous + 1, length) != (number, before)
        {
            let text = format!("file {previous} before it has {length} bytes; it had {before}");
            return Err(damaged(path, 0, &text));
        }
        let mut taken = Ok(());
        let end = segment::scan(&bytes, number, |at, body| {
            if let Some(each) = &mut each
                && taken.is_ok()
            {
                let place = EntryPlace {
                    file: number,
                    at: at as u64,
                    length: body.len(),
                };
                let entry = JournalEntry::from_bytes(body);
                let entry = entry.map_err(|error| damaged(path, 0, &error.to_string()));
                taken = entry.and_then(|entry| each(place, entry));
            }
        });
        taken?;
        let length = match end {
            SegmentEnd::Complete => {
                if repair != Repair::No && is_last {
                    // A killed process may not have synced it, and the next one relies on every entry.
                    sync(path)?;
                }
                bytes.len() as u64
            }
            SegmentEnd::Torn(at) if is_last => {
                match repair {
                    Repair::No => {}
                    Repair::Sync => sync(path)?,
                    Repair::Cut => cut(path, at)?,
                }
                found.torn += bytes.len() as u64 - at;
                at
            }
            SegmentEnd::Torn(at) | SegmentEnd::Damaged(at) => {
                return Err(damaged(path, at, "an entry does not match its checksum"));
            }
        };
        found.first.get_or_insert(number);
        found.before_last = before;
        found.last = Some((number, length));
        found.lengths.insert(number, length);
    }
    Ok(found)
}

/// Whether a file ends within its header: an earlier program was killed while it made the file. It has no entries.
fn is_half(path: &Path) -> bool {
    let length = std::fs::metadata(path).map(|found| found.len());
    length.is_ok_and(|length| length <= segment::HEADER_BYTES) && header_of(path).is_none()
}

/// A process that lost the directory may have made its next file when a later one had removed that number: files before a
/// gap do not count if a checkpoint covers them, as the first file after it says, and it is of a later process.
fn leave_out_late(files: &mut Vec<(u64, PathBuf)>) -> Result<()> {
    let gap = (1..files.len()).rfind(|at| files[*at].0 != files[*at - 1].0 + 1);
    let Some(gap) = gap else {
        return Ok(());
    };
    let [before, after] = [gap - 1, gap].map(|at| opening_of(&files[at].1));
    if let (Some(before), Some(after)) = (before?, after?)
        && after.checkpoint.is_some()
        && before.incarnation < after.incarnation
    {
        files.drain(..gap);
    }
    Ok(())
}

/// The opening of a file, if it begins with one.
fn opening_of(path: &Path) -> Result<Option<Opening>> {
    let bytes = std::fs::read(path).map_err(|error| Error::file("read", path, error))?;
    let Ok((number, _)) = segment::open(&bytes) else {
        return Ok(None);
    };
    let mut first = None;
    segment::scan(&bytes, number, |_, body| {
        first.get_or_insert_with(|| JournalEntry::from_bytes(body));
    });
    Ok(match first {
        Some(Ok(JournalEntry::Opening(opening))) => Some(*opening),
        _ => None,
    })
}

/// The number of a file and the length of the one before it, if its header is readable.
fn header_of(path: &Path) -> Option<(u64, u64)> {
    let mut header = [0; segment::HEADER_BYTES as usize];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .ok()?;
    segment::open(&header).ok()
}

/// The files of a journal, in order.
pub(super) fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::file("read", dir, error))? {
        let entry = entry.map_err(|error| Error::file("read", dir, error))?;
        let number = entry.file_name().to_str().and_then(segment::number);
        files.extend(number.map(|number| (number, entry.path())));
    }
    files.sort();
    Ok(files)
}

fn sync(path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.sync_all())
        .map_err(|error| Error::file("sync", path, error))
}

fn cut(path: &Path, length: u64) -> Result<()> {
    let file = File::options().write(true).open(path);
    let file = file.map_err(|error| Error::file("open", path, error))?;
    file.set_len(length)
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::file("cut", path, error))
}

fn damaged(path: &Path, at: u64, what: &str) -> Error {
    Error::Bytes {
        what: format!("{} at byte {at}", path.display()),
        message: format!(
            "{what}; entries after this place cannot be trusted: restore the file from a copy, \
             or remove the journal to resume from the last checkpoint without later records"
        ),
    }
}

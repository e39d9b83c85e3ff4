//! [`SegmentFile`]: appends bytes to a file; large runs bypass the page cache.
//!
//! A journal is hardly ever read while it is written, so large runs go straight to the disk where the file system
//! supports it. Such writes must be whole pages, in memory and in the file; the bytes before and after them are
//! written the usual way.

use std::fs::{File, OpenOptions};
use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;

/// Direct writes begin and end at multiples of this.
const PAGE: usize = 4096;
/// The most bytes that are buffered.
const BUFFER_BYTES: usize = 1 << 20;
/// The smallest direct write.
const MIN_DIRECT_BYTES: usize = 64 << 10;

/// An append-only file that bypasses the page cache where the system allows it.
pub(super) struct SegmentFile {
    file: File,
    /// The same file, for whole pages.
    direct: Option<File>,
    /// The buffer. Bytes lie at the same place within a page as in the file.
    buffer: Vec<u8>,
    /// The offset of its first page.
    first_page: usize,
    /// Bytes of the file that have been written.
    written: u64,
    /// Buffered bytes after these.
    buffered: usize,
}

impl SegmentFile {
    /// A new file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path)?;
        let buffer = vec![0; BUFFER_BYTES + PAGE];
        Ok(SegmentFile {
            file,
            direct: direct(path),
            first_page: buffer.as_ptr().align_offset(PAGE).min(PAGE),
            buffer,
            written: 0,
            buffered: 0,
        })
    }

    /// The length of the file with the buffered bytes.
    pub fn length(&self) -> u64 {
        self.written + self.buffered as u64
    }

    /// Appends some bytes; the next flush writes them at the latest.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let end = self.first_page + self.in_page() + self.buffered;
            let (now, later) =
                bytes.split_at(bytes.len().min(self.first_page + BUFFER_BYTES - end));
            self.buffer[end..end + now.len()].copy_from_slice(now);
            self.buffered += now.len();
            bytes = later;
            if end + now.len() == self.first_page + BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes all buffered bytes.
    pub fn flush(&mut self) -> Result<()> {
        let (from, at) = (self.first_page + self.in_page(), self.written);
        let bytes = &self.buffer[from..from + self.buffered];
        let before = (PAGE - self.in_page()) % PAGE;
        let (before, rest) = bytes.split_at(before.min(bytes.len()));
        let (pages, after) = rest.split_at(rest.len() / PAGE * PAGE);
        let at_pages = at + before.len() as u64;
        match self
            .direct
            .as_mut()
            .filter(|_| pages.len() >= MIN_DIRECT_BYTES)
        {
            Some(direct) => {
                write(&mut self.file, before, at)?;
                if let Err(error) = write(direct, pages, at_pages) {
                    // The file system may accept O_DIRECT and fail to do it; any other failure repeats here.
                    tracing::debug!(%error, "direct writes failed; using the page cache");
                    self.direct = None;
                    write(&mut self.file, pages, at_pages)?;
                }
                write(&mut self.file, after, at_pages + pages.len() as u64)?;
            }
            None => write(&mut self.file, bytes, at)?,
        }
        self.written += self.buffered as u64;
        self.buffered = 0;
        Ok(())
    }

    /// Syncs the written bytes to disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// The place within its page at which the buffered bytes begin.
    fn in_page(&self) -> usize {
        (self.written % PAGE as u64) as usize
    }
}

fn write(file: &mut File, bytes: &[u8], at: u64) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// The file opened for direct writes; none where that is not supported.
#[cfg(target_os = "linux")]
fn direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_DIRECT);
    options.open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes runs of all lengths, each flushed, and reads the file; `spoil` changes the output after the first.
    /// Returns whether pages went straight to the disk in the beginning, and in the end.
    fn written(spoil: impl Fn(&mut SegmentFile)) -> (bool, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut output = SegmentFile::create(&path).unwrap();
        let possible = output.direct.is_some();
        let mut wanted = Vec::new();
        for (run, length) in RUN_LENGTHS.iter().enumerate() {
            let bytes: Vec<u8> = (0..*length).map(|at| (at / 5 + run) as u8).collect();
            // In parts, like entries.
            let (first, rest) = bytes.split_at(length / 3);
            output.put(first).unwrap();
            output.put(rest).unwrap();
            wanted.extend(bytes);
            assert_eq!(output.length(), wanted.len() as u64);
            output.flush().unwrap();
            assert!(std::fs::read(&path).unwrap() == wanted, "run {run}");
            if run == 0 {
                spoil(&mut output);
            }
        }
        output.sync().unwrap();
        (possible, output.direct.is_some())
    }

    const RUN_LENGTHS: [usize; 7] = [
        36,
        3 * BUFFER_BYTES + 17,
        MIN_DIRECT_BYTES - 1,
        5,
        4060,
        2 * MIN_DIRECT_BYTES,
        BUFFER_BYTES,
    ];

    #[test]
    fn runs_of_any_length_are_readable_after_a_flush() {
        let (possible, done) = written(|_| {});
        assert_eq!(done, possible);
    }

    /// A file system that accepts direct writes and then fails them.
    #[test]
    fn failed_direct_writes_fall_back_to_buffered_writes() {
        // A file that cannot be written.
        let spoil =
            |output: &mut SegmentFile| output.direct = Some(File::open("/dev/zero").unwrap());
        let (_, done) = written(spoil);
        assert!(!done);
    }
}

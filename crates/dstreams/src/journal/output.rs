//! [`SegmentFile`]: appends bytes to a file; many at once without a copy of them in the system's cache.
//!
//! A journal is hardly read while it is written: what comes in large runs goes straight from here to the disk, where the
//! file system can do that. It must be whole pages, in memory and in the file; what is before and after them is
//! written the usual way.

use std::fs::{File, OpenOptions};
use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;

/// What is written straight to the disk begins and ends at multiples of this.
const PAGE: usize = 4096;
/// Bytes that wait here at most.
const ROOM: usize = 1 << 20;
/// The least that goes straight to the disk.
const LARGE: usize = 64 << 10;

/// A file that is appended to, past the page cache where the system allows it.
pub(super) struct SegmentFile {
    file: File,
    /// The same file, for whole pages.
    direct: Option<File>,
    /// What waits lies in it as in the file: in the same place of a page.
    room: Vec<u8>,
    /// The first page in it.
    first: usize,
    /// Bytes of the file that are written.
    written: u64,
    /// Bytes after these that wait.
    waiting: usize,
}

impl SegmentFile {
    /// A new file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path)?;
        let room = vec![0; ROOM + PAGE];
        Ok(SegmentFile {
            file,
            direct: direct(path),
            first: room.as_ptr().align_offset(PAGE).min(PAGE),
            room,
            written: 0,
            waiting: 0,
        })
    }

    /// The length of the file once all is written.
    pub fn length(&self) -> u64 {
        self.written + self.waiting as u64
    }

    /// Appends some bytes: they are written by the next flush at the latest.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let end = self.first + self.in_page() + self.waiting;
            let (now, later) = bytes.split_at(bytes.len().min(self.first + ROOM - end));
            self.room[end..end + now.len()].copy_from_slice(now);
            self.waiting += now.len();
            bytes = later;
            if end + now.len() == self.first + ROOM {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes all that waits.
    pub fn flush(&mut self) -> Result<()> {
        let (from, at) = (self.first + self.in_page(), self.written);
        let bytes = &self.room[from..from + self.waiting];
        let before = (PAGE - self.in_page()) % PAGE;
        let (before, rest) = bytes.split_at(before.min(bytes.len()));
        let (pages, after) = rest.split_at(rest.len() / PAGE * PAGE);
        let at_pages = at + before.len() as u64;
        match self.direct.as_mut().filter(|_| pages.len() >= LARGE) {
            Some(direct) => {
                write(&mut self.file, before, at)?;
                if let Err(error) = write(direct, pages, at_pages) {
                    // It may be that this was promised and cannot be done; if not, this one fails too.
                    tracing::debug!(%error, "writes go through the system's cache");
                    self.direct = None;
                    write(&mut self.file, pages, at_pages)?;
                }
                write(&mut self.file, after, at_pages + pages.len() as u64)?;
            }
            None => write(&mut self.file, bytes, at)?,
        }
        self.written += self.waiting as u64;
        self.waiting = 0;
        Ok(())
    }

    /// What was written is on disk when this returns.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// Where in a page what waits begins.
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

/// The file, so that writes do not go through the system's cache; none where that is not possible.
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

    /// Writes runs of any length, each flushed, and looks at the file; `spoil` changes the output after the first.
    /// Whether pages went straight to the disk in the beginning, and in the end.
    fn written(spoil: impl Fn(&mut SegmentFile)) -> (bool, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut output = SegmentFile::create(&path).unwrap();
        let possible = output.direct.is_some();
        let mut wanted = Vec::new();
        for (run, length) in RUNS.iter().enumerate() {
            let bytes: Vec<u8> = (0..*length).map(|at| (at / 5 + run) as u8).collect();
            // In parts, as entries come.
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

    const RUNS: [usize; 7] = [36, 3 * ROOM + 17, LARGE - 1, 5, 4060, 2 * LARGE, ROOM];

    #[test]
    fn runs_of_any_length_are_there_after_a_flush() {
        let (possible, done) = written(|_| {});
        assert_eq!(done, possible);
    }

    /// A file system that promises what it cannot do.
    #[test]
    fn what_cannot_go_straight_to_the_disk_goes_the_usual_way() {
        // A file that nothing can be written to.
        let spoil =
            |output: &mut SegmentFile| output.direct = Some(File::open("/dev/zero").unwrap());
        let (_, done) = written(spoil);
        assert!(!done);
    }
}

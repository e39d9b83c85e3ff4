//! [`Splitter`]: splits the bytes of a file into records: lines, or CSV records, which may have line feeds inside
//! quotes.
//!
//! A record over the limit is discarded while it is read, so it takes no memory. A quote that is not closed within
//! the limit, or at all, costs only its line: the next line begins a record.

use std::io::{self, ErrorKind, Read};

use xxhash_rust::xxh3::Xxh3;

use super::read::Bad;
use crate::stream::format::Format;

/// Bytes stored of a line over the limit.
pub(super) const STORED_BYTES: usize = 64 << 10;

/// The place of a record in its chunk, without the line feed at its end, and its first line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub line: u64,
}

/// Some whole records.
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub records: Vec<Span>,
    /// Bad records, by line.
    pub bad: Vec<(u64, Bad)>,
    /// The last line in the chunk.
    pub last: u64,
    /// Hash of the bytes of all lines up to it.
    pub hash: u64,
}

impl Chunk {
    /// Drops everything in the first `lines` lines of the file.
    pub fn skip(&mut self, lines: u64) {
        self.records.retain(|record| record.line > lines);
        self.bad.retain(|(line, _)| *line > lines);
    }
}

pub(super) struct Splitter<R> {
    from: R,
    csv: bool,
    piece: usize,
    limit: usize,
    /// Bytes not yet split; begins with a record.
    rest: Vec<u8>,
    /// The line it begins at.
    line: u64,
    /// A line over the limit, whose end was not found yet.
    skipped: Option<Bad>,
    ended: bool,
    /// Why nothing more can be read.
    failed: Option<io::Error>,
    /// Hash of the bytes before those that are being split.
    hash: Box<Xxh3>,
    /// Hash of the bytes before the last chunk.
    before: Box<Xxh3>,
    /// Where the last line ended, in the bytes that are being split.
    ended_at: usize,
    /// A number of lines, and the hash of their bytes once they were read, if a record ends there.
    until: (u64, Option<u64>),
}

impl<R: Read> Splitter<R> {
    pub fn new(from: R, format: Format, piece: usize, limit: usize) -> Self {
        Splitter {
            from,
            csv: format == Format::Csv,
            piece,
            limit,
            rest: Vec::new(),
            line: 1,
            skipped: None,
            ended: false,
            failed: None,
            hash: Box::new(Xxh3::new()),
            before: Box::new(Xxh3::new()),
            ended_at: 0,
            until: (0, None),
        }
    }

    /// Also hashes the bytes of the first `lines` lines; see [`Splitter::hash_of_lines`].
    pub fn hash_lines(mut self, lines: u64) -> Self {
        self.until = (lines, None);
        self
    }

    /// The hash of the lines given to [`Splitter::hash_lines`], if a record ends there.
    pub fn hash_of_lines(&self) -> Option<u64> {
        self.until.1
    }

    /// The hash of the bytes before the last chunk.
    pub fn hash_before(&self) -> Box<Xxh3> {
        self.before.clone()
    }

    /// The next records; `None` at the end of the file. An error comes after the whole records before it.
    pub fn next(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.ended && self.rest.is_empty() && self.skipped.is_none() {
                return Ok(None);
            }
            self.fill();
            let chunk = self.split();
            if !chunk.records.is_empty() || !chunk.bad.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Reads about one more piece.
    fn fill(&mut self) {
        let mut left = self.piece;
        while left > 0 && !self.ended && self.failed.is_none() {
            let mut more = (&mut self.from).take(left as u64);
            match more.read_to_end(&mut self.rest) {
                Ok(0) => self.ended = true,
                Ok(read) => left -= read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.failed = Some(error),
            }
        }
    }

    fn split(&mut self) -> Chunk {
        let mut chunk = Chunk {
            bytes: std::mem::take(&mut self.rest),
            records: Vec::new(),
            bad: Vec::new(),
            last: 0,
            hash: 0,
        };
        self.before.clone_from(&self.hash);
        self.ended_at = 0;
        let mut at = self.end_skipped(&mut chunk);
        while at < chunk.bytes.len() {
            let rest = &chunk.bytes[at..];
            let (length, feed) = match self.end_of_record(rest) {
                Some(end) if end <= self.limit + 1 => (end, true),
                // The last line counts without a line feed.
                None if self.ended && rest.len() <= self.limit + 1 && !self.is_open(rest) => {
                    (rest.len(), false)
                }
                None if !self.ended && rest.len() <= self.limit + 1 => break,
                _ => {
                    at = self.give_line_up(at, &mut chunk);
                    continue;
                }
            };
            let text = &rest[..length];
            let feeds = memchr::memchr_iter(b'\n', text).count() as u64;
            let length_of_text = text.strip_suffix(b"\r").unwrap_or(text).len();
            if length_of_text > self.limit {
                at = self.give_line_up(at, &mut chunk);
                continue;
            }
            chunk.records.push(Span {
                start: at,
                end: at + length_of_text,
                line: self.line,
            });
            self.line += feeds + 1;
            at += length + usize::from(feed);
            self.end_line(at, &chunk);
        }
        self.rest = chunk.bytes.split_off(at.min(chunk.bytes.len()));
        chunk.last = self.line - 1;
        // After them come bytes of a line over the limit.
        let (lines, more) = chunk.bytes.split_at(self.ended_at);
        self.hash.update(lines);
        chunk.hash = self.hash.digest();
        self.hash.update(more);
        chunk
    }

    /// Counts a line that ends before `at`.
    #[inline]
    fn end_line(&mut self, at: usize, chunk: &Chunk) {
        self.ended_at = at;
        if self.line - 1 == self.until.0 {
            let mut hash = self.hash.clone();
            hash.update(&chunk.bytes[..at]);
            self.until.1 = Some(hash.digest());
        }
    }

    /// Position of the line feed that ends the record at the beginning of `bytes`.
    fn end_of_record(&self, bytes: &[u8]) -> Option<usize> {
        match self.csv {
            true => csv_end(bytes).ok(),
            false => memchr::memchr(b'\n', bytes),
        }
    }

    /// Whether a quote is open at the end of the file.
    fn is_open(&self, bytes: &[u8]) -> bool {
        self.csv && csv_end(bytes) == Err(true)
    }

    /// Makes the line at `at` a bad record; returns where the next one begins.
    fn give_line_up(&mut self, at: usize, chunk: &mut Chunk) -> usize {
        let rest = &chunk.bytes[at..];
        let end = memchr::memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        let bad = Bad {
            at: None,
            bytes: line[..line.len().min(STORED_BYTES)].to_vec(),
            length: line.len() as u64,
            reason: String::new(),
        };
        match end {
            None if !self.ended => {
                self.skipped = Some(bad);
                chunk.bytes.len()
            }
            end => {
                let next = at + end.map_or(rest.len(), |end| end + 1);
                self.add_bad(bad, chunk);
                self.end_line(next, chunk);
                next
            }
        }
    }

    /// Discards the bytes of a line over the limit; returns where the next one begins.
    fn end_skipped(&mut self, chunk: &mut Chunk) -> usize {
        let Some(mut bad) = self.skipped.take() else {
            return 0;
        };
        let end = memchr::memchr(b'\n', &chunk.bytes);
        let more = &chunk.bytes[..end.unwrap_or(chunk.bytes.len())];
        let kept = more.len().min(STORED_BYTES - bad.bytes.len());
        bad.bytes.extend_from_slice(&more[..kept]);
        bad.length += more.len() as u64;
        match end {
            None if !self.ended => {
                self.skipped = Some(bad);
                chunk.bytes.len()
            }
            end => {
                let next = end.map_or(chunk.bytes.len(), |end| end + 1);
                self.add_bad(bad, chunk);
                self.end_line(next, chunk);
                next
            }
        }
    }

    fn add_bad(&mut self, mut bad: Bad, chunk: &mut Chunk) {
        if bad.bytes.len() as u64 == bad.length && bad.bytes.last() == Some(&b'\r') {
            bad.bytes.pop();
            bad.length -= 1;
        }
        bad.reason = match bad.length > self.limit as u64 {
            true => format!(
                "it has {} bytes and the limit is {}; raise `line_bytes` or split it",
                bad.length, self.limit
            ),
            false => format!(
                "a quote is not closed, or not within the limit of {} bytes",
                self.limit
            ),
        };
        chunk.bad.push((self.line, bad));
        self.line += 1;
    }
}

/// Position of the line feed that ends a CSV record; the error says whether a quote is open.
fn csv_end(bytes: &[u8]) -> Result<usize, bool> {
    enum CsvPosition {
        Start,
        Field,
        Quoted,
        Closed,
    }
    let mut state = CsvPosition::Start;
    for (at, byte) in bytes.iter().enumerate() {
        state = match (state, byte) {
            (CsvPosition::Start, b'"') | (CsvPosition::Closed, b'"') => CsvPosition::Quoted,
            (CsvPosition::Quoted, b'"') => CsvPosition::Closed,
            (CsvPosition::Quoted, _) => CsvPosition::Quoted,
            (_, b'\n') => return Ok(at),
            (_, b',') => CsvPosition::Start,
            (_, _) => CsvPosition::Field,
        };
    }
    Err(matches!(state, CsvPosition::Quoted))
}

#[cfg(test)]
mod tests;

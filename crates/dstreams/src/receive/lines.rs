//! Splits received bytes into lines: views into the received buffer, no copy for each line.
//!
//! Bytes are appended to a chunk. Whole lines become views as they are found; when the chunk is full or the block
//! is sealed, the chunk's lines leave as one Arrow batch that owns the bytes, and the bytes after the last line
//! feed move to a fresh chunk.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::SchemaRef;
use memchr::memchr_iter;

use super::dead_letter::STORED_BYTES;
use super::first::{First, HEAD};
use crate::blocks::{Budget, BudgetShare, Unfinished};
use crate::error::Result;
use crate::stream::record::{trusted_views, view_at};

/// First size of a chunk, in bytes: small, since there may be many idle producers.
const FIRST_CHUNK: usize = 16 << 10;
/// Bytes of an unfinished line that need no memory budget: as many as the first chunk of an idle producer.
const UNBUDGETED_BYTES: usize = FIRST_CHUNK;
/// Bytes to store of a line that is discarded for lack of memory.
const SAMPLE_BYTES: usize = 1 << 10;
/// Largest chunk, in bytes: large, since a chunk is an Arrow batch.
const LARGEST_CHUNK: usize = 1 << 20;

/// Bytes that are not a line of text.
pub(crate) struct BadLine {
    pub bytes: Vec<u8>,
    pub length: u64,
    pub reason: String,
}

/// Lines of one producer.
pub(crate) struct LineBuffer {
    schema: SchemaRef,
    limit: usize,
    chunk: BytesMut,
    memory: Option<BudgetShare>,
    /// A long unfinished line, stored here while there is no memory budget.
    unfinished: Option<Unfinished>,
    /// The receiver has been notified that there are lines.
    notified: bool,
    next_chunk: usize,
    views: Vec<u128>,
    /// Where the unfinished line begins in the chunk.
    line: usize,
    /// How far the chunk was searched for line feeds.
    searched: usize,
    /// Bytes discarded of a line over the limit, if the current line is one.
    skipped: Option<Skipped>,
    begin: Begin,
}

/// The result of checking the first bytes of the connection.
#[derive(PartialEq)]
enum Begin {
    /// Too few bytes to decide.
    Unknown,
    Text,
    /// Not UTF-8 text: the rest of the connection is discarded.
    Refused,
}

/// A line that is discarded: over the limit, or without memory for it.
struct Skipped {
    no_room: bool,
    bytes: Vec<u8>,
    length: u64,
    /// Whether the last byte so far is a carriage return: it is not part of the line if a line feed follows.
    is_return: bool,
}

impl LineBuffer {
    pub fn new(schema: SchemaRef, limit: usize) -> Self {
        LineBuffer {
            schema,
            limit,
            chunk: BytesMut::new(),
            memory: None,
            unfinished: None,
            notified: false,
            next_chunk: FIRST_CHUNK,
            views: Vec::new(),
            line: 0,
            searched: 0,
            skipped: None,
            begin: Begin::Unknown,
        }
    }

    /// Bytes of memory needed before more can be read; `None` if the chunk has room.
    pub fn needs(&mut self) -> Option<usize> {
        if self.has_room() {
            return None;
        }
        // A chunk that fills up between two seals should be larger next time.
        if self.line > self.next_chunk / 2 {
            self.next_chunk = (self.next_chunk * 2).min(LARGEST_CHUNK);
        }
        let partial = self.chunk.len() - self.line;
        Some(self.next_chunk.max(2 * partial))
    }

    /// Whether the chunk has room to read into, and memory for its lines; a seal may take both away.
    pub fn has_room(&self) -> bool {
        self.memory.is_some() && self.chunk.capacity() > self.chunk.len()
    }

    /// Replaces the chunk with a fresh one, whose memory is accounted for. Its lines must have been taken before.
    pub fn grow(&mut self, bytes: usize, memory: BudgetShare) {
        self.memory = Some(memory);
        self.unfinished = None;
        let partial = self.chunk.len() - self.line;
        self.move_rest(bytes.max(partial + 1));
    }

    /// Releases all memory while there is nothing to read. The unfinished line is then not accounted for: otherwise
    /// many such lines could wait for each other.
    pub fn release(&mut self) {
        self.memory = None;
    }

    /// As [`LineBuffer::release`], for a producer that may stay silent forever: a long unfinished line is stored
    /// outside the budget, or discarded.
    pub fn pause(&mut self, budget: &Budget) {
        self.memory = None;
        let partial = self.chunk.len() - self.line;
        if partial <= UNBUDGETED_BYTES || self.unfinished.is_some() {
            return;
        }
        self.unfinished = budget.unfinished(partial);
        if self.unfinished.is_none() {
            let line = Skipped {
                no_room: true,
                bytes: self.chunk[self.line..][..SAMPLE_BYTES].to_vec(),
                length: 0,
                is_return: false,
            };
            self.skip(line);
            self.move_rest(0);
        }
    }

    /// Whether there are lines that the receiver has not been notified of; marks them as notified.
    pub fn found(&mut self) -> bool {
        !self.views.is_empty() && !std::mem::replace(&mut self.notified, true)
    }

    /// Moves the unfinished line into a chunk of its own.
    fn move_rest(&mut self, capacity: usize) {
        let mut fresh = BytesMut::with_capacity(capacity);
        fresh.extend_from_slice(&self.chunk[self.line..]);
        self.chunk = fresh;
        self.searched -= self.line;
        self.line = 0;
    }

    /// Where to read to: the rest of the chunk.
    pub fn room(&mut self) -> impl BufMut + '_ {
        let room = self.chunk.capacity() - self.chunk.len();
        (&mut self.chunk).limit(room)
    }

    /// Finds the lines in the bytes that were read.
    pub fn scan(&mut self, bad: &mut Vec<BadLine>) {
        if self.begin != Begin::Text && !self.is_text(false, bad) {
            return;
        }
        let (start, from) = (self.line, self.searched);
        let Some(last) = memchr::memrchr(b'\n', &self.chunk[from..]).map(|at| from + at) else {
            self.searched = self.chunk.len();
            return self.check_limit();
        };
        // Usually all whole lines together are valid UTF-8; otherwise check each line.
        let valid = simdutf8::basic::from_utf8(&self.chunk[start..=last]).is_ok();
        let chunk = std::mem::take(&mut self.chunk);
        for end in memchr_iter(b'\n', &chunk[from..=last]) {
            self.end_line(&chunk, from + end, valid, bad);
            self.line = from + end + 1;
        }
        self.chunk = chunk;
        self.searched = self.chunk.len();
        self.check_limit();
    }

    /// Whether this is text with lines: decided by the first bytes, once there are enough or no more will come.
    fn is_text(&mut self, ended: bool, bad: &mut Vec<BadLine>) -> bool {
        if self.begin == Begin::Unknown {
            let head = &self.chunk[self.line..];
            if !ended && head.len() < HEAD && !head.contains(&b'\n') {
                return false;
            }
            match First::of(&head[..head.len().min(HEAD)]) {
                First::Text(mark) => {
                    self.begin = Begin::Text;
                    self.line += mark;
                    self.searched = self.searched.max(self.line);
                    return true;
                }
                other => {
                    self.begin = Begin::Refused;
                    let why = other.refuses().unwrap_or_default();
                    bad.push(BadLine {
                        bytes: head[..head.len().min(HEAD)].to_vec(),
                        length: head.len() as u64,
                        reason: format!("{why}; the rest of this connection is discarded"),
                    });
                }
            }
        }
        if self.begin == Begin::Refused {
            self.chunk.truncate(self.line);
            self.searched = self.line;
        }
        self.begin == Begin::Text
    }

    /// Ends the current line before `end`.
    #[inline]
    fn end_line(&mut self, chunk: &[u8], end: usize, valid: bool, bad: &mut Vec<BadLine>) {
        let start = self.line;
        if self.skipped.is_some() {
            return self.end_skipped(&chunk[start..end], bad);
        }
        let bytes = &chunk[start..end];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        match check_line(bytes, self.limit, valid) {
            Ok(()) => self.views.push(view_at(chunk, start, bytes.len(), 0)),
            Err(reason) => bad.push(BadLine {
                bytes: bytes[..bytes.len().min(STORED_BYTES)].to_vec(),
                length: bytes.len() as u64,
                reason,
            }),
        }
    }

    fn end_skipped(&mut self, rest: &[u8], bad: &mut Vec<BadLine>) {
        let Some(mut line) = self.skipped.take() else {
            return;
        };
        let is_return = rest.last().map_or(line.is_return, |last| *last == b'\r');
        let length = line.length + rest.len() as u64 - u64::from(is_return);
        line.bytes.truncate(length as usize);
        bad.push(BadLine {
            bytes: line.bytes,
            length,
            reason: match line.no_room {
                true => format!(
                    "the line has {length} bytes, its producer paused within it, and unfinished lines of others used all \
                     memory; raise `block_memory`"
                ),
                false => too_long(length, self.limit),
            },
        });
    }

    /// Discards the unfinished line once it is over the limit, so that it does not fill memory.
    fn check_limit(&mut self) {
        let partial = self.chunk.len() - self.line;
        // The next byte may be the carriage return.
        if partial <= self.limit + 1 && self.skipped.is_none() {
            return;
        }
        let line = self.skipped.take().unwrap_or_else(|| {
            let bytes = &self.chunk[self.line..];
            Skipped {
                no_room: false,
                bytes: bytes[..bytes.len().min(STORED_BYTES)].to_vec(),
                length: 0,
                is_return: false,
            }
        });
        self.skip(line);
    }

    /// Discards the bytes of the unfinished line.
    fn skip(&mut self, mut line: Skipped) {
        let bytes = &self.chunk[self.line..];
        line.length += bytes.len() as u64;
        line.is_return = bytes.last().map_or(line.is_return, |last| *last == b'\r');
        self.skipped = Some(line);
        self.chunk.truncate(self.line);
        self.searched = self.line;
    }

    /// Takes the lines found so far. The rest of the chunk stays in use, unless `give_up` asks for it because
    /// others wait for memory; then call [`LineBuffer::release`] or [`LineBuffer::pause`].
    pub fn take(&mut self, give_up: bool) -> Result<Option<(RecordBatch, usize, BudgetShare)>> {
        let used = self.line;
        self.notified = false;
        let mut lines = None;
        if !self.views.is_empty() {
            let done = self.chunk.split_to(used);
            self.searched -= used;
            self.line = 0;
            lines = Some(self.batch(done)?);
        }
        let memory = match (&mut self.memory, &lines) {
            (Some(memory), Some(_)) => memory.split(used),
            _ => None,
        };
        let mut taken = lines
            .zip(memory)
            .map(|(lines, memory)| (lines, used, memory));
        if give_up && self.chunk.capacity() > 0 {
            let partial = self.chunk.len() - self.line;
            self.move_rest(partial);
            let rest = self.memory.take();
            // The lines keep the whole chunk alive.
            if let (Some((_, _, memory)), Some(rest)) = (&mut taken, rest) {
                memory.merge(rest);
            }
        }
        Ok(taken)
    }

    fn batch(&mut self, bytes: BytesMut) -> Result<RecordBatch> {
        let views = std::mem::take(&mut self.views);
        self.views.reserve(views.len());
        let buffer = Buffer::from(bytes.freeze());
        let lines = trusted_views(views, vec![buffer]);
        Ok(RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(lines)],
        )?)
    }

    /// Ends the input. A last line without a line feed counts if the connection was closed cleanly; otherwise it is a
    /// dead letter. A line that counts needs memory like any other; the chunk has it, since it was checked before the
    /// read and not released since.
    pub fn finish(&mut self, clean: bool, bad: &mut Vec<BadLine>) {
        if self.begin != Begin::Text && !self.is_text(true, bad) {
            return;
        }
        let (start, end) = (self.line, self.chunk.len());
        if start == end && self.skipped.is_none() {
            return;
        }
        let chunk = std::mem::take(&mut self.chunk);
        match clean || self.skipped.is_some() {
            true => self.end_line(&chunk, end, false, bad),
            false => bad.push(BadLine {
                bytes: chunk[start..end.min(start + STORED_BYTES)].to_vec(),
                length: (end - start) as u64,
                reason: "the connection broke before the end of the line".into(),
            }),
        }
        (self.line, self.searched) = (end, end);
        self.chunk = chunk;
    }
}

fn check_line(bytes: &[u8], limit: usize, valid: bool) -> Result<(), String> {
    if bytes.len() > limit {
        return Err(too_long(bytes.len() as u64, limit));
    }
    if valid {
        return Ok(());
    }
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "invalid UTF-8 at byte {} of the line",
            error.valid_up_to()
        )),
    }
}

fn too_long(length: u64, limit: usize) -> String {
    format!("the line has {length} bytes and the limit is {limit}; raise `line_bytes` or split it")
}

#[cfg(test)]
mod tests;

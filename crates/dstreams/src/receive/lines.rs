//! Received bytes to lines: views into the received buffer, no copy for each line.
//!
//! Bytes are read behind each other into a chunk. Whole lines become views as they are found; when
//! the chunk is full or the block is sealed, the chunk's lines leave as one Arrow batch that owns
//! the bytes, and what follows the last line feed moves to a fresh chunk.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::SchemaRef;
use memchr::memchr_iter;

use super::budget::Share;
use crate::error::Result;
use crate::stream::record::{trusted_views, view_at};

/// First size of a chunk, in bytes: small, since there may be many idle producers.
const FIRST_CHUNK: usize = 16 << 10;
/// Largest chunk, in bytes: large, since a chunk is an Arrow batch.
const LARGEST_CHUNK: usize = 1 << 20;

/// Bytes that are no line of text.
pub(crate) struct BadLine {
    pub bytes: Vec<u8>,
    pub length: u64,
    pub reason: String,
}

/// Lines of one producer.
pub(crate) struct Lines {
    schema: SchemaRef,
    limit: usize,
    chunk: BytesMut,
    memory: Option<Share>,
    next_chunk: usize,
    views: Vec<u128>,
    /// Where the line that is not whole yet begins in the chunk.
    line: usize,
    /// How far the chunk was searched for line feeds.
    searched: usize,
    /// Bytes thrown away of a line over the limit, once it is one.
    skipped: Option<(Vec<u8>, u64)>,
}

impl Lines {
    pub fn new(schema: SchemaRef, limit: usize) -> Self {
        Lines {
            schema,
            limit,
            chunk: BytesMut::new(),
            memory: None,
            next_chunk: FIRST_CHUNK,
            views: Vec::new(),
            line: 0,
            searched: 0,
            skipped: None,
        }
    }

    /// Bytes of memory needed before more can be read, if the chunk has no room.
    pub fn needs(&self) -> Option<usize> {
        let room = self.chunk.capacity() - self.chunk.len();
        let partial = self.chunk.len() - self.line;
        (room == 0).then(|| self.next_chunk.max(2 * partial))
    }

    /// Takes a fresh chunk, whose memory is accounted for; the lines of the old one leave.
    pub fn grow(
        &mut self,
        bytes: usize,
        memory: Share,
    ) -> Result<Option<(RecordBatch, usize, Share)>> {
        let full = !self.views.is_empty();
        let old_memory = self.memory.replace(memory);
        let partial = self.chunk.len() - self.line;
        let mut fresh = BytesMut::with_capacity(bytes.max(partial + 1));
        fresh.extend_from_slice(&self.chunk[self.line..]);
        let old = std::mem::replace(&mut self.chunk, fresh);
        let used = self.line;
        self.searched -= self.line;
        self.line = 0;
        if used > 0 && full {
            self.next_chunk = (self.next_chunk * 2).min(LARGEST_CHUNK);
        }
        match (full, old_memory) {
            (true, Some(memory)) => Ok(Some((self.batch(old)?, used, memory))),
            _ => Ok(None),
        }
    }

    /// Where to read to: what is left of the chunk.
    pub fn room(&mut self) -> impl BufMut + '_ {
        let room = self.chunk.capacity() - self.chunk.len();
        (&mut self.chunk).limit(room)
    }

    /// Finds the lines in what was read.
    pub fn scan(&mut self, bad: &mut Vec<BadLine>) {
        let (start, from) = (self.line, self.searched);
        let Some(last) = memchr::memrchr(b'\n', &self.chunk[from..]).map(|at| from + at) else {
            self.searched = self.chunk.len();
            return self.check_limit();
        };
        // All whole lines at once are UTF-8 nearly always; else line by line.
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

    /// The current line ends before `end`.
    #[inline]
    fn end_line(&mut self, chunk: &[u8], end: usize, valid: bool, bad: &mut Vec<BadLine>) {
        let start = self.line;
        if self.skipped.is_some() {
            return self.end_skipped(start, end, bad);
        }
        let bytes = &chunk[start..end];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        match check_line(bytes, self.limit, valid) {
            Ok(()) => self.views.push(view_at(chunk, start, bytes.len(), 0)),
            Err(reason) => bad.push(BadLine {
                bytes: bytes.to_vec(),
                length: bytes.len() as u64,
                reason,
            }),
        }
    }

    fn end_skipped(&mut self, start: usize, end: usize, bad: &mut Vec<BadLine>) {
        let Some((bytes, skipped)) = self.skipped.take() else {
            return;
        };
        let length = skipped + (end - start) as u64;
        bad.push(BadLine {
            bytes,
            length,
            reason: too_long(length, self.limit),
        });
    }

    /// Throws the unfinished line away once it is over the limit, so that it does not fill memory.
    fn check_limit(&mut self) {
        let partial = self.chunk.len() - self.line;
        // One more byte may be the carriage return.
        if partial <= self.limit + 1 && self.skipped.is_none() {
            return;
        }
        let bytes = &self.chunk[self.line..];
        let (_, skipped) = self.skipped.get_or_insert_with(|| (bytes.to_vec(), 0));
        *skipped += bytes.len() as u64;
        self.chunk.truncate(self.line);
        self.searched = self.line;
    }

    /// The lines found so far, leaving the rest of the chunk to go on with.
    pub fn take(&mut self) -> Result<Option<(RecordBatch, usize, Share)>> {
        if self.views.is_empty() {
            return Ok(None);
        }
        let used = self.line;
        let done = self.chunk.split_to(used);
        self.searched -= used;
        self.line = 0;
        let memory = match &mut self.memory {
            // What follows belongs to the rest of the chunk.
            Some(memory) => memory.split(used),
            None => None,
        };
        let batch = self.batch(done)?;
        Ok(memory.map(|memory| (batch, used, memory)))
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

    /// The producer has closed: its last line, if it did not end with a line feed, counts when the
    /// connection was closed cleanly and is a dead letter otherwise.
    pub fn finish(&mut self, clean: bool, bad: &mut Vec<BadLine>) {
        let (start, end) = (self.line, self.chunk.len());
        if self.skipped.is_some() {
            return self.end_skipped(start, end, bad);
        }
        if start == end {
            return;
        }
        let chunk = std::mem::take(&mut self.chunk);
        match clean {
            true => self.end_line(&chunk, end, false, bad),
            false => bad.push(BadLine {
                bytes: chunk[start..end].to_vec(),
                length: (end - start) as u64,
                reason: "the connection broke before the end of the line".into(),
            }),
        }
        self.line = end;
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
            "no valid UTF-8 at byte {} of the line",
            error.valid_up_to()
        )),
    }
}

fn too_long(length: u64, limit: usize) -> String {
    format!("the line has {length} bytes and the limit is {limit}; raise `line_bytes` or split it")
}

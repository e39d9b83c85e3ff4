//! [`FileSource`]: reads the files of a [`Files`], one after the other.
//!
//! It lists, reads new files, and reports changes to files that were read. `seen.rs` remembers the files.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::Files;
use super::event_time::FileTime;
use super::file_offset::{FileOffset, Identity};
use super::look::{ListedFile, Listing};
use super::read::{Bad, OpenedFile, Reading};
use super::root::Root;
use super::seen::{FileStatus, Seen};
use crate::error::{BoxError, Error, Result};
use crate::receive::dead_letter::Letter;
use crate::receive::ingest::Ingest;
use crate::receive::source::{Source, SourcePlacement, StopSignal};
use crate::stream::format::Format;
use crate::stream::record::{Record, RowCheck, check_rows, checked_schema, plain_schema};

/// Ratio of the pause to the time of the listing before it: listings cost at most 5 % of a core.
const PAUSE_RATIO: u32 = 19;
/// Maximum of such a pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest pause, whatever the configuration says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// Replaced files that are reported one by one after a restart; more, as after a directory was copied, are one dead
/// letter.
const MAX_REPLACED_REPORTED: usize = 100;

/// Reads the files of a [`Files`].
pub(super) struct FileSource {
    files: Files,
    schema: SchemaRef,
    /// The same with the texts of enums.
    checked: SchemaRef,
    check: RowCheck,
    seen: Seen,
    /// The last block that contains its records.
    block: Option<u64>,
    /// The time that its records give, if they do.
    time: Option<FileTime>,
}

/// A file to read, with its offset.
struct Fresh {
    entry: ListedFile,
    opened: Option<OpenedFile>,
    offset: FileOffset,
}

#[async_trait]
impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        self.files.root.clone()?.look(&self.files.only.0).await?;
        Ok(None)
    }

    fn gives_time(&self) -> bool {
        self.files.by_time.is_some()
    }

    /// On the master: a worker that takes over would not know which files another one has read.
    fn place(&self) -> SourcePlacement {
        SourcePlacement::Master
    }

    async fn run(mut self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let root = self.files.root.clone()?;
        self.seen.begin(ingest.offsets().iter());
        if let Some(by) = &self.files.by_time {
            let column = by.index_in(&self.schema).map_err(BoxError::from)?;
            self.time = Some(FileTime::new(column, by.disorder, ingest.interval()));
        }
        loop {
            let begun = Instant::now();
            let found = tokio::select! {
                () = closing.requested() => return Ok(()),
                found = root.look(&self.files.only.0) => found,
            };
            let fresh = match found {
                Ok(found) => self.find_fresh(&root, found, &ingest).await?,
                Err(error) if self.files.once => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(stream = ingest.stream(), %error, "listing failed, will retry");
                    Vec::new()
                }
            };
            self.find_changed(&root, &ingest).await?;
            let looked = begun.elapsed();
            for fresh in fresh {
                if closing.is_requested() {
                    return Ok(());
                }
                self.take(&root, fresh, &ingest, &closing).await?;
            }
            if self.files.once {
                self.find_changed(&root, &ingest).await?;
                // The program may end once this source ends.
                if let Some(block) = self.block {
                    ingest.0.safe(block).await?;
                }
                return Ok(());
            }
            tokio::select! {
                () = closing.requested() => return Ok(()),
                () = tokio::time::sleep(pause(self.files.every, looked)) => {}
            }
        }
    }
}

/// The pause after a listing.
fn pause(every: Duration, looked: Duration) -> Duration {
    let dear = looked.saturating_mul(PAUSE_RATIO).min(LONGEST_PAUSE);
    every.max(dear).max(SHORTEST_PAUSE)
}

impl FileSource {
    /// A source of records of type `T`.
    pub fn new<T: Record>(files: Files) -> Self {
        let checked = checked_schema::<T>();
        FileSource {
            files,
            schema: plain_schema(&checked),
            checked,
            check: check_rows::<T>,
            seen: Seen::default(),
            block: None,
            time: None,
        }
    }

    /// The found files that are to be read, in the order of their names. Reports the other changes, and forgets
    /// missing files.
    async fn find_fresh(
        &mut self,
        root: &Root,
        found: Listing,
        ingest: &Ingest,
    ) -> Result<Vec<Fresh>> {
        let after = self.files.forget_after;
        let news = self.seen.looked(found, Instant::now(), after);
        for name in &news.forgotten {
            ingest.forget(name);
            ingest.0.dead_letters.forget(ingest.stream(), name);
        }
        for (name, error) in news.closed {
            add_dead_letters(root, &name, vec![Bad::rest(error.to_string())], ingest).await?;
        }
        let names = news.unsure.iter().map(|entry| entry.name.clone()).collect();
        let opened = root.known(names).await;
        let (mut fresh, mut others) = (Vec::new(), Vec::new());
        for (entry, opened) in news.unsure.into_iter().zip(opened) {
            match self.seen.status(&entry, opened) {
                // A writer may be about to fill it.
                FileStatus::New(_) if opened.is_some_and(|opened| opened.bytes == 0) => {}
                FileStatus::New(offset) => fresh.push(Fresh {
                    entry,
                    opened,
                    offset,
                }),
                FileStatus::Other => others.push(entry.name),
                FileStatus::Known => {}
            }
        }
        for name in others.iter().take(MAX_REPLACED_REPORTED) {
            add_dead_letters(root, name, vec![Bad::rest(REPLACED.into())], ingest).await?;
        }
        if let Some(name) = others.get(MAX_REPLACED_REPORTED) {
            let more = others.len() - MAX_REPLACED_REPORTED;
            let why =
                format!("with {more} files found at the same look, the first of them: {REPLACED}");
            add_dead_letters(root, name, vec![Bad::rest(why)], ingest).await?;
        }
        Ok(fresh)
    }

    /// Reads a file, unless it was read under another name.
    async fn take(
        &mut self,
        root: &Root,
        fresh: Fresh,
        ingest: &Ingest,
        closing: &StopSignal,
    ) -> Result<()> {
        let name = self.seen.found(fresh.entry);
        let identity = fresh.opened.map(|opened| opened.identity);
        let identity = identity.filter(|_| fresh.offset == FileOffset::NONE);
        match identity.filter(|file| self.is_read(root, &name, *file, ingest)) {
            Some(file) => self.record_alias(&name, file, ingest).await,
            None => self.read(root, &name, fresh.offset, ingest, closing).await,
        }
    }

    /// Whether this file was read under another name.
    fn is_read(&self, root: &Root, name: &str, file: Identity, ingest: &Ingest) -> bool {
        let Some(before) = self.seen.read_as(file) else {
            return false;
        };
        let (path, before) = (root.path(name), root.path(before));
        tracing::info!(
            stream = ingest.stream(),
            ?path,
            ?before,
            "the same file is not read again"
        );
        true
    }

    /// Records another name of a file that was read.
    async fn record_alias(
        &mut self,
        name: &Arc<str>,
        file: Identity,
        ingest: &Ingest,
    ) -> Result<()> {
        self.seen.is_named(name, file);
        let none = RecordBatch::new_empty(Arc::clone(&self.schema));
        let offset = FileOffset::Done {
            identity: Some(file),
        };
        self.push(none, name, offset, ingest).await
    }

    /// The offset travels with the records, so this does not wait until they are safe.
    async fn push(
        &mut self,
        rows: RecordBatch,
        name: &Arc<str>,
        offset: FileOffset,
        ingest: &Ingest,
    ) -> Result<()> {
        let taken = ingest.0.take_in(rows, Some((name, offset.into()))).await?;
        self.block = taken.or(self.block);
        Ok(())
    }

    /// Pushes the records of one file after its offset, until the context closes.
    async fn read(
        &mut self,
        root: &Root,
        name: &Arc<str>,
        offset: FileOffset,
        ingest: &Ingest,
        closing: &StopSignal,
    ) -> Result<()> {
        let reading = Reading {
            root: root.clone(),
            name: name.to_string(),
            format: self.files.format,
            schema: match self.files.format {
                Format::JsonLines | Format::Csv => self.checked.clone(),
                _ => self.schema.clone(),
            },
            piece: self.files.piece,
            finer: self.files.finer,
            check: self.check,
            line_bytes: ingest.0.line_bytes,
            offset,
            time: self.time.clone(),
        };
        let (mut pieces, thread) = reading.start();
        loop {
            let piece = tokio::select! {
                biased;
                // A store may keep one waiting. The thread ends when nobody receives its pieces.
                () = closing.requested() => return Ok(()),
                piece = pieces.recv() => piece,
            };
            let Some(piece) = piece else { break };
            if let Some(time) = piece.time
                && !ingest.time_is(time).await?
            {
                return Ok(());
            }
            add_dead_letters(root, name, piece.bad, ingest).await?;
            let rows = piece.rows;
            let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(self.schema.clone()));
            self.push(rows, name, piece.offset, ingest).await?;
        }
        let failed = match thread.await {
            Ok((opened, read)) => {
                self.seen.was_read(name, opened, read.is_ok());
                match read {
                    // The time must not go on without records that the next process can read.
                    Err(error) if ingest.0.gives_time() && may_be_readable(&error) => {
                        return Err(error);
                    }
                    read => read.err().map(|error| error.to_string()),
                }
            }
            Err(panic) => Some(format!("the reader panicked: {panic}")),
        };
        if let Some(failed) = failed {
            add_dead_letters(root, name, vec![Bad::rest(failed)], ingest).await?;
        }
        Ok(())
    }

    /// Reports files that have changed since they were read.
    async fn find_changed(&mut self, root: &Root, ingest: &Ingest) -> Result<()> {
        let now = root.known(self.seen.recent()).await;
        for (name, why) in self.seen.changed(now) {
            add_dead_letters(root, &name, vec![Bad::rest(why)], ingest).await?;
        }
        Ok(())
    }
}

/// Whether a file may be readable later, as it is: it is there, and neither damaged nor another one.
fn may_be_readable(error: &Error) -> bool {
    let never = [
        ErrorKind::NotFound,
        ErrorKind::InvalidData,
        ErrorKind::UnexpectedEof,
    ];
    matches!(error, Error::File { source, .. } if !never.contains(&source.kind()))
}

pub(super) const REPLACED: &str = "a file of this name was read before, and this is another one, which is not read; \
                                   give each file a name of its own";

/// Reports bad lines and rows once, also after a restart, but a file that cannot be read again each time. Returns
/// when all letters are safe: their piece is not read again after that.
async fn add_dead_letters(root: &Root, name: &str, bad: Vec<Bad>, ingest: &Ingest) -> Result<()> {
    if bad.is_empty() {
        return Ok(());
    }
    let path = root.path(name).display().to_string();
    let letters = bad.into_iter().map(|bad| Letter {
        bytes: bad.bytes,
        length: bad.length,
        reason: bad.reason,
        at: bad.at,
    });
    let dead = &ingest.0.dead_letters;
    let letters = letters.collect();
    let added = dead.add(ingest.stream(), &path, Some(name), letters);
    let added = ingest.0.unless_stuck(added).await?;
    dead.safe(added).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_cost_a_twentieth_of_a_core_at_most() {
        let [none, ms, s] = [
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_secs(1),
        ];
        assert_eq!(pause(s, 10 * ms), s);
        assert_eq!(pause(s, 100 * ms), 1900 * ms);
        assert_eq!(pause(none, none), ms);
        assert_eq!(pause(none, 10 * ms), 190 * ms);
        assert_eq!(pause(ms, 3600 * s), 30 * s);
        assert_eq!(pause(Duration::MAX, Duration::MAX), Duration::MAX);
    }
}

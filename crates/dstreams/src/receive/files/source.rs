//! [`FileSource`]: the files of a [`Files`], one after the other.
//!
//! It looks, reads what is new, and says what became of what was read: a name says little of a file.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::Files;
use super::look::Found;
use super::mark::{Identity, Mark};
use super::read::{Bad, Opened, Reading};
use super::root::Root;
use crate::error::{BoxError, Result};
use crate::receive::dead_letter::Letter;
use crate::receive::ingest::Ingest;
use crate::receive::source::{Closing, Place, Source};

/// Files that are looked at again after they were read, since somebody may write on: a thousand cost a millisecond.
const RECENT: usize = 1000;

/// Reads the files of a [`Files`].
pub(super) struct FileSource {
    files: Files,
    schema: SchemaRef,
    seen: Seen,
}

/// What is known of files.
#[derive(Default)]
struct Seen {
    /// By name, with the version that had it.
    names: HashMap<Arc<str>, u64>,
    /// Names that cannot be looked at.
    closed: HashSet<String>,
    /// Those that are done, and the name they were read by.
    done: HashMap<Identity, Arc<str>>,
    /// The last that were read, by their names now.
    recent: VecDeque<(Arc<str>, Opened)>,
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

    /// A worker that takes over would not know what another one has read.
    fn place(&self) -> Place {
        Place::Master
    }

    async fn run(mut self: Box<Self>, ingest: Ingest, closing: Closing) -> Result<(), BoxError> {
        let root = self.files.root.clone()?;
        self.seen.begin(&ingest);
        loop {
            let found = tokio::select! {
                () = closing.requested() => return Ok(()),
                found = root.look(&self.files.only.0) => found,
            };
            let found = match found {
                Ok(found) => found,
                Err(error) if self.files.once => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(stream = ingest.stream(), %error, "looking again later");
                    Found::default()
                }
            };
            if !self.take(&root, found, &ingest, &closing).await? {
                return Ok(());
            }
            self.find_grown(&root, &ingest).await;
            if self.files.once {
                return Ok(());
            }
            tokio::select! {
                () = closing.requested() => return Ok(()),
                () = tokio::time::sleep(self.files.every) => {}
            }
        }
    }
}

impl FileSource {
    pub fn new(files: Files, schema: SchemaRef) -> Self {
        FileSource {
            files,
            schema,
            seen: Seen::default(),
        }
    }

    /// Reads what was found and is new. `false` when the context closes.
    async fn take(
        &mut self,
        root: &Root,
        found: Found,
        ingest: &Ingest,
        closing: &Closing,
    ) -> Result<bool> {
        for (name, error) in found.closed {
            if self.seen.closed.insert(name.clone()) {
                bury(root, &name, vec![Bad::rest(error.to_string())], ingest).await;
            }
        }
        let mut fresh = Vec::new();
        for entry in found.files {
            match self.seen.names.get_mut(&*entry.name) {
                None => fresh.push(entry),
                Some(version) if *version == entry.version => {}
                Some(version) => {
                    *version = entry.version;
                    bury(root, &entry.name, vec![Bad::rest(REPLACED.into())], ingest).await;
                }
            }
        }
        let names = fresh.iter().map(|entry| entry.name.clone()).collect();
        let opened = root.known(names).await;
        for (entry, opened) in fresh.into_iter().zip(opened) {
            if closing.is_requested() {
                return Ok(false);
            }
            // Somebody may be about to write it.
            if opened.is_some_and(|opened| opened.bytes == 0) {
                continue;
            }
            let name = Arc::<str>::from(entry.name);
            self.seen.names.insert(Arc::clone(&name), entry.version);
            let mark = ingest.positions().get(&*name);
            match mark.map_or(Mark::NONE, |mark| Mark::from(*mark)) {
                Mark::Done { .. } => {}
                Mark::NONE if self.is_done(root, &name, opened, ingest).await? => {}
                mark => self.read(root, &name, mark, ingest, closing).await?,
            }
        }
        Ok(true)
    }

    /// Whether it is a file that was read by another name.
    async fn is_done(
        &mut self,
        root: &Root,
        name: &Arc<str>,
        opened: Option<Opened>,
        ingest: &Ingest,
    ) -> Result<bool> {
        let known = opened.and_then(|opened| Some((opened, self.seen.done.get(&opened.identity)?)));
        let Some((opened, before)) = known else {
            return Ok(false);
        };
        let (path, before) = (root.path(name), root.path(before));
        tracing::info!(
            stream = ingest.stream(),
            ?path,
            ?before,
            "the same file is not read again"
        );
        let identity = Some(opened.identity);
        let none = RecordBatch::new_empty(Arc::clone(&self.schema));
        let done = Mark::Done { identity };
        ingest.push_at(none, name, done.into()).await?;
        let recent = self.seen.recent.iter_mut();
        for (of, _) in recent.filter(|(_, known)| known.identity == opened.identity) {
            *of = Arc::clone(name);
        }
        Ok(true)
    }

    /// Pushes the records of one file after those of its mark, until the context closes.
    async fn read(
        &mut self,
        root: &Root,
        name: &Arc<str>,
        mark: Mark,
        ingest: &Ingest,
        closing: &Closing,
    ) -> Result<()> {
        let reading = Reading {
            root: root.clone(),
            name: name.to_string(),
            format: self.files.format,
            schema: self.schema.clone(),
            piece: self.files.piece,
            line_bytes: ingest.0.line_bytes,
            mark,
        };
        let (mut pieces, thread) = reading.start();
        loop {
            let piece = tokio::select! {
                biased;
                // A store may let one wait. The thread ends when nobody takes its pieces.
                () = closing.requested() => return Ok(()),
                piece = pieces.recv() => piece,
            };
            let Some(piece) = piece else { break };
            bury(root, name, piece.bad, ingest).await;
            let rows = piece.rows;
            let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(self.schema.clone()));
            ingest.push_at(rows, name, piece.mark.into()).await?;
        }
        let failed = match thread.await {
            Ok((opened, read)) => {
                self.seen.was_read(name, opened, read.is_ok());
                read.err().map(|error| error.to_string())
            }
            Err(panic) => Some(format!("the reader broke: {panic}")),
        };
        if let Some(failed) = failed {
            bury(root, name, vec![Bad::rest(failed)], ingest).await;
        }
        Ok(())
    }

    /// Tells of files that have more bytes than were read.
    async fn find_grown(&mut self, root: &Root, ingest: &Ingest) {
        let names = self.seen.recent.iter().map(|(name, _)| name.to_string());
        let now = root.known(names.collect()).await;
        let mut now = now.into_iter();
        let mut grown = Vec::new();
        self.seen.recent.retain(|(name, read)| {
            let now = now.next().flatten().filter(|now| now.number == read.number);
            let Some(now) = now.filter(|now| now.bytes > read.bytes) else {
                return true;
            };
            grown.push((Arc::clone(name), read.bytes, now.bytes));
            false
        });
        for (name, read, bytes) in grown {
            let why = format!(
                "it had {read} bytes when it was read, and has {bytes} now: {} bytes are not read; \
                 write a file under another name and rename it when it is whole",
                bytes - read
            );
            bury(root, &name, vec![Bad::rest(why)], ingest).await;
        }
    }
}

const REPLACED: &str = "a file of this name was read before, and this is another one, which is not read; \
                        give each file a name of its own";

impl Seen {
    /// With what former processes have read.
    fn begin(&mut self, ingest: &Ingest) {
        for (name, mark) in ingest.positions() {
            if let Mark::Done {
                identity: Some(identity),
            } = Mark::from(*mark)
            {
                self.done.insert(identity, name.as_str().into());
            }
        }
    }

    fn was_read(&mut self, name: &Arc<str>, opened: Option<Opened>, all: bool) {
        let Some(opened) = opened else { return };
        if all {
            self.done.insert(opened.identity, Arc::clone(name));
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((Arc::clone(name), opened));
    }
}

/// What is of a line or a row is told once, also after a restart; that a file cannot be read, again. Returns when all are
/// safe: the piece that they are of is not read again then.
async fn bury(root: &Root, name: &str, bad: Vec<Bad>, ingest: &Ingest) {
    if bad.is_empty() {
        return;
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
    let added = dead.add(ingest.stream(), &path, Some(name), letters).await;
    dead.safe(added).await
}

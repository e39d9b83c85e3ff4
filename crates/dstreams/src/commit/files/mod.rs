//! [`FileSink`]: each batch atomically becomes a directory of files.
//!
//! Prepared files wait in a hidden directory; the commit gathers those of a batch in a directory of their own and
//! renames that. `target.rs` ensures atomicity, `encode.rs` the bytes.

mod disk;
mod encode;
mod target;

use std::panic::Location;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use self::target::Target;
use crate::debug::debug_as;
use crate::error::{BoxError, Error, Operator, Result};
use crate::stream::dstream::DStream;
use crate::stream::format::Format;
use crate::stream::keyed::Keyed;
use crate::stream::output::{FencingToken, Guarantee, Output, Prepared, Sink};
use crate::stream::record::{Key, Record};

/// Writes each batch as a directory of files, exactly once.
///
/// Below the target directory there is one directory for each batch with records, named by its batch time in
/// milliseconds, with one file for each partition that has some:
///
/// ```text
/// counts/batch=1700000000500/part-00000.jsonl
/// counts/batch=1700000000500/part-00001.jsonl
/// ```
///
/// **Promised.** The directory of a batch appears by one rename when the batch commits, with all its files: no
/// reader sees it incomplete. It never changes afterwards, even if its commit is repeated or a process that starts
/// after a crash runs the batch again. When the commit returns, the files and their names are synced. The same
/// rows give the same bytes, in the order of the RDD: partition after partition. A batch older than the newest
/// directory counts as committed, so the newest directory must stay in place; others may be moved away or removed
/// at any time.
///
/// **Refused.** A directory to which another output writes, of this program or of another process: it is locked
/// while the program runs. A standby master that takes the program over takes this lock over, too: the process before it, if
/// it still runs, commits nothing more. One whose newest batch is more than a minute, and more than an interval, ahead of the
/// clock. The first batch of a program is later than the newest existing one: see [`Sink`].
///
/// **Not promised.** Nothing marks a batch without records: it has no directory. Object stores have no rename:
/// this is for file systems with atomic renames of directories (local ones and NFS have them).
///
/// Files that wait for their commit are in `.attempts` below the target. Those left by a crash are removed when
/// their batch, or a later one, commits. The target is created and listed once, when the program starts.
///
/// A full disk or an unwritable directory is an [`Error::File`] with the path; the batch is retried as often as
/// [`Config::attempts`](crate::Config::attempts) says, and nothing of it is visible.
///
/// ```
/// use dstreams::{StreamContext, files::{FileSink, Format}};
///
/// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, words) = ctx.queue::<String>("words");
/// words.sink("words", FileSink::new("/srv/words", Format::JsonLines));
/// words.write_files("/srv/words.csv", Format::Csv)?; // the same, with the columns checked now
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "files are written where a stream has it as a sink"]
pub struct FileSink(Arc<Target>);

debug_as!(FileSink);

impl FileSink {
    /// Writes to `directory`, which is made when the program starts.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// use dstreams::files::{FileSink, Format};
    ///
    /// lines.sink("lines", FileSink::new("/srv/lines", Format::Csv));
    /// ```
    pub fn new(directory: impl Into<PathBuf>, format: Format) -> Self {
        FileSink(Arc::new(Target::new(directory.into(), format)))
    }

    /// Runs `work` on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Target) -> Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let target = Arc::clone(&self.0);
        Ok(tokio::task::spawn_blocking(move || work(&target)).await??)
    }
}

#[async_trait]
impl Sink for FileSink {
    fn fence(&self, token: &FencingToken) {
        self.0.fence(token);
    }

    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        self.blocking(Target::open).await
    }

    fn close(&self) {
        self.0.close();
    }

    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        if rows.iter().all(|rows| rows.num_rows() == 0) {
            return Ok(Prepared::default());
        }
        let rows = rows.to_vec();
        let prepare = move |target: &Target| target.prepare(batch, partition, &rows);
        let name = self.blocking(prepare).await?;
        Ok(Prepared(name.into_bytes()))
    }

    async fn commit(&self, batch: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError> {
        self.blocking(move |target| target.commit(batch, &prepared))
            .await
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

impl<T: Record> DStream<T> {
    /// Writes each RDD as a directory of files below `directory`, exactly once: see [`FileSink`].
    ///
    /// Fails if the format does not support a column, or if another output of this program writes to `directory`.
    /// O(records of the batch).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// use dstreams::files::Format;
    ///
    /// // /srv/sales/batch=1700000000000/part-00000.jsonl: {"key":"Berlin","value":12}
    /// sales.write_files("/srv/sales", Format::JsonLines)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn write_files(&self, directory: impl Into<PathBuf>, format: Format) -> Result<()> {
        let directory = directory.into();
        let operator = Operator::new("write_files", Location::caller());
        let refused = match format {
            Format::Text => Some("text can only be read; use JSON lines or CSV".to_owned()),
            format => format.refuses(&T::schema()),
        };
        if let Some(message) = refused {
            return Err(Error::Graph { operator, message });
        }
        let place = std::path::absolute(&directory).unwrap_or_else(|_| directory.clone());
        let place = place.components().collect();
        if let Some(first) = self
            .graph
            .lock()
            .directories
            .insert(place, operator.clone())
        {
            let directory = directory.display();
            let message = format!("{first} writes to {directory} too; give each output its own");
            return Err(Error::Graph { operator, message });
        }
        let sink = Arc::new(FileSink::new(directory, format));
        self.output(operator, Output::Sink(sink));
        Ok(())
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// [`DStream::write_files`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, words) = ctx.queue::<String>("words");
    /// use dstreams::{agg::count, files::Format};
    ///
    /// words.keyed().agg(count())?.write_files("/srv/counts", Format::Csv)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn write_files(&self, directory: impl Into<PathBuf>, format: Format) -> Result<()> {
        self.pairs().write_files(directory, format)
    }
}

#[cfg(test)]
mod tests;

//! [`Files`]: the records of the files that appear in a directory or an object store.
//!
//! `look.rs` finds them, `split.rs` splits text into records, `decode.rs` (with `json.rs`, `csv.rs`, `number.rs`
//! and `column.rs`) and `parquet.rs` (with `footer.rs`) make Arrow batches; `read.rs` reads one file on a thread
//! that may block. Only `root.rs` knows where the files are, `seen.rs` remembers them, and `object.rs` reads an
//! object.

mod bisect;
#[cfg(feature = "parquet")]
mod chunks;
mod column;
mod csv;
mod decode;
mod event_time;
mod file_offset;
#[cfg(feature = "parquet")]
mod footer;
mod hex;
mod json;
mod look;
mod members;
mod number;
mod object;
#[cfg(feature = "parquet")]
mod parquet;
mod read;
mod root;
mod seen;
mod source;
mod split;
mod time;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::object_store::ObjectStore;

use self::column::ColumnBuilder;
use self::event_time::EventTimeColumn;
use self::look::PathFilter;
use self::root::Root;
use self::source::FileSource;
use self::time::FinerTimes;
use super::source::Source;
use crate::error::Result;
use crate::stream::format::Format;
use crate::stream::object_url::store_at;
use crate::stream::record::Record;

/// Pause between two listings of the directory: short for a person, long compared with a listing.
const LIST_INTERVAL: Duration = Duration::from_millis(500);
/// The same for an object store, where listings cost money.
const OBJECT_LIST_INTERVAL: Duration = Duration::from_secs(5);
/// How long files are remembered after they disappear: longer than a disk or a server is usually away.
const FORGET_AFTER: Duration = Duration::from_hours(24);
/// Bytes of text that become one Arrow batch.
const PIECE_BYTES: usize = 256 << 10;

/// The records of the files in a directory and the directories below it, or of the objects below a path of an
/// object store: those that exist, and those that appear.
///
/// A file is read when its name is first seen and it is not empty, so it must be complete by then: write it under a
/// name that is skipped, then rename it. Skipped are names that begin with `.` or `_`, and names that end in `.tmp`
/// (also with a number after it, as in `.tmp.1234`), `._COPYING_`, `.part`, `.partial`, `.filepart`, `.crdownload`,
/// `.download`, `.inprogress`, `.swp` or `~`; or those that [`Files::only`] does not want. The same goes for files
/// below a directory whose name begins or ends with one of the first three. So the output of a
/// [`FileSink`](crate::files::FileSink) can be read while it is written. An object is complete when it appears; the
/// same names are skipped, in any part of the path, and so are empty objects.
///
/// **Promised.** Each file is read once, even if it is renamed or has several names (a rotated log, a link): it is
/// recognised by its identity, not its name. New content under a name, or in a file, that was already read is not
/// read, and reported as a dead letter: another file with that name (also one that appeared while no process was
/// running; reported again after each restart, and as one dead letter beyond a hundred of them), or bytes appended
/// to one of the last 1,000 files read (noticed while the program runs). A file that was gone for a day is
/// forgotten ([`Files::forget_after`]). Files found by the same listing are read one after the other, in the order
/// of their paths, and the records of a file stay in order.
///
/// A line that is not a record is a dead letter with the path, the line number and the reason, and the other lines
/// count. Of a damaged Parquet file, the rows of the intact row groups count; the checksums of its pages are
/// verified where it has them, and without them a flipped byte may yield another value. When a file cannot be read,
/// disappears, or becomes shorter while it is read, the other files count: it is a dead letter with its path,
/// repeated after a restart, which then reads what can be read of it. A restart in the middle of a file resumes
/// only if the lines before are those that were read (of Parquet: the end of the file); if not, it is another file,
/// and given up in the same way. So is a file whose name is not UTF-8. All that is read of an object, until it is
/// finished or the program ends, is of one version: an object that is overwritten meanwhile is given up in the same
/// way, if the store has entity tags or the size or time of the object has changed.
///
/// Memory: some pieces of 256 KiB, one record of at most [`Config::line_bytes`](crate::Config::line_bytes), the
/// budget of [`Config::block_memory`](crate::Config::block_memory), and the path of every file until it is
/// forgotten; of an object 4 MiB of text, or for each column of Parquet 1 MiB or one page if that is larger.
///
/// **Not promised.** [`Files::dir`] does not follow links to directories. A graceful stop leaves the rest of a file
/// that is being read. On a cluster the master reads, and must reach the directory or the store; dead letters of
/// files are logged there, and are not in the stream of dead letters. Objects are not fetched ahead of reading, and
/// only the object store's own retries are made: a request that fails after them gives the object up.
///
/// Columns are found by name: members of JSON objects, the header of CSV (the first line that is not blank),
/// columns of Parquet; other columns are skipped. Blank lines of JSON and CSV are not records, except that blanks are a
/// text in CSV where it is the only column; those of text are.
///
/// A line of JSON is one object, strictly by RFC 8259, nested at most 128 levels. A value has the type of its
/// column: a number is not written as a text, integers are exact (`1e3` is 1000; `19.99` and values out of range
/// are not rounded), and each column has one member. A CSV record has as many fields as the header, and the header
/// names each column once; blanks around numbers are ignored. Text is UTF-8, and a byte order mark is not part of
/// it. Everything else is a dead letter, whose reason names line, column and fault, and does not repeat the content. A
/// file whose first bytes are those of gzip, Zstandard and the like, or of UTF-16 or UTF-32, is one dead letter that
/// names the format.
///
/// | type | in a line of JSON; in CSV without quotation marks |
/// |---|---|
/// | [`Millis`](crate::Millis) | `"2026-11-29T16:44:00.500Z"`, or a number of milliseconds since 1970: `1795970640500` |
/// | [`Date`](crate::Date) | `"2026-11-29"` |
/// | [`Decimal`](crate::Decimal) | `19.95` or `"19.95"`, with all its digits |
/// | [`Bytes`](crate::Bytes) | `"00ff"`: pairs of hexadecimal digits |
/// | [`Uuid`](crate::Uuid) | `"30313233-3435-3637-3839-616263646566"`, or the same without dashes |
/// | an enum | the name of the variant |
/// | `Vec` | a list, whose items of several columns are objects; not in CSV |
/// | `Option` | a null or nothing: a member that is missing, an empty field |
///
/// So what [`write_files`](crate::DStream::write_files) writes of a record is read as the same record, in each format;
/// [`Format`] says what CSV and JSON cannot represent.
///
/// A time is as in RFC 3339, with a blank or a `T`, and an offset `Z`, `+01:00`, `+0100` or `+01`. Without an offset it
/// is UTC, as in Arrow and DataFusion (and not local time, as in Spark). A year of more digits has a sign, as in
/// `+300000-01-01T00:00:00Z`. The calendar is Gregorian in all years. A leap second, a time that is finer than a
/// millisecond ([`Files::cut_to_millis`]) and a day that its month does not have are dead letters.
///
/// A column of Parquet may have another type whose values are the same: fewer bits or digits, other units or zones of
/// times, dictionaries, other encodings of text and bytes, nullable items of lists. Times without a zone are UTC. A row
/// that does not fit, such as a null or a time that is finer than a millisecond, is a dead letter with its number. Files
/// with times as INT96 are not read.
///
/// ```
/// use dstreams::{Record, StreamContext, files::{Files, Format}};
///
/// #[derive(Record)]
/// struct View { url: String, user: i64, referrer: Option<String> }
///
/// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let views = ctx.files::<View>("views", Files::dir("/srv/views", Format::JsonLines))?;
/// let lines = ctx.files::<String>("lines", Files::dir("/var/log/app", Format::Text).once())?;
/// let more = ctx.files::<View>("more", Files::url("s3://bucket/views", Format::JsonLines))?;
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "files are read where a context has them as a source"]
pub struct Files {
    /// Or the error of an invalid place, which the start reports.
    root: Result<Root>,
    format: Format,
    every: Duration,
    forget_after: Duration,
    once: bool,
    piece: usize,
    finer: FinerTimes,
    only: Only,
    by_time: Option<EventTimeColumn>,
}

/// Which files are read.
#[derive(Clone)]
struct Only(Arc<PathFilter>);

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Files {
    /// The files in `directory`, which must be there when the context starts.
    ///
    /// ```
    /// # use dstreams::{StreamContext, files::{Files, Format}};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.files::<String>("lines", Files::dir("/var/log/app", Format::Text))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn dir(directory: impl Into<PathBuf>, format: Format) -> Self {
        Files::below(Ok(Root::Directory(directory.into())), LIST_INTERVAL, format)
    }

    /// The objects below a URL that the crate `object_store` accepts: `s3://bucket/path` and the like if the
    /// program is built with that crate's feature for it, with keys and regions from the environment;
    /// `file:///path` always. With `file:` links are followed and a directory that cannot be listed fails the whole
    /// listing: [`Files::dir`] does better there.
    ///
    /// The start fails where the URL names no such place, or the objects below it cannot be listed. That there are
    /// none is no failure.
    ///
    /// ```
    /// # use dstreams::{StreamContext, files::{Files, Format}};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.files::<String>("lines", Files::url("s3://bucket/logs", Format::Text))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn url(url: &str, format: Format) -> Self {
        let root = store_at("Files::url", url).map(|(store, path)| Root::Objects(store, path));
        Files::below(root, OBJECT_LIST_INTERVAL, format)
    }

    /// The objects in a store that the program has made, below `path`; all of them where it is empty.
    ///
    /// ```
    /// # use dstreams::{StreamContext, files::{Files, Format}};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// use dstreams::datafusion::object_store::memory::InMemory;
    ///
    /// let store = std::sync::Arc::new(InMemory::new()); // or any other `ObjectStore`
    /// let lines = ctx.files::<String>("lines", Files::store(store, "logs", Format::Text))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn store(store: Arc<dyn ObjectStore>, path: &str, format: Format) -> Self {
        let root = Root::Objects(store, path.into());
        Files::below(Ok(root), OBJECT_LIST_INTERVAL, format)
    }

    fn below(root: Result<Root>, every: Duration, format: Format) -> Self {
        Files {
            root,
            format,
            every,
            forget_after: FORGET_AFTER,
            once: false,
            piece: PIECE_BYTES,
            finer: FinerTimes::Refused,
            only: Only(Arc::new(look::is_whole)),
            by_time: None,
        }
    }

    /// Sets the pause between two listings; default: half a second for a directory, five seconds for an object
    /// store, where each listing is one request per thousand objects.
    ///
    /// The pause is longer where a look takes long, so that looks cost at most 5 % of a core: 19 times as long as the look
    /// was, up to 30 seconds. It is a millisecond at least.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::files::{Files, Format};
    /// let files = Files::url("s3://bucket/logs", Format::Text).every(Duration::from_secs(60));
    /// ```
    pub fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// Forgets a file after it was gone for this long; default: a day. Until then it takes memory and a part of
    /// each checkpoint; a file that comes back later is new, and read.
    ///
    /// The time begins at the first look that does not find the file, so it is counted by one process: after a restart it
    /// begins again, and with [`Files::once`] nothing is forgotten. A look that fails, or a directory that cannot be looked
    /// into, does not count; a disk that is not mounted does, where its empty directory can be looked into.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::files::{Files, Format};
    /// let files = Files::dir("/srv/in", Format::Text).forget_after(Duration::from_secs(3600));
    /// ```
    pub fn forget_after(mut self, gone: Duration) -> Self {
        self.forget_after = gone;
        self
    }

    /// Reads the files that are there, then ends: the same program over what there is. With
    /// [`StreamContext::stop_when_sources_end`](crate::StreamContext::stop_when_sources_end) the program stops
    /// by itself then; listeners are told of the end
    /// ([`Listener::source_ended`](crate::Listener::source_ended)).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{StreamContext, files::{Files, Format}};
    /// # let dir = std::env::temp_dir().join(format!("dstreams-once-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # std::fs::write(dir.join("a.txt"), "to be\nor not\n").unwrap();
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_millis(20))?;
    /// // `dir` has one file of two lines.
    /// let lines = ctx.files::<String>("lines", Files::dir(&dir, Format::Text).once())?;
    /// lines.print(10);
    /// ctx.stop_when_sources_end();
    /// let summary = ctx.start().await?.await_termination(None).await?.unwrap();
    /// assert_eq!(summary.records, 2);
    /// # std::fs::remove_dir_all(dir).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Reads the files whose paths below the directory (with `/` between the parts) are `wanted`; this replaces the
    /// default filter on file names. Files below a skipped directory stay skipped.
    ///
    /// ```
    /// # use dstreams::files::{Files, Format};
    /// let logs = Files::dir("/var/log", Format::Text).only(|path| path.ends_with(".log"));
    /// ```
    pub fn only(mut self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.only = Only(Arc::new(wanted));
        self
    }

    /// Gives the time of a [`Clock::of_sources`](crate::Clock::of_sources): the greatest time so far in `column`, less
    /// `disorder`. So old files are replayed by the time of their records, and a record that is older than the greatest
    /// before it by at most `disorder` is in the interval of its time, or in an earlier one. With no disorder, records
    /// in their order are exactly in the intervals of their times; put [`DStream::by_time`](crate::DStream::by_time)
    /// behind the source for the others.
    ///
    /// The column is `Millis`, or milliseconds since 1970 as `i64`, and without nulls; others, and text, are refused.
    /// Files are read in the order of their paths, and those that are found at once must be in that order by time: give
    /// them names such as `2026-11-30T10.json`. Times before 1970 count as 1970. Without a clock of the sources this
    /// changes nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Clock, Record, StreamContext, files::{Files, Format}};
    /// #[derive(Record)]
    /// struct View { at: i64, url: String }
    ///
    /// let mut ctx = StreamContext::new(Duration::from_secs(60))?;
    /// ctx.set_clock(Clock::of_sources());
    /// let files = Files::dir("/srv/views/2025", Format::JsonLines).once();
    /// let views = ctx.files::<View>("views", files.by_time("at", Duration::from_secs(5)))?;
    /// ctx.stop_when_sources_end();
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn by_time(mut self, column: &str, disorder: Duration) -> Self {
        self.by_time = Some(EventTimeColumn {
            name: column.to_owned(),
            disorder,
        });
        self
    }

    /// Reads times that are finer than a millisecond as the millisecond that they are in: those of texts with more than
    /// three digits behind the seconds, and of Parquet columns in microseconds and nanoseconds. Without this such a
    /// record is a dead letter, since it would come out with another time.
    ///
    /// Times before 1970 are cut towards the past too, so a record stays in its interval of event time.
    ///
    /// ```
    /// # use dstreams::{Millis, StreamContext, files::{Files, Format}};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// // Lines such as {"key":1,"value":"2026-11-29T16:44:00.123456+00:00"}
    /// let clicks = Files::dir("/srv/clicks", Format::JsonLines).cut_to_millis();
    /// let clicks = ctx.files::<(i64, Millis)>("clicks", clicks)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn cut_to_millis(mut self) -> Self {
        self.finer = FinerTimes::Cut;
        self
    }

    /// Bytes of text that become one Arrow batch, for tests.
    #[doc(hidden)]
    pub fn piece_bytes(mut self, bytes: usize) -> Self {
        self.piece = bytes.max(1);
        self
    }

    /// The source of their records: for a source of your own that does more, or a test of it. A program needs only
    /// [`StreamContext::files`](crate::StreamContext::files).
    ///
    /// The error says why the format has no place for a column.
    ///
    /// ```
    /// # use dstreams::{StreamContext, files::{Files, Format}};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let source = Files::dir("/var/log/app", Format::Text).source::<String>().unwrap();
    /// let lines = ctx.source::<String>("lines", source)?; // as `ctx.files`
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn source<T: Record>(self) -> Result<impl Source, String> {
        match self.refuses(&T::schema()) {
            Some(why) => Err(why),
            None => Ok(FileSource::new::<T>(self)),
        }
    }

    /// Why records with these columns cannot be read; `None` if they can.
    fn refuses(&self, columns: &SchemaRef) -> Option<String> {
        let text = String::schema();
        let time = self.by_time.as_ref();
        if let Some(Err(why)) = time.map(|time| time.index_in(columns)) {
            return Some(why);
        }
        match self.format {
            Format::Text if columns.fields() != text.fields() => {
                Some("files of text are a stream of `String`; use another format".into())
            }
            #[cfg(feature = "parquet")]
            Format::Parquet => None,
            format => format.refuses(columns).or_else(|| {
                let field = ColumnBuilder::new(columns, self.finer).err()?;
                let (name, kind) = (field.name(), field.data_type());
                Some(format!(
                    "lines cannot be read as column `{name}`, which is {kind}; read a number or a text, and convert it in \
                     `try_map`"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests;

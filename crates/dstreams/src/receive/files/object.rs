//! [`Object`]: an object that is read range by range, all of one version.
//!
//! No request is open while the reader waits for memory, and overwriting the object meanwhile is detected. The last
//! ranges are cached, one for each read position (each Parquet column has its own).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    self, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::read::FileRecords;

/// An object that is read range by range, all of one version. Its methods block.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    /// The metadata of the store's first answer. Later answers must match it.
    first: ObjectMeta,
    /// Minimum number of bytes of a fetch.
    ahead: u64,
    /// Closed when nobody receives pieces: then waiting for the store ends.
    to: mpsc::Sender<FileRecords>,
    fetched: Mutex<Fetched>,
}

struct Fetched {
    /// Start and bytes of each range, most recently used last.
    ranges: VecDeque<(u64, Bytes)>,
    most: usize,
    /// Why no more bytes will come.
    failed: Option<io::Error>,
}

impl Object {
    pub fn open(
        store: &Arc<dyn ObjectStore>,
        location: &Path,
        ahead: u64,
        to: &mpsc::Sender<FileRecords>,
    ) -> io::Result<Self> {
        let first = wait(to, store.head(location))??;
        let fetched = Fetched {
            ranges: VecDeque::new(),
            most: 1,
            failed: None,
        };
        Ok(Object {
            store: Arc::clone(store),
            first,
            ahead,
            to: to.clone(),
            fetched: Mutex::new(fetched),
        })
    }

    pub fn size(&self) -> u64 {
        self.first.size
    }

    /// The bytes from `from`, at least `length` of them.
    pub fn range(&self, from: u64, length: u64) -> io::Result<Bytes> {
        let end = from.saturating_add(length);
        if end > self.size() {
            let message = format!("it has {} bytes, and none at {end}", self.size());
            return Err(io::Error::new(ErrorKind::UnexpectedEof, message));
        }
        let mut fetched = self.lock();
        if let Some(error) = &fetched.failed {
            return Err(same_error(error));
        }
        let begun = match fetched.take(from) {
            Some((begin, bytes)) => {
                let begun = bytes.slice((from - begin) as usize..);
                if begun.len() as u64 >= length {
                    fetched.ranges.push_back((begin, bytes));
                    return Ok(begun);
                }
                // This reader continues after its last range.
                begun
            }
            None if length == 0 => return Ok(Bytes::new()),
            None => Bytes::new(),
        };
        fetched.make_room();
        let next = from + begun.len() as u64;
        let until = end.max(next.saturating_add(self.ahead)).min(self.size());
        let more = match self.fetch(next..until) {
            Ok(more) => more,
            Err(error) => {
                let again = same_error(&error);
                fetched.failed = Some(error);
                return Err(again);
            }
        };
        let bytes = match begun.is_empty() {
            true => more,
            false => Bytes::from([begun, more].concat()),
        };
        fetched.ranges.push_back((from, bytes.clone()));
        Ok(bytes)
    }

    /// Caches this many ranges from now on.
    #[cfg(feature = "parquet")]
    pub fn cache_ranges(&self, ranges: usize) {
        self.lock().most = ranges.max(1);
    }

    /// The store's error, if a request to it failed.
    #[cfg(feature = "parquet")]
    pub fn failed(&self) -> Option<io::Error> {
        self.lock().failed.as_ref().map(same_error)
    }

    /// A reader from `from` to the end.
    pub fn reader(self: &Arc<Self>, from: u64) -> impl Read + use<> {
        ObjectReader {
            object: Arc::clone(self),
            next: from,
            bytes: Bytes::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fetched> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end - range.start;
        // A weak tag never matches.
        let tag = self.first.e_tag.clone();
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: tag.filter(|tag| !tag.starts_with("W/")),
            ..GetOptions::default()
        };
        let version = |of: &ObjectMeta| (of.e_tag.clone(), of.size, of.last_modified);
        let answer = async {
            let answer = self.store.get_opts(&self.first.location, options).await?;
            let same = version(&answer.meta) == version(&self.first);
            Ok((same, answer.bytes().await?))
        };
        match wait(&self.to, answer)? {
            Ok((true, bytes)) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) | Err(object_store::Error::Precondition { .. }) => Err(io::Error::other(
                "it was changed while it was read; write each object once, under a name of its own",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

impl Fetched {
    /// Removes the range that contains the byte at `from`.
    fn take(&mut self, from: u64) -> Option<(u64, Bytes)> {
        let has = |(begin, bytes): &(u64, Bytes)| {
            from.checked_sub(*begin)
                .is_some_and(|offset| offset < bytes.len() as u64)
        };
        let place = self.ranges.iter().position(has)?;
        self.ranges.remove(place)
    }

    /// Makes room for one more range.
    fn make_room(&mut self) {
        while self.ranges.len() >= self.most {
            self.ranges.pop_front();
        }
    }
}

fn same_error(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Waits for the store, or until nobody receives pieces.
fn wait<T>(to: &mpsc::Sender<FileRecords>, answer: impl Future<Output = T>) -> io::Result<T> {
    Handle::current().block_on(async {
        tokio::select! {
            answer = answer => Ok(answer),
            () = to.closed() => Err(io::Error::other("nobody reads it any more")),
        }
    })
}

/// See [`Object::reader`].
struct ObjectReader {
    object: Arc<Object>,
    /// End of the bytes read so far.
    next: u64,
    bytes: Bytes,
}

impl Read for ObjectReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && self.next < self.object.size() {
            self.bytes = self.object.range(self.next, 1)?;
            self.next += self.bytes.len() as u64;
        }
        let length = to.len().min(self.bytes.len());
        to[..length].copy_from_slice(&self.bytes.split_to(length));
        Ok(length)
    }
}

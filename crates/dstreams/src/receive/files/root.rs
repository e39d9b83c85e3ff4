//! [`Root`]: where the files are: a directory, or a place in an object store.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path as At;
use tokio::sync::mpsc;

use super::look::{self, Listing, PathFilter};
use super::object::Object;
use super::read::{FileRecords, OpenedFile};
use crate::error::{Error, Result};

/// Where the files are: a directory, or a prefix in an object store.
/// Cheap to clone.
#[derive(Clone)]
pub(super) enum Root {
    Directory(PathBuf),
    /// The objects below a path, with `/` between the parts of names.
    Objects(Arc<dyn ObjectStore>, At),
}

/// An open file.
pub(super) enum OpenFile {
    File(File),
    Object(Object),
}

impl Root {
    /// Lists the files below it that are wanted.
    pub async fn look(&self, wanted: &Arc<PathFilter>) -> Result<Listing> {
        match self {
            Root::Directory(directory) => {
                let (looked, wanted) = (directory.clone(), Arc::clone(wanted));
                let look = move || look::directory(&looked, wanted.as_ref());
                let found = tokio::task::spawn_blocking(look).await;
                found.map_err(|panic| Error::file("list", directory, panic.into()))?
            }
            Root::Objects(store, at) => look::objects(store.as_ref(), at, wanted.as_ref()).await,
        }
    }

    /// Metadata of files by name, without opening them; `None` for objects and missing files.
    pub async fn known(&self, names: Vec<String>) -> Vec<Option<OpenedFile>> {
        let nothing = vec![None; names.len()];
        let Root::Directory(directory) = self else {
            return nothing;
        };
        if names.is_empty() {
            return nothing;
        }
        let directory = directory.clone();
        let known = move || {
            let known =
                |name: String| Some(OpenedFile::of(&fs::metadata(directory.join(name)).ok()?));
            names.into_iter().map(known).collect()
        };
        tokio::task::spawn_blocking(known).await.unwrap_or(nothing)
    }

    /// The full name of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Root::Directory(directory) => directory.join(name),
            Root::Objects(_, at) => Path::new(at.as_ref()).join(name),
        }
    }

    /// Opens a file, on a thread that may block. Of an object at least `ahead` bytes are fetched at once; fetching
    /// ends when nobody receives from `to`.
    pub fn open(&self, name: &str, ahead: u64, to: &mpsc::Sender<FileRecords>) -> Result<OpenFile> {
        let opened = match self {
            Root::Directory(directory) => File::open(directory.join(name)).map(OpenFile::File),
            Root::Objects(store, at) => {
                // The name is as the store listed it: it must not be encoded again.
                let location = match at.as_ref() {
                    "" => At::parse(name),
                    at => At::parse(format!("{at}/{name}")),
                };
                let location = location.map_err(std::io::Error::other);
                location
                    .and_then(|location| Object::open(store, &location, ahead, to))
                    .map(OpenFile::Object)
            }
        };
        opened.map_err(|source| Error::file("open", &self.path(name), source))
    }
}

/// Shows a store by its name only: its configuration may contain secrets.
impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Root::Directory(directory) => write!(f, "{directory:?}"),
            Root::Objects(store, at) => write!(f, "{store} {at:?}"),
        }
    }
}

//! [`Store`]: where checkpoints are: a directory, or a place in an object store.
//!
//! Both have the same files, without directories: `state-…` with bytes that manifests refer to, and `manifest-…`,
//! each of which is there as a whole or not at all.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::object_store::path::Path as At;
use datafusion::object_store::{
    self, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::journal::{make_dir, sync_dir};
use crate::stream::object_url::store_at;

/// Bytes of each part of an object that is written by more than one request. Stores take 5 GiB in one request and 10,000
/// parts: an object of 640 GB.
const PART_BYTES: usize = 64 << 20;

/// Where checkpoints are: a directory, or a prefix in an object store.
/// Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// Files of a directory. Calls block.
    Dir(PathBuf),
    /// Objects below a path.
    Objects(Arc<dyn ObjectStore>, At),
}

debug_as!(Store);

impl Store {
    /// The place that a URL names.
    pub fn at(url: &str) -> Result<Self> {
        // Of a directory we know that it is synced, which the store of `file:` does not do.
        let parsed = url::Url::parse(url).ok();
        let file = parsed.filter(|parsed| parsed.scheme() == "file");
        if let Some(dir) = file.and_then(|file| file.to_file_path().ok()) {
            return Ok(Store::Dir(dir));
        }
        let (store, path) = store_at("checkpoints", url)?;
        Ok(Store::Objects(store, path))
    }

    /// Makes it, where it is a directory that is missing.
    pub fn make(&self) -> Result<()> {
        match self {
            Store::Dir(dir) => make_dir(dir).map_err(|error| Error::file("make", dir, error)),
            Store::Objects(..) => Ok(()),
        }
    }

    /// What it is, for messages.
    pub fn place(&self) -> String {
        match self {
            Store::Dir(dir) => dir.display().to_string(),
            Store::Objects(store, at) => format!("{store}/{at}"),
        }
    }

    /// The whole name of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Store::Dir(dir) => dir.join(name),
            Store::Objects(_, at) => Path::new(at.as_ref()).join(name),
        }
    }

    /// Writes a file that nobody reads before a manifest refers to it. It is on disk when this returns.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        match self {
            Store::Dir(dir) => write(&dir.join(name), &bytes),
            Store::Objects(store, at) => {
                let at = at.clone().join(name);
                let put = put_object(&**store, &at, bytes.into(), PART_BYTES).await;
                put.map_err(|error| self.failed("write", name, error))
            }
        }
    }

    /// Makes a file that is there as a whole or not at all. `false` where there is one of that name: then it
    /// stays as it is.
    pub async fn publish(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        match self {
            Store::Dir(dir) => {
                let hidden = dir.join(format!(".{name}.{}.tmp", std::process::id()));
                let whole = dir.join(name);
                if whole.exists() {
                    return Ok(false);
                }
                write(&hidden, &bytes)?;
                crate::crash::point("checkpoint:written");
                // Unlike a rename a link replaces nothing: of two programs that use one place by mistake, one finds out.
                match std::fs::hard_link(&hidden, &whole) {
                    Ok(()) => drop(std::fs::remove_file(&hidden)),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        let _ = std::fs::remove_file(&hidden);
                        return Ok(false);
                    }
                    // A file system without links.
                    Err(_) => std::fs::rename(&hidden, &whole)
                        .map_err(|error| Error::file("rename", &hidden, error))?,
                }
                sync_dir(dir)?;
                Ok(true)
            }
            Store::Objects(store, at) => {
                crate::crash::point("checkpoint:written");
                let options = PutOptions::from(PutMode::Create);
                let payload = PutPayload::from(bytes);
                match store
                    .put_opts(&at.clone().join(name), payload, options)
                    .await
                {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                    Err(error) => Err(self.failed("write", name, error)),
                }
            }
        }
    }

    /// A file, from `from` on, `length` bytes of it; the whole without.
    pub async fn read(&self, name: &str, part: Option<(u64, u64)>) -> Result<Bytes> {
        match self {
            Store::Dir(dir) => {
                let path = dir.join(name);
                let read = || match part {
                    None => std::fs::read(&path),
                    Some((from, length)) => {
                        let mut file = File::open(&path)?;
                        file.seek(SeekFrom::Start(from))?;
                        let mut bytes = vec![0; length as usize];
                        file.read_exact(&mut bytes)?;
                        Ok(bytes)
                    }
                };
                let bytes = read().map_err(|error| Error::file("read", &path, error))?;
                Ok(bytes.into())
            }
            Store::Objects(store, at) => {
                let at = at.clone().join(name);
                let read = async {
                    match part {
                        None => store.get(&at).await?.bytes().await,
                        Some((from, length)) => store.get_range(&at, from..from + length).await,
                    }
                };
                read.await.map_err(|error| self.failed("read", name, error))
            }
        }
    }

    /// The names of its files, in order. What a process was making when it ended is not among them.
    pub async fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match self {
            Store::Dir(dir) => {
                let failed = |error| Error::file("read", dir, error);
                for entry in std::fs::read_dir(dir).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    if entry.file_type().map_err(failed)?.is_file() {
                        names.extend(entry.file_name().into_string());
                    }
                }
            }
            Store::Objects(store, at) => {
                // Not what is in places below this one.
                let listed = store.list_with_delimiter(Some(at)).await;
                let listed = listed
                    .map_err(|error| self.failed("list", "", error))?
                    .objects;
                let names_of = listed.iter().filter_map(|found| found.location.filename());
                names.extend(names_of.map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a file; one that is not there is removed already.
    pub async fn remove(&self, name: &str) -> Result<()> {
        match self {
            Store::Dir(dir) => {
                let path = dir.join(name);
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::file("remove", &path, error))
                    }
                    _ => Ok(()),
                }
            }
            Store::Objects(store, at) => match store.delete(&at.clone().join(name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed("remove", name, error)),
            },
        }
    }

    fn failed(&self, action: &'static str, name: &str, error: object_store::Error) -> Error {
        Error::file(action, &self.path(name), std::io::Error::other(error))
    }
}

/// One partition may have more bytes than a store takes in one request.
async fn put_object(
    store: &dyn ObjectStore,
    at: &At,
    bytes: Bytes,
    part_bytes: usize,
) -> object_store::Result<()> {
    if bytes.len() <= part_bytes {
        return store.put(at, PutPayload::from(bytes)).await.map(drop);
    }
    let mut upload = store.put_multipart(at).await?;
    for from in (0..bytes.len()).step_by(part_bytes) {
        let part = bytes.slice(from..bytes.len().min(from + part_bytes));
        if let Err(error) = upload.put_part(PutPayload::from(part)).await {
            // What was sent is paid for until it is removed.
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    upload.complete().await.map(drop)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::file("write", path, error))
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_large_object_is_there_as_it_is() {
        let (store, at) = (InMemory::new(), At::from("large"));
        for bytes in [0, 10, 11, 20, 25] {
            let whole: Bytes = (0..bytes).collect::<Vec<u8>>().into();
            put_object(&store, &at, whole.clone(), 10).await.unwrap();
            let found = store.get(&at).await.unwrap().bytes().await.unwrap();
            assert_eq!(found, whole);
        }
    }
}

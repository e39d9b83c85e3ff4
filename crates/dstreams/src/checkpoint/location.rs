//! [`Store`]: the place of checkpoints: a directory, or a prefix in an object store.
//!
//! Both have the same files, without subdirectories: `state-…` with bytes that manifests refer to, and
//! `manifest-…`, which appear atomically.

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

/// Bytes of each part of a multipart upload. Stores take 5 GiB in one request and 10,000 parts: an object of 640
/// GB.
const PART_BYTES: usize = 64 << 20;

/// The place of checkpoints: a directory, or a prefix in an object store. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// Files of a directory. Calls block.
    Dir(PathBuf),
    /// Objects below a path.
    Objects(Arc<dyn ObjectStore>, At),
}

debug_as!(Store);

impl Store {
    /// The store that a URL names.
    pub fn at(url: &str) -> Result<Self> {
        // We sync a directory ourselves; the object store for `file:` does not.
        let parsed = url::Url::parse(url).ok();
        let file = parsed.filter(|parsed| parsed.scheme() == "file");
        if let Some(dir) = file.and_then(|file| file.to_file_path().ok()) {
            return Ok(Store::Dir(dir));
        }
        let (store, path) = store_at("checkpoints", url)?;
        Ok(Store::Objects(store, path))
    }

    /// Creates the directory, if it is one and missing.
    pub fn make(&self) -> Result<()> {
        match self {
            Store::Dir(dir) => make_dir(dir).map_err(|error| Error::file("make", dir, error)),
            Store::Objects(..) => Ok(()),
        }
    }

    /// The place, for messages.
    pub fn place(&self) -> String {
        match self {
            Store::Dir(dir) => dir.display().to_string(),
            Store::Objects(store, at) => format!("{store}/{at}"),
        }
    }

    /// The full name of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Store::Dir(dir) => dir.join(name),
            Store::Objects(_, at) => Path::new(at.as_ref()).join(name),
        }
    }

    /// Writes a file that is not read before a manifest refers to it. It is durable when this returns.
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

    /// Creates a file atomically. Returns `false` if one with that name exists, and leaves it unchanged.
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
                // Unlike a rename, a link replaces nothing: of two programs that share a place by mistake, one
                // notices.
                match std::fs::hard_link(&hidden, &whole) {
                    Ok(()) => drop(std::fs::remove_file(&hidden)),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        let _ = std::fs::remove_file(&hidden);
                        return Ok(false);
                    }
                    // A file system without hard links.
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

    /// Reads `length` bytes of a file from offset `from`, or all of it.
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

    /// The names of its files, in order, without unfinished ones of a killed process.
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
                // Without objects below deeper prefixes.
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

    /// Removes a file; a missing one is not an error.
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

/// Uploads an object in parts if needed: one partition may exceed what a store takes in one request.
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
            // Uploaded parts cost money until they are removed.
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
    async fn large_objects_are_uploaded_in_parts() {
        let (store, at) = (InMemory::new(), At::from("large"));
        for bytes in [0, 10, 11, 20, 25] {
            let whole: Bytes = (0..bytes).collect::<Vec<u8>>().into();
            put_object(&store, &at, whole.clone(), 10).await.unwrap();
            let found = store.get(&at).await.unwrap().bytes().await.unwrap();
            assert_eq!(found, whole);
        }
    }
}

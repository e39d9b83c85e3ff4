//! [`Store`]: where checkpoints are: a directory, or a place in an object store.
//!
//! Both have the same files, without directories: `state-…` with bytes that manifests refer to, and `manifest-…`,
//! each of which is there as a whole or not at all.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::object_store::path::Path as At;
use datafusion::object_store::{
    self, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::node::journal::sync_dir;
use crate::stream::object_url::store_at;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// Files of a directory. Calls block.
    Dir(PathBuf),
    /// Objects below a path.
    Objects(Arc<dyn ObjectStore>, At),
}

impl Store {
    /// The place that a URL names.
    pub fn at(url: &str) -> Result<Self> {
        let (store, path) = store_at("checkpoints", url)?;
        Ok(Store::Objects(store, path))
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
                let put = store.put(&at, PutPayload::from(bytes)).await;
                put.map(drop)
                    .map_err(|error| self.failed("write", name, error))
            }
        }
    }

    /// Makes a file that is there as a whole or not at all. `false` where there is one of that name: then it
    /// stays as it is.
    pub async fn publish(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        match self {
            Store::Dir(dir) => {
                let (hidden, whole) = (dir.join(format!(".{name}.tmp")), dir.join(name));
                if whole.exists() {
                    return Ok(false);
                }
                write(&hidden, &bytes)?;
                crate::crash::point("checkpoint:written");
                std::fs::rename(&hidden, &whole)
                    .map_err(|error| Error::file("rename", &hidden, error))?;
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
                    names.extend(entry.map_err(failed)?.file_name().into_string());
                }
            }
            Store::Objects(store, at) => {
                let listed = store.list(Some(at)).try_collect::<Vec<_>>().await;
                let listed = listed.map_err(|error| self.failed("list", "", error))?;
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

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::file("write", path, error))
}

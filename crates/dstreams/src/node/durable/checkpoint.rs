//! A checkpoint: the state as of one batch, in a directory `checkpoint-<batch>` that is there as a whole or
//! not at all.
//!
//! It is written under a hidden name and renamed, so a crash leaves nothing half made. `manifest` says what
//! the program was, and which files there are, with length and checksum of each; `state-<partition>` is what
//! one partition of all windows holds.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use dstreams_control::BatchTime;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::crash::point;
use crate::error::{Error, Result};
use crate::replicate::Format;

const MANIFEST: Format = Format {
    what: "the manifest of a checkpoint",
    magic: *b"dstr-chk",
    version: 1,
};
const PREFIX: &str = "checkpoint-";

/// What a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The batch whose state it is; all up to it took effect.
    pub batch: u64,
    /// The process that wrote it: the n-th of this directory.
    pub incarnation: u64,
    pub program: Program,
    /// By input and producer (or part of a source): the last that is in a batch up to this one.
    pub marks: Vec<(u32, String, u64)>,
    pub files: Vec<StateFile>,
}

/// What of a program its checkpoints depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub interval_ms: u64,
    /// Partitions of keyed data, fixed for the life of the state.
    pub partitions: usize,
    /// Name and columns of each input.
    pub inputs: Vec<String>,
    /// What each window and each keyed state holds.
    pub states: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateFile {
    pub name: String,
    pub bytes: u64,
    pub xxh3: u64,
}

/// Makes a checkpoint visible: everything is on disk when this returns. Removes those before it.
pub(crate) fn write(dir: &Path, mut manifest: Manifest, states: &[Vec<u8>]) -> Result<()> {
    remove_unfinished(dir)?;
    let hidden = dir.join(format!(".{PREFIX}{:020}.tmp", manifest.batch));
    let whole = dir.join(format!("{PREFIX}{:020}", manifest.batch));
    std::fs::create_dir_all(&hidden).map_err(|error| Error::file("make", &hidden, error))?;
    for (partition, state) in states.iter().enumerate() {
        let name = format!("state-{partition:05}");
        put(&hidden.join(&name), state)?;
        manifest.files.push(StateFile {
            name,
            bytes: state.len() as u64,
            xxh3: xxh3_64(state),
        });
    }
    let mut bytes = MANIFEST.begin(0);
    serde_json::to_writer(&mut bytes, &manifest)
        .map_err(|error| MANIFEST.wrong(error.to_string()))?;
    put(&hidden.join("manifest"), &MANIFEST.seal(bytes))?;
    sync(&hidden)?;
    point("checkpoint:written");
    std::fs::rename(&hidden, &whole).map_err(|error| Error::file("rename", &hidden, error))?;
    sync(dir)?;
    point("checkpoint:visible");
    for (batch, path) in list(dir)? {
        if batch < manifest.batch {
            std::fs::remove_dir_all(&path).map_err(|error| Error::file("remove", &path, error))?;
        }
    }
    Ok(())
}

/// Removes what a process was making when it ended.
fn remove_unfinished(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|error| Error::file("read", dir, error))? {
        let entry = entry.map_err(|error| Error::file("read", dir, error))?;
        let name = entry.file_name();
        let hidden = name.to_str().and_then(|name| name.strip_prefix('.'));
        if hidden.is_some_and(|name| name.starts_with(PREFIX)) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(|error| Error::file("remove", &path, error))?;
        }
    }
    Ok(())
}

/// The newest checkpoint of a directory, if there is one, with the state of each partition.
pub(crate) fn newest(dir: &Path) -> Result<Option<(Manifest, Vec<Vec<u8>>)>> {
    let Some((_, path)) = list(dir)?.pop() else {
        return Ok(None);
    };
    let manifest = manifest(&path)?;
    let mut states = Vec::new();
    for file in &manifest.files {
        let at = path.join(&file.name);
        let bytes = std::fs::read(&at).map_err(|error| Error::file("read", &at, error))?;
        if bytes.len() as u64 != file.bytes || xxh3_64(&bytes) != file.xxh3 {
            return Err(damaged(&at, "it is not what was written"));
        }
        states.push(bytes);
    }
    Ok(Some((manifest, states)))
}

/// Reads a manifest.
pub(crate) fn manifest(checkpoint: &Path) -> Result<Manifest> {
    let path = checkpoint.join("manifest");
    let bytes = std::fs::read(&path).map_err(|error| Error::file("read", &path, error))?;
    let body = MANIFEST.open(&bytes);
    let body = body.map_err(|error| damaged(&path, &error.to_string()))?;
    serde_json::from_slice(body).map_err(|error| damaged(&path, &error.to_string()))
}

/// The checkpoints of a directory, oldest first.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::file("read", dir, error))? {
        let entry = entry.map_err(|error| Error::file("read", dir, error))?;
        let name = entry.file_name();
        let batch = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let batch = batch.and_then(|batch| batch.parse().ok());
        all.extend(batch.map(|batch| (batch, entry.path())));
    }
    all.sort();
    Ok(all)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::file("write", path, error))
}

fn sync(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::file("sync", dir, error))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Bytes {
        what: path.display().to_string(),
        message: format!("{what}; restore it from a copy, or begin anew in an empty directory"),
    }
}

impl Manifest {
    pub fn batch(&self) -> BatchTime {
        BatchTime(self.batch)
    }
}

impl Program {
    /// Refuses what was written by a program whose state does not fit this one's.
    pub fn check(&self, written: &Program) -> Result<()> {
        let parts = [
            (
                "batch interval",
                format!("{} ms", written.interval_ms),
                format!("{} ms", self.interval_ms),
            ),
            ("inputs", written.inputs.join(", "), self.inputs.join(", ")),
            ("states", written.states.join(", "), self.states.join(", ")),
        ];
        let differs = parts.into_iter().find(|(_, then, now)| then != now);
        match differs {
            None => Ok(()),
            Some((what, then, now)) => Err(Error::Config {
                setting: "checkpoint directory",
                message: format!(
                    "it is of another program: its {what} were [{then}], this program's are [{now}]; \
                     start the program that wrote it, or give this one a directory of its own"
                ),
            }),
        }
    }
}

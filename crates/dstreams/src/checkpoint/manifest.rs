//! [`Manifest`]: the program of a checkpoint, and where its bytes are.

use std::io::ErrorKind;

use bytes::Bytes;
use dstreams_control::BatchTime;
use dstreams_control::durable::{CheckpointMeta, CheckpointedBlocks};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::compatibility::StateChanges;
use super::location::Store;
use super::offsets;
use super::offsets::{Offset, Offsets};
use crate::encoding::FrameFormat;
use crate::error::{Error, Result};
use crate::journal::Owner;

const MANIFEST: FrameFormat = FrameFormat {
    what: "the manifest of a checkpoint",
    magic: *b"dstr-chk",
    version: 4,
};
/// Before parts could span files.
const VERSION_3: FrameFormat = FrameFormat {
    version: 3,
    ..MANIFEST
};
/// Before offsets were in parts.
const VERSION_2: FrameFormat = FrameFormat {
    version: 2,
    ..MANIFEST
};
const PREFIX: &str = "manifest-";

/// The program that a checkpoint belongs to, and the files with its bytes. A visible manifest is complete: its
/// files were durable before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows with each checkpoint: by one, and with standby masters by one more for each process since the last.
    pub number: u64,
    /// The batch of this state; all up to it took effect.
    pub batch: u64,
    /// The process that wrote it: the n-th of this directory.
    pub incarnation: u64,
    pub program: Program,
    /// The random name of the directory whose program wrote it; earlier programs had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// By input and producer (or part of a source): the last offset in a batch up to this one. Format 2 stored
    /// them here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<(u32, String, u64)>,
    /// The same in parts: one full, then the incremental ones, in order.
    #[serde(default)]
    pub offsets: Vec<PartitionPart>,
    /// The blocks of all batches up to this one.
    pub covered: CheckpointedBlocks,
    /// Names of files.
    pub files: Vec<String>,
    pub states: Vec<StateParts>,
    /// The state changes that the program which wrote it declared: they are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<StateChanges>,
}

/// The properties of a program that determine checkpoint compatibility.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub interval_ms: u64,
    /// Partitions of keyed data, fixed for the life of the state.
    pub partitions: usize,
    /// Name and columns of each input.
    pub inputs: Vec<String>,
}

/// A state of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateId {
    /// Unique among the states of a program.
    pub name: String,
    /// Its contents: state of the same name is read if this is the same.
    pub holds: String,
    /// The times that must not change: batches that run again would give other results than they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<String>,
    /// Whether they may change as long as no batch runs again.
    #[serde(skip)]
    pub may_change: bool,
}

impl StateId {
    /// Its name and the times that must not change.
    pub fn named_times(&self) -> Option<(String, String)> {
        Some((self.name.clone(), self.times.clone()?))
    }
}

/// The places of the bytes of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateParts {
    pub state: StateId,
    /// By partition: a full part, then incremental ones, in order. Empty if no delta was ever installed.
    pub partitions: Vec<Vec<PartitionPart>>,
}

impl StateParts {
    /// The parts of all partitions.
    pub fn parts(&self) -> impl Iterator<Item = &PartitionPart> {
        self.partitions.iter().flatten()
    }
}

/// A part of a file: a full copy of a partition, or what batches changed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPart {
    /// The index of the file in the manifest's list.
    pub file: usize,
    pub from: u64,
    pub bytes: u64,
    pub xxh3: u64,
    /// The version after this part.
    pub version: u64,
    pub whole: bool,
    /// Whether these bytes continue the part before, in the file before: a part may be larger than a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl PartitionPart {
    /// Its bytes, verified against the checksum.
    pub async fn read(&self, store: &Store, file: &str) -> Result<Bytes> {
        let bytes = store.read(file, Some((self.from, self.bytes))).await;
        let bytes = bytes.map_err(|error| match &error {
            Error::File { source, .. } if is_cut(source.kind()) => {
                damaged(store, file, &error.to_string())
            }
            _ => error,
        })?;
        match xxh3_64(&bytes) == self.xxh3 {
            true => Ok(bytes),
            false => Err(damaged(store, file, "it is not what was written")),
        }
    }
}

/// Whether the file is missing or too short.
fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::UnexpectedEof)
}

impl Manifest {
    pub fn batch(&self) -> BatchTime {
        BatchTime(self.batch)
    }

    /// The offsets of producers and sources.
    pub(super) async fn offsets(&self, store: &Store) -> Result<Offsets> {
        let marks = self.marks.iter();
        let offset = |last: u64| Offset {
            last,
            batch: self.batch,
        };
        let mut offsets: Offsets = marks
            .map(|(input, name, last)| ((*input, name.clone()), offset(*last)))
            .collect();
        for part in &self.offsets {
            let file = &self.files[part.file];
            let bytes = part.read(store, file).await?;
            offsets::add(&mut offsets, &bytes)
                .map_err(|error| damaged(store, file, &error.to_string()))?;
        }
        Ok(offsets)
    }

    /// The part of it that a restart needs besides the state.
    pub(super) fn checkpoint_meta(&self, offsets: &Offsets) -> CheckpointMeta {
        let marks = offsets.iter();
        CheckpointMeta {
            batch: self.batch(),
            incarnation: self.incarnation,
            offsets: marks
                .map(|(of, offset)| (of.clone(), offset.last))
                .collect(),
            checkpointed_blocks: self.covered.clone(),
        }
    }

    pub fn name(&self) -> String {
        format!("{PREFIX}{:020}", self.number)
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = MANIFEST.begin(0);
        serde_json::to_writer(&mut bytes, self)
            .map_err(|error| MANIFEST.wrong(error.to_string()))?;
        Ok(MANIFEST.seal(bytes))
    }

    /// The newest manifest of a store, if there is one.
    pub async fn newest(store: &Store) -> Result<Option<Self>> {
        let names = store.list().await?;
        let newest = names.iter().rfind(|name| is_manifest(name));
        let Some(name) = newest else {
            return Ok(None);
        };
        let bytes = store.read(name, None).await?;
        Manifest::open(&bytes)
            .map(Some)
            .map_err(|error| damaged(store, name, &error.to_string()))
    }

    fn open(bytes: &[u8]) -> Result<Self> {
        let body = VERSION_2.open(bytes);
        let body = body
            .or_else(|_| VERSION_3.open(bytes))
            .or_else(|_| MANIFEST.open(bytes))?;
        let manifest: Manifest =
            serde_json::from_slice(body).map_err(|error| MANIFEST.wrong(error.to_string()))?;
        let parts = manifest.parts().map(|part| part.file);
        let files = manifest.files.len();
        match parts.max().is_some_and(|file| file >= files) {
            true => Err(MANIFEST.wrong("it refers to a file that it does not list")),
            false => Ok(manifest),
        }
    }

    pub fn parts(&self) -> impl Iterator<Item = &PartitionPart> {
        let states = self.states.iter().flat_map(StateParts::parts);
        states.chain(&self.offsets)
    }

    /// Removes the files that no checkpoint needs now that this one is visible, and unfinished ones.
    ///
    /// A process that was stopped may do this when another one has gone on from an earlier checkpoint. So it looks before
    /// each file whether it still owns the directory, and leaves files of later processes and checkpoints.
    pub async fn remove_others(&self, store: &Store, owner: &Owner) -> Result<()> {
        let old = |of: StateFile| of.incarnation <= self.incarnation;
        self.remove_old(store, owner, old).await
    }

    /// The same for a process that resumes from this checkpoint. If earlier processes may still run (`shared`), the files of
    /// checkpoints that they may yet publish stay.
    pub async fn remove_earlier(&self, store: &Store, owner: &Owner, shared: bool) -> Result<()> {
        let own = |of: &StateFile| of.tried <= self.number && of.incarnation <= self.incarnation;
        let old = |of: StateFile| !shared || own(&of);
        self.remove_old(store, owner, old).await
    }

    async fn remove_old(
        &self,
        store: &Store,
        owner: &Owner,
        old: impl Fn(StateFile) -> bool,
    ) -> Result<()> {
        let own = self.name();
        for name in store.list().await? {
            let unfinished = is_unfinished(&name);
            let manifest = is_manifest(&name) && name < own;
            let state = StateFile::of(&name).is_some_and(&old);
            if unfinished || manifest || state && !self.files.contains(&name) {
                owner.check()?;
                store.remove(&name).await?;
            }
        }
        Ok(())
    }
}

/// The name of a file with bytes of states: of the n-th checkpoint, written by this process.
pub fn state_file(number: u64, process: &str) -> String {
    format!("state-{number:020}-{process}")
}

/// The twenty digits after a prefix as a number, and the rest of the name; none for files that are not ours.
fn number_of<'a>(name: &'a str, prefix: &str) -> Option<(u64, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_at_checked(20)?;
    let digits = number.bytes().all(|it| it.is_ascii_digit());
    Some((number.parse().ok().filter(|_| digits)?, rest))
}

fn is_manifest(name: &str) -> bool {
    number_of(name, PREFIX).is_some_and(|(_, rest)| rest.is_empty())
}

fn is_unfinished(name: &str) -> bool {
    let hidden = name.strip_prefix('.');
    let rest = hidden.and_then(|name| number_of(name, PREFIX));
    rest.is_some_and(|(_, rest)| rest.starts_with('.') && rest.ends_with(".tmp"))
}

/// The attempt and the process in the name of a file of states.
struct StateFile {
    /// The number of the attempt at a checkpoint.
    tried: u64,
    /// The process of the program.
    incarnation: u64,
}

impl StateFile {
    fn of(name: &str) -> Option<Self> {
        let (tried, rest) = number_of(name, "state-")?;
        let process = rest.strip_prefix('-')?;
        let digits = process.bytes().take_while(u8::is_ascii_digit).count();
        let incarnation = process[..digits].parse().ok()?;
        Some(StateFile { tried, incarnation })
    }
}

pub fn damaged(store: &Store, name: &str, what: &str) -> Error {
    Error::Bytes {
        what: store.path(name).display().to_string(),
        message: format!("{what}; restore it from a copy, or start with an empty directory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first programs that used these formats; they must stay readable forever.
    const FIXTURE_2: &[u8] = include_bytes!("fixtures/manifest-2");
    const FIXTURE_3: &[u8] = include_bytes!("fixtures/manifest-3");
    const FIXTURE: &[u8] = include_bytes!("fixtures/manifest-4");

    #[test]
    #[ignore = "writes a fixture"]
    fn write_fixture() {
        let path = "src/checkpoint/fixtures/manifest-4";
        std::fs::write(path, example().to_bytes().unwrap()).unwrap();
    }

    fn example() -> Manifest {
        let part = |file, version, whole| PartitionPart {
            file,
            from: 7,
            bytes: 100,
            xxh3: u64::MAX,
            version,
            whole,
            more: false,
        };
        let more = PartitionPart {
            more: true,
            ..part(1, 700, false)
        };
        Manifest {
            number: 12,
            batch: 700,
            incarnation: 3,
            program: Program {
                interval_ms: 100,
                partitions: 2,
                inputs: vec!["lines [value Utf8View]".into()],
            },
            directory: None,
            marks: Vec::new(),
            offsets: vec![part(1, 700, true)],
            covered: serde_json::from_str(
                r#"{"closed":{"ranges":{"0":4}},"open":{"7":{"ranges":{"0":11}}}}"#,
            )
            .unwrap(),
            files: vec![state_file(11, "2"), state_file(12, "3")],
            states: vec![StateParts {
                state: StateId {
                    name: "totals".into(),
                    holds: "counts".into(),
                    times: None,
                    may_change: false,
                },
                partitions: vec![vec![part(0, 600, true), part(1, 700, false), more], vec![]],
            }],
            changes: None,
        }
    }

    /// The files in a directory, before and after a removal.
    async fn left(
        names: &[&str],
        holder: &str,
        remove: impl AsyncFn(&Manifest, &Store, &Owner) -> Result<()>,
    ) -> (Vec<String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        std::fs::write(dir.path().join("lock"), holder).unwrap();
        let owner = Owner::new(dir.path(), "ours".to_owned());
        let store = Store::Dir(dir.path().to_owned());
        let removed = remove(&example(), &store, &owner).await.is_ok();
        let mut left = store.list().await.unwrap();
        left.retain(|name| name != "lock");
        (left, removed)
    }

    /// Process 3 wrote checkpoint 12. It may still run after process 4 has taken over, and so may 4 after 5.
    #[tokio::test]
    async fn only_files_that_no_process_needs_are_removed() {
        let file = |number, process: &str| state_file(number, process);
        let manifest = |number| format!("{PREFIX}{number:020}");
        let names = [
            file(9, "2"),
            file(10, "3-1"),
            file(11, "2"),
            file(12, "3"),
            file(13, "3-offsets"),
            file(14, "4-2"),
            format!(".{}.77.tmp", manifest(12)),
            "journal-0000000001.log".to_owned(),
            manifest(11),
            manifest(12),
            manifest(14),
            "state-of-another-program".to_owned(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let without = |gone: &[String]| -> Vec<String> {
            let left = names.iter().map(|name| (*name).to_owned());
            let mut left: Vec<String> = left.filter(|name| !gone.contains(name)).collect();
            left.sort();
            left
        };
        let unfinished = format!(".{}.77.tmp", manifest(12));
        let old = [file(9, "2"), file(10, "3-1"), manifest(11), unfinished];
        // Process 3 has published it: its attempt at 13 has failed.
        let published = async |of: &Manifest, store: &Store, owner: &Owner| {
            of.remove_others(store, owner).await
        };
        let gone: Vec<String> = old.iter().cloned().chain([file(13, "3-offsets")]).collect();
        assert_eq!(
            left(&names, "ours", published).await,
            (without(&gone), true)
        );
        // Another process goes on: process 3 may be writing 13.
        let goes_on = async |of: &Manifest, store: &Store, owner: &Owner| {
            of.remove_earlier(store, owner, true).await
        };
        assert_eq!(left(&names, "ours", goes_on).await, (without(&old), true));
        // No other process can run.
        let alone = async |of: &Manifest, store: &Store, owner: &Owner| {
            of.remove_earlier(store, owner, false).await
        };
        let all: Vec<String> = gone.iter().cloned().chain([file(14, "4-2")]).collect();
        assert_eq!(left(&names, "ours", alone).await, (without(&all), true));
        // One that has lost the directory.
        let found = left(&names, "theirs", published).await;
        assert_eq!(found, (without(&[]), false));
    }

    #[test]
    fn manifests_of_earlier_formats_are_read() {
        let mut in_one_file = example();
        in_one_file.states[0].partitions[0].pop();
        let old = Manifest {
            marks: vec![(0, "a producer".into(), u64::MAX - 1)],
            offsets: Vec::new(),
            ..in_one_file.clone()
        };
        assert_eq!(Manifest::open(FIXTURE_2).unwrap(), old);
        assert_eq!(Manifest::open(FIXTURE_3).unwrap(), in_one_file);
        assert_eq!(Manifest::open(FIXTURE).unwrap(), example());
        assert_eq!(example().to_bytes().unwrap(), FIXTURE);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut bytes = FIXTURE.to_vec();
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::open(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_part_in_an_unlisted_file_is_refused() {
        let mut lie = example();
        lie.files.pop();
        let error = Manifest::open(&lie.to_bytes().unwrap()).unwrap_err();
        assert!(error.to_string().contains("does not list"), "{error}");
    }
}

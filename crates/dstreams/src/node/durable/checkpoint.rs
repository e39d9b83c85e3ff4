//! Writing a checkpoint: the bytes of what changed, then the manifest that makes them one; and reading it.

use dstreams_control::BatchTime;
use dstreams_control::durable::Covered;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::manifest::{Manifest, Part, StateParts, damaged, state_file};
use super::marks;
use super::store::Store;
use crate::error::{Error, Result};
use crate::state::{Captured, States};

/// Parts of a partition before it is written as a whole again: a restart reads all of them.
const MOST_PARTS: usize = 64;

/// What the next checkpoint is to have.
pub struct CheckpointPlan {
    /// The batch whose state it is.
    pub batch: BatchTime,
    /// The blocks of the batches up to it.
    pub covered: Covered,
    /// Its number.
    pub number: u64,
    /// The number of this try to write it: each has files of its own.
    pub tried: u64,
    pub incarnation: u64,
    pub store: Store,
    /// By partition and state: the version that the last checkpoint has, where it is to go on from that.
    pub since: Vec<Vec<Option<BatchTime>>>,
}

/// A file of a checkpoint, whose bytes are on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrittenFile {
    pub name: String,
    pub parts: Vec<WrittenPart>,
}

/// A part of it: see [`Part`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrittenPart {
    pub partition: usize,
    pub state: usize,
    pub from: u64,
    pub bytes: u64,
    pub xxh3: u64,
    pub version: u64,
    pub whole: bool,
}

impl WrittenPart {
    /// The part, in the file of this place in its manifest.
    fn in_file(self, file: usize) -> Part {
        Part {
            file,
            from: self.from,
            bytes: self.bytes,
            xxh3: self.xxh3,
            version: self.version,
            whole: self.whole,
        }
    }
}

/// The version that the next checkpoint goes on from, where these parts stay.
fn goes_on(parts: &[Part]) -> Option<BatchTime> {
    let (first, later) = parts.split_first()?;
    let changes: u64 = later.iter().map(|part| part.bytes).sum();
    let last = parts.last()?;
    let small = changes < first.bytes && parts.len() < MOST_PARTS;
    small.then_some(BatchTime(last.version))
}

/// The state was taken, and is being written.
pub type Writing = BoxFuture<'static, Result<Vec<WrittenFile>>>;

/// Writes what was taken of some partitions into one file; none where that is nothing.
///
/// Blocks: to be called where that is allowed.
pub async fn write(
    store: &Store,
    name: String,
    captured: Vec<(usize, Captured)>,
) -> Result<Option<WrittenFile>> {
    if captured.is_empty() {
        return Ok(None);
    }
    let (mut bytes, mut parts) = (Vec::new(), Vec::new());
    for (partition, captured) in captured {
        let (state, version) = (captured.state, captured.version.0);
        let whole = captured.on.is_none();
        let part = captured.into_bytes()?;
        parts.push(WrittenPart {
            partition,
            state,
            from: bytes.len() as u64,
            bytes: part.len() as u64,
            xxh3: xxh3_64(&part),
            version,
            whole,
        });
        match bytes.is_empty() {
            true => bytes = part,
            false => bytes.extend(part),
        }
    }
    store.put(&name, bytes).await?;
    Ok(Some(WrittenFile { name, parts }))
}

/// Writes a file with offsets; none where nothing changed.
pub(super) async fn write_offsets(
    plan: &CheckpointPlan,
    offsets: &[marks::Written],
    whole: bool,
) -> Result<Option<WrittenFile>> {
    if offsets.is_empty() && !whole {
        return Ok(None);
    }
    let name = state_file(plan.tried, &format!("{}-offsets", plan.incarnation));
    let bytes = marks::to_bytes(offsets)?;
    let part = WrittenPart {
        partition: 0,
        state: 0,
        from: 0,
        bytes: bytes.len() as u64,
        xxh3: xxh3_64(&bytes),
        version: plan.batch.0,
        whole,
    };
    plan.store.put(&name, bytes).await?;
    let parts = vec![part];
    Ok(Some(WrittenFile { name, parts }))
}

impl Manifest {
    /// What the next checkpoint goes on from: of a partition whose changes have become more than it itself, or
    /// have come in many parts, all is written again. So in the long run not much more is written than twice
    /// what changed.
    pub fn since(&self, partitions: usize) -> Vec<Vec<Option<BatchTime>>> {
        let of = |state: &StateParts, partition: usize| goes_on(state.partitions.get(partition)?);
        let states = |partition| {
            self.states
                .iter()
                .map(|state| of(state, partition))
                .collect()
        };
        (0..partitions).map(states).collect()
    }

    /// Whether the next checkpoint goes on from the offsets of this one, in the same way.
    pub fn goes_on_with_offsets(&self) -> bool {
        goes_on(&self.offsets).is_some()
    }

    /// Adds a file with offsets.
    pub fn add_offsets(&mut self, written: WrittenFile) {
        let file = self.files.len();
        self.files.push(written.name);
        for part in written.parts {
            if part.whole {
                self.offsets.clear();
                self.marks.clear();
            }
            self.offsets.push(part.in_file(file));
        }
        self.forget_files();
    }

    /// The manifest after this one, with what was written.
    pub fn next(mut self, plan: &CheckpointPlan, written: Vec<WrittenFile>) -> Result<Self> {
        self.number = plan.number;
        self.batch = plan.batch.0;
        self.incarnation = plan.incarnation;
        for WrittenFile { name, parts } in written {
            let file = self.files.len();
            self.files.push(name);
            for part in parts {
                let at = self.states.get_mut(part.state);
                let at = at.and_then(|state| state.partitions.get_mut(part.partition));
                let at = at.ok_or_else(|| Error::Bytes {
                    what: "a checkpoint".into(),
                    message: format!("state {} has no partition {}", part.state, part.partition),
                })?;
                if part.whole {
                    at.clear();
                }
                at.push(part.in_file(file));
            }
        }
        self.forget_files();
        Ok(self)
    }

    /// Lets go of files that no part is in.
    fn forget_files(&mut self) {
        let mut needed = vec![false; self.files.len()];
        self.parts().for_each(|part| needed[part.file] = true);
        let mut places = Vec::new();
        let mut kept = 0;
        for needed in &needed {
            places.push(kept);
            kept += usize::from(*needed);
        }
        let mut needed = needed.into_iter();
        self.files.retain(|_| needed.next().unwrap_or_default());
        let partitions = self
            .states
            .iter_mut()
            .flat_map(|state| &mut state.partitions);
        let parts = partitions.flatten().chain(&mut self.offsets);
        parts.for_each(|part| part.file = places[part.file]);
    }

    /// What a partition is restored from.
    pub fn sources(&self, partition: usize) -> Vec<Vec<PartAt>> {
        let of = |state: &StateParts| {
            let parts = state.partitions.get(partition).into_iter().flatten();
            let at = |part: &Part| PartAt {
                file: self.files[part.file].clone(),
                part: part.clone(),
            };
            parts.map(at).collect()
        };
        self.states.iter().map(of).collect()
    }
}

/// A part of a file of a checkpoint, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartAt {
    pub file: String,
    pub part: Part,
}

/// Runs what waits for a disk where that is allowed.
pub async fn on_disk<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or(Err(Error::NotRunning))
}

/// Takes a partition of all states from a checkpoint; they must be empty. Blocks.
pub async fn load(
    store: &Store,
    states: &States,
    partition: usize,
    sources: &[Vec<PartAt>],
) -> Result<()> {
    for (state, parts) in sources.iter().enumerate() {
        for PartAt { file, part } in parts {
            let bytes = part.read(store, file).await?;
            states
                .restore(state, partition, part.whole, &bytes)
                .map_err(|error| damaged(store, file, &error.to_string()))?;
        }
    }
    Ok(())
}

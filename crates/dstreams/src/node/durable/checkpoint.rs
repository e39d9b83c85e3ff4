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

/// Bytes after which a checkpoint begins another file: so many are in memory beside those of one partition, and few
/// enough to be sent again where a request to an object store fails.
const FILE_BYTES: usize = 32 << 20;
/// Partitions that are read at once at a restart.
pub const READ_AT_ONCE: usize = 2;

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

/// Writes what was taken of some partitions into files with names that begin so; none where that is nothing. Of the
/// bytes, those of one partition of a state and of `FILE_BYTES` are in memory at once.
///
/// Blocks: to be called where that is allowed.
pub async fn write(
    store: &Store,
    name: String,
    captured: Vec<(usize, Captured)>,
) -> Result<Vec<WrittenFile>> {
    let mut files = Vec::new();
    let (mut bytes, mut parts) = (Vec::new(), Vec::new());
    let mut captured = captured.into_iter().peekable();
    while let Some((partition, taken)) = captured.next() {
        let (state, version) = (taken.state, taken.version.0);
        let whole = taken.on.is_none();
        let part = taken.into_bytes()?;
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
        if bytes.len() >= FILE_BYTES || captured.peek().is_none() {
            let name = match files.len() {
                0 => name.clone(),
                more => format!("{name}-{more}"),
            };
            store.put(&name, std::mem::take(&mut bytes)).await?;
            let parts = std::mem::take(&mut parts);
            files.push(WrittenFile { name, parts });
        }
    }
    Ok(files)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// However large the state is, it is written piece by piece; a restart finds each part.
    #[test]
    fn a_large_state_is_in_files_of_bounded_size() {
        let dir = std::env::temp_dir().join(format!("dstreams-parts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let store = Store::Dir(dir.clone());
        let large = FILE_BYTES / 2 + 1;
        let sizes = [large, large, 10, FILE_BYTES + 7, 10, 10];
        let captured = |(at, bytes): (usize, usize)| {
            let taken = Captured::of_window(0, BatchTime(100), vec![at as u8; bytes]);
            (at, taken)
        };
        let captured = sizes.into_iter().enumerate().map(captured).collect();
        let written = write(&store, "state-1".into(), captured);
        let written = futures::executor::block_on(written).unwrap();
        let names: Vec<_> = written.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["state-1", "state-1-1", "state-1-2"]);
        let of = |file: &WrittenFile| {
            let read = |part: &WrittenPart| {
                let part = part.clone();
                let (partition, part) = (part.partition, part.in_file(0));
                let bytes = futures::executor::block_on(part.read(&store, &file.name)).unwrap();
                assert!(bytes.iter().all(|byte| usize::from(*byte) == partition));
                (partition, bytes.len())
            };
            file.parts.iter().map(read).collect::<Vec<_>>()
        };
        let found: Vec<_> = written.iter().map(of).collect();
        assert_eq!(found[0], [(0, large), (1, large)]);
        assert_eq!(found[1], [(2, 10), (3, FILE_BYTES + 7)]);
        assert_eq!(found[2], [(4, 10), (5, 10)]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

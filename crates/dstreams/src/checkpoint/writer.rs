//! Writing a checkpoint: first the changed bytes, then the manifest that publishes them; and reading it.

use dstreams_control::BatchTime;
use dstreams_control::durable::CheckpointedBlocks;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64;

use super::location::Store;
use super::manifest::{Manifest, PartitionPart, StateParts, damaged, state_file};
use super::offsets;
use crate::encoding::{ByteInput, ByteOutput};
use crate::error::{Error, Result};
use crate::state::{Captured, States};

/// A partition with this many parts is written in full again, since a restart reads all of them.
const MAX_PARTS: usize = 64;

/// A checkpoint begins another file after this many bytes: about as many are in memory, and few enough to be
/// resent if a request to an object store fails.
const FILE_BYTES: usize = 32 << 20;
/// The number of partitions that a restart reads concurrently.
pub const CONCURRENT_READS: usize = 2;

/// The contents of the next checkpoint.
#[derive(Debug)]
pub struct CheckpointPlan {
    /// The batch of its state.
    pub batch: BatchTime,
    /// The blocks of all batches up to it.
    pub checkpointed_blocks: CheckpointedBlocks,
    /// Its number.
    pub number: u64,
    /// The number of this attempt: each has its own files.
    pub tried: u64,
    pub incarnation: u64,
    pub store: Store,
    /// By partition and state: the version of the last checkpoint, if the next one is incremental.
    pub since: Vec<Vec<Option<BatchTime>>>,
}

/// A file of a checkpoint, on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrittenFile {
    pub name: String,
    pub parts: Vec<WrittenPart>,
}

/// A part of it: see [`PartitionPart`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrittenPart {
    pub partition: usize,
    pub state: usize,
    pub from: u64,
    pub bytes: u64,
    pub xxh3: u64,
    pub version: u64,
    pub whole: bool,
    pub more: bool,
}

impl WrittenPart {
    /// The part, with the index of its file in the manifest.
    fn in_file(self, file: usize) -> PartitionPart {
        PartitionPart {
            file,
            from: self.from,
            bytes: self.bytes,
            xxh3: self.xxh3,
            version: self.version,
            whole: self.whole,
            more: self.more,
        }
    }
}

/// The version from which the next checkpoint may be incremental, given these parts.
fn incremental_from(parts: &[PartitionPart]) -> Option<BatchTime> {
    let last = parts.last()?;
    let mut sizes = parts.chunk_by(|_, next| next.more).map(|files| {
        let bytes = files.iter().map(|part| part.bytes);
        bytes.sum::<u64>()
    });
    let first = sizes.next()?;
    let later: Vec<u64> = sizes.collect();
    let small = later.iter().sum::<u64>() < first && 1 + later.len() < MAX_PARTS;
    small.then_some(BatchTime(last.version))
}

/// The captured state, while it is being written.
pub type Writing = BoxFuture<'static, Result<Vec<WrittenFile>>>;

/// Writes the captured state of some partitions to files with this name prefix; no file if it is empty. A part may
/// span files: hardly more than `FILE_BYTES` are in memory at once.
///
/// Blocks: call it from a blocking thread.
pub fn write(
    store: &Store,
    runtime: &Handle,
    name: String,
    captured: Vec<(usize, Captured)>,
) -> Result<Vec<WrittenFile>> {
    let mut files = CheckpointFiles {
        store,
        runtime,
        name,
        bytes: Vec::new(),
        parts: Vec::new(),
        written: Vec::new(),
    };
    for (partition, taken) in captured {
        files.parts.push(WrittenPart {
            partition,
            state: taken.state,
            from: files.bytes.len() as u64,
            bytes: 0,
            xxh3: 0,
            version: taken.version.millis(),
            whole: taken.on.is_none(),
            more: false,
        });
        let mut each = |piece| files.add(piece);
        let mut to = ByteOutput::new(&mut each);
        taken.write(&mut to)?;
        to.end()?;
        files.end_part();
        if files.bytes.len() >= FILE_BYTES {
            files.put()?;
        }
    }
    files.put()?;
    Ok(files.written)
}

/// The files being written.
struct CheckpointFiles<'a> {
    store: &'a Store,
    runtime: &'a Handle,
    name: String,
    /// The bytes not written yet, and the parts in them.
    bytes: Vec<u8>,
    parts: Vec<WrittenPart>,
    written: Vec<WrittenFile>,
}

impl CheckpointFiles<'_> {
    /// Adds bytes to the last part, which continues in another file if this one is full.
    fn add(&mut self, piece: Vec<u8>) -> Result<()> {
        if self.bytes.len() >= FILE_BYTES
            && let Some(part) = self.parts.last().cloned()
        {
            self.end_part();
            self.put()?;
            let (from, more) = (0, true);
            self.parts.push(WrittenPart { from, more, ..part });
        }
        match self.bytes.is_empty() {
            true => self.bytes = piece,
            false => self.bytes.extend(piece),
        }
        Ok(())
    }

    /// Ends the last part: it has all bytes added since it began.
    fn end_part(&mut self) {
        if let Some(part) = self.parts.last_mut() {
            let bytes = &self.bytes[part.from as usize..];
            (part.bytes, part.xxh3) = (bytes.len() as u64, xxh3_64(bytes));
        }
    }

    fn put(&mut self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let name = match self.written.len() {
            0 => self.name.clone(),
            more => format!("{}-{more}", self.name),
        };
        let bytes = std::mem::take(&mut self.bytes);
        self.runtime.block_on(self.store.put(&name, bytes))?;
        let parts = std::mem::take(&mut self.parts);
        self.written.push(WrittenFile { name, parts });
        Ok(())
    }
}

/// Writes a file with offsets; none if nothing changed.
pub(super) async fn write_offsets(
    plan: &CheckpointPlan,
    offsets: &[offsets::Written],
    whole: bool,
) -> Result<Option<WrittenFile>> {
    if offsets.is_empty() && !whole {
        return Ok(None);
    }
    let name = state_file(plan.tried, &format!("{}-offsets", plan.incarnation));
    let bytes = offsets::to_bytes(offsets)?;
    let part = WrittenPart {
        partition: 0,
        state: 0,
        from: 0,
        bytes: bytes.len() as u64,
        xxh3: xxh3_64(&bytes),
        version: plan.batch.millis(),
        whole,
        more: false,
    };
    plan.store.put(&name, bytes).await?;
    let parts = vec![part];
    Ok(Some(WrittenFile { name, parts }))
}

impl Manifest {
    /// The versions from which the next checkpoint may be incremental. A partition is written in full again once
    /// its changes exceed its own size or have too many parts. So the total written stays near twice the changes.
    pub fn since(&self, partitions: usize) -> Vec<Vec<Option<BatchTime>>> {
        let of = |state: &StateParts, partition: usize| {
            incremental_from(state.partitions.get(partition)?)
        };
        let states = |partition| {
            self.states
                .iter()
                .map(|state| of(state, partition))
                .collect()
        };
        (0..partitions).map(states).collect()
    }

    /// Whether the next checkpoint's offsets may be incremental, by the same rule.
    pub fn offsets_can_be_incremental(&self) -> bool {
        incremental_from(&self.offsets).is_some()
    }

    /// Adds a file with offsets.
    pub fn add_offsets(&mut self, written: WrittenFile) {
        let file = self.files.len();
        self.files.push(written.name);
        for part in written.parts {
            if part.whole {
                self.offsets.clear();
                self.offsets.clear();
            }
            self.offsets.push(part.in_file(file));
        }
        self.forget_files();
    }

    /// The next manifest, with the written files.
    pub fn next(mut self, plan: &CheckpointPlan, written: Vec<WrittenFile>) -> Result<Self> {
        self.number = plan.number;
        self.batch = plan.batch.millis();
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
                if part.whole && !part.more {
                    at.clear();
                }
                at.push(part.in_file(file));
            }
        }
        self.forget_files();
        Ok(self)
    }

    /// Removes files without parts from the list.
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

    /// The parts from which to restore a partition.
    pub fn sources(&self, partition: usize) -> Vec<Vec<PartAt>> {
        let of = |state: &StateParts| {
            let parts = state.partitions.get(partition).into_iter().flatten();
            let at = |part: &PartitionPart| PartAt {
                file: self.files[part.file].clone(),
                part: part.clone(),
            };
            parts.map(at).collect()
        };
        self.states.iter().map(of).collect()
    }
}

/// A part of a checkpoint, with the name of its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartAt {
    pub file: String,
    pub part: PartitionPart,
}

/// Runs a future that waits for a disk on a blocking thread.
pub async fn on_disk<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or_else(|ended| Err(Error::of_thread(ended)))
}

/// The same for a function.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Handle) -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || work(&runtime)).await;
    done.unwrap_or_else(|ended| Err(Error::of_thread(ended)))
}

/// Loads a partition of all states from a checkpoint, file by file; the states must be empty. Blocks.
pub fn load(
    store: &Store,
    runtime: &Handle,
    states: &States,
    partition: usize,
    sources: &[Vec<PartAt>],
) -> Result<()> {
    for (state, parts) in sources.iter().enumerate() {
        for files in parts.chunk_by(|_, next| next.part.more) {
            let (mut next, mut failed) = (files.iter(), None);
            let mut from = ByteInput::new(|| {
                let Some(PartAt { file, part }) = next.next() else {
                    return Ok(None);
                };
                let read = runtime.block_on(part.read(store, file));
                read.map(Some)
                    .inspect_err(|error| failed = Some(error.clone()))
            });
            let restored = states.restore(state, partition, files[0].part.whole, &mut from);
            drop(from);
            if let Err(error) = restored {
                let damaged = || damaged(store, &files[0].file, &error.to_string());
                return Err(failed.unwrap_or_else(damaged));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::PIECE;

    /// However large a partition is, it is written file by file, and a restart finds each byte.
    #[test]
    fn large_state_is_written_to_files_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Dir(dir.path().to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let sizes = [10, FILE_BYTES / 2, FILE_BYTES, 10, 2 * FILE_BYTES + 7, 10];
        let captured = |(at, bytes): (usize, usize)| {
            let taken = Captured::of_bytes(0, BatchTime(100), vec![at as u8; bytes]);
            (at, taken)
        };
        let captured = sizes.into_iter().enumerate().map(captured).collect();
        let written = write(&store, runtime.handle(), "state-1".into(), captured).unwrap();
        let names: Vec<_> = written.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["state-1", "state-1-1", "state-1-2", "state-1-3"]);
        let mut found: Vec<(usize, Vec<u8>)> = Vec::new();
        for file in written {
            let length = std::fs::metadata(dir.path().join(&file.name))
                .unwrap()
                .len();
            assert!(length <= (FILE_BYTES + PIECE) as u64, "{length}");
            for part in file.parts {
                let (partition, more) = (part.partition, part.more);
                let bytes = runtime
                    .block_on(part.in_file(0).read(&store, &file.name))
                    .unwrap();
                match found.last_mut().filter(|(last, _)| *last == partition) {
                    Some((_, part)) if more => part.extend(bytes),
                    last => {
                        assert!(last.is_none() && !more);
                        found.push((partition, bytes.into()));
                    }
                }
            }
        }
        let lengths: Vec<_> = found.iter().map(|(_, bytes)| bytes.len()).collect();
        let frame = lengths[0] - 10;
        assert_eq!(lengths, sizes.map(|size| frame + size));
        for (at, bytes) in &found {
            assert!(
                bytes[frame - 8..frame - 8 + sizes[*at]]
                    .iter()
                    .all(|byte| usize::from(*byte) == *at)
            );
        }
    }

    /// Several files of one part count as one, for full and for incremental parts.
    #[test]
    fn files_of_one_part_count_together() {
        let part = |version, bytes, whole, more| PartitionPart {
            file: 0,
            from: 0,
            bytes,
            xxh3: 0,
            version,
            whole,
            more,
        };
        let whole = [part(1, 10, true, false), part(1, 10, true, true)];
        let changes = [part(2, 10, false, false), part(2, 9, false, true)];
        let parts = [whole.clone(), changes.clone()].concat();
        assert_eq!(incremental_from(&parts), Some(BatchTime(2)));
        let parts = [whole.to_vec(), changes.to_vec(), changes[..1].to_vec()].concat();
        assert_eq!(incremental_from(&parts), None);
        let parts = vec![part(1, 10, true, true); 2 * MAX_PARTS];
        assert_eq!(incremental_from(&parts), Some(BatchTime(1)));
    }
}

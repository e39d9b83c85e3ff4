//! Writing a checkpoint: the bytes of what changed, then the manifest that makes them one; and reading it.

use dstreams_control::BatchTime;
use dstreams_control::durable::Covered;
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

/// Parts of a partition before it is written as a whole again: a restart reads all of them.
const MOST_PARTS: usize = 64;

/// Bytes after which a checkpoint begins another file: about so many are in memory, and few enough to be sent again where
/// a request to an object store fails.
const FILE_BYTES: usize = 32 << 20;
/// Partitions that are read at once at a restart.
pub const READ_AT_ONCE: usize = 2;

/// What the next checkpoint is to have.
#[derive(Debug)]
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
    /// The part, in the file of this place in its manifest.
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

/// The version that the next checkpoint goes on from, where these parts stay.
fn goes_on(parts: &[PartitionPart]) -> Option<BatchTime> {
    let last = parts.last()?;
    let mut sizes = parts.chunk_by(|_, next| next.more).map(|files| {
        let bytes = files.iter().map(|part| part.bytes);
        bytes.sum::<u64>()
    });
    let first = sizes.next()?;
    let later: Vec<u64> = sizes.collect();
    let small = later.iter().sum::<u64>() < first && 1 + later.len() < MOST_PARTS;
    small.then_some(BatchTime(last.version))
}

/// The state was taken, and is being written.
pub type Writing = BoxFuture<'static, Result<Vec<WrittenFile>>>;

/// Writes what was taken of some partitions into files with names that begin so; none where that is nothing. A part may be
/// in several files: of the bytes, hardly more than `FILE_BYTES` are in memory at once.
///
/// Blocks: to be called where that is allowed.
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

/// Files that are being written.
struct CheckpointFiles<'a> {
    store: &'a Store,
    runtime: &'a Handle,
    name: String,
    /// What is not written yet, and the parts in it.
    bytes: Vec<u8>,
    parts: Vec<WrittenPart>,
    written: Vec<WrittenFile>,
}

impl CheckpointFiles<'_> {
    /// Adds bytes to the last part, which goes on in another file where this one is full.
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

    /// The last part has what came since it began.
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

/// Writes a file with offsets; none where nothing changed.
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
            let at = |part: &PartitionPart| PartAt {
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
    pub part: PartitionPart,
}

/// Runs what waits for a disk where that is allowed.
pub async fn on_disk<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or_else(|ended| Err(Error::of_thread(ended)))
}

/// The same for work that is not a future.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Handle) -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || work(&runtime)).await;
    done.unwrap_or_else(|ended| Err(Error::of_thread(ended)))
}

/// Takes a partition of all states from a checkpoint, file by file; they must be empty. Blocks.
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

    /// However large a partition of a state is, it is written file by file, and a restart finds each byte.
    #[test]
    fn a_large_state_is_in_files_of_bounded_size() {
        let dir = std::env::temp_dir().join(format!("dstreams-parts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let store = Store::Dir(dir.clone());
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
            let length = std::fs::metadata(dir.join(&file.name)).unwrap().len();
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
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// What is in several files is one part: of what is whole, and of what came after.
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
        assert_eq!(goes_on(&parts), Some(BatchTime(2)));
        let parts = [whole.to_vec(), changes.to_vec(), changes[..1].to_vec()].concat();
        assert_eq!(goes_on(&parts), None);
        let parts = vec![part(1, 10, true, true); 2 * MOST_PARTS];
        assert_eq!(goes_on(&parts), Some(BatchTime(1)));
    }
}

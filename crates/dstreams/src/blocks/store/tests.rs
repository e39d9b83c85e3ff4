//! Blocks move to files and come back; no stored block is ever lost.

use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dstreams_control::ReceiverId;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::blocks::Budget;

/// A directory that is removed with the test.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn store(&self, memory: u64) -> BlockStore {
        BlockStore::open(self.bounds(memory)).unwrap()
    }

    fn bounds(&self, memory: u64) -> Bounds {
        Bounds {
            spill: Some(self.path().to_owned()),
            memory,
            age: None,
        }
    }

    /// The names of spill files.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".spill")).collect();
        names.sort();
        names
    }

    /// Waits for this number of spill files: another thread removes them.
    async fn until_files(&self, count: usize) {
        let wait = async {
            while self.files().len() != count {
                tokio::task::yield_now().await;
            }
        };
        let timeout = Duration::from_secs(20);
        let waited = tokio::time::timeout(timeout, wait).await;
        waited.unwrap_or_else(|_| panic!("{:?} instead of {count}", self.files()));
    }
}

fn id(seq: u64) -> BlockId {
    BlockId {
        receiver: ReceiverId(2),
        seq,
    }
}

/// A block with a declared size of 100 bytes.
fn block(seq: u64) -> Arc<Block> {
    block_of(seq, 100, vec![])
}

fn block_of(seq: u64, bytes: usize, memory: Vec<crate::blocks::BudgetShare>) -> Arc<Block> {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![seq as i64, 7]));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let marks = [(Arc::from("p"), seq)].into();
    Arc::new(Block::new(id(seq), vec![batch], bytes, memory).with_marks(marks))
}

fn assert_same(found: &Block, wanted: u64) {
    let wanted = block(wanted);
    assert_eq!(found.meta, wanted.meta);
    assert_eq!(found.batches, wanted.batches);
    assert_eq!(found.marks, wanted.marks);
}

/// The blocks from 0 to `end` that are in memory.
fn in_memory(store: &BlockStore, end: u64) -> Vec<u64> {
    let held = store.0.lock();
    (0..end).filter(|seq| held.in_memory(id(*seq))).collect()
}

fn holdings(blocks: usize, memory_bytes: u64, disk_bytes: u64) -> Holdings {
    Holdings {
        blocks,
        memory_bytes,
        disk_bytes,
        expired: 0,
    }
}

#[tokio::test]
async fn without_a_directory_all_blocks_are_in_memory() {
    let store = BlockStore::default();
    for seq in 0..5 {
        store.hold(block(seq)).await.unwrap();
    }
    assert_eq!(store.holdings(), holdings(5, 500, 0));
    assert_same(&store.get(id(3)).unwrap(), 3);
    assert_same(&store.fetch(id(4)).await.unwrap().unwrap(), 4);
    assert!(store.fetch(id(9)).await.unwrap().is_none());
    store.forget(&[id(3), id(9)]);
    assert!(store.get(id(3)).is_none());
    store.clear();
    assert_eq!(store.holdings(), holdings(0, 0, 0));
}

#[tokio::test]
async fn blocks_beyond_the_bound_are_read_back() {
    let dir = Dir::new();
    let store = dir.store(250);
    for seq in 0..5 {
        store.hold(block(seq)).await.unwrap();
    }
    let held = store.holdings();
    assert_eq!((held.blocks, held.memory_bytes), (5, 200));
    let size = |name: &String| std::fs::metadata(dir.path().join(name)).unwrap().len();
    assert_eq!(held.disk_bytes, dir.files().iter().map(size).sum::<u64>());
    assert_eq!(in_memory(&store, 5), [3, 4]);
    assert!(store.get(id(0)).is_none());
    for seq in 0..5 {
        assert_same(&store.fetch(id(seq)).await.unwrap().unwrap(), seq);
    }
    // Reading does not move them.
    assert_eq!(store.holdings(), held);
}

#[tokio::test]
async fn the_blocks_used_last_stay() {
    let dir = Dir::new();
    let store = dir.store(300);
    for seq in 0..3 {
        store.hold(block(seq)).await.unwrap();
    }
    store.get(id(0)).unwrap();
    store.hold(block(3)).await.unwrap();
    assert_eq!(in_memory(&store, 4), [0, 2, 3]);
    store.fetch(id(2)).await.unwrap().unwrap();
    store.hold(block(4)).await.unwrap();
    store.hold(block(5)).await.unwrap();
    assert_eq!(in_memory(&store, 6), [2, 4, 5]);
}

#[tokio::test]
async fn readers_of_a_block_share_it() {
    let dir = Dir::new();
    let store = dir.store(0);
    store.hold(block(0)).await.unwrap();
    let one = store.fetch(id(0)).await.unwrap().unwrap();
    let other = store.fetch(id(0)).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &other));
    assert!(Arc::ptr_eq(&one, &store.get(id(0)).unwrap()));
    drop((one, other));
    assert!(store.get(id(0)).is_none());
    // A reader that had it before it was spilled shares it too.
    let before = block(1);
    store.hold(Arc::clone(&before)).await.unwrap();
    let after = store.fetch(id(1)).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn spilling_a_block_returns_its_memory_to_the_budget() {
    let dir = Dir::new();
    let store = dir.store(150);
    let budget = Budget::new(1000);
    for seq in 0..3 {
        let share = budget.take(100).await;
        store.hold(block_of(seq, 100, vec![share])).await.unwrap();
    }
    assert_eq!(budget.used(), 100);
    store.fetch(id(0)).await.unwrap().unwrap();
    store.forget(&[id(0), id(1), id(2)]);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn files_are_removed_with_their_blocks() {
    let dir = Dir::new();
    let store = dir.store(0);
    for seq in 0..4 {
        store.hold(block(seq)).await.unwrap();
    }
    assert_eq!(dir.files().len(), 4);
    store.forget(&[id(1)]);
    dir.until_files(3).await;
    assert!(store.fetch(id(1)).await.unwrap().is_none());
    assert_eq!(store.holdings().blocks, 3);
    store.clear();
    dir.until_files(0).await;
    assert_eq!(store.holdings(), holdings(0, 0, 0));
    store.hold(block(9)).await.unwrap();
    drop(store);
    dir.until_files(0).await;
}

#[tokio::test]
async fn a_directory_stays_locked_until_its_last_file_is_gone() {
    let dir = Dir::new();
    let store = dir.store(0);
    store.hold(block(0)).await.unwrap();
    let found = store.0.lock().find(id(0));
    let Some(BlockLocation::File(reading)) = found else {
        panic!("not in a file");
    };
    drop(store);
    assert_eq!(dir.files().len(), 1);
    assert!(BlockStore::open(dir.bounds(0)).is_err());
    drop(reading);
    assert!(dir.files().is_empty());
    dir.store(0);
}

#[tokio::test]
async fn storing_a_block_twice_changes_nothing() {
    let dir = Dir::new();
    let store = dir.store(100);
    for seq in [0, 0, 1, 0, 1] {
        store.hold(block(seq)).await.unwrap();
    }
    let held = store.holdings();
    assert_eq!((held.blocks, held.memory_bytes), (2, 100));
    assert_eq!(dir.files().len(), 1);
    // A released block may be stored again.
    store.forget(&[id(0)]);
    store.hold(block(0)).await.unwrap();
    assert_same(&store.fetch(id(0)).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn leftovers_are_removed_and_other_files_stay() {
    let dir = Dir::new();
    let ours = [
        "dstreams-block-0-0-0.spill",
        "dstreams-block-7-18446744073709551615-3.spill",
    ];
    let others = [
        "dstreams-block-0-0.spill",
        "dstreams-block-0-0-0-0.spill",
        "dstreams-block-00-0-0.spill",
        "dstreams-block-x-0-0.spill",
        "dstreams-block-0-0-0.spill.gz",
        "my-dstreams-block-0-0-0.spill",
        "data.spill",
    ];
    for name in ours.iter().chain(&others) {
        std::fs::write(dir.path().join(name), "left").unwrap();
    }
    // A directory and a link with such names are not ours.
    std::fs::create_dir(dir.path().join("dstreams-block-1-1-1.spill")).unwrap();
    std::os::unix::fs::symlink("data.spill", dir.path().join("dstreams-block-1-1-2.spill"))
        .unwrap();
    let store = dir.store(0);
    for name in ours {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
    for name in others {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    assert!(dir.path().join("dstreams-block-1-1-1.spill").is_dir());
    assert!(dir.path().join("dstreams-block-1-1-2.spill").is_symlink());
    store.hold(block(0)).await.unwrap();
    assert_same(&store.fetch(id(0)).await.unwrap().unwrap(), 0);
}

#[test]
fn a_directory_is_created_and_used_by_one_store_at_a_time() {
    let dir = Dir::new();
    let bounds = Bounds {
        spill: Some(dir.path().join("made").join("here")),
        ..Bounds::default()
    };
    let store = BlockStore::open(bounds.clone()).unwrap();
    let error = BlockStore::open(bounds.clone()).err().unwrap().to_string();
    assert!(error.contains("made/here/dstreams-blocks.lock"), "{error}");
    assert!(error.contains("another store"), "{error}");
    drop(store);
    BlockStore::open(bounds).unwrap();

    std::fs::write(dir.path().join("file"), "").unwrap();
    let bounds = Bounds {
        spill: Some(dir.path().join("file")),
        ..Bounds::default()
    };
    let error = BlockStore::open(bounds).err().unwrap();
    assert!(
        matches!(&error, Error::File { path, .. } if path.ends_with("/file")),
        "{error}"
    );
}

/// A small file system, if the tests may mount one.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path, bytes: usize) -> Option<Self> {
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Tmpfs(at))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

/// A disk with room for some blocks, or for none if nothing can be mounted.
#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let disk = Dir::new();
    let mounted = Tmpfs::mount(disk.path(), 64 << 10);
    let store = disk.store(0);
    if mounted.is_none() {
        // No file can be created in a missing directory.
        std::fs::remove_dir_all(disk.path()).unwrap();
    }
    // Some 16 kB each.
    let big = |seq: u64| {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![seq as i64; 2000]));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        Arc::new(Block::new(id(seq), vec![batch], 16_000, vec![]))
    };
    let mut failed = Vec::new();
    for seq in 0..8 {
        match store.hold(big(seq)).await {
            Ok(()) => {}
            Err(Error::File { path, .. }) => {
                assert!(Path::new(&path).starts_with(disk.path()), "{path}");
                failed.push(seq);
            }
            Err(other) => panic!("{other}"),
        }
    }
    let on_disk = failed[0];
    assert_eq!(failed, (on_disk..8).collect::<Vec<_>>());
    assert_eq!(on_disk > 0, mounted.is_some());
    let held = store.holdings();
    let in_memory = 16_000 * (8 - on_disk);
    assert_eq!((held.blocks, held.memory_bytes), (8, in_memory));
    for seq in 0..8 {
        let found = store.fetch(id(seq)).await.unwrap().unwrap();
        assert_eq!(found.batches, big(seq).batches);
    }
    // Once there is room again, the next block is spilled.
    match &mounted {
        Some(_) => {
            // Failed writes left no files.
            assert_eq!(disk.files().len(), on_disk as usize);
            store.forget(&(0..on_disk).map(id).collect::<Vec<_>>());
            disk.until_files(0).await;
        }
        None => std::fs::create_dir(disk.path()).unwrap(),
    }
    store.forget(&(on_disk + 1..8).map(id).collect::<Vec<_>>());
    store.make_room().await.unwrap();
    assert_eq!(store.holdings().memory_bytes, 0);
    let found = store.fetch(id(on_disk)).await.unwrap().unwrap();
    assert_eq!(found.batches, big(on_disk).batches);
    drop(store);
    drop(mounted);
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_an_error() {
    let dir = Dir::new();
    let store = dir.store(0);
    for seq in 0..3 {
        store.hold(block(seq)).await.unwrap();
    }
    let path = |at: usize| dir.path().join(&dir.files()[at]);
    let mut bytes = std::fs::read(path(0)).unwrap();
    bytes[70] ^= 4;
    std::fs::write(path(0), &bytes).unwrap();
    let error = store.fetch(id(0)).await.err().unwrap();
    assert!(matches!(error, Error::Bytes { .. }), "{error}");
    // The bytes of another block.
    std::fs::copy(path(2), path(1)).unwrap();
    let error = store.fetch(id(1)).await.err().unwrap();
    assert!(error.to_string().contains("2/1"), "{error}");
    std::fs::remove_file(path(2)).unwrap();
    let error = store.fetch(id(2)).await.err().unwrap();
    assert!(
        error.to_string().contains("dstreams-block-2-2-2.spill"),
        "{error}"
    );
    assert!(error.is_retryable(), "{error}");
}

/// Stops the store in the middle of writing a block, does something, and continues.
async fn while_writing(store: &Arc<BlockStore>, something: impl FnOnce() + Send) -> Result<()> {
    let barrier = Arc::new(Barrier::new(2));
    let spill = store.0.spill.as_ref().unwrap();
    *spill.pause.lock().unwrap() = Some(Arc::clone(&barrier));
    let writing = Arc::clone(store);
    let writing = tokio::spawn(async move { writing.make_room().await });
    // The test's thread may block: the store writes on another thread.
    tokio::task::block_in_place(|| {
        barrier.wait();
        let began = Instant::now();
        let done = std::thread::scope(|threads| {
            let something = threads.spawn(something);
            while !something.is_finished() && began.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            let in_time = something.is_finished();
            // In any case, so that nothing waits forever.
            barrier.wait();
            something.join().map(|()| in_time)
        });
        match done {
            Ok(in_time) => assert!(in_time, "it waited for the file"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    writing.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_locked_while_a_file_is_written() {
    let dir = Dir::new();
    let store = Arc::new(dir.store(100));
    store.insert(block(0));
    store.insert(block(1));
    let written = while_writing(&store, || {
        assert_same(&store.get(id(0)).unwrap(), 0);
        assert_eq!(store.holdings(), holdings(2, 200, 0));
        // The block being written already frees enough memory.
        store.0.make_room().unwrap();
        assert!(dir.files().len() == 1 && in_memory(&store, 2) == [0, 1]);
        store.insert(block(2));
        store.forget(&[id(1)]);
    });
    written.await.unwrap();
    // A reader got the block while it was spilled; it was spilled nonetheless.
    assert_eq!(in_memory(&store, 3), [2]);
    assert_same(&store.fetch(id(0)).await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_released_while_it_is_written_is_gone() {
    let dir = Dir::new();
    let store = Arc::new(dir.store(0));
    store.insert(block(0));
    let forgotten = while_writing(&store, || {
        store.forget(&[id(0)]);
        assert_eq!(store.holdings(), holdings(0, 0, 0));
    });
    forgotten.await.unwrap();
    dir.until_files(0).await;
    assert_eq!(store.holdings(), holdings(0, 0, 0));

    // Stored again meanwhile, it is another block, and is written again.
    store.insert(block(0));
    let again = while_writing(&store, || {
        store.forget(&[id(0)]);
        store.insert(block(0));
    });
    again.await.unwrap();
    dir.until_files(1).await;
    assert_same(&store.fetch(id(0)).await.unwrap().unwrap(), 0);
    assert_eq!(store.holdings().blocks, 1);
}

#[test]
fn a_failed_write_does_not_affect_a_block_stored_again() {
    let mut held = BlockIndex::default();
    let now = Instant::now();
    held.insert(block(0), now);
    let first = held.next_to_spill(0).unwrap();
    held.remove([id(0)]);
    held.insert(block(0), now);
    let again = held.next_to_spill(0).unwrap();
    held.stays(&first);
    assert!(held.next_to_spill(0).is_none());
    held.stays(&again);
    assert!(held.next_to_spill(0).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_continues_after_the_future_is_dropped() {
    let dir = Dir::new();
    let store = Arc::new(dir.store(0));
    store.insert(block(0));
    let barrier = Arc::new(Barrier::new(2));
    let spill = store.0.spill.as_ref().unwrap();
    *spill.pause.lock().unwrap() = Some(Arc::clone(&barrier));
    let writing = Arc::clone(&store);
    let writing = tokio::spawn(async move { writing.make_room().await });
    tokio::task::block_in_place(|| barrier.wait());
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    tokio::task::block_in_place(|| barrier.wait());
    let wait = async {
        while store.holdings().memory_bytes > 0 {
            tokio::task::yield_now().await;
        }
    };
    let timeout = Duration::from_secs(20);
    tokio::time::timeout(timeout, wait).await.unwrap();
    assert_same(&store.fetch(id(0)).await.unwrap().unwrap(), 0);
}

#[test]
fn blocks_beyond_the_age_are_released() {
    let dir = Dir::new();
    let bounds = Bounds {
        age: Some(Duration::from_secs(60)),
        ..dir.bounds(0)
    };
    let store = BlockStore::open(bounds).unwrap();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    store.insert_at(block(0), at(0));
    store.insert_at(block(1), at(30));
    store.0.make_room().unwrap();
    store.insert_at(block(2), at(60));
    assert_eq!(store.len(), 3);
    store.insert_at(block(3), at(61));
    let held = store.holdings();
    assert_eq!((held.blocks, held.expired), (3, 1));
    assert_eq!(dir.files().len(), 1);
    assert!(store.get(id(0)).is_none());
    // A released block does not count.
    store.forget(&[id(1)]);
    store.insert_at(block(4), at(1000));
    let held = store.holdings();
    assert_eq!((held.blocks, held.expired), (1, 3));
    assert!(dir.files().is_empty());
    assert!(store.get(id(4)).is_some());
}

#[derive(Debug, Clone)]
enum Action {
    Insert(u64),
    Get(u64),
    Forget(u64),
    MakeRoom,
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Action>> {
    let step = prop_oneof![
        8 => (0..12u64).prop_map(Action::Insert),
        4 => (0..12u64).prop_map(Action::Get),
        4 => (0..12u64).prop_map(Action::Forget),
        6 => Just(Action::MakeRoom),
        1 => Just(Action::Clear),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Compared with a list: the stored blocks, those in memory, and the files.
    #[test]
    fn stored_blocks_survive_any_order_of_steps(steps in steps(), bound in 0..6u64) {
        let dir = Dir::new();
        let store = dir.store(100 * bound);
        // Least recently used first.
        let (mut memory, mut files) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Action::Insert(seq) => {
                    store.insert(block(seq));
                    if !memory.contains(&seq) && !files.contains(&seq) {
                        memory.push(seq);
                    }
                }
                Action::Get(seq) => {
                    let found = store.get(id(seq));
                    prop_assert_eq!(found.is_some(), memory.contains(&seq));
                    if found.is_some() {
                        memory.retain(|other| *other != seq);
                        memory.push(seq);
                    }
                }
                Action::Forget(seq) => {
                    store.forget(&[id(seq)]);
                    memory.retain(|other| *other != seq);
                    files.retain(|other| *other != seq);
                }
                Action::MakeRoom => {
                    store.0.make_room().unwrap();
                    let leave = memory.len().saturating_sub(bound as usize);
                    files.extend(memory.drain(..leave));
                }
                Action::Clear => {
                    store.clear();
                    memory.clear();
                    files.clear();
                }
            }
            let held = store.holdings();
            prop_assert_eq!(held.blocks, memory.len() + files.len());
            prop_assert_eq!(held.memory_bytes, 100 * memory.len() as u64);
            prop_assert_eq!(dir.files().len(), files.len());
            prop_assert_eq!(held.disk_bytes > 0, !files.is_empty());
            for seq in &files {
                let found = store.0.lock().find(id(*seq));
                let Some(BlockLocation::File(filed)) = found else {
                    return Err(TestCaseError::fail("not in a file"));
                };
                assert_same(&store.0.read(id(*seq), &filed).unwrap(), *seq);
            }
        }
    }
}

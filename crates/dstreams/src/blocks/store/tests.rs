//! Blocks move to files and come back; no stored block is ever lost.

use std::path::Path;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dstreams_control::ReceiverId;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::blocks::Budget;

mod files;
mod writes;

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
    let offsets = [(Arc::from("p"), seq)].into();
    Arc::new(Block::new(id(seq), vec![batch], bytes, memory).with_offsets(offsets))
}

fn assert_same(found: &Block, wanted: u64) {
    let wanted = block(wanted);
    assert_eq!(found.meta, wanted.meta);
    assert_eq!(found.batches, wanted.batches);
    assert_eq!(found.offsets, wanted.offsets);
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
        store.insert_and_spill(block(seq)).await.unwrap();
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
        store.insert_and_spill(block(seq)).await.unwrap();
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
        store.insert_and_spill(block(seq)).await.unwrap();
    }
    store.get(id(0)).unwrap();
    store.insert_and_spill(block(3)).await.unwrap();
    assert_eq!(in_memory(&store, 4), [0, 2, 3]);
    store.fetch(id(2)).await.unwrap().unwrap();
    store.insert_and_spill(block(4)).await.unwrap();
    store.insert_and_spill(block(5)).await.unwrap();
    assert_eq!(in_memory(&store, 6), [2, 4, 5]);
}

#[tokio::test]
async fn readers_of_a_block_share_it() {
    let dir = Dir::new();
    let store = dir.store(0);
    store.insert_and_spill(block(0)).await.unwrap();
    let one = store.fetch(id(0)).await.unwrap().unwrap();
    let other = store.fetch(id(0)).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &other));
    assert!(Arc::ptr_eq(&one, &store.get(id(0)).unwrap()));
    drop((one, other));
    assert!(store.get(id(0)).is_none());
    // A reader that had it before it was spilled shares it too.
    let before = block(1);
    store.insert_and_spill(Arc::clone(&before)).await.unwrap();
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
        store
            .insert_and_spill(block_of(seq, 100, vec![share]))
            .await
            .unwrap();
    }
    assert_eq!(budget.used(), 100);
    store.fetch(id(0)).await.unwrap().unwrap();
    store.forget(&[id(0), id(1), id(2)]);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn storing_a_block_twice_changes_nothing() {
    let dir = Dir::new();
    let store = dir.store(100);
    for seq in [0, 0, 1, 0, 1] {
        store.insert_and_spill(block(seq)).await.unwrap();
    }
    let held = store.holdings();
    assert_eq!((held.blocks, held.memory_bytes), (2, 100));
    assert_eq!(dir.files().len(), 1);
    // A released block may be stored again.
    store.forget(&[id(0)]);
    store.insert_and_spill(block(0)).await.unwrap();
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

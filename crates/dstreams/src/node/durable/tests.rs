//! What the journal still has while checkpoints are written and entries are let go of.

use std::sync::OnceLock;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use dstreams_control::durable::Covered;
use futures::FutureExt;

use super::manifest::Program;
use super::marks::Bound;
use super::restore::{Kept, Restored};
use super::set_aside::Earlier;
use super::*;
use crate::commit::Dataset;
use crate::node::journal::{Opening, read};
use crate::node::workers::Held;
use crate::plan::Plans;
use crate::stream::record::{Record, batch_of};

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let name = format!("dstreams-durable-{}-{name}", std::process::id());
        Dir(std::env::temp_dir().join(name))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(dir: &Dir) -> Arc<Durable> {
    open_both(dir).await.0
}

async fn open_both(dir: &Dir) -> (Arc<Durable>, Restored) {
    let program = Program {
        interval_ms: 100,
        partitions: 1,
        inputs: vec!["texts".into()],
    };
    let (lock, kept) = (DirLock::take(&dir.0).unwrap(), Kept::at(dir.0.clone()));
    let opened = Durable::open(
        lock,
        &kept,
        1,
        program,
        Vec::new(),
        &[String::schema()],
        Bound::default(),
    )
    .await;
    opened.unwrap()
}

fn block(seq: u64) -> Block {
    let receiver = ReceiverId(0);
    let rows = batch_of([format!("record {seq}")]).unwrap();
    Block::new(BlockId { receiver, seq }, vec![rows], 10, Vec::new())
}

/// Receives and journals a block while a checkpoint lets go of what came before.
#[derive(Default)]
struct Meanwhile {
    durable: OnceLock<Arc<Durable>>,
}

#[async_trait]
impl Workers for Meanwhile {
    fn hurry(&self) {}

    fn plans(&self) -> &Plans {
        unreachable!()
    }
    fn receivers(&self) -> Vec<ReceiverId> {
        Vec::new()
    }
    fn seal(&self, _: BatchTime) {}
    fn close(&self) {}
    async fn run(
        &self,
        _: BatchTime,
        _: Option<BatchTime>,
        _: u32,
        _: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>> {
        Ok(Vec::new())
    }
    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)> {
        Err(Error::LostBlock { block: block.id })
    }
    async fn make_state_again(&self, _: Earlier) -> Result<()> {
        Ok(())
    }
    fn forget(&self, _: BatchTime, _: &[BlockId]) {}
    async fn end(&self, _: bool) {}
    fn held(&self) -> Held {
        Held::default()
    }
    async fn table(&self, _: usize, _: BatchTime) -> Result<Vec<Vec<RecordBatch>>> {
        Ok(Vec::new())
    }
    fn capture(&self, _: &CheckpointPlan) -> Result<Writing> {
        Ok(async { Ok(Vec::new()) }.boxed())
    }
    fn covered(&self, _: BatchTime, _: &Covered) {
        let durable = self.durable.get().unwrap();
        let ticket = durable.block(0, &block(7), &String::schema());
        let cut = durable.cut(BatchTime(200), &[block(7).meta]);
        assert!(ticket < cut);
        // Its producer has been told now.
        futures::executor::block_on(durable.synced(cut)).unwrap();
    }
}

#[tokio::test]
async fn what_is_received_while_a_checkpoint_lets_go_stays() {
    let dir = Dir::new("meanwhile");
    let durable = open(&dir).await;
    let workers = Arc::new(Meanwhile::default());
    assert!(workers.durable.set(Arc::clone(&durable)).is_ok());
    durable.cut(BatchTime(100), &[]);
    let plan = durable.committed(BatchTime(100), &[]).unwrap();
    let states = workers.capture(&plan).unwrap();
    durable.checkpoint(plan, states, Arc::clone(&workers) as Arc<dyn Workers>);
    durable.close().await;
    drop((workers, durable));
    let entries = read(&dir.0).unwrap().entries;
    let kinds: Vec<_> = entries.iter().map(|(_, entry)| entry).collect();
    let is_there = matches!(
        kinds[..],
        [
            Entry::Opening(_),
            Entry::Block { .. },
            Entry::Cut {
                batch: BatchTime(200),
                ..
            }
        ]
    );
    assert!(is_there, "{kinds:?}");
}

fn files(dir: &Dir, of: &str) -> usize {
    let entries = std::fs::read_dir(&dir.0).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(of)).count()
}

/// However often a program is started: no start leaves a file, and none has the receivers of another one.
#[tokio::test]
async fn a_directory_is_opened_again_and_again() {
    let dir = Dir::new("again");
    let mut receivers = std::collections::BTreeSet::new();
    for start in 0..150 {
        let (durable, restored) = open_both(&dir).await;
        let first = restored.first_receiver();
        assert!(receivers.insert(first), "{first} again");
        // The blocks of starts that took some; a restart has them all.
        assert_eq!(restored.blocks.len(), start / 50);
        if start % 50 == 49 {
            let receiver = ReceiverId(first);
            let rows = batch_of([format!("of start {start}")]).unwrap();
            let block = Block::new(BlockId { receiver, seq: 0 }, vec![rows], 10, Vec::new());
            let ticket = durable.block(0, &block, &String::schema());
            durable.synced(ticket).await.unwrap();
        }
        drop(durable);
        assert_eq!(files(&dir, "journal-"), 1);
    }
    // As if it had been started as often as a supervisor does in a day.
    let started = Opening {
        incarnation: 70_000,
        ..read(&dir.0).unwrap().opening().unwrap().clone()
    };
    drop(Journal::open(&dir.0, read(&dir.0).unwrap().next(), Some(started), None).unwrap());
    let (_, restored) = open_both(&dir).await;
    assert_eq!(restored.first_receiver(), ReceiverId::first_of(70_001).0);
    assert_eq!(restored.blocks.len(), 3);
}

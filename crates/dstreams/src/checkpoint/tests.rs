//! The journal while a checkpoint is written and older entries are released.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dstreams_control::{BatchTime, BlockId, ReceiverId};
use futures::FutureExt;
use tempfile::tempdir;

use super::Durable;
use super::manifest::Program;
use super::offsets::Bound;
use super::recover::{Restored, StateDirectory};
use crate::blocks::Block;
use crate::error::Error;
use crate::journal::{DirLock, Journal, JournalEntry, Opening, read};
use crate::stream::record::{Record, batch_of};

async fn open(dir: &Path) -> Arc<Durable> {
    open_both(dir).await.0
}

async fn open_both(dir: &Path) -> (Arc<Durable>, Restored) {
    open_with(dir, None).await
}

/// With a lease of this length, if standbys watch.
async fn open_with(dir: &Path, lease: Option<Duration>) -> (Arc<Durable>, Restored) {
    let program = Program {
        interval_ms: 100,
        partitions: 1,
        inputs: vec!["texts".into()],
    };
    let (lock, state_directory) = (
        DirLock::take(dir, lease).unwrap(),
        StateDirectory::at(dir.to_owned()),
    );
    let opened = Durable::open(
        lock,
        &state_directory,
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

#[tokio::test]
async fn blocks_received_during_a_release_are_retained() {
    let place = tempdir().unwrap();
    let dir = &place.path().join("program");
    let durable = open(dir).await;
    durable.cut(BatchTime(100), None, &[]);
    let plan = durable.committed(BatchTime(100), &[]).unwrap();
    let receiving = Arc::clone(&durable);
    let states = async { Ok(Vec::new()) }.boxed();
    durable.checkpoint(plan, states, move |_, _| {
        let ticket = receiving.block(0, &block(7), &String::schema());
        let cut = receiving.cut(BatchTime(200), None, &[block(7).meta]);
        assert!(ticket < cut);
        // The block is persisted: its producer has an acknowledgement now.
        futures::executor::block_on(receiving.synced(cut)).unwrap();
    });
    durable.close().await;
    drop(durable);
    let entries = read(dir).unwrap().entries;
    let kinds: Vec<_> = entries.iter().map(|(_, entry)| entry).collect();
    let is_there = matches!(
        kinds[..],
        [
            JournalEntry::Opening(_),
            JournalEntry::Block { .. },
            JournalEntry::Cut {
                batch: BatchTime(200),
                ..
            }
        ]
    );
    assert!(is_there, "{kinds:?}");
}

fn files(dir: &Path, of: &str) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(of)).count()
}

/// However often a program starts: starts do not leave a file each, and receivers are never reused.
#[tokio::test]
async fn a_directory_can_be_opened_many_times() {
    let place = tempdir().unwrap();
    let dir = &place.path().join("program");
    let mut receivers = std::collections::BTreeSet::new();
    for start in 0..150 {
        let (durable, restored) = open_both(dir).await;
        let first = restored.first_receiver();
        assert!(receivers.insert(first), "{first} again");
        // A restart has the blocks of all starts that took some.
        assert_eq!(restored.blocks.len(), start / 50);
        if start % 50 == 49 {
            let receiver = ReceiverId(first);
            let rows = batch_of([format!("of start {start}")]).unwrap();
            let block = Block::new(BlockId { receiver, seq: 0 }, vec![rows], 10, Vec::new());
            let ticket = durable.block(0, &block, &String::schema());
            durable.synced(ticket).await.unwrap();
        }
        drop(durable);
        assert_eq!(files(dir, "journal-"), 1);
    }
    // As many restarts as a supervisor makes in a day.
    let started = Opening {
        incarnation: 70_000,
        ..read(dir).unwrap().opening().unwrap().clone()
    };
    drop(Journal::open(dir, read(dir).unwrap().next(), Some(started), None).unwrap());
    let (_, restored) = open_both(dir).await;
    assert_eq!(restored.first_receiver(), ReceiverId::first_of(70_001).0);
    assert_eq!(restored.blocks.len(), 3);
}

/// The process before this one is stopped while it writes a checkpoint, and goes on later.
#[tokio::test]
async fn a_process_that_lost_the_directory_publishes_no_checkpoint() {
    let place = tempdir().unwrap();
    let dir = &place.path().join("program");
    let lease = Some(Duration::from_secs(60));
    let (former, _) = open_with(dir, lease).await;
    former.cut(BatchTime(100), None, &[]);
    let plan = former.committed(BatchTime(100), &[]).unwrap();
    former.flush().await.unwrap();
    let (goes_on, stopped) = tokio::sync::oneshot::channel();
    let states = async move {
        stopped.await.unwrap();
        Ok(Vec::new())
    };
    former.checkpoint(plan, states.boxed(), |_, _| panic!("it was published"));
    // A standby replaces the lock.
    std::fs::remove_file(dir.join("lock")).unwrap();
    let (later, _) = open_with(dir, lease).await;
    goes_on.send(()).unwrap();
    former.close().await;
    let failures = former.failures();
    let why = failures.error.unwrap();
    assert!(matches!(why, Error::LostDirectory { .. }), "{why}");
    let manifests = || {
        let names = std::fs::read_dir(dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter_map(|name| name.strip_prefix("manifest-")?.parse::<u64>().ok())
            .collect::<Vec<_>>()
    };
    assert!(manifests().is_empty());
    later.cut(BatchTime(200), None, &[]);
    let plan = later.committed(BatchTime(200), &[]).unwrap();
    let states = async { Ok(Vec::new()) };
    later.checkpoint(plan, states.boxed(), |_, _| ());
    later.close().await;
    // The first number is left to the former process.
    assert_eq!(manifests(), [2]);
}

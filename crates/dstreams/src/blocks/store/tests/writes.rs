//! What happens to a block while it is written to a file.

use std::sync::Barrier;

use super::*;

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

//! The files of blocks: removed, locked, damaged, and on a full disk.

use std::process::Command;

use super::*;

#[tokio::test]
async fn files_are_removed_with_their_blocks() {
    let dir = Dir::new();
    let store = dir.store(0);
    for seq in 0..4 {
        store.insert_and_spill(block(seq)).await.unwrap();
    }
    assert_eq!(dir.files().len(), 4);
    store.forget(&[id(1)]);
    dir.until_files(3).await;
    assert!(store.fetch(id(1)).await.unwrap().is_none());
    assert_eq!(store.holdings().blocks, 3);
    store.clear();
    dir.until_files(0).await;
    assert_eq!(store.holdings(), holdings(0, 0, 0));
    store.insert_and_spill(block(9)).await.unwrap();
    drop(store);
    dir.until_files(0).await;
}

#[tokio::test]
async fn a_directory_stays_locked_until_its_last_file_is_gone() {
    let dir = Dir::new();
    let store = dir.store(0);
    store.insert_and_spill(block(0)).await.unwrap();
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
    store.insert_and_spill(block(0)).await.unwrap();
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
        match store.insert_and_spill(big(seq)).await {
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
        store.insert_and_spill(block(seq)).await.unwrap();
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

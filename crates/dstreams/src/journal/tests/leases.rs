//! Who leads a program: the process that has its directory, or a standby.

use std::time::Duration;

use super::*;
use crate::journal::lease::LeaseFile;
use crate::journal::lock::{LOCK, lock_file};
use crate::journal::stand_by;

/// Five renewals: two loaded cores may hold one up.
const LENGTH: Duration = Duration::from_millis(600);

/// Long enough on any machine.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.expect("it takes too long")
}

async fn leads(dir: &Path) -> DirLock {
    soon(stand_by(dir, LENGTH)).await.unwrap().unwrap()
}

/// A process that has locked the directory and renews nothing, like one that is stopped.
fn stopped(dir: &Path) -> (std::fs::File, Owner) {
    drop(DirLock::take(dir, Some(LENGTH)).unwrap());
    let file = lock_file(&dir.join(LOCK)).unwrap().unwrap();
    (file, Owner::of(dir).unwrap())
}

fn renewals(dir: &Path) -> u64 {
    LeaseFile::read(dir, LENGTH).unwrap().unwrap().renewals
}

#[tokio::test]
async fn a_free_directory_is_led_at_once() {
    let dir = tempdir().unwrap();
    let program = dir.path().join("program");
    let lock = leads(&program).await;
    lock.owner().check().unwrap();
    assert!(DirLock::take(&program, None).is_err());
}

#[tokio::test]
async fn a_leader_renews_its_lease() {
    let dir = tempdir().unwrap();
    let lock = DirLock::take(dir.path(), Some(LENGTH)).unwrap();
    let renewed = async {
        while renewals(dir.path()) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(renewed).await;
    drop(lock);
    // Nobody writes any more.
    std::fs::remove_file(dir.path().join("lease")).unwrap();
    tokio::time::sleep(LENGTH).await;
    assert_eq!(LeaseFile::read(dir.path(), LENGTH).unwrap(), None);
}

#[tokio::test]
async fn one_standby_after_the_other_leads() {
    let dir = tempdir().unwrap();
    let mut lock = DirLock::take(dir.path(), Some(LENGTH)).unwrap();
    let (leader, mut leaders) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..3 {
        let (dir, leader) = (dir.path().to_owned(), leader.clone());
        tokio::spawn(async move { leader.send(leads(&dir).await) });
    }
    for _ in 0..3 {
        // More than a length: who renews is not replaced.
        let other = tokio::time::timeout(2 * LENGTH, leaders.recv()).await;
        assert!(other.is_err(), "two lead");
        let former = lock.owner().clone();
        drop(lock);
        lock = soon(leaders.recv()).await.unwrap();
        lock.owner().check().unwrap();
        assert!(!former.still_owns().unwrap());
    }
}

#[tokio::test]
async fn the_lock_of_a_stopped_process_is_replaced() {
    let dir = tempdir().unwrap();
    let (_file, former) = stopped(dir.path());
    former.check().unwrap();
    let lock = leads(dir.path()).await;
    // It goes on.
    let fenced = former.check().unwrap_err();
    assert!(matches!(fenced, Error::LostDirectory { .. }), "{fenced}");
    lock.owner().check().unwrap();
    // The new one has it as any other has: for others it is locked.
    let error = DirLock::take(dir.path(), Some(LENGTH)).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

/// Of several standbys that give the same process up, one leads; and nothing is left behind.
#[tokio::test]
async fn one_standby_replaces_the_lock() {
    let dir = tempdir().unwrap();
    let (_file, _) = stopped(dir.path());
    let (leader, mut leaders) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..4 {
        let (dir, leader) = (dir.path().to_owned(), leader.clone());
        tokio::spawn(async move { leader.send(leads(&dir).await) });
    }
    let lock = soon(leaders.recv()).await.unwrap();
    let other = tokio::time::timeout(3 * LENGTH, leaders.recv()).await;
    assert!(other.is_err(), "two lead");
    lock.owner().check().unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unfinished: Vec<_> = names.filter(|name| name.starts_with(".lock")).collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}

#[tokio::test]
async fn standbys_end_with_the_program() {
    let dir = tempdir().unwrap();
    let lock = DirLock::take(dir.path(), Some(LENGTH)).unwrap();
    let of = dir.path().to_owned();
    let standby = tokio::spawn(async move { stand_by(&of, LENGTH).await });
    // It has looked.
    tokio::time::sleep(LENGTH).await;
    lock.end();
    let led = soon(standby).await.unwrap().unwrap();
    assert!(led.is_none());
    drop(lock);
    // The next run.
    leads(dir.path()).await;
}

/// Programs on one machine have no lease, whatever an earlier run on a cluster has left.
#[tokio::test]
async fn a_process_without_a_lease_is_not_replaced() {
    let dir = tempdir().unwrap();
    let (file, _) = stopped(dir.path());
    drop(file);
    let lock = DirLock::take(dir.path(), None).unwrap();
    let other = tokio::time::timeout(3 * LENGTH, stand_by(dir.path(), LENGTH)).await;
    assert!(other.is_err(), "{other:?}");
    lock.owner().check().unwrap();
}

/// A standby only looks: whoever starts the program by hand finds it free.
#[tokio::test]
async fn a_waiting_standby_does_not_hold_the_lock() {
    let dir = tempdir().unwrap();
    // Of another machine, whose lock is not seen here.
    let lease =
        r#"{"holder":"x","machine":"another","renewals":0,"length_ms":60000,"ended":false}"#;
    std::fs::write(dir.path().join("lease"), lease).unwrap();
    let of = dir.path().to_owned();
    let standby = tokio::spawn(async move { stand_by(&of, LENGTH).await });
    tokio::time::sleep(LENGTH / 2).await;
    let taken = async {
        loop {
            // Unlucky is who tries in the moment of a look.
            match DirLock::take(dir.path(), Some(LENGTH)) {
                Ok(lock) => return lock,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    // Less than the time between two looks.
    let lock = tokio::time::timeout(LENGTH, taken).await.unwrap();
    assert!(!standby.is_finished());
    lock.end();
    assert!(soon(standby).await.unwrap().unwrap().is_none());
}

/// What killed processes have left half written is removed, and nothing else.
#[test]
fn unfinished_leases_are_removed() {
    let dir = tempdir().unwrap();
    let names = [
        ".lease.abc.tmp",
        ".lock.abc.tmp",
        ".leases.tmp",
        "lease.tmp",
    ];
    for name in names {
        std::fs::write(dir.path().join(name), "half").unwrap();
    }
    let _lock = DirLock::take(dir.path(), Some(LENGTH)).unwrap();
    let left = names.map(|name| dir.path().join(name).exists());
    assert_eq!(left, [false, false, true, true]);
}

/// A machine that lost power may leave anything. It says nothing about who runs, so the standby waits for its length.
#[tokio::test]
async fn a_damaged_lease_is_waited_for() {
    let dir = tempdir().unwrap();
    for damaged in [&b"{\"holder\":"[..], b"", b"\0\0\0"] {
        std::fs::write(dir.path().join("lease"), damaged).unwrap();
        let since = std::time::Instant::now();
        let lock = leads(dir.path()).await;
        assert!(since.elapsed() >= LENGTH);
        lock.owner().check().unwrap();
    }
}

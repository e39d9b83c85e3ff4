//! All workers with a partition of state, or with a block, are lost at once. A program that is kept in a directory
//! continues in the same master process, and its batches are those of a run without faults.

use std::process::Command;
use std::time::Duration;

use dstreams_cluster::{ClusterStatus, WorkerStatus};

use crate::program::{block_on, soon};
use crate::restart::{Cluster, with_trouble};

/// Waits until the status of the cluster is so.
async fn when(
    what: &str,
    cluster: &Cluster<'_>,
    so: impl Fn(&ClusterStatus) -> bool,
) -> ClusterStatus {
    let wait = async {
        loop {
            let status = cluster.status().await;
            if so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, wait).await
}

/// Waits until each partition has a primary and a standby.
async fn whole(cluster: &Cluster<'_>) -> ClusterStatus {
    let count = |status: &ClusterStatus, of: fn(&WorkerStatus) -> usize| -> usize {
        status.workers.iter().map(of).sum()
    };
    let so = |status: &ClusterStatus| {
        count(status, |it| it.holds.len()) == 3 && count(status, |it| it.stands_by.len()) == 3
    };
    when("a whole cluster", cluster, so).await
}

/// The processes of the primary and the standby of a partition.
fn pair(status: &ClusterStatus) -> [u32; 2] {
    let of = |roles: fn(&WorkerStatus) -> &Vec<u32>| {
        let mut workers = status.workers.iter();
        workers.find(|it| roles(it).contains(&0)).unwrap().pid
    };
    [of(|it| &it.holds), of(|it| &it.stands_by)]
}

/// Kills processes at once: none has the time to answer for another one that was lost before it.
fn kill(cluster: &mut Cluster<'_>, pids: &[u32]) {
    let pids_of = pids.iter().map(u32::to_string);
    let killed = Command::new("kill").arg("-KILL").args(pids_of).status();
    assert!(killed.unwrap().success());
    cluster
        .workers
        .retain(|worker| !pids.contains(&worker.pid()));
}

#[test]
fn the_primary_and_the_standby_of_a_partition_are_killed_at_once() {
    block_on(with_trouble(async |cluster| {
        // There is a checkpoint by the second time.
        for rebuilds in 1..=2 {
            cluster.goes_on(2 * rebuilds as usize).await;
            let pair = pair(&whole(cluster).await);
            kill(cluster, &pair);
            cluster.goes_on(3).await;
            let status = cluster.status().await;
            assert!(status.rebuilds >= rebuilds, "{status:?}");
            // Not those of the third worker.
            assert!(
                status.rebuilt_partitions < 3 * u64::from(status.rebuilds),
                "{status:?}"
            );
            cluster.add_workers();
        }
        let status = whole(cluster).await;
        assert!(status.adopted >= 2, "{status:?}");
        cluster.goes_on(2).await;
    }));
}

#[test]
fn all_workers_are_killed_at_once_and_others_join() {
    block_on(with_trouble(async |cluster| {
        cluster.goes_on(4).await;
        let all: Vec<u32> = cluster.workers.iter().map(|worker| worker.pid()).collect();
        kill(cluster, &all);
        when("no worker", cluster, |status| status.workers.is_empty()).await;
        cluster.add_workers();
        cluster.goes_on(4).await;
        let status = cluster.status().await;
        assert!(status.rebuilds >= 1 && status.adopted >= 1, "{status:?}");
    }));
}

/// The last worker is killed while it rebuilds the state.
#[test]
fn a_worker_is_killed_while_the_state_is_rebuilt() {
    block_on(with_trouble(async |cluster| {
        cluster.goes_on(4).await;
        let pair = pair(&whole(cluster).await);
        kill(cluster, &pair);
        when("a rebuild", cluster, |status| status.rebuilds > 0).await;
        cluster.workers.clear();
        cluster.add_workers();
        cluster.goes_on(4).await;
        let status = cluster.status().await;
        // Another one, unless it had not restored anything yet.
        assert!(status.rebuilds >= 1 && status.losses == 3, "{status:?}");
    }));
}

/// They go on where they were, after their journals were taken away: what they then write and say counts for nothing.
#[test]
fn the_primary_and_the_standby_of_a_partition_are_stopped_at_once_and_rejoin() {
    block_on(with_trouble(async |cluster| {
        cluster.kill_master();
        cluster.silence = Some(2);
        cluster.start_master(None);
        cluster.goes_on(4).await;
        let pids = pair(&whole(cluster).await);
        let signal = |cluster: &Cluster<'_>, name: &str| {
            let stopped = cluster.workers.iter();
            let stopped = stopped.filter(|worker| pids.contains(&worker.pid()));
            stopped.for_each(|worker| worker.signal(name));
        };
        signal(cluster, "STOP");
        when("a rebuild", cluster, |status| status.rebuilds > 0).await;
        cluster.goes_on(2).await;
        signal(cluster, "CONT");
        let status = whole(cluster).await;
        assert!(
            pids.iter()
                .all(|pid| status.workers.iter().any(|it| it.pid == *pid)),
            "{status:?}"
        );
        cluster.goes_on(3).await;
    }));
}

/// After it has taken a journal away, and before it has read it; and before it has rebuilt the state.
#[test]
fn the_master_crashes_while_it_takes_over() {
    block_on(with_trouble(async |cluster| {
        for point in ["takeover:taken#1", "takeover:read#1"] {
            cluster.goes_on(1).await;
            cluster.kill_master();
            cluster.start_master(Some(point));
            cluster.goes_on(2).await;
            let pair = pair(&whole(cluster).await);
            kill(cluster, &pair);
            cluster.master_crashes().await;
            cluster.add_workers();
            cluster.start_master(None);
        }
        cluster.goes_on(3).await;
    }));
}

/// No partition has a standby, so each loss of a worker is one of state; and a worker that joins gets its share.
#[test]
fn without_standbys_each_lost_partition_is_rebuilt() {
    block_on(with_trouble(async |cluster| {
        cluster.kill_master();
        cluster.standbys = Some(0);
        cluster.start_master(None);
        let spread = |status: &ClusterStatus| {
            let mut workers = status.workers.iter();
            workers.len() == 3 && workers.all(|it| it.holds.len() == 1 && it.stands_by.is_empty())
        };
        for rebuilds in 1..=2 {
            cluster.goes_on(2).await;
            when("one partition each, without standby", cluster, spread).await;
            cluster.workers.remove(0);
            cluster.goes_on(2).await;
            let status = cluster.status().await;
            assert!(status.rebuilds >= rebuilds, "{status:?}");
            let rebuilt = status.rebuilt_partitions;
            assert!(rebuilt <= u64::from(status.rebuilds), "{status:?}");
            cluster.add_workers();
        }
        when("one partition each, without standby", cluster, spread).await;
    }));
}

//! [`Standbys`]: loads partitions of state into this worker: as a standby from their primary, as the first primary from
//! a checkpoint.
//!
//! Messages about one partition are handled in the order in which the master sent them.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dstreams::internal::{
    ByteInput, CONCURRENT_READS, PartAt, PreviousBatch, StateInstaller, Store, blocking, load,
    on_disk,
};
use dstreams_control::BatchTime;
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};

use crate::execute::TaskRunner;
use crate::link::{Sender, ToMaster, ToWorker};
use crate::plan::{CachedId, Source};

/// Pause before a failed install is retried, or a failed copy is reported to the master.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Pieces of a state, of 1 MiB, that are buffered before they are imported.
const PIECES_AHEAD: usize = 4;
/// How long a standby at least tries to fetch a delta from a primary that does not answer.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(12);
/// It tries for as many times the silence after which the primary is given up: the batch must not commit while the only
/// worker with its delta may be lost.
const SILENCES: u32 = 3;

/// Loads partitions of state from their primary or from a checkpoint.
pub struct Standbys {
    site: Arc<TaskRunner>,
    link: Sender<ToMaster>,
    /// The store of checkpoints.
    checkpoints: Option<Store>,
    install_timeout: Duration,
    partitions: Mutex<BTreeMap<u32, mpsc::UnboundedSender<ToWorker>>>,
}

impl Standbys {
    /// `silence` is that after which the master gives up a worker.
    pub fn new(
        site: Arc<TaskRunner>,
        link: Sender<ToMaster>,
        (checkpoints, silence): (Option<Store>, Duration),
    ) -> Self {
        Standbys {
            install_timeout: INSTALL_TIMEOUT.max(silence * SILENCES),
            site,
            link,
            checkpoints,
            partitions: Mutex::default(),
        }
    }

    /// Queues a message of the master about a partition.
    pub fn take(&self, message: ToWorker) {
        let (ToWorker::CopyState { partition, .. }
        | ToWorker::Install { partition, .. }
        | ToWorker::Restore { partition, .. }) = message
        else {
            return;
        };
        let mut partitions = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let queue = partitions.entry(partition).or_insert_with(|| {
            let (queue, messages) = mpsc::unbounded_channel();
            let (site, link) = (Arc::clone(&self.site), self.link.clone());
            let of = (self.checkpoints.clone(), self.install_timeout);
            tokio::spawn(run(site, link, of, messages));
            queue
        });
        let _ = queue.send(message);
    }
}

async fn run(
    site: Arc<TaskRunner>,
    link: Sender<ToMaster>,
    (checkpoints, install_timeout): (Option<Store>, Duration),
    mut messages: mpsc::UnboundedReceiver<ToWorker>,
) {
    // The copy from which the state of this partition started.
    let mut began = 0;
    let mut queue = VecDeque::new();
    while let Some(message) = next(&mut messages, &mut queue).await {
        match message {
            ToWorker::CopyState {
                partition,
                from,
                copy,
            } => match take_over(&site, partition, &from).await {
                Ok(version) => {
                    began = copy;
                    link.send(&ToMaster::Installed {
                        partition,
                        version: version.unwrap_or(BatchTime(0)),
                        copy,
                    });
                }
                Err(error) => {
                    tracing::warn!(partition, from, %error, "cannot copy state");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    link.send(&ToMaster::StateCopyFailed { partition, copy });
                }
            },
            ToWorker::Restore {
                partition,
                batch,
                sources,
                copy,
            } => match restore(&site, checkpoints.as_ref(), partition, sources).await {
                Ok(()) => {
                    began = copy;
                    link.send(&ToMaster::Installed {
                        partition,
                        version: batch,
                        copy,
                    });
                }
                Err(error) => {
                    let message = error.to_string();
                    link.send(&ToMaster::RestoreFailed { partition, message });
                }
            },
            ToWorker::Install {
                batch,
                before,
                attempt,
                partition,
                states,
                from,
            } => {
                let since = Instant::now();
                let mut over = Over::No;
                let installed = loop {
                    let done =
                        install(&site, (batch, before, attempt), partition, &states, &from).await;
                    while let Ok(message) = messages.try_recv() {
                        queue.push_back(message);
                    }
                    over = queue.iter().fold(over, |over, it| over.or(it, batch));
                    match done {
                        // The master is waiting, unless it has sent something newer about this partition.
                        Err(error)
                            if error.is_retryable()
                                && matches!(over, Over::No)
                                && since.elapsed() < install_timeout =>
                        {
                            tokio::time::sleep(RETRY_PAUSE).await;
                        }
                        done => break done,
                    }
                };
                match installed {
                    // The delta of the next attempt is fetched next.
                    Err(_) if matches!(over, Over::Again) => {}
                    Ok(()) => link.send(&ToMaster::Installed {
                        partition,
                        version: batch,
                        copy: began,
                    }),
                    Err(error) => {
                        tracing::warn!(partition, %batch, %error, "cannot install a delta of state");
                        link.send(&ToMaster::InstallFailed { partition, batch });
                    }
                }
            }
            _ => {}
        }
    }
}

async fn next(
    messages: &mut mpsc::UnboundedReceiver<ToWorker>,
    queue: &mut VecDeque<ToWorker>,
) -> Option<ToWorker> {
    match queue.pop_front() {
        Some(message) => Some(message),
        None => messages.recv().await,
    }
}

/// Whether a later message has made an install obsolete.
#[derive(Clone, Copy)]
enum Over {
    No,
    /// Another attempt of the batch is to be installed.
    Again,
    /// The whole state is replaced.
    Replaced,
}

impl Over {
    fn or(self, message: &ToWorker, batch: BatchTime) -> Self {
        match message {
            ToWorker::CopyState { .. } | ToWorker::Restore { .. } => Over::Replaced,
            ToWorker::Install { batch: of, .. } if *of == batch && matches!(self, Over::No) => {
                Over::Again
            }
            _ => self,
        }
    }
}

/// Restores a partition of state from a checkpoint.
async fn restore(
    site: &Arc<TaskRunner>,
    checkpoints: Option<&Store>,
    partition: u32,
    sources: Vec<Vec<PartAt>>,
) -> dstreams::Result<()> {
    // Each has the bytes of a file in memory besides its state.
    static AT_ONCE: Semaphore = Semaphore::const_new(CONCURRENT_READS);
    let _turn = AT_ONCE.acquire().await;
    let store = checkpoints.ok_or_else(|| {
        dstreams::Error::internal("state is to be restored, and the program is kept nowhere")
    })?;
    let store = store.clone();
    let (site, partition) = (Arc::clone(site), partition as usize);
    blocking(move |runtime| {
        // What tasks of earlier runs still change is part of what is replaced.
        site.wait_for_older_runs();
        site.states.clear(partition)?;
        load(&store, runtime, &site.states, partition, &sources)
    })
    .await
}

/// Streams the whole state of a partition from its primary, and imports it meanwhile.
async fn take_over(
    site: &Arc<TaskRunner>,
    partition: u32,
    from: &str,
) -> dstreams::Result<Option<BatchTime>> {
    let mut pieces = pin!(site.peers.state(partition, from).await?);
    let (came, mut next) = mpsc::channel(PIECES_AHEAD);
    let coming = async move {
        while let Some(piece) = pieces.next().await {
            if came.send(piece).await.is_err() {
                break; // the import has stopped
            }
        }
    };
    let (site, at) = (Arc::clone(site), partition as usize);
    let taken = blocking(move |_| {
        dstreams::internal::point("state:fetched");
        site.wait_for_older_runs();
        let mut from = ByteInput::new(|| next.blocking_recv().transpose());
        site.states.import(at, &mut from)?;
        Ok(site.states.version(at))
    });
    tokio::join!(coming, taken).1
}

/// Fetches the delta of a batch for a partition from its primary, and installs it.
async fn install(
    site: &Arc<TaskRunner>,
    (batch, before, attempt): (BatchTime, Option<PreviousBatch>, u32),
    partition: u32,
    states: &[(usize, usize)],
    from: &str,
) -> dstreams::Result<()> {
    let from = from.to_owned();
    let of = Arc::clone(site);
    let versions = on_disk(async move { Ok(of.states.versions(partition as usize)) }).await?;
    for (state, slot) in states {
        if versions.get(*state).is_some_and(|has| *has >= Some(batch)) {
            continue; // contained in the copy, or installed by an earlier attempt
        }
        let delta = Source::Kept(CachedId {
            batch,
            attempt,
            slot: *slot,
            partition: partition as usize,
        });
        let rows = site
            .peers
            .fetch(&[delta.into()], std::iter::once(&from))
            .await?;
        let (of, state) = (Arc::clone(site), *state);
        on_disk(async move {
            let partition = partition as usize;
            of.states.install(state, partition, batch, before, &rows)
        })
        .await?;
        dstreams::internal::point("state:standby");
    }
    Ok(())
}

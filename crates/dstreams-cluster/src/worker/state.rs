//! [`Standbys`]: what this worker gets of partitions of state: as a standby from their holder, as the first holder from a
//! checkpoint.
//!
//! What is done to one partition is done in the order in which the master says it.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dstreams::internal::{
    ByteInput, Installs, PartAt, READ_AT_ONCE, Store, blocking, load, on_disk,
};
use dstreams_control::BatchTime;
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc};

use crate::execute::TaskRunner;
use crate::link::{Sender, ToMaster, ToWorker};
use crate::plan::{KeptId, Source};

/// Pause before a state is asked for again, or the master told that it could not be had.
const AGAIN: Duration = Duration::from_millis(50);
/// Pieces of a state, of 1 MiB, that are here before they are taken in.
const AHEAD: usize = 4;
/// How long a standby asks a holder that does not answer for what a batch added. Longer than it
/// takes to notice that a worker is gone: the batch must not be committed while its only holder may
/// be.
const PATIENCE: Duration = Duration::from_secs(12);

/// The state partitions that this worker receives from another holder or from a checkpoint.
pub struct Standbys {
    site: Arc<TaskRunner>,
    link: Sender<ToMaster>,
    /// Where checkpoints are.
    checkpoints: Option<Store>,
    partitions: Mutex<BTreeMap<u32, mpsc::UnboundedSender<ToWorker>>>,
}

impl Standbys {
    pub fn new(site: Arc<TaskRunner>, link: Sender<ToMaster>, checkpoints: Option<Store>) -> Self {
        Standbys {
            site,
            link,
            checkpoints,
            partitions: Mutex::default(),
        }
    }

    /// Takes what the master says of a partition.
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
            tokio::spawn(run(site, link, self.checkpoints.clone(), messages));
            queue
        });
        let _ = queue.send(message);
    }
}

async fn run(
    site: Arc<TaskRunner>,
    link: Sender<ToMaster>,
    checkpoints: Option<Store>,
    mut messages: mpsc::UnboundedReceiver<ToWorker>,
) {
    // The copy that the state of this partition began with.
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
                    link.say(&ToMaster::Installed {
                        partition,
                        version: version.unwrap_or(BatchTime(0)),
                        copy,
                    });
                }
                Err(error) => {
                    tracing::warn!(partition, from, %error, "state was not copied");
                    tokio::time::sleep(AGAIN).await;
                    link.say(&ToMaster::StateCopyFailed { partition, copy });
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
                    link.say(&ToMaster::Installed {
                        partition,
                        version: batch,
                        copy,
                    });
                }
                Err(error) => {
                    let message = error.to_string();
                    link.say(&ToMaster::RestoreFailed { partition, message });
                }
            },
            ToWorker::Install {
                batch,
                attempt,
                partition,
                states,
                from,
            } => {
                let since = Instant::now();
                let mut over = Over::No;
                let installed = loop {
                    let done = install(&site, (batch, attempt), partition, &states, &from).await;
                    while let Ok(message) = messages.try_recv() {
                        queue.push_back(message);
                    }
                    over = queue.iter().fold(over, |over, it| over.or(it, batch));
                    match done {
                        // The master waits, unless it has said something new about this.
                        Err(error)
                            if error.is_retryable()
                                && matches!(over, Over::No)
                                && since.elapsed() < PATIENCE =>
                        {
                            tokio::time::sleep(AGAIN).await;
                        }
                        done => break done,
                    }
                };
                match installed {
                    // What the next attempt added is asked for next.
                    Err(_) if matches!(over, Over::Again) => {}
                    Ok(()) => link.say(&ToMaster::Installed {
                        partition,
                        version: batch,
                        copy: began,
                    }),
                    Err(error) => {
                        tracing::warn!(partition, %batch, %error, "state was not installed");
                        link.say(&ToMaster::InstallFailed { partition, batch });
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

/// Whether an install is needed no more, by what was said later.
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

/// Makes a partition of state from a checkpoint.
async fn restore(
    site: &Arc<TaskRunner>,
    checkpoints: Option<&Store>,
    partition: u32,
    sources: Vec<Vec<PartAt>>,
) -> dstreams::Result<()> {
    // Of each, the bytes of a file are in memory beside its state.
    static AT_ONCE: Semaphore = Semaphore::const_new(READ_AT_ONCE);
    let _turn = AT_ONCE.acquire().await;
    let store = checkpoints.ok_or_else(|| {
        dstreams::Error::internal("state is to be restored, and the program is kept nowhere")
    })?;
    let store = store.clone();
    let (site, partition) = (Arc::clone(site), partition as usize);
    blocking(move |runtime| {
        site.states.clear(partition)?;
        load(&store, runtime, &site.states, partition, &sources)
    })
    .await
}

/// Gets the whole state of a partition from its holder, and takes it in while it comes.
async fn take_over(
    site: &Arc<TaskRunner>,
    partition: u32,
    from: &str,
) -> dstreams::Result<Option<BatchTime>> {
    let mut pieces = pin!(site.peers.state(partition, from).await?);
    let (came, mut next) = mpsc::channel(AHEAD);
    let coming = async move {
        while let Some(piece) = pieces.next().await {
            if came.send(piece).await.is_err() {
                break; // it is not taken in
            }
        }
    };
    let (site, at) = (Arc::clone(site), partition as usize);
    let taken = blocking(move |_| {
        dstreams::internal::point("state:fetched");
        let mut from = ByteInput::new(|| next.blocking_recv().transpose());
        site.states.import(at, &mut from)?;
        Ok(site.states.version(at))
    });
    tokio::join!(coming, taken).1
}

/// Gets what a batch added to a partition from its holder, and installs it.
async fn install(
    site: &Arc<TaskRunner>,
    (batch, attempt): (BatchTime, u32),
    partition: u32,
    states: &[(usize, usize)],
    from: &str,
) -> dstreams::Result<()> {
    let from = from.to_owned();
    let of = Arc::clone(site);
    let versions = on_disk(async move { Ok(of.states.versions(partition as usize)) }).await?;
    for (state, slot) in states {
        if versions.get(*state).is_some_and(|has| *has >= Some(batch)) {
            continue; // the copy that it began with, or an earlier attempt
        }
        let delta = Source::Kept(KeptId {
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
        on_disk(async move { of.states.install(state, partition as usize, batch, &rows) }).await?;
        dstreams::internal::point("state:standby");
    }
    Ok(())
}

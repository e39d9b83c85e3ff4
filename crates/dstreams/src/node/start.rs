//! Starts a described program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use dstreams_control::{Controller, Restored};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::local::LocalWorkers;
use super::mailbox::Inbox;
use super::master::{LoopState, Master, pause_before};
use super::running::{Running, Summary, Watched};
use super::workers::Workers;
use crate::checkpoint::{Durable, recover};
use crate::commit::Outputs;
use crate::config::{Config, OnFailure};
use crate::error::{Error, Result};
use crate::execute::BatchSequence;
use crate::program::StreamContext;
use crate::program::{Clock, Description};
use crate::stream::graph::Graph;
use crate::stream::quiet;
use crate::stream::relational::Catalog;

/// Intervals that a busy machine or a short pause may miss; of more, those in which nothing happens can be skipped. At
/// most intervals this is a minute or two.
const MAX_MISSED: u64 = 100;

impl StreamContext {
    /// Opens the sources, plans the graph and starts. Must be called inside a tokio runtime, which
    /// then runs receivers; tasks run on [`Config::threads`](crate::Config::threads) threads of
    /// their own.
    ///
    /// Fails if there is no output, if two streams have one name, if an address is in use, or if the graph cannot be
    /// planned. Then whatever was opened is closed again: the same program may be started at once.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.print(10);
    /// let running = ctx.start().await?; // from here on it receives
    /// queue.push(["to be".to_owned()]).await?;
    /// let summary = running.stop().await?;
    /// assert_eq!((summary.batches, summary.records), (1, 1));
    /// # Ok(()) }
    /// ```
    pub async fn start(self) -> Result<Running> {
        let mut parts = Description::of(self)?;
        parts.may_set_aside()?;
        let inbox = Inbox::new();
        inbox.stop_when_sources_end(&mut parts)?;
        let lock = parts.lock(None)?;
        let Some(lock) = lock else {
            parts.open_sinks(None).await?;
            let (workers, addresses) =
                LocalWorkers::start(&mut parts, inbox.mailbox(), None).await?;
            return run_on(parts, Arc::new(workers), inbox, addresses, None).await;
        };
        let (durable, restored) = parts.restore(lock, parts.config.threads).await?;
        // The lock of the directory says that no former process runs.
        parts.open_sinks(None).await?;
        let persisted = Some((&durable, &restored));
        let (workers, addresses) =
            LocalWorkers::start(&mut parts, inbox.mailbox(), persisted).await?;
        let workers = Arc::new(workers);
        let replayed = replay(&*workers, &durable, restored, &parts.config).await;
        let controller = end_if_failed(&*workers, replayed).await?;
        let persisted = Some((durable, controller));
        run_on(parts, workers, inbox, addresses, persisted).await
    }
}

/// Replays the batches that took effect after the checkpoint, for their state alone; each with the usual number of
/// attempts, several at once if the workers can. Returns where the controller resumes.
pub async fn replay(
    workers: &dyn Workers,
    durable: &Durable,
    restored: recover::Restored,
    config: &Config,
) -> Result<Restored> {
    let begun = Instant::now();
    let mut batches = BatchSequence::after(restored.batch(), config.interval.as_millis() as u64);
    let replays = restored.committed.iter().map(|(batch, blocks)| {
        let before = batches.next(*batch);
        let set_aside = restored.controller.set_aside.contains(batch);
        let records: &[_] = if set_aside { &[] } else { blocks };
        async move {
            let mut attempt = 1;
            while let Err(error) = workers.replay_batch(*batch, before, attempt, records).await {
                if !error.is_retryable() || attempt >= config.attempts {
                    return Err(error);
                }
                tracing::warn!(%batch, attempt, %error, "replay of a batch for its state failed");
                attempt += 1;
                pause_before(attempt).await;
            }
            Ok((*batch, blocks))
        }
    });
    let mut replays = stream::iter(replays).buffered(workers.max_replayed());
    while let Some((batch, blocks)) = replays.try_next().await? {
        let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
        workers.forget(batch, &ids);
        durable.replayed(batch, &ids);
        crate::crash::point("restore:replayed");
    }
    drop(replays);
    if !restored.committed.is_empty() {
        let (batches, took) = (restored.committed.len(), begun.elapsed());
        tracing::info!(
            batches,
            ?took,
            "replayed the batches since the checkpoint for their state"
        );
    }
    Ok(restored.controller)
}

/// Ends sources that run already when the start fails: they hold addresses, and acknowledge.
async fn end_if_failed<T>(workers: &dyn Workers, started: Result<T>) -> Result<T> {
    if started.is_err() {
        workers.close();
        workers.end(true).await;
    }
    started
}

/// Starts the master's loop over existing workers; resumes if an earlier process left something.
pub async fn run_on(
    parts: Description,
    workers: Arc<dyn Workers>,
    inbox: Inbox,
    addresses: BTreeMap<String, SocketAddr>,
    persisted: Option<(Arc<Durable>, Restored)>,
) -> Result<Running> {
    let running = begin(parts, Arc::clone(&workers), inbox, addresses, persisted);
    end_if_failed(&*workers, running).await
}

/// How many intervals may be missed without skipping any; none if no interval may be skipped.
fn skip_missed(graph: &Graph) -> Option<u64> {
    match quiet::never_empty(graph) {
        None => Some(MAX_MISSED),
        Some(operator) => {
            tracing::info!(
                %operator,
                "no interval is skipped (`skip_quiet`): this operator has rows even if no record comes"
            );
            None
        }
    }
}

fn begin(
    mut parts: Description,
    workers: Arc<dyn Workers>,
    inbox: Inbox,
    addresses: BTreeMap<String, SocketAddr>,
    persisted: Option<(Arc<Durable>, Restored)>,
) -> Result<Running> {
    let opened = parts.take_opened();
    let schemas = parts
        .inputs()
        .into_iter()
        .map(|(_, schema)| schema)
        .collect();
    let Description {
        graph,
        config,
        clock,
        listeners,
        ..
    } = parts;
    let skip_missed = config
        .skip_quiet
        .then(|| skip_missed(&graph.lock()))
        .flatten();
    // Handles into the graph may outlive the program; the ends of its channels must not.
    let outputs = Outputs::take(&mut graph.lock());
    let Inbox(messages, inbox) = inbox;
    let (ended, end) = watch::channel(None);
    let empty = Summary {
        batches: 0,
        records: 0,
        set_aside: 0,
        unfinished: 0,
    };
    let watched = Arc::new(Watched {
        totals: Mutex::new((empty, None)),
        workers: Arc::clone(&workers),
        durable: persisted
            .as_ref()
            .map_or_else(Weak::new, |(durable, _)| Arc::downgrade(durable)),
        catalog: Catalog::of(&graph.lock()),
    });
    let mut settings =
        dstreams_control::Config::new(config.interval.as_millis() as u64).map_err(|error| {
            Error::Config {
                setting: "interval",
                message: error.to_string(),
            }
        })?;
    settings.max_attempts = config.attempts;
    settings.max_running = workers.max_running();
    settings.skip_missed = skip_missed;
    settings.mark_intervals = clock.is_of_sources() && persisted.is_some();
    if config.on_failure == OnFailure::SetAside {
        settings.max_set_aside = config.set_aside_batches;
    }
    let (durable, restored) = persisted.unzip();
    let mut restored = restored.unwrap_or_default();
    let now = match clock.source_time() {
        // Not known before the sources run, and never later than this.
        Some(_) => Clock::wall().now(),
        None => clock.now(),
    };
    restored.begin_after =
        opened.begin_after(&restored, now, config.interval.as_millis() as u64)?;
    let last = restored.last_committed;
    let mut state = LoopState::after(last, config.interval.as_millis() as u64);
    state.begin_after = restored.begin_after;
    for (batch, blocks) in &restored.pending {
        state.add(*batch, blocks.clone(), None);
        if restored.set_aside.contains(batch) {
            state.is_set_aside(*batch);
        }
    }
    let mut master = Master {
        controller: Controller::restored(settings, restored),
        durable,
        schemas,
        clock: clock.clone(),
        workers,
        outputs: Arc::new(outputs),
        opened: Arc::new(opened),
        over: Default::default(),
        listeners,
        messages: messages.clone(),
        watched: Arc::clone(&watched),
        state,
    };
    master.begin();
    master.end_without_its_directory();
    tokio::spawn(master.run(inbox, ended));
    Ok(Running {
        addresses,
        messages,
        end,
        clock,
        watched,
        restored: last,
    })
}

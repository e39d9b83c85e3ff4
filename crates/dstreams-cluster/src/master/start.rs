//! [`Master`]: from a listening master to a running program.

use std::sync::{Arc, OnceLock};

use dstreams::cluster::{
    Budget, DeadLetters, Inbox, Intake, Parts, open_source, run_on, run_source,
};
use dstreams::{Closing, Ingest, Result, Running, StreamContext};
use dstreams_control::ReceiverId;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::calls::{MasterCalls, is_own};
use super::hub::{Hub, Own};
use super::options::MasterOptions;
use super::run::Remote;
use super::status::{ClusterStatus, Watch};
use crate::data::{Peers, Token, listen, serve};
use crate::execute::Engine;
use crate::plan::Codec;

/// A master that listens. [`Master::start`] begins the program, once enough workers are there.
pub struct Master {
    parts: Parts,
    options: MasterOptions,
    inbox: Inbox,
    calls: Arc<MasterCalls>,
    address: String,
    host: String,
    serving: DropGuard,
}

/// A program that runs on a cluster.
pub struct RunningCluster {
    /// The program.
    pub running: Running,
    calls: Arc<MasterCalls>,
    _serving: DropGuard,
}

impl RunningCluster {
    /// How the cluster is doing now.
    pub fn status(&self) -> ClusterStatus {
        self.calls.watch.status(&self.calls.hub)
    }
}

impl Master {
    /// Listens for workers of the program that `context` describes.
    pub async fn listen(context: StreamContext, options: MasterOptions) -> Result<Self> {
        options.check()?;
        let mut parts = Parts::of(context)?;
        if parts.is_kept() {
            return Err(dstreams::Error::Config {
                setting: "checkpoint directory",
                message: "a cluster keeps no journal and no checkpoints yet; run the program in one process, \
                          or build it without `restore_or_new`"
                    .into(),
            });
        }
        // What cannot be planned is told before anybody waits for workers.
        parts.plans(options.partitions.unwrap_or(2))?;
        let watch = Arc::new(Watch::default());
        parts.listeners.push(Arc::clone(&watch) as _);
        let inbox = Inbox::new();
        let hub = Arc::new(Hub::new(&parts, options.copies, inbox.mailbox()));
        let listener = listen(&options.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|source| dstreams::Error::Listen {
                address: options.listen.clone(),
                source: Arc::new(source),
            })?;
        let calls = Arc::new(MasterCalls {
            hub,
            fingerprint: parts.fingerprint(),
            arguments: options.arguments.clone(),
            begun: tokio::sync::watch::Sender::new(None),
            watch,
            this: OnceLock::new(),
        });
        let _ = calls.this.set(Arc::downgrade(&calls));
        let stop = CancellationToken::new();
        let token = Token::new(options.token.clone());
        serve(listener, Arc::clone(&calls) as _, token, stop.clone());
        Ok(Master {
            parts,
            options,
            inbox,
            calls,
            address: address.to_string(),
            host: address.ip().to_string(),
            serving: stop.drop_guard(),
        })
    }

    /// Where workers and clients connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How the cluster is doing now.
    pub fn status(&self) -> ClusterStatus {
        self.calls.watch.status(&self.calls.hub)
    }

    /// Waits for workers, as many as the options say, and begins the program.
    pub async fn start(mut self) -> Result<RunningCluster> {
        let hub = Arc::clone(&self.calls.hub);
        let wanted = self.options.workers;
        let cores = hub
            .until(|hub| {
                let workers = hub.workers();
                let cores = workers.values().map(|worker| worker.cores).sum::<usize>();
                (workers.len() >= wanted).then_some(cores)
            })
            .await;
        let partitions = self.options.partitions.unwrap_or(cores.clamp(2, 128));
        let plans = Arc::new(self.parts.plans(partitions)?);
        let state = if plans.states.is_empty() {
            0
        } else {
            partitions
        };
        hub.begin(self.options.copies, state);
        let codec = Codec::master(Arc::clone(&plans));
        let engine = Engine::start(&self.host, codec, partitions).await?;
        let closing = Closing::default();
        let (own, sources) = self.receive(&closing).await?;
        let remote = Arc::new(Remote {
            hub: Arc::clone(&hub),
            engine,
            plans,
            peers: Peers::new(Token::new(self.options.token.clone())),
            rows_per_task: self.parts.config.rows_per_task,
            address: self.address.clone(),
            own,
            store: Arc::default(),
            closing,
            sources,
            shapes: Default::default(),
            committed: Default::default(),
        });
        self.calls.begun.send_replace(Some(Arc::clone(&remote)));
        hub.until(|hub| {
            let joined = hub.workers().into_values().filter(|worker| worker.joined);
            (joined.count() >= wanted).then_some(())
        })
        .await;
        let running = run_on(self.parts, remote, self.inbox, Default::default())?;
        Ok(RunningCluster {
            running,
            calls: self.calls,
            _serving: self.serving,
        })
    }

    /// Opens the inputs that this process receives.
    async fn receive(&mut self, closing: &Closing) -> Result<(Own, TaskTracker)> {
        let budget = Budget::new(self.parts.config.block_memory);
        let (mut own, running) = (Vec::new(), TaskTracker::new());
        let sources = std::mem::take(&mut self.parts.sources);
        let inputs = self.parts.inputs().into_iter().zip(sources);
        for ((at, (name, schema)), mut source) in
            (0u32..).zip(inputs).map(|(at, (i, s))| ((at, i), s))
        {
            if !is_own(self.calls.hub.inputs[at as usize].kind) {
                continue;
            }
            let (budget, dead) = (budget.clone(), DeadLetters::default());
            let config = &self.parts.config;
            let intake = Intake::new(ReceiverId(at), &name, schema, config, budget, dead);
            let intake = Arc::new(intake);
            open_source(source.as_mut(), &intake).await?;
            let ingest = Ingest::of(Arc::clone(&intake));
            let listeners = self.parts.listeners.clone();
            running.spawn(run_source(source, ingest, closing.clone(), listeners));
            own.push((at, intake));
        }
        running.close();
        Ok((own, running))
    }
}

//! Starts a described program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use dstreams_control::{Controller, ReceiverId};
use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::context::StreamContext;
use super::job::Jobs;
use super::listener::Listener;
use super::master::Master;
use super::running::{Running, Summary, Watched};
use crate::error::{BoxError, Error, Operator, Result};
use crate::receive::{Budget, Closing, DeadLetters, Ingest, Intake, Source};
use crate::replicate::BlockStore;
use crate::stream::rows::panic_message;

impl StreamContext {
    /// Opens the sources, plans the graph and starts. Must be called inside a tokio runtime, which
    /// then runs receivers; tasks run on [`Config::threads`](crate::Config::threads) threads of
    /// their own.
    ///
    /// Fails if there is no output, if an address is in use, or if the graph cannot be planned.
    pub async fn start(self) -> Result<Running> {
        let StreamContext {
            graph,
            config,
            clock,
            listeners,
            sources,
            dead_letter_input,
        } = self;
        let jobs = {
            let mut graph = graph.lock();
            if graph.outputs.is_empty() {
                return Err(Error::Graph {
                    operator: Operator::new("start", std::panic::Location::caller()),
                    message: "there is no output; add `print`, `for_each_rdd`, `collect` or a sink"
                        .into(),
                });
            }
            let jobs = Jobs::new(&graph, &config);
            // Handles into the graph may outlive the program; the ends of its channels must not.
            graph.outputs.clear();
            jobs?
        };
        let budget = Budget::new(config.block_memory);
        let dead_letters = DeadLetters::default();
        let inputs: Vec<_> = {
            let graph = graph.lock();
            graph
                .inputs
                .iter()
                .map(|i| (i.name.clone(), Arc::clone(&i.schema)))
                .collect()
        };
        let intakes = inputs.iter().enumerate().map(|(at, (name, schema))| {
            let receiver = ReceiverId(at as u32);
            let (budget, dead) = (budget.clone(), dead_letters.clone());
            Arc::new(Intake::new(
                receiver,
                name,
                Arc::clone(schema),
                &config,
                budget,
                dead,
            ))
        });
        let intakes: Vec<Arc<Intake>> = intakes.collect();
        if let Some(at) = dead_letter_input {
            dead_letters.connect(Arc::clone(&intakes[at]));
        }
        let (sources, addresses) = open(sources, &intakes).await?;

        let store = Arc::new(BlockStore::default());
        let (messages, inbox) = mpsc::unbounded_channel();
        let (ended, end) = watch::channel(None);
        let empty = Summary {
            batches: 0,
            records: 0,
            unfinished: 0,
        };
        let watched = Arc::new(Watched {
            totals: Mutex::new((empty, None)),
            budget,
            store: Arc::clone(&store),
            dead_letters,
        });
        let closing = Closing::default();
        let tasks = TaskTracker::new();
        for (source, intake) in sources.into_iter().zip(&intakes) {
            let ingest = Ingest(Arc::clone(intake));
            tasks.spawn(run_source(
                source,
                ingest,
                closing.clone(),
                listeners.clone(),
            ));
        }
        tasks.close();
        let mut settings = dstreams_control::Config::new(config.interval.as_millis() as u64)
            .map_err(|error| Error::Config {
                setting: "interval",
                message: error.to_string(),
            })?;
        settings.max_attempts = config.attempts;
        let mut master = Master {
            controller: Controller::new(settings),
            clock: clock.clone(),
            jobs: Arc::new(jobs),
            intakes,
            store,
            listeners,
            closing,
            sources: tasks,
            messages: messages.clone(),
            watched: Arc::clone(&watched),
            state: Default::default(),
        };
        master.begin();
        tokio::spawn(master.run(inbox, ended));
        Ok(Running {
            addresses,
            messages,
            end,
            clock,
            watched,
        })
    }
}

type Sources = Vec<Box<dyn Source>>;

/// Opens all sources, so that what cannot work fails the start.
async fn open(
    mut sources: Sources,
    intakes: &[Arc<Intake>],
) -> Result<(Sources, BTreeMap<String, SocketAddr>)> {
    let mut addresses = BTreeMap::new();
    for (source, intake) in sources.iter_mut().zip(intakes) {
        source.connect(&Ingest(Arc::clone(intake)));
        let opened = source.open().await;
        if let Some(address) = opened.map_err(|error| source_error(&intake.stream, error))? {
            addresses.insert(intake.stream.clone(), address);
        }
    }
    Ok((sources, addresses))
}

fn source_error(stream: &str, error: BoxError) -> Error {
    Error::Source {
        stream: stream.to_owned(),
        cause: error.into(),
    }
}

async fn run_source(
    source: Box<dyn Source>,
    ingest: Ingest,
    closing: Closing,
    listeners: Vec<Arc<dyn Listener>>,
) {
    let stream = ingest.stream().to_owned();
    let ran = AssertUnwindSafe(source.run(ingest, closing))
        .catch_unwind()
        .await;
    let ended = ran.unwrap_or_else(|panic| Err(panic_message(&*panic).into()));
    if let Err(error) = ended {
        let error = source_error(&stream, error);
        tracing::error!(%error, "source ended");
        listeners
            .iter()
            .for_each(|l| l.source_failed(&stream, &error));
    }
}

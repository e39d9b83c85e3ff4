//! The master's loop: passes events to the controller and carries out its commands.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Command, Controller, Due, Event, Timestamp};
use futures::FutureExt;
use futures::future::OptionFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::mailbox::Message;
use super::running::{Summary, Watched};
use super::workers::Workers;
use crate::checkpoint::Durable;
use crate::commit::{OpenSinks, Outputs, PreparedBatch, commit};
use crate::crash::point;
use crate::error::{Error, Result};
use crate::execute::{BatchSequence, PreviousBatch};
use crate::journal::Ticket;
use crate::program::Clock;
use crate::program::{Listener, notify};

/// Pause before a batch is run or committed again, doubled each time: an external failure (a disk, a database) may
/// take some time, but the first retry should come soon.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: the retry should come soon after an external failure is over, however many attempts a program
/// asks for ([`Config::attempts`](crate::Config::attempts)).
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Master {
    pub controller: Controller,
    pub clock: Clock,
    pub workers: Arc<dyn Workers>,
    pub outputs: Arc<Outputs>,
    /// Closed when no commit is running any more.
    pub opened: Arc<OpenSinks>,
    /// The program has stopped: no further output is called.
    pub over: CancellationToken,
    pub durable: Option<Arc<Durable>>,
    /// The columns of each input.
    pub schemas: Vec<SchemaRef>,
    pub listeners: Vec<Arc<dyn Listener>>,
    pub messages: mpsc::UnboundedSender<Message>,
    pub watched: Arc<Watched>,
    pub state: LoopState,
}

/// The state of the loop between commands.
pub(super) struct LoopState {
    wake: Option<Timestamp>,
    /// The boundary for which the log already says that the clock is behind.
    pub behind: Option<Timestamp>,
    /// Batches that have not taken effect.
    pub cuts: HashMap<BatchTime, Cut>,
    pub last_cut: Option<BatchTime>,
    batches: BatchSequence,
    pub failure: Option<Error>,
    stopped: Option<u64>,
    /// The deadline of the stop, if it has one.
    pub until: Option<Instant>,
    /// The first boundary is fixed.
    pub begun: bool,
    /// The newest batch that an output has from an earlier run.
    pub begin_after: Option<BatchTime>,
}

/// A batch that was cut.
pub(super) struct Cut {
    pub blocks: Vec<BlockMeta>,
    /// Its records are set aside: it runs without them.
    pub set_aside: bool,
    /// The batch before it.
    before: Option<PreviousBatch>,
    /// Its entry in the journal.
    ticket: Option<Ticket>,
    running: Option<AbortHandle>,
    prepared: Vec<PreparedBatch>,
    /// Number of commits so far.
    commits: u32,
    pub last_error: Option<Error>,
}

impl LoopState {
    /// For a process that resumes after a batch that took effect.
    pub fn after(last: Option<BatchTime>, interval_ms: u64) -> Self {
        LoopState {
            wake: None,
            behind: None,
            cuts: HashMap::new(),
            last_cut: last,
            batches: BatchSequence::after(last, interval_ms),
            failure: None,
            stopped: None,
            until: None,
            begun: false,
            begin_after: None,
        }
    }

    /// Adds a batch that was cut, by this process or by an earlier one.
    pub fn add(&mut self, batch: BatchTime, blocks: Vec<BlockMeta>, ticket: Option<Ticket>) {
        self.last_cut = Some(batch);
        let cut = Cut {
            blocks,
            set_aside: false,
            before: self.batches.next(batch),
            ticket,
            running: None,
            prepared: Vec::new(),
            commits: 0,
            last_error: None,
        };
        self.cuts.insert(batch, cut);
    }

    /// Notes that the records of a batch that was cut are set aside.
    pub fn is_set_aside(&mut self, batch: BatchTime) {
        if let Some(cut) = self.cuts.get_mut(&batch) {
            cut.set_aside = true;
        }
    }
}

impl Master {
    pub async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Message>,
        ended: watch::Sender<Option<Result<Summary>>>,
    ) {
        while self.state.stopped.is_none() {
            let wake = self.state.wake;
            let time = self.clock.source_time().filter(|_| !self.state.begun);
            let time = time.cloned();
            let mut clock = self.clock.clone();
            let event = tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.event_of(message),
                    None => break,
                },
                () = OptionFuture::from(time.as_ref().map(|time| time.known())).map(drop), if time.is_some() => {
                    self.start();
                    continue;
                }
                () = clock.wait_until(wake.unwrap_or(Timestamp(0))), if wake.is_some() => {
                    self.state.wake = None;
                    Event::Tick
                }
            };
            self.step(event);
        }
        self.over.cancel();
        if let Some(time) = self.clock.source_time() {
            time.stop();
        }
        self.end().await;
        let mut totals = self
            .watched
            .totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        totals.0.unfinished = self.state.stopped.unwrap_or_default();
        let result = match self.state.failure.take() {
            Some(error) => Err(error),
            None => Ok(totals.0),
        };
        drop(totals);
        ended.send_replace(Some(result));
    }

    pub(super) fn step(&mut self, event: Event) {
        if matches!(event, Event::Stop { .. }) {
            self.stop_source_time();
        }
        if let Event::Stop {
            deadline: Some(deadline),
            ..
        } = &event
        {
            let until = Instant::now() + deadline.since(self.clock.now());
            self.state.until = Some(self.state.until.map_or(until, |known| known.min(until)));
        }
        let now = self.clock.now();
        let commands = match self.clock.passed() {
            Some(passed) => self.controller.step_at(event, now, passed),
            None => self.controller.step(event, now),
        };
        for command in commands {
            self.carry_out(command);
        }
        self.note_interval();
    }

    fn event_of(&mut self, message: Message) -> Event {
        match message {
            Message::Event(event) => event,
            Message::Stop { graceful, failure } => {
                self.state.failure = self.state.failure.take().or(failure);
                Event::Stop {
                    graceful,
                    deadline: None,
                }
            }
            Message::Ran {
                batch,
                attempt,
                result,
            } => match result {
                Ok(outputs) => {
                    if let Some(cut) = self.state.cuts.get_mut(&batch) {
                        cut.prepared = outputs;
                    }
                    Event::Finished { batch, attempt }
                }
                Err(error) => {
                    tracing::error!(%batch, attempt, %error, "batch failed");
                    let (retryable, of_batch) = (error.is_retryable(), error.is_of_batch());
                    if let Some(cut) = self.state.cuts.get_mut(&batch) {
                        cut.last_error = Some(error);
                    }
                    Event::Failed {
                        batch,
                        attempt,
                        retryable,
                        of_batch,
                    }
                }
            },
            Message::SetAside { batch, result } => self.was_set_aside(batch, result),
            Message::Committed {
                batch,
                outputs,
                result,
            } => match result {
                Ok(()) => {
                    point("commit:done");
                    Event::Committed { batch }
                }
                Err(error) => {
                    tracing::error!(%batch, %error, "commit failed");
                    let retryable = error.is_retryable();
                    if let Some(cut) = self.state.cuts.get_mut(&batch) {
                        cut.prepared = outputs;
                        cut.last_error = Some(error);
                    }
                    Event::CommitFailed { batch, retryable }
                }
            },
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::WakeAt(at) => {
                self.warn_of_the_clock(at);
                self.state.wake = Some(at);
            }
            Command::Seal { batch } => self.workers.seal(batch),
            Command::StopWaiting { .. } => self.workers.stop_waiting(),
            Command::CloseReceivers => self.workers.close(),
            Command::Cut { batch, blocks } => {
                let records = blocks.iter().map(|block| block.rows).sum();
                tracing::debug!(%batch, records, "batch cut");
                self.notify(|listener| listener.batch_submitted(batch, records));
                let skipped = self.skipped_before(batch);
                let durable = self.durable.as_ref();
                let ticket = durable.map(|durable| durable.cut(batch, skipped, &blocks));
                self.state.add(batch, blocks, ticket);
                point("batch:cut");
            }
            Command::AskDue { after } => self.ask_due(after),
            Command::Run { batch, attempt } => self.run_batch(batch, attempt),
            Command::Abort { batch, .. } => {
                let cut = self.state.cuts.get_mut(&batch);
                if let Some(running) = cut.and_then(|cut| cut.running.take()) {
                    running.abort();
                }
            }
            Command::SetAside { batch, attempts } => self.set_aside(batch, attempts),
            Command::Commit { batch, .. } => self.commit(batch),
            Command::Completed(report) => {
                {
                    let totals = &self.watched.totals;
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.0.batches += 1;
                    totals.0.records += report.records;
                    totals.0.set_aside += report.set_aside;
                    totals.1 = Some(report.clone());
                }
                self.notify(|listener| listener.batch_completed(&report));
            }
            Command::Forget { batch, blocks } => {
                self.state.cuts.remove(&batch);
                self.record_commit(batch, &blocks);
                self.workers.forget(batch, &blocks);
            }
            Command::Fail { batch, attempts } => self.fail(batch, attempts),
            Command::Stopped { unfinished } => self.state.stopped = Some(unfinished),
        }
    }

    /// The batch before this one, if intervals in between were skipped.
    fn skipped_before(&self, batch: BatchTime) -> Option<BatchTime> {
        let interval = self.controller.config().interval_ms;
        let last = self.state.last_cut?;
        let intervals = batch.millis().saturating_sub(last.millis()) / interval;
        if intervals <= 1 {
            return None;
        }
        let skipped = intervals - 1;
        tracing::info!(%batch, after = %last, skipped, "intervals in which nothing happens were skipped");
        Some(last)
    }

    /// Asks what the states do after a batch without records.
    fn ask_due(&self, after: BatchTime) {
        let (workers, messages) = (Arc::clone(&self.workers), self.messages.clone());
        let interval = self.controller.config().interval_ms;
        tokio::spawn(async move {
            let due = workers.due(after).await.unwrap_or_else(|error| {
                tracing::debug!(%after, %error, "what is due is not known: the next interval runs");
                Some(Due::at(after.plus(interval)))
            });
            let _ = messages.send(Message::Event(Event::Due { after, due }));
        });
    }

    /// Records that a batch has taken effect, and starts a checkpoint if one is due.
    fn record_commit(&self, batch: BatchTime, blocks: &[BlockId]) {
        let Some(durable) = &self.durable else { return };
        let Some(plan) = durable.committed(batch, blocks) else {
            return;
        };
        match self.workers.capture(&plan) {
            Ok(states) => {
                let workers = Arc::clone(&self.workers);
                durable.checkpoint(plan, states, move |batch, checkpointed_blocks| {
                    workers.checkpointed(batch, checkpointed_blocks)
                });
            }
            Err(error) => tracing::error!(%batch, %error, "checkpoint failed"),
        }
    }

    pub(super) fn notify(&self, what: impl Fn(&dyn Listener)) {
        self.listeners
            .iter()
            .for_each(|listener| notify(&**listener, &what));
    }

    fn run_batch(&mut self, batch: BatchTime, attempt: u32) {
        self.notify(|listener| listener.batch_started(batch, attempt));
        let Some(cut) = self.state.cuts.get_mut(&batch) else {
            return; // what runs was cut
        };
        let blocks = match cut.set_aside {
            true => Vec::new(),
            false => cut.blocks.clone(),
        };
        let before = cut.before;
        let (workers, outputs) = (Arc::clone(&self.workers), Arc::clone(&self.outputs));
        let messages = self.messages.clone();
        let task = tokio::spawn(async move {
            pause_before(attempt).await;
            let result = match workers.run(batch, before, attempt, &blocks).await {
                Ok(datasets) => outputs.prepare(batch, datasets).await,
                Err(error) => Err(error),
            };
            let _ = messages.send(Message::Ran {
                batch,
                attempt,
                result,
            });
        });
        cut.running = Some(task.abort_handle());
    }

    /// Commits on a thread that may block: outputs are user code.
    fn commit(&mut self, batch: BatchTime) {
        let cut = self.state.cuts.get_mut(&batch).map(|cut| {
            cut.commits += 1;
            (std::mem::take(&mut cut.prepared), cut.ticket, cut.commits)
        });
        let (outputs, ticket, attempt) = cut.unwrap_or_default();
        let durable = self.durable.as_ref();
        let committing = durable.filter(|_| self.controller.config().max_set_aside > 0);
        let committing = committing.map(|durable| durable.committing(batch));
        // A later entry is synced after the earlier ones.
        let written = durable.cloned().zip(committing.or(ticket));
        let (opened, over) = (Arc::clone(&self.opened), self.over.clone());
        let messages = self.messages.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            // I3 (ARCHITECTURE.md): the cut, and the blocks before it, are synced before any output is called.
            let ready = runtime.block_on(async {
                let ready = async {
                    pause_before(attempt).await;
                    match written {
                        Some((durable, ticket)) => durable.synced(ticket).await,
                        None => Ok(()),
                    }
                };
                let ready = over.run_until_cancelled(ready).await;
                ready.unwrap_or(Err(Error::NotRunning))
            });
            // Outside of `block_on`: an output may block on futures of its own.
            let result = ready.and_then(|()| {
                point("commit:begins");
                commit(&runtime, batch, &outputs, &over)
            });
            drop(opened);
            let _ = messages.send(Message::Committed {
                batch,
                outputs,
                result,
            });
        });
    }

    /// The error of a failed batch.
    pub(super) fn error_of(&self, batch: BatchTime, attempts: u32) -> Error {
        let cut = self.state.cuts.get(&batch);
        let commits = cut.map_or(0, |cut| cut.commits);
        let cause = cut.and_then(|cut| cut.last_error.clone());
        let cause = cause.unwrap_or(Error::NotRunning);
        Error::Batch {
            batch,
            attempts: attempts.max(commits),
            stage: cause.place(),
            cause: Arc::new(cause.beside_its_task()),
        }
    }

    fn fail(&mut self, batch: BatchTime, attempts: u32) {
        let error = self.error_of(batch, attempts);
        self.notify(|listener| listener.batch_failed(batch, &error));
        self.state.failure = Some(error);
    }
}

pub(super) async fn pause_before(attempt: u32) {
    if attempt > 1 {
        tokio::time::sleep(pause(attempt)).await;
    }
}

/// The pause before an attempt, from the second one on.
fn pause(attempt: u32) -> Duration {
    let pause = RETRY_PAUSE.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(2)));
    pause.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_double_up_to_a_bound() {
        let millis = [2, 3, 4, 9, 10, 30, u32::MAX].map(|attempt| pause(attempt).as_millis());
        assert_eq!(millis, [50, 100, 200, 6_400, 10_000, 10_000, 10_000]);
    }
}

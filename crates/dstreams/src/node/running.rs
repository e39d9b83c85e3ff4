//! A running program: addresses, status, stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use dstreams_control::{BatchReport, BatchTime, Event};
use tokio::sync::{mpsc, watch};

use super::mailbox::Message;
use super::signals::Signals;
use super::workers::Workers;
use crate::checkpoint::lineage::Lineage;
use crate::checkpoint::{CheckpointFailures, Durable};
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::program::Clock;
use crate::stream::relational::Catalog;

/// How long after its deadline to wait for a program that does not stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A running program. Dropping this handle does not stop it.
#[must_use = "a program that runs is stopped, or waited for"]
pub struct Running {
    pub(super) addresses: BTreeMap<String, SocketAddr>,
    pub(super) messages: mpsc::UnboundedSender<Message>,
    pub(crate) end: watch::Receiver<Option<Result<Summary>>>,
    pub(super) clock: Clock,
    pub(super) watched: Arc<Watched>,
    /// The last batch that took effect in an earlier process.
    pub(super) restored: Option<BatchTime>,
}

debug_as!(Running {
    addresses,
    restored
});

/// The totals of a finished program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Batches that took effect.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Records that were set aside: see [`OnFailure::SetAside`](crate::OnFailure::SetAside).
    pub set_aside: u64,
    /// Batches that were started and did not take effect, because of an abrupt stop or a deadline. The last batch of
    /// a graceful stop counts too if a receiver did not report its blocks.
    pub unfinished: u64,
}

/// The current status of a program.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Batches that took effect.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Records that were set aside: see [`OnFailure::SetAside`](crate::OnFailure::SetAside).
    pub set_aside: u64,
    /// The newest batch that took effect.
    pub last: Option<BatchReport>,
    /// Bytes of received records in memory, limited by [`Config::block_memory`](crate::Config::block_memory).
    pub block_memory: usize,
    /// Number of sealed blocks that are stored.
    pub blocks: usize,
    /// Dead letters of each stream.
    pub dead_letters: BTreeMap<String, u64>,
    /// Rejected records that nothing reads, by operator: see [`Tried`](crate::Tried); also records that are late or ahead
    /// by event time: see [`Timed`](crate::Timed) and [`Keyed::agg_by_time`](crate::Keyed::agg_by_time). A batch that
    /// runs again counts
    /// again. On a cluster, the count of a worker is lost with it.
    pub rejected: BTreeMap<String, u64>,
    /// Producers that were forgotten because of the limit [`Config::producers`](crate::Config::producers).
    pub forgotten_producers: u64,
    /// Failed checkpoints since the last successful one. Until the next success the journal grows.
    pub checkpoint_failures: CheckpointFailures,
}

/// The sources of a [`Status`].
pub(super) struct Watched {
    pub totals: Mutex<(Summary, Option<BatchReport>)>,
    pub workers: Arc<dyn Workers>,
    /// The program's persistence, if it has a directory; weak, so that it ends with the program.
    pub durable: Weak<Durable>,
    /// The tables and functions of the context, for queries.
    pub catalog: Catalog,
}

impl Running {
    /// The address on which stream `name` listens.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.tcp_text("lines", "127.0.0.1:0").print(10); // port 0: a free one
    /// let running = ctx.start().await?;
    /// println!("send lines to {}", running.address("lines").unwrap());
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.get(name).copied()
    }

    /// The current status of the program.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// let status = running.status();
    /// println!("{} batches, {} bytes wait", status.batches, status.block_memory);
    /// # assert_eq!(status.batches, 0);
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    pub fn status(&self) -> Status {
        let usage = self.watched.workers.usage();
        let durable = self.watched.durable.upgrade();
        let durable = durable.map(|durable| durable.forgotten_producers());
        let totals = self
            .watched
            .totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Status {
            batches: totals.0.batches,
            records: totals.0.records,
            set_aside: totals.0.set_aside,
            last: totals.1.clone(),
            block_memory: usage.block_memory,
            blocks: usage.blocks,
            dead_letters: usage.dead_letters,
            rejected: usage.rejected,
            // Checkpoints forget producers that the receivers have forgotten, with a delay.
            forgotten_producers: usage.forgotten_producers.max(durable.unwrap_or_default()),
            checkpoint_failures: self
                .watched
                .durable
                .upgrade()
                .map_or_else(CheckpointFailures::default, |durable| durable.failures()),
        }
    }

    /// The newest batch that took effect.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// assert_eq!(running.last_batch(), None); // no interval has ended
    /// running.stop().await?;
    /// assert!(running.last_batch().is_some());
    /// # Ok(()) }
    /// ```
    pub fn last_batch(&self) -> Option<BatchTime> {
        self.status().last.map(|report| report.batch)
    }

    /// The lineage of the newest state: the newest checkpoint and the batches after it. `None` if the program has no
    /// directory.
    ///
    /// ```no_run
    /// # fn explain(running: &dstreams::Running) {
    /// if let Some(lineage) = running.lineage() {
    ///     println!("{lineage}");
    /// }
    /// # }
    /// ```
    pub fn lineage(&self) -> Option<Lineage> {
        let durable = self.watched.durable.upgrade()?;
        Some(durable.lineage())
    }

    /// A session with a table for each named state, all as of the last batch that took effect: for ad-hoc queries
    /// while the program runs. The tables are snapshots. O(keys stored).
    ///
    /// Queries also know the tables and functions of the context
    /// ([`register_table`](crate::StreamContext::register_table), [`register_fn`](crate::StreamContext::register_fn)). A
    /// state hides a table with its name.
    ///
    /// On a cluster it waits while lost state is rebuilt. That waits for a batch that is about to be committed, so reads
    /// meanwhile, such as those of that batch's own outputs, are retried for 15 s and then fail.
    ///
    /// ```no_run
    /// # async fn ask(running: &dstreams::Running) -> Result<(), Box<dyn std::error::Error>> {
    /// let session = running.session().await?;
    /// session.sql("select count(*), max(value) from counts").await?.show().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// On a cluster, workers send their rows to this process. Waits while a partition has no primary. Fails if states
    /// could not be read for 15 seconds, because batches are too fast or workers are lost repeatedly; fails at once
    /// if the program of a cluster has ended.
    pub async fn session(&self) -> Result<SessionContext> {
        let workers = &self.watched.workers;
        let states = workers.plans().states.iter().enumerate();
        let tables: Vec<_> = states
            .filter_map(|(state, spec)| Some((state, spec.table()?)))
            .collect();
        let states: Vec<usize> = tables.iter().map(|(state, _)| *state).collect();
        let (_, rows) = self.read_states(&states).await?;
        let session = SessionContext::new();
        for ((_, (name, schema)), partitions) in tables.into_iter().zip(rows) {
            let rows = MemTable::try_new(Arc::clone(schema), partitions)?;
            session.register_table(name, Arc::new(rows))?;
        }
        self.watched.catalog.register(&session)?;
        Ok(session)
    }

    /// The state `name` as of the last batch that took effect: see [`Running::session`].
    ///
    /// ```no_run
    /// # async fn ask(running: &dstreams::Running) -> Result<(), Box<dyn std::error::Error>> {
    /// use dstreams::datafusion::prelude::{col, lit};
    ///
    /// let counts = running.table("counts").await?; // of `running_agg("counts", count())`
    /// counts.filter(col("value").gt(lit(1_000)))?.show().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn table(&self, name: &str) -> Result<DataFrame> {
        Ok(self.session().await?.table(name).await?)
    }

    /// Stops the program gracefully; returns when it has stopped.
    ///
    /// Accepts no more input, then runs and commits everything received, without a time limit. The last batch is
    /// named after the end of its interval, but does not wait for it: see [`Sink`](crate::Sink).
    ///
    /// Sources have 30 seconds to end. After that, records already pushed are in the last batch, and further pushes
    /// are refused.
    ///
    /// Fails with the error of a failed batch. Dropping the future does not cancel the stop. A later call of
    /// [`Running::stop_within`] or [`Running::abort`] can shorten a stop, never lengthen it.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// let running = ctx.start().await?;
    /// queue.push(["to be".to_owned()]).await?;
    /// let summary = running.stop().await?;
    /// assert_eq!((summary.records, summary.unfinished), (1, 0));
    /// assert_eq!(rdds.recv().await.unwrap().collect()?, ["to be"]);
    /// # Ok(()) }
    /// ```
    pub async fn stop(&self) -> Result<Summary> {
        self.request_stop();
        self.ended().await
    }

    /// Stops the program gracefully, as [`Running::stop`] does, within `deadline`. Work that is unfinished by then
    /// has no effect and counts in [`Summary::unfinished`].
    ///
    /// Returns when the program has stopped: about a second after the deadline at the latest, or two if a listener
    /// blocks. Sources may take half of the time to end. No output is called after this returns; one that is being
    /// called runs to its end, and until then keeps what it has claimed.
    ///
    /// Of several deadlines the earliest applies. After [`Running::request_abort`] the deadline limits the wait for a
    /// commit in progress.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use std::time::Duration;
    ///
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// queue.push(["to be".to_owned()]).await?;
    /// let summary = running.stop_within(Duration::from_secs(30)).await?;
    /// assert_eq!(summary.unfinished, 0); // it did not need that long
    /// # Ok(()) }
    /// ```
    pub async fn stop_within(&self, deadline: Duration) -> Result<Summary> {
        self.request_stop_within(deadline);
        let most = deadline.saturating_add(STOP_GRACE);
        let ended = self.await_termination(Some(most)).await?;
        Ok(ended.unwrap_or_else(|| self.blocked_summary()))
    }

    /// Stops the program abruptly; returns when it has stopped.
    ///
    /// Drops the running batch and all received records that have not been computed; [`Summary::unfinished`] counts
    /// the batches that were started. A program with a directory recovers them at its next start. Waits for a commit
    /// in progress.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// let running = ctx.start().await?;
    /// queue.push(["to be".to_owned()]).await?;
    /// let summary = running.abort().await?;
    /// assert_eq!(summary.records, 0); // the interval had not ended
    /// assert!(rdds.recv().await.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn abort(&self) -> Result<Summary> {
        self.request_abort();
        self.ended().await
    }

    async fn ended(&self) -> Result<Summary> {
        let ended = self.await_termination(None).await?;
        ended.ok_or(Error::NotRunning)
    }

    /// Called when a listener blocks the master's loop.
    fn blocked_summary(&self) -> Summary {
        tracing::error!("the program does not stop: a listener is blocked");
        let totals = self.watched.totals.lock();
        let mut summary = totals.unwrap_or_else(PoisonError::into_inner).0;
        summary.unfinished = summary.unfinished.max(1);
        summary
    }

    /// Asks the program to stop, as [`Running::stop`] does, without waiting for it.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// queue.push(["to be".to_owned()]).await?;
    /// running.request_stop(); // returns at once
    /// let summary = running.await_termination(None).await?.unwrap();
    /// assert_eq!(summary.records, 1);
    /// # Ok(()) }
    /// ```
    pub fn request_stop(&self) {
        self.request(true, None);
    }

    /// Asks the program to stop, as [`Running::stop_within`] does, without waiting for it. The time starts now.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use std::time::Duration;
    ///
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// running.request_stop_within(Duration::from_secs(30)); // returns at once
    /// running.await_termination(None).await?;
    /// # Ok(()) }
    /// ```
    pub fn request_stop_within(&self, deadline: Duration) {
        self.request(true, Some(deadline));
    }

    /// Asks the program to stop, as [`Running::abort`] does, without waiting for it.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// running.request_abort(); // returns at once
    /// running.await_termination(None).await?;
    /// # Ok(()) }
    /// ```
    pub fn request_abort(&self) {
        self.request(false, None);
    }

    fn request(&self, graceful: bool, deadline: Option<Duration>) {
        if let Some(time) = self.clock.source_time() {
            // The deadline counts from where the clock runs on.
            time.stop();
        }
        let now = self.clock.now();
        let deadline = deadline.map(|wait| now.plus(wait));
        let stop = Event::Stop { graceful, deadline };
        // Without a receiver the program has stopped already.
        let _ = self.messages.send(Message::Event(stop));
    }

    /// Waits until the program has stopped, by itself or by [`Running::stop`]; returns `None` after `timeout`.
    /// Returns the error of a failed batch.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use std::time::Duration;
    ///
    /// lines.print(10);
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// // It runs.
    /// assert!(running.await_termination(Some(Duration::from_millis(1))).await?.is_none());
    /// running.request_stop();
    /// assert!(running.await_termination(None).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn await_termination(&self, timeout: Option<Duration>) -> Result<Option<Summary>> {
        let mut end = self.end.clone();
        let ended = async move {
            match end.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            }
        };
        let ended = match timeout {
            Some(timeout) => match tokio::time::timeout(timeout, ended).await {
                Ok(ended) => ended,
                Err(_) => return Ok(None),
            },
            None => ended.await,
        };
        match ended {
            Some(result) => result.map(Some),
            None => Err(Error::NotRunning),
        }
    }

    /// Waits for the program to end. On SIGTERM or Ctrl-C stops it gracefully: runs and commits what was received,
    /// within `deadline`. A second signal stops it abruptly.
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(1))?;
    /// # ctx.tcp_text("lines", "127.0.0.1:7000").print(10);
    /// let running = ctx.start().await?;
    /// let summary = running.run_until_signal(std::time::Duration::from_secs(30)).await?;
    /// println!("{} records in {} batches", summary.records, summary.batches);
    /// # Ok(()) }
    /// ```
    pub async fn run_until_signal(&self, deadline: Duration) -> Result<Summary> {
        // Registered before the loop, so that no signal between two waits is missed.
        let mut signals = Signals::listen();
        let mut asked = false;
        loop {
            tokio::select! {
                ended = self.await_termination(None) => match ended? {
                    Some(summary) => return Ok(summary),
                    None => return Err(Error::NotRunning),
                },
                () = signals.next() => {
                    tracing::info!(graceful = !asked, "received a signal; stopping");
                    match asked {
                        false => self.request_stop_within(deadline),
                        true => self.request_abort(),
                    }
                    asked = true;
                }
            }
        }
    }
}

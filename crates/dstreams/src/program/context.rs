//! [`StreamContext`]: describes a program.

use std::panic::Location;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::object_store::ObjectStore;

use super::listener::Listener;
use crate::checkpoint::location::Store;
use crate::checkpoint::recover::StateDirectory;
use crate::config::Config;
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};
use crate::program::Clock;
use crate::receive::{Clients, DeadLetter, Files, Generator, Queue, Source, TcpText};
use crate::stream::dstream::DStream;
use crate::stream::graph::{GraphRef, Input, Op};
use crate::stream::record::{Record, check_rows};
use crate::stream::relational::describe;

/// Describes a program: inputs, D-Streams made from them, outputs. [`StreamContext::start`] runs
/// it.
///
/// ```
/// use std::time::Duration;
/// use dstreams::{StreamContext, agg::count};
///
/// let mut ctx = StreamContext::new(Duration::from_millis(100))?;
/// let lines = ctx.tcp_text("lines", "127.0.0.1:0");
/// lines
///     .flat_map::<String>(|line, out| dstreams::text::words(line).for_each(|word| out.push(word)))
///     .keyed()
///     .window_agg(Duration::from_secs(1), Duration::from_millis(100), count())?
///     .top(10)
///     .print(10);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[must_use = "a described program does nothing before it is started"]
pub struct StreamContext {
    pub(crate) graph: GraphRef,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) listeners: Vec<Arc<dyn Listener>>,
    /// By index of the input in the graph.
    pub(crate) sources: Vec<Box<dyn Source>>,
    /// The input that takes dead letters.
    pub(crate) dead_letter_input: Option<usize>,
    /// The directory of the program, if it has one.
    pub(crate) directory: Option<StateDirectory>,
    /// Whether the program stops when its sources have ended.
    pub(crate) stops_at_the_end: Option<Duration>,
}

debug_as!(StreamContext { config });

impl StreamContext {
    /// A context with this batch interval (whole milliseconds, 10 ms or more) and settings as in
    /// [`Config::new`], on the wall clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::StreamContext;
    ///
    /// let ctx = StreamContext::new(Duration::from_millis(500))?;
    /// assert!(StreamContext::new(Duration::from_millis(1)).is_err());
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn new(interval: Duration) -> Result<Self> {
        Self::with_config(Config::new(interval))
    }

    /// A context with these settings, on the wall clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{Config, StreamContext};
    ///
    /// let mut config = Config::new(Duration::from_millis(500));
    /// config.threads = 4;
    /// config.block_memory = 1 << 30;
    /// let ctx = StreamContext::with_config(config)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn with_config(config: Config) -> Result<Self> {
        config.check()?;
        Ok(StreamContext {
            graph: GraphRef::new(config.interval),
            clock: Clock::wall(),
            listeners: Vec::new(),
            sources: Vec::new(),
            dead_letter_input: None,
            directory: None,
            stops_at_the_end: None,
            config,
        })
    }

    /// Persists the program in the directory `dir`. If an earlier process used the directory, [`StreamContext::start`]
    /// resumes where that one ended, however it ended. Nothing is read or written before the start.
    ///
    /// Records are in a journal before they are acknowledged; every few batches ([`Config::checkpoint_every`]) the
    /// state is in a checkpoint. After a restart, cut batches are replayed with the same records. Batches that took
    /// effect do not take effect again. A batch whose commit was in progress is committed again: a sink that is
    /// [`Guarantee::ExactlyOnce`](crate::Guarantee) has each batch once, while a closure or a print may see one batch
    /// twice. Downtime is filled with empty batches, since windows count time;
    /// [`Config::skip_quiet`] leaves out those without effect.
    ///
    /// A changed program resumes every state whose name and content still match. New state begins empty, and inputs
    /// may be added after the existing ones. Other changes are refused with a description of the difference: see
    /// [`StreamContext::drop_state`] and [`StreamContext::rename_state`].
    ///
    /// Also refused: a directory that another process uses; another batch interval or other inputs than those of the
    /// first process; checkpoints that are missing or belong to another directory; damaged files. Not promised:
    /// anything about records that were received and not acknowledged. Records of sources without acknowledgements
    /// (TCP text) are safe a few milliseconds after they were read. ARCHITECTURE.md describes the steps of a restart.
    ///
    /// On a cluster every process builds the program and must reach `dir` by the same path: workers write their
    /// received records and their parts of checkpoints there.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::count};
    ///
    /// # async fn run() -> dstreams::Result<()> {
    /// let mut ctx = StreamContext::new(Duration::from_millis(500))?;
    /// let lines = ctx.tcp_text("lines", "127.0.0.1:7000");
    /// lines.keyed().window_agg(Duration::from_secs(60), Duration::from_millis(500), count())?.print(10);
    /// ctx.persist_in("/var/lib/words");
    /// let running = ctx.start().await?;
    /// running.run_until_signal(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn persist_in(&mut self, dir: impl Into<PathBuf>) {
        self.directory_mut().dir = dir.into();
    }

    /// Stores checkpoints at this URL, and only the journal in the directory of [`StreamContext::persist_in`].
    /// `file:///path` always works; `s3://bucket/path` and others need the matching feature of the crate
    /// `object_store`. Keys and regions come from the environment.
    ///
    /// The manifest of a checkpoint is written only if it does not exist yet. So if two programs use one location by
    /// mistake, the second fails and writes no checkpoint.
    ///
    /// Fails if the URL is not a valid location.
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.checkpoint_to("file:///backup/words")?; // or s3://bucket/words
    /// # let (_, words) = ctx.queue::<String>("words");
    /// # words.keyed().running_agg("counts", count())?.changes().print(10);
    /// # ctx.persist_in("/var/lib/words");
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn checkpoint_to(&mut self, url: &str) -> Result<()> {
        self.directory_mut().checkpoints = Some(Store::at(url)?);
        Ok(())
    }

    /// The same, in a store created by the program, below `path`.
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// use dstreams::datafusion::object_store::memory::InMemory;
    ///
    /// let store = std::sync::Arc::new(InMemory::new()); // or any other `ObjectStore`
    /// ctx.checkpoint_to_store(store, "words");
    /// # let (_, words) = ctx.queue::<String>("words");
    /// # words.keyed().running_agg("counts", count())?.changes().print(10);
    /// # ctx.persist_in("/var/lib/words");
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn checkpoint_to_store(&mut self, store: Arc<dyn ObjectStore>, path: &str) {
        self.directory_mut().checkpoints = Some(Store::Objects(store, path.into()));
    }

    /// Drops state of an earlier version of the program, by its name in [`inspect`](crate::inspect()), and logs that.
    /// Has no effect if there is no such state.
    ///
    /// The call may stay in the program: checkpoints record what was dropped. Later state of this name is dropped by
    /// the same call only if its content differs.
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.drop_state("longest words"); // version 1 had it
    /// # let (_, words) = ctx.queue::<String>("words");
    /// # words.keyed().running_agg("counts", count())?.changes().print(10);
    /// # ctx.persist_in("/var/lib/words");
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn drop_state(&mut self, name: &str) {
        self.directory_mut().changes.dropped.push(name.to_owned());
    }

    /// Renames state `from` of an earlier version of the program to `to`. The call may stay in the program, even if
    /// new state is named `from`.
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.rename_state("word counts", "counts"); // version 1 called it so
    /// # let (_, words) = ctx.queue::<String>("words");
    /// # words.keyed().running_agg("counts", count())?.changes().print(10);
    /// # ctx.persist_in("/var/lib/words");
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn rename_state(&mut self, from: &str, to: &str) {
        let renamed = (from.to_owned(), to.to_owned());
        self.directory_mut().changes.renamed.push(renamed);
    }

    fn directory_mut(&mut self) -> &mut StateDirectory {
        self.directory
            .get_or_insert_with(|| StateDirectory::at(PathBuf::new()))
    }

    /// Limits the memory of received records: [`Config::block_memory`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.set_block_memory(1 << 30); // 1 GiB
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn set_block_memory(&mut self, bytes: usize) {
        self.config.block_memory = bytes;
    }

    /// Takes the time from `clock` instead of the wall clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{Clock, StreamContext};
    ///
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (time, clock) = Clock::manual(Duration::ZERO);
    /// ctx.set_clock(clock);
    /// // After the start, each call of `time.advance(Duration::from_secs(1))` ends an interval.
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Reports batches to `listener`.
    ///
    /// ```
    /// use dstreams::{BatchReport, Listener, StreamContext};
    ///
    /// struct Delays;
    ///
    /// impl Listener for Delays {
    ///     fn batch_completed(&self, report: &BatchReport) {
    ///         println!("{}: {:?} after its interval", report.batch, report.total_delay());
    ///     }
    /// }
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.add_listener(Delays);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn add_listener(&mut self, listener: impl Listener) {
        self.listeners.push(Arc::new(listener));
    }

    /// An input stream from a source of your own.
    ///
    /// The columns of the source must be those of `T`.
    ///
    /// ```
    /// use dstreams::{StreamContext, TcpText};
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.source::<String>("lines", TcpText::new("127.0.0.1:0"))?;
    /// assert!(ctx.source::<i64>("numbers", TcpText::new("127.0.0.1:0")).is_err()); // it brings text
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn source<T: Record>(&mut self, name: &str, source: impl Source) -> Result<DStream<T>> {
        let operator = Operator::new("source", Location::caller());
        let found = source.schema();
        if found.fields() != T::schema().fields() {
            return Err(Error::Schema {
                what: format!("columns of the source of {operator}"),
                expected: describe(&T::schema()),
                found: describe(&found),
            });
        }
        Ok(self.input(name, Box::new(source), operator))
    }

    fn input<T: Record>(
        &mut self,
        name: &str,
        source: Box<dyn Source>,
        at: Operator,
    ) -> DStream<T> {
        self.sources.push(source);
        let mut graph = self.graph.lock();
        graph.inputs.push(Input {
            name: name.to_owned(),
            schema: T::schema(),
        });
        let op = Op::Source(graph.inputs.len() - 1);
        let every = graph.interval_ms;
        let node = graph.push(op, Vec::new(), T::schema(), at, every);
        drop(graph);
        DStream::at(&self.graph, node)
    }

    /// Lines of text over TCP. The engine listens on `address` (port 0 picks a free one); any number of producers
    /// connect and send lines that end with a line feed. See [`TcpText`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// use std::io::Write;
    /// use dstreams::StreamContext;
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// ctx.tcp_text("lines", "127.0.0.1:0").print(10); // port 0: a free one
    /// let running = ctx.start().await?;
    /// let mut producer = std::net::TcpStream::connect(running.address("lines").unwrap()).unwrap();
    /// producer.write_all(b"to be\nor not\n").unwrap();
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn tcp_text(&mut self, name: &str, address: &str) -> DStream<String> {
        let operator = Operator::new("tcp_text", Location::caller());
        self.input(name, Box::new(TcpText::new(address)), operator)
    }

    /// Records of existing and new files in a directory or an object store: see [`Files`].
    ///
    /// Fails if the format cannot represent a column.
    ///
    /// ```
    /// use dstreams::{Record, StreamContext, files::{Files, Format}};
    ///
    /// #[derive(Record)]
    /// struct Sale { shop: String, cents: i64 }
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let sales = ctx.files::<Sale>("sales", Files::dir("/srv/sales", Format::Csv))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn files<T: Record>(&mut self, name: &str, files: Files) -> Result<DStream<T>> {
        let operator = Operator::new("files", Location::caller());
        match files.source::<T>() {
            Ok(source) => Ok(self.input(name, Box::new(source), operator)),
            Err(message) => Err(Error::Graph { operator, message }),
        }
    }

    /// Records from programs that use the client library `dstreams-client`. The engine listens on the address of
    /// `clients`, which serves any number of streams.
    ///
    /// ```
    /// use dstreams::{Clients, StreamContext};
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let clients = Clients::listen("127.0.0.1:0");
    /// let sales = ctx.clients::<(String, i64)>("sales", &clients);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn clients<T: Record>(&mut self, name: &str, clients: &Clients) -> DStream<T> {
        let operator = Operator::new("clients", Location::caller());
        let source = clients.stream(name, T::schema(), check_rows::<T>);
        self.input(name, Box::new(source), operator)
    }

    /// Rows or Arrow batches pushed by this process: for tests and for input from your own code.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (queue, numbers) = ctx.queue::<i64>("numbers");
    /// let mut doubled = numbers.map(|n| 2 * n).collect();
    /// let running = ctx.start().await?;
    /// queue.push([1, 2]).await?;
    /// running.stop().await?;
    /// assert_eq!(doubled.recv().await.unwrap().collect()?, [2, 4]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn queue<T: Record>(&mut self, name: &str) -> (Queue<T>, DStream<T>) {
        let operator = Operator::new("queue", Location::caller());
        let (queue, source) = Queue::new();
        (queue, self.input(name, Box::new(source), operator))
    }

    /// Records computed from their number: the same in every run.
    ///
    /// ```
    /// use dstreams::{Generator, StreamContext};
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let numbers = ctx.generator("numbers", Generator::new(1_000, |n| n)); // 1,000 a second
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn generator<T: Record>(&mut self, name: &str, generator: Generator<T>) -> DStream<T> {
        let operator = Operator::new("generator", Location::caller());
        self.input(name, Box::new(generator), operator)
    }

    /// Input that is not a record, as raw bytes with the reason, of all streams. Without this stream, dead letters
    /// are only counted ([`Status`](crate::Status)) and logged.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.tcp_text("lines", "127.0.0.1:0");
    /// ctx.dead_letters()
    ///     .map(|letter| format!("{} from {}: {}", letter.stream, letter.producer, letter.reason))
    ///     .print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn dead_letters(&mut self) -> DStream<DeadLetter> {
        let operator = Operator::new("dead_letters", Location::caller());
        self.dead_letter_input = Some(self.sources.len());
        let (_, source) = Queue::<DeadLetter>::new();
        self.input("dead letters", Box::new(source), operator)
    }
}

//! The library's own outputs (closures, print, channels), and sinks of users.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::util::pretty::pretty_format_batches;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::debug::debug_as;
use crate::error::{BoxError, Error, Operator, Result};
use crate::stream::dstream::DStream;
use crate::stream::far_times::with_far_times_as_text;
use crate::stream::graph::OutputNode;
use crate::stream::keyed::Keyed;
use crate::stream::output::{Output, Rdd, RddFn, Sink, UntypedRdd};
use crate::stream::record::{Key, Record};
use crate::stream::rows::{Closure, panic_message};

/// The time a print waits for a reader of standard output before it warns.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(2);

impl<T: Record> DStream<T> {
    /// Calls `f` with each RDD, in order of batch times, when the batch has been computed.
    ///
    /// At least once: a batch whose commit is retried calls it again. The next batch's effects wait for it. It
    /// runs on a blocking thread of the runtime on which the program was started: it may use blocking clients, and
    /// wait for futures.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// lines.for_each_rdd(|rdd| {
    ///     let runtime = tokio::runtime::Handle::current();
    ///     let sorted = rdd.dataframe().unwrap().sort_by(vec![dstreams::datafusion::prelude::col("value")]);
    ///     println!("{:?}", runtime.block_on(sorted.unwrap().collect()));
    /// });
    /// ```
    #[track_caller]
    pub fn for_each_rdd(&self, f: impl Fn(Rdd<T>) + Closure) {
        let operator = Operator::new("for_each_rdd", Location::caller());
        self.each(operator, move |rdd| {
            f(rdd);
            Ok(())
        });
    }

    /// [`DStream::for_each_rdd`] for fallible closures: an error is retried like a sink's commit
    /// ([`Config::attempts`](crate::Config::attempts)), with all outputs of the batch; then it ends the program.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// # let path = std::env::temp_dir().join("newest");
    /// lines.try_for_each_rdd(move |rdd| std::fs::write(&path, rdd.num_rows().to_string()));
    /// ```
    #[track_caller]
    pub fn try_for_each_rdd<E: Into<BoxError>>(
        &self,
        f: impl Fn(Rdd<T>) -> Result<(), E> + Closure,
    ) {
        let operator = Operator::new("try_for_each_rdd", Location::caller());
        self.each(operator, move |rdd| f(rdd).map_err(Into::into));
    }

    fn each(&self, operator: Operator, call: impl Fn(Rdd<T>) -> Result<(), BoxError> + Closure) {
        let call = Arc::new(ForEach {
            call,
            operator: operator.clone(),
            record: PhantomData::<fn() -> T>,
        });
        self.output(operator, Output::Rdd(call));
    }

    /// Prints the first `limit` records of each RDD under its batch time to standard output.
    ///
    /// A pipe that nobody reads, or a terminal that is stopped, holds up the batches after it, and so the producers,
    /// until it is read or the program stops: after two seconds a warning says so. A closed one holds nothing up.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// lines.filter(|line| line.contains("ERROR")).print(10);
    /// ```
    #[track_caller]
    pub fn print(&self, limit: usize) {
        let operator = Operator::new("print", Location::caller());
        self.output(operator, Output::Rdd(Arc::new(Print { limit })));
    }

    /// Sends each RDD into a channel. The channel has no bound: read it. At least once.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut lengths = lines.map(|line| line.len() as i64).collect();
    /// let running = ctx.start().await?;
    /// queue.push(["to".to_owned(), "bee".to_owned()]).await?;
    /// running.stop().await?;
    /// while let Some(rdd) = lengths.recv().await {
    ///     assert_eq!(rdd.collect()?, [2, 3]);
    /// }
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn collect(&self) -> RddReceiver<T> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let operator = Operator::new("collect", Location::caller());
        self.output(operator, Output::Rdd(Arc::new(Collect(sender))));
        RddReceiver {
            receiver,
            record: PhantomData,
        }
    }

    /// Writes each RDD to a sink of your own; `name` names it in messages.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// use dstreams::files::{FileSink, Format};
    ///
    /// lines.sink("lines", FileSink::new("/srv/lines", Format::JsonLines));
    /// ```
    #[track_caller]
    pub fn sink(&self, name: &str, sink: impl Sink) {
        let operator = Operator::new(name, Location::caller());
        self.output(operator, Output::Sink(Arc::new(sink)));
    }

    pub(super) fn output(&self, operator: Operator, output: Output) {
        self.graph.lock().outputs.push(OutputNode {
            node: self.node,
            output,
            operator,
        });
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// [`DStream::for_each_rdd`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let counts = words.keyed().agg(count())?;
    /// counts.for_each_rdd(|rdd| println!("{}: {} words", rdd.batch_time(), rdd.num_rows()));
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn for_each_rdd(&self, f: impl Fn(Rdd<(K, V)>) + Closure) {
        self.pairs().for_each_rdd(f)
    }

    /// [`DStream::try_for_each_rdd`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let counts = words.keyed().agg(count())?;
    /// # let path = std::env::temp_dir().join("counts");
    /// counts.try_for_each_rdd(move |rdd| {
    ///     let counts = rdd.collect()?;
    ///     std::fs::write(&path, format!("{counts:?}"))?;
    ///     Ok::<(), dstreams::BoxError>(())
    /// });
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn try_for_each_rdd<E: Into<BoxError>>(
        &self,
        f: impl Fn(Rdd<(K, V)>) -> Result<(), E> + Closure,
    ) {
        self.pairs().try_for_each_rdd(f)
    }

    /// [`DStream::print`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let counts = words.keyed().agg(count())?;
    /// counts.print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn print(&self, limit: usize) {
        self.pairs().print(limit)
    }

    /// [`DStream::collect`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let mut counts = words.keyed().agg(count())?.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "to"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(counts.recv().await.unwrap().collect()?, [("to".to_owned(), 2)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn collect(&self) -> RddReceiver<(K, V)> {
        self.pairs().collect()
    }

    /// [`DStream::sink`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, words) = ctx.queue::<String>("words");
    /// use dstreams::files::{FileSink, Format};
    ///
    /// words.count_by_value().sink("counts", FileSink::new("/srv/counts", Format::JsonLines));
    /// ```
    #[track_caller]
    pub fn sink(&self, name: &str, sink: impl Sink) {
        self.pairs().sink(name, sink)
    }
}

struct ForEach<T, F> {
    call: F,
    operator: Operator,
    record: PhantomData<fn() -> T>,
}

impl<T: Record, F: Fn(Rdd<T>) -> Result<(), BoxError> + Closure> RddFn for ForEach<T, F> {
    fn call(&self, rows: UntypedRdd, _over: &CancellationToken) -> Result<()> {
        match catch_unwind(AssertUnwindSafe(|| (self.call)(Rdd::new(rows)))) {
            Ok(done) => done.map_err(|cause| Error::Sink {
                output: self.operator.to_string(),
                cause: cause.into(),
            }),
            Err(panic) => Err(Error::Panic {
                operator: self.operator.clone(),
                message: panic_message(&*panic),
            }),
        }
    }
}

struct Print {
    limit: usize,
}

impl RddFn for Print {
    fn call(&self, rows: UntypedRdd, over: &CancellationToken) -> Result<()> {
        let mut left = self.limit;
        let mut shown = Vec::new();
        for batch in rows.partitions.iter().flatten() {
            let part = batch.slice(0, batch.num_rows().min(left));
            left -= part.num_rows();
            // Arrow prints its error in place of a time that is far.
            shown.push(with_far_times_as_text(&part)?.into_owned());
        }
        let table = match shown.is_empty() {
            true => "(no records)".to_owned(),
            false => pretty_format_batches(&shown)?.to_string(),
        };
        let shown = async {
            let stdout = Console::stdout();
            stdout
                .line(format_args!("batch {}\n{table}", rows.batch))
                .await?;
            stdout.written().await
        };
        let shown = async {
            let mut shown = pin!(shown);
            if let Ok(shown) = tokio::time::timeout(UNREAD_TIMEOUT, &mut shown).await {
                return shown;
            }
            tracing::warn!("nobody reads standard output: `print` waits, and the batches after it");
            shown.await
        };
        match Handle::current().block_on(over.run_until_cancelled(shown)) {
            // A closed standard output must not stop a stream.
            Some(_) => Ok(()),
            None => Err(Error::NotRunning),
        }
    }
}

struct Collect(mpsc::UnboundedSender<UntypedRdd>);

impl RddFn for Collect {
    fn call(&self, rows: UntypedRdd, _over: &CancellationToken) -> Result<()> {
        // Nothing reads the rest if the receiver was dropped.
        let _ = self.0.send(rows);
        Ok(())
    }
}

/// Receives the RDDs of [`DStream::collect`], in order of batch times.
#[must_use = "the RDDs that it receives are kept until they are read"]
pub struct RddReceiver<T> {
    receiver: mpsc::UnboundedReceiver<UntypedRdd>,
    record: PhantomData<fn() -> T>,
}

debug_as!([T] RddReceiver<T>);

impl<T: Record> RddReceiver<T> {
    /// The next RDD; `None` when the context has stopped.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// let running = ctx.start().await?;
    /// queue.push(["to".to_owned()]).await?;
    /// running.stop().await?;
    /// assert_eq!(rdds.recv().await.unwrap().collect()?, ["to"]);
    /// assert!(rdds.recv().await.is_none()); // the program has stopped
    /// # Ok(()) }
    /// ```
    pub async fn recv(&mut self) -> Option<Rdd<T>> {
        self.receiver.recv().await.map(Rdd::new)
    }

    /// The next RDD, if there is one within `timeout`.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use std::time::Duration;
    ///
    /// let mut rdds = lines.collect();
    /// let running = ctx.start().await?;
    /// # let _ = &queue;
    /// // The first interval has not ended yet.
    /// assert!(rdds.recv_timeout(Duration::from_millis(1)).await.is_none());
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    pub async fn recv_timeout(&mut self, timeout: Duration) -> Option<Rdd<T>> {
        tokio::time::timeout(timeout, self.recv())
            .await
            .ok()
            .flatten()
    }

    /// The next RDD if it is there already.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// let running = ctx.start().await?;
    /// assert!(rdds.try_recv().is_none());
    /// queue.push(["to".to_owned()]).await?;
    /// running.stop().await?;
    /// assert_eq!(rdds.try_recv().unwrap().num_rows(), 1);
    /// # Ok(()) }
    /// ```
    pub fn try_recv(&mut self) -> Option<Rdd<T>> {
        self.receiver.try_recv().ok().map(Rdd::new)
    }
}

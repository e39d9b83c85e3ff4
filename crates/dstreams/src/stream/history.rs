//! Streams of earlier RDDs: windows of records, delayed streams, RDDs that are remembered.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::dstream::DStream;
use super::graph::{GraphRef, NodeId, Op};
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::window::multiple_of;
use crate::error::{Error, Operator, Result};

/// The rows of a history that its RDD at a batch time has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recall {
    /// Those of the last so many milliseconds.
    Last { length_ms: u64 },
    /// Those of so many milliseconds before.
    Earlier { by_ms: u64 },
    /// Those of the newest RDD.
    Newest,
    /// None: those of the last so many milliseconds are read by name.
    Asked { length_ms: u64 },
    /// Those of the interval that is to be complete, by event time; and those outside these bounds.
    ByTime { wait_ms: u64, ahead_ms: u64 },
}

impl Recall {
    /// How long rows are kept, in milliseconds, of a stream with RDDs every `every_ms`.
    pub fn keep_ms(self, every_ms: u64) -> u64 {
        match self {
            Recall::Last { length_ms } | Recall::Asked { length_ms } => length_ms,
            Recall::Earlier { by_ms } => by_ms + every_ms,
            Recall::Newest => every_ms,
            // They leave when their interval is released, whatever this is.
            Recall::ByTime { wait_ms, ahead_ms } => wait_ms + ahead_ms,
        }
    }

    /// Describes it, for histories that have no name.
    pub fn describe(self) -> String {
        match self {
            Recall::Last { length_ms } => format!("the last {length_ms} ms"),
            Recall::Earlier { by_ms } => format!("those of {by_ms} ms before"),
            Recall::Newest => "the newest".into(),
            Recall::ByTime { .. } => "by event time".into(),
            Recall::Asked { length_ms } => format!("the last {length_ms} ms, by name"),
        }
    }
}

/// The column with the batch time of a remembered record.
pub(crate) const BATCH_TIME: &str = "batch_time";

/// How the RDD of an earlier interval is there.
#[derive(Clone, Copy, PartialEq)]
enum Under {
    /// It stays the RDD of its interval, and is late.
    ItsOwnTime,
    /// It is one of the present interval.
    TheBatch,
}

/// Adds the RDDs of a node, `by` later.
fn earlier(
    graph: &GraphRef,
    (input, keys): (NodeId, usize),
    by: Duration,
    under: Under,
    operator: Operator,
) -> Result<NodeId> {
    let mut graph = graph.lock();
    let node = graph.node(input);
    let (every, schema) = (node.slide_ms, Arc::clone(&node.schema));
    let by_ms = multiple_of(every, by, "delay", &operator)?;
    let op = Op::History {
        name: None,
        keys,
        recall: Recall::Earlier { by_ms },
        off_time: None,
    };
    let node = graph.push(op, vec![input], schema, operator, every);
    if under == Under::ItsOwnTime {
        graph.shift(node, by_ms);
    }
    Ok(node)
}

/// Adds the newest RDD of a node, at every interval.
fn latest(graph: &GraphRef, (input, keys): (NodeId, usize), operator: Operator) -> NodeId {
    let mut graph = graph.lock();
    let (every, schema) = (graph.interval_ms, Arc::clone(&graph.node(input).schema));
    let op = Op::History {
        name: None,
        keys,
        recall: Recall::Newest,
        off_time: None,
    };
    graph.push(op, vec![input], schema, operator, every)
}

/// Remembers the RDDs of a node.
fn remember(
    graph: &GraphRef,
    (input, keys): (NodeId, usize),
    name: &str,
    len: Duration,
    operator: Operator,
) -> Result<()> {
    let mut graph = graph.lock();
    let node = graph.node(input);
    let (every, schema) = (node.slide_ms, Arc::clone(&node.schema));
    let length_ms = multiple_of(every, len, "length", &operator)?;
    if schema.field_with_name(BATCH_TIME).is_ok() {
        return Err(Error::Graph {
            operator,
            message: format!(
                "its records have a column `{BATCH_TIME}`, which is that of the batch time in the table of a \
                 remembered stream; give it another name"
            ),
        });
    }
    let op = Op::History {
        name: Some(name.to_owned()),
        keys,
        recall: Recall::Asked { length_ms },
        off_time: None,
    };
    graph.check_name(&op, &operator)?;
    graph.push(op, vec![input], schema, operator, every);
    Ok(())
}

/// Adds a window of the records of a node.
fn window(
    graph: &GraphRef,
    input: NodeId,
    (name, keys): (Option<&str>, usize),
    (len, slide): (Duration, Duration),
    operator: Operator,
) -> Result<NodeId> {
    let mut graph = graph.lock();
    let every = graph.node(input).slide_ms;
    let length_ms = multiple_of(every, len, "length", &operator)?;
    let slide_ms = multiple_of(every, slide, "slide", &operator)?;
    let op = Op::History {
        name: name.map(str::to_owned),
        keys,
        recall: Recall::Last { length_ms },
        off_time: None,
    };
    graph.check_name(&op, &operator)?;
    let schema = graph.node(input).schema.clone();
    Ok(graph.push(op, vec![input], schema, operator, slide_ms))
}

impl<T: Record> DStream<T> {
    /// The records of the last `len`, every `slide`.
    ///
    /// An RDD exists at the batch times `t` that are multiples of `slide`; it has the records of the batch times in
    /// `(t - len, t]`. Any operator can follow. Within a partition the records of older batches come first. With `len`
    /// shorter than `slide`, the records in between are in no RDD.
    ///
    /// Keeping a batch costs O(records of the batch), an RDD O(records of the window) if anything reads it; memory is
    /// O(records of the window). Where an aggregate is all that is needed, [`Keyed::window_agg`] costs what enters and
    /// leaves. Paper: table 1 and section 3.2, `window`.
    ///
    /// `len` and `slide` must be multiples of the interval at which this stream has RDDs.
    ///
    /// In a persisted program, windows of records over the same streams and of the same length are distinguished only
    /// by their order in the program: name each one with [`DStream::named_window`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # use std::time::Duration;
    /// # let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    /// # let mut ctx = StreamContext::new(hour)?;
    /// # let (queue, prices) = ctx.queue::<f64>("prices");
    /// // The median of two hours: no sum of medians gives it.
    /// let recent = prices.window(2 * hour, hour)?;
    /// let median = recent.sql::<f64>("select coalesce(median(value), 0.0) as value from this")?;
    /// let mut medians = median.collect();
    /// # let running = ctx.start().await?;
    /// queue.push([1.0, 2.0, 10.0]).await?;
    /// # running.stop().await?;
    /// assert_eq!(medians.recv().await.unwrap().collect()?, [2.0]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn window(&self, len: Duration, slide: Duration) -> Result<DStream<T>> {
        let operator = Operator::new("window", Location::caller());
        let node = window(&self.graph, self.node, (None, 0), (len, slide), operator)?;
        Ok(DStream::at(&self.graph, node))
    }

    /// The same as [`DStream::window`], with a name by which a changed program finds the records again
    /// ([`StreamContext::persist_in`](crate::StreamContext::persist_in)). Names of states must be unique. The
    /// length may change between two runs: a longer window has the older records only after it has run as long.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let errors = lines.filter(|line| line.starts_with("error"));
    /// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    /// errors.named_window("errors", minute, second)?.count()?.print(1);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn named_window(&self, name: &str, len: Duration, slide: Duration) -> Result<DStream<T>> {
        let operator = Operator::new("named_window", Location::caller());
        let node = window(
            &self.graph,
            self.node,
            (Some(name), 0),
            (len, slide),
            operator,
        )?;
        Ok(DStream::at(&self.graph, node))
    }

    /// Each RDD again, `by` later; empty until then. It stays the RDD of its interval: the stream is late by `by`, and
    /// meets those that are as late ([`DStream::by_time`]). Windows and timeouts that follow count from that interval.
    ///
    /// `by` must be a multiple of the interval at which this stream has RDDs. Cost and memory are those of
    /// [`DStream::window`] with this length.
    ///
    /// ```
    /// # use dstreams::{Slack, StreamContext};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<i64>("clicks");
    /// # let (_, prices) = ctx.queue::<(i64, i64)>("prices");
    /// // Prices are as of the batch, sales are put into the interval of their event time, two seconds later.
    /// let two = Duration::from_secs(2);
    /// # let sales = ctx.queue::<(i64, i64)>("sales").1;
    /// let sales = sales.by_time("sales", |(at_ms, _)| at_ms, Slack::of(two))?.records();
    /// let prices = prices.delayed(two)?;
    /// let of_price = "select s.value from sales s join prices p on s.value = p.key";
    /// let of_price = ctx.sql::<i64>(&[("sales", &sales), ("prices", &prices)], of_price)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn delayed(&self, by: Duration) -> Result<DStream<T>> {
        let operator = Operator::new("delayed", Location::caller());
        let of = (self.node, 0);
        let node = earlier(&self.graph, of, by, Under::ItsOwnTime, operator)?;
        Ok(DStream::at(&self.graph, node))
    }

    /// The RDD of `by` before, as one of the present interval: for a stream that is joined with its own past. Empty
    /// until there was one.
    ///
    /// `by` must be a multiple of the interval at which this stream has RDDs. Cost and memory are those of
    /// [`DStream::window`] with this length. Paper: HotCloud 2012, time-skewed joins.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, visitors) = ctx.queue::<i64>("visitors");
    /// // Who is there, and was there a minute ago.
    /// let before = visitors.past(Duration::from_secs(60))?;
    /// let stayed = "select distinct p.value from present p join before b on p.value = b.value";
    /// let stayed = ctx.sql::<i64>(&[("present", &visitors), ("before", &before)], stayed)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn past(&self, by: Duration) -> Result<DStream<T>> {
        let operator = Operator::new("past", Location::caller());
        let node = earlier(&self.graph, (self.node, 0), by, Under::TheBatch, operator)?;
        Ok(DStream::at(&self.graph, node))
    }

    /// The newest RDD at every interval, for a stream with fewer: the last result of a slow window, beside a fast
    /// stream. Empty before the first one. O(records of the RDD) at each interval if anything reads it.
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, words) = ctx.queue::<String>("words");
    /// let minute = Duration::from_secs(60);
    /// let frequent = words.keyed().window_agg(minute, minute, count())?.top(10).latest();
    /// let known = "select w.value from words w join frequent f on w.value = f.key";
    /// let known = ctx.sql::<String>(&[("words", &words), ("frequent", &frequent)], known)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn latest(&self) -> DStream<T> {
        let operator = Operator::new("latest", Location::caller());
        let node = latest(&self.graph, (self.node, 0), operator);
        DStream::at(&self.graph, node)
    }

    /// Keeps the RDDs of the last `len`, for questions while the program runs: [`Running::slice`](crate::Running::slice)
    /// returns them, and [`Running::session`](crate::Running::session) has a table `name` of their records, whose first
    /// column `batch_time` is the batch time in milliseconds. Nothing in the program reads them.
    ///
    /// Keeping a batch costs O(its records), memory is O(records of the last `len`). `len` must be a multiple of the
    /// interval at which this stream has RDDs; it may change between two runs. Names of states must be unique.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let hour = std::time::Duration::from_secs(3600);
    /// # let mut ctx = StreamContext::new(hour)?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.filter(|line| line.contains("error")).remember("errors", 24 * hour)?;
    /// # lines.print(0);
    /// # let running = ctx.start().await?;
    /// # queue.push(["an error".to_owned()]).await?;
    /// // While it runs:
    /// let errors = running.table("errors").await?; // columns batch_time, value
    /// # assert_eq!(errors.schema().fields().len(), 2);
    /// # running.stop().await?;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn remember(&self, name: &str, len: Duration) -> Result<()> {
        let operator = Operator::new("remember", Location::caller());
        remember(&self.graph, (self.node, 0), name, len, operator)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// The pairs of the last `len`, every `slide`: see [`DStream::window`]. Pairs with equal keys are in one partition,
    /// in order of arrival.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let hour = std::time::Duration::from_secs(3600);
    /// # let mut ctx = StreamContext::new(hour)?;
    /// # let (queue, sales) = ctx.queue::<(String, i64)>("sales");
    /// // By a closure that needs all values, oldest first.
    /// let changes = sales.by_key().window(2 * hour, hour)?.reduce(|older, newer| newer - older);
    /// let mut changes = changes.pairs().collect();
    /// # let running = ctx.start().await?;
    /// queue.push([("shop".to_owned(), 5), ("shop".to_owned(), 7)]).await?;
    /// # running.stop().await?;
    /// assert_eq!(changes.recv().await.unwrap().collect()?, [("shop".to_owned(), 2)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn window(&self, len: Duration, slide: Duration) -> Result<Keyed<K, V>> {
        let operator = Operator::new("window", Location::caller());
        let of = (None, Self::key_columns());
        let node = window(&self.graph, self.node, of, (len, slide), operator)?;
        Ok(Keyed::at(&self.graph, node))
    }

    /// The same as [`Keyed::window`], with a name: see [`DStream::named_window`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    /// let recent = sales.by_key().named_window("recent", minute, second)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn named_window(&self, name: &str, len: Duration, slide: Duration) -> Result<Keyed<K, V>> {
        let operator = Operator::new("named_window", Location::caller());
        let of = (Some(name), Self::key_columns());
        let node = window(&self.graph, self.node, of, (len, slide), operator)?;
        Ok(Keyed::at(&self.graph, node))
    }

    /// Each RDD again, `by` later: see [`DStream::delayed`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// let delayed = sales.by_key().delayed(Duration::from_secs(2))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn delayed(&self, by: Duration) -> Result<Keyed<K, V>> {
        let operator = Operator::new("delayed", Location::caller());
        let of = (self.node, Self::key_columns());
        let node = earlier(&self.graph, of, by, Under::ItsOwnTime, operator)?;
        Ok(Keyed::at(&self.graph, node))
    }

    /// The RDD of `by` before, as one of the present interval: see [`DStream::past`].
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, words) = ctx.queue::<String>("words");
    /// let minute = Duration::from_secs(60);
    /// let counts = words.keyed().window_agg(minute, minute, count())?;
    /// let before = counts.past(minute)?; // those of the minute before
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn past(&self, by: Duration) -> Result<Keyed<K, V>> {
        let operator = Operator::new("past", Location::caller());
        let of = (self.node, Self::key_columns());
        let node = earlier(&self.graph, of, by, Under::TheBatch, operator)?;
        Ok(Keyed::at(&self.graph, node))
    }

    /// The newest RDD at every interval: see [`DStream::latest`].
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, words) = ctx.queue::<String>("words");
    /// let minute = Duration::from_secs(60);
    /// let counts = words.keyed().window_agg(minute, minute, count())?.latest(); // each second
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn latest(&self) -> Keyed<K, V> {
        let operator = Operator::new("latest", Location::caller());
        let node = latest(&self.graph, (self.node, Self::key_columns()), operator);
        Keyed::at(&self.graph, node)
    }

    /// Keeps the RDDs of the last `len`, for questions while the program runs: see [`DStream::remember`].
    ///
    /// ```
    /// # use dstreams::{StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, words) = ctx.queue::<String>("words");
    /// words.keyed().agg(count())?.remember("counts", Duration::from_secs(3600))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn remember(&self, name: &str, len: Duration) -> Result<()> {
        let operator = Operator::new("remember", Location::caller());
        let of = (self.node, Self::key_columns());
        remember(&self.graph, of, name, len, operator)
    }
}

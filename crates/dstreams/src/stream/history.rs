//! Streams of earlier RDDs: windows of records.

use std::panic::Location;
use std::time::Duration;

use super::dstream::DStream;
use super::graph::{GraphRef, NodeId, Op};
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::window::multiple_of;
use crate::error::{Operator, Result};

/// The rows of a history that its RDD at a batch time has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recall {
    /// Those of the last so many milliseconds.
    Last { length_ms: u64 },
}

impl Recall {
    /// How long rows are kept, in milliseconds, of a stream with RDDs every `every_ms`.
    pub fn keep_ms(self, _every_ms: u64) -> u64 {
        match self {
            Recall::Last { length_ms } => length_ms,
        }
    }

    /// Describes it, for histories that have no name.
    pub fn describe(self) -> String {
        match self {
            Recall::Last { length_ms } => format!("the last {length_ms} ms"),
        }
    }
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
    /// ([`StreamContext::restore_or_new`](crate::StreamContext::restore_or_new)). Names of states must be unique. The
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
}

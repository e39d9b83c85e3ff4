//! Aggregates by intervals of event time, emitted when an interval is over and corrected when late records come.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;

use super::agg::{Agg, AggPart, Function};
use super::correction::Correction;
use super::dstream::DStream;
use super::event_time::{Arrival, Arrivals, IntervalRule};
use super::graph::{GraphRef, NodeId, Op, View};
use super::keyed::Keyed;
use super::record::{Key, Record, RecordShape};
use super::rejects::OffTimeReaders;
use super::result_rows::{CORRECTED, FINAL, FIRST, ResultRows, Select, Showing};
use super::rows::{Closure, RowsFn};
use super::window;
use crate::debug::debug_as;
use crate::error::{Operator, Result};

/// Intervals of event time, how long their records are waited for, and how long their results are corrected: see
/// [`Keyed::agg_by_time`].
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    every: Duration,
    over: Duration,
    slack: Duration,
    correct: Duration,
    ahead: Duration,
}

impl Intervals {
    /// Intervals of this length, beginning at its multiples since the Unix epoch. It must be a multiple of the
    /// interval at which the stream has RDDs; so must all other durations here, which may also be zero.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Intervals;
    /// let minutes = Intervals::every(Duration::from_secs(60));
    /// ```
    pub fn every(every: Duration) -> Self {
        Intervals {
            every,
            over: every,
            slack: Duration::ZERO,
            correct: Duration::ZERO,
            ahead: every,
        }
    }

    /// Results cover so much, up to the end of their interval: a multiple of its length, which is the default. So
    /// there is a result every minute of the last hour, for example. A record then corrects all results that it is in and
    /// that were emitted.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Intervals;
    /// let hours = Intervals::every(Duration::from_secs(60)).over(Duration::from_secs(3600));
    /// ```
    pub fn over(self, over: Duration) -> Self {
        Intervals { over, ..self }
    }

    /// The first result of an interval is emitted so long after its end. Default: zero, with the batch that ends the
    /// interval.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Intervals;
    /// let minutes = Intervals::every(Duration::from_secs(60)).slack(Duration::from_secs(5));
    /// ```
    pub fn slack(self, slack: Duration) -> Self {
        Intervals { slack, ..self }
    }

    /// Results are corrected for so long after they are first emitted. Default: zero, the first result is final.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Intervals;
    /// let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// ```
    pub fn correct_for(self, correct: Duration) -> Self {
        Intervals { correct, ..self }
    }

    /// Records count whose interval ends up to so long after their batch: of clocks that are fast, or sources that are
    /// read faster than they were written. Default: the length of an interval.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Intervals;
    /// let minutes = Intervals::every(Duration::from_secs(60)).ahead(Duration::ZERO);
    /// ```
    pub fn ahead(self, ahead: Duration) -> Self {
        Intervals { ahead, ..self }
    }

    /// Checked against the interval of a stream.
    fn rule(&self, stream_ms: u64, operator: &Operator) -> Result<IntervalRule> {
        // At most a thousand years.
        let positive = |length: Duration, what: &str| -> Result<i64> {
            Ok(window::multiple_of(stream_ms, length, what, operator)? as i64)
        };
        let ms = |length: Duration, what: &str| match length.is_zero() {
            true => Ok(0),
            false => positive(length, what),
        };
        let every = positive(self.every, "length")?;
        let over = window::multiple_of(every as u64, self.over, "time covered", operator)?;
        Ok(IntervalRule {
            every,
            over: over as i64,
            slack: ms(self.slack, "slack")?,
            correct: ms(self.correct, "time for corrections")?,
            ahead: ms(self.ahead, "time ahead")?,
        })
    }
}

/// Results by key and interval of event time: see [`Keyed::agg_by_time`]. Each method is a stream of them, for another
/// kind of reader.
///
/// An interval is named by its end, in milliseconds since the Unix epoch. Rows of a partition are in order of
/// their intervals; within an interval, results that no record of the batch changed come first, in the order in
/// which they last changed, then the others in the order in which their keys arrived.
#[must_use = "nothing computes results that no stream reads"]
pub struct ByTime<K, V, O> {
    graph: GraphRef,
    /// The stream of records.
    input: NodeId,
    state: NodeId,
    /// The emitted rows of the state.
    emitted_node: NodeId,
    emitted: ResultRows,
    rule: IntervalRule,
    operator: Operator,
    off_time: OffTimeReaders,
    /// Selects the records that arrive in a way.
    arrivals: Arc<dyn Fn(Arrival) -> Arc<dyn RowsFn> + Send + Sync>,
    types: PhantomData<fn() -> (K, V, O)>,
}

debug_as!([K, V, O] ByTime<K, V, O> { state, operator });

impl<K, V, O> Clone for ByTime<K, V, O> {
    fn clone(&self) -> Self {
        ByTime {
            graph: self.graph.clone(),
            emitted: self.emitted.clone(),
            operator: self.operator.clone(),
            off_time: self.off_time.clone(),
            arrivals: Arc::clone(&self.arrivals),
            ..*self
        }
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Aggregates the values of each key by intervals of their event time. Results are emitted when an interval is over, and
    /// corrected when late records come: the paper's application-level correction, incrementally.
    ///
    /// `time` returns the time of a value in milliseconds since the Unix epoch. With *P* the length of the intervals,
    /// *S* the slack, *H* the time for corrections and *A* the time ahead, the result of the interval *p* (its end, a
    /// multiple of *P*) and a key has the records with times in *[p - P, p)*. It is
    ///
    /// * **first emitted** with the batch *p + S*, as version 1, if the key has such a record by then;
    /// * **corrected** with each later batch whose records change it, until *p + S + H*: the version grows by one. A key
    ///   without a record by *p + S* is emitted then, as version 1. Records that leave all columns of the result as they
    ///   were (of a maximum) correct nothing;
    /// * **final** with the batch *p + S + H*, with that batch's records.
    ///
    /// A record that arrives in batch *t* is late if *p + S + H < t*, and ahead if *p > t + A*. Neither counts: each
    /// record is in a result, in [`ByTime::late`] or in [`ByTime::ahead`]. What nothing reads is logged and counted
    /// in [`Status::rejected`](crate::Status::rejected). No watermark decides anything: everything follows from the
    /// batch times and the records, so a silent input delays nothing, and a batch that runs again tells the same.
    ///
    /// With [`Intervals::over`], results cover *L* instead of *P*: *[p - L, p)*. A record is late once its own interval is
    /// final.
    ///
    /// Partial results of each interval and key are merged with those of the batch, never computed again. A batch costs
    /// O(its records + results that it changes, tells or ends x *L / P*), however many are stored. Memory is O(intervals and
    /// keys in *L + S + H + A*), limited by [`Config::state_memory`](crate::Config::state_memory) like all keyed state. Takes all of
    /// [`agg`](crate::agg) that [`Keyed::running_agg`] takes; none needs to be invertible.
    ///
    /// `name` names the state. A program that changes may change *A*, but not *S* and *H*: batches since the last
    /// checkpoint run again, and would tell and end results at other times. A restart refuses that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{Intervals, Record, StreamContext, agg::count};
    /// # #[derive(Record)] struct Click { ad: i64, at_ms: i64 }
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<Click>("clicks");
    /// let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(86_400));
    /// let clicks = clicks.key_by(|click| click.ad);
    /// let counts = clicks.agg_by_time("clicks", |click| click.at_ms, minutes, count())?;
    /// counts.updates().print(10); // ((minute, ad), (version, clicks)): each replaces the one before
    /// counts.finals().print(10); // ((minute, ad), clicks), a day later, once
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused like [`Keyed::running_agg`], and if a duration is not a multiple of the interval at which this stream has
    /// RDDs, or behind [`DStream::by_time`](crate::DStream::by_time) and [`delayed`](Keyed::delayed): a stream by event
    /// time has its records in their intervals, and [`window_agg`](Keyed::window_agg) aggregates these. Paper: section 3.2.
    #[track_caller]
    pub fn agg_by_time<A: Agg<V>>(
        &self,
        name: &str,
        time: impl for<'a> Fn(V::Ref<'a>) -> i64 + Closure,
        intervals: Intervals,
        agg: A,
    ) -> Result<ByTime<K, V, A::Out>> {
        let operator = Operator::new("agg_by_time", Location::caller());
        let mut plan = Self::resolve(&agg, &operator)?;
        window::check_columns(&plan, &<(K, V)>::schema(), &operator)?;
        let mut graph = self.graph.lock();
        let remedy = "its intervals are those of event time, which `window_agg` counts";
        graph.check_not_late(self.node, &operator, remedy)?;
        let every = graph.node(self.node).slide_ms;
        let rule = intervals.rule(every, &operator)?;
        let off_time = OffTimeReaders::of(&operator);
        if rule.panes() > 1 {
            // Says which intervals have records of a key.
            plan.column_of(AggPart {
                function: Function::Count,
                column: None,
            });
        }
        let (time, counted) = (Arc::new(time), off_time.clone());
        let arrivals = move |wanted| -> Arc<dyn RowsFn> {
            Arc::new(Arrivals::<V, _> {
                time: Arc::clone(&time),
                rule,
                wanted,
                skip: Self::key_columns(),
                schema: match wanted {
                    Arrival::InTime => <((i64, K), V)>::schema(),
                    Arrival::Late | Arrival::Ahead => <(i64, (K, V))>::schema(),
                },
                off_time: (wanted == Arrival::InTime).then(|| counted.clone()),
                value: PhantomData,
            })
        };
        let keys = 1 + Self::key_columns();
        let emitted = ResultRows::new(&<((i64, K), A::Out)>::schema(), keys);
        let op = Op::ByTime {
            name: name.to_owned(),
            keys,
            plan,
            rule,
            emitted: emitted.clone(),
        };
        graph.check_name(&op, &operator)?;
        graph
            .rejects
            .extend([&off_time.late, &off_time.ahead].map(Arc::clone));
        let mut push =
            |op, input, schema| graph.push(op, vec![input], schema, operator.clone(), every);
        let in_time = Op::Rows(arrivals(Arrival::InTime));
        let in_time = push(in_time, self.node, <((i64, K), V)>::schema());
        let state = push(op, in_time, <((i64, K), (u32, A::Out))>::schema());
        let emitted_node = push(Op::StateView(View::Mapped), state, emitted.schema());
        drop(graph);
        Ok(ByTime {
            graph: self.graph.clone(),
            input: self.node,
            state,
            emitted_node,
            emitted,
            rule,
            operator,
            off_time,
            arrivals: Arc::new(arrivals),
            types: PhantomData,
        })
    }
}

impl<K: Key, V: Record, O: Record> ByTime<K, V, O> {
    /// The first result of each interval and key, without its corrections. An RDD for each interval, at the batch time
    /// *p + S*; if *S* is not a multiple of *P*, there are empty RDDs between. O(results emitted).
    ///
    /// Keys that first have a record after that are in [`ByTime::updates`] only.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// counts.first().print(10); // ((minute, ad), clicks) when the minute ends
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn first(&self) -> Keyed<(i64, K), O> {
        let slide = self.slide(self.rule.slack);
        self.select(FIRST, Showing::Results, slide)
    }

    /// The final result of each interval and key, once. An RDD for each interval, at the batch time *p + S + H*; if *S +
    /// H* is not a multiple of *P*, there are empty RDDs between. O(results that end).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// let finals = counts.finals().pairs().map(|((_minute, ad), clicks)| (ad.to_owned(), clicks));
    /// // Exact, an hour later.
    /// let of_day = finals.by_key().window_agg(
    ///     Duration::from_secs(86_400),
    ///     Duration::from_secs(3600),
    ///     dstreams::agg::sum::<i64>(),
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn finals(&self) -> Keyed<(i64, K), O> {
        let slide = self.slide(self.rule.slack + self.rule.correct);
        self.select(FINAL, Showing::Results, slide)
    }

    /// First results and corrections with their version, which counts from 1 and never skips: for readers that replace
    /// one result with the next. O(results emitted).
    ///
    /// An output that takes effect again after a crash has the same versions again: a table outside stays right if
    /// it refuses what is not newer.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// counts.updates().print(10); // ((minute, ad), (version, clicks))
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn updates(&self) -> Keyed<(i64, K), (u32, O)> {
        self.select(FIRST | CORRECTED, Showing::Versions, None)
    }

    /// Corrections alone, with what the result was: results that are emitted after the slack of their interval. O(results
    /// emitted).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// counts
    ///     .corrections()
    ///     .map(|it| format!("{}: {} clicks, not {:?}", it.key, it.after, it.before))
    ///     .print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn corrections(&self) -> DStream<Correction<K, O>> {
        let schema = Correction::<K, O>::schema();
        let showing = Showing::Corrections {
            with_is: O::SHAPE != RecordShape::Leaf,
        };
        let node = self.selected(CORRECTED, showing, None, schema);
        DStream::at(&self.graph, node)
    }

    /// First results with +1; corrections as what the result was, with -1, and what it is, with +1. O(results emitted).
    ///
    /// Sums and counts of it are always those of the newest results:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::{count, sum}};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// let by_ad = counts
    ///     .changelog()
    ///     .map(|(sign, ((_minute, ad), clicks))| (ad.to_owned(), i64::from(sign) * clicks))
    ///     .by_key()
    ///     .running_agg("clicks of each ad", sum::<i64>())?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn changelog(&self) -> DStream<(i8, ((i64, K), O))> {
        let schema = <(i8, ((i64, K), O))>::schema();
        let node = self.selected(FIRST | CORRECTED, Showing::Signed, None, schema);
        DStream::at(&self.graph, node)
    }

    /// All results that are not final, as of each batch, in the order in which they last changed; version 0 is not emitted
    /// yet. O(results stored).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// counts.all().top(10).print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn all(&self) -> Keyed<(i64, K), (u32, O)> {
        let (op, schema) = (Op::StateView(View::All), <((i64, K), (u32, O))>::schema());
        let node = (self.graph).add_to(self.state, op, schema, self.operator.clone());
        Keyed::at(&self.graph, node)
    }

    /// The records that came too late, with the end of their interval, in order of arrival. O(records of the batch).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// counts.late().print(10); // (minute, (ad, at_ms))
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn late(&self) -> Keyed<i64, (K, V)> {
        self.off_time.late.add();
        self.arrivals(Arrival::Late)
    }

    /// The records whose interval is too far in the future, with its end, in order of arrival. O(records of the
    /// batch).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Intervals, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // ad and time
    /// # let minutes = Intervals::every(Duration::from_secs(60)).correct_for(Duration::from_secs(3600));
    /// let counts = clicks.by_key().agg_by_time("clicks", |at_ms| at_ms, minutes, count())?;
    /// let wrong_clocks = counts.ahead().pairs().count()?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn ahead(&self) -> Keyed<i64, (K, V)> {
        self.off_time.ahead.add();
        self.arrivals(Arrival::Ahead)
    }

    fn arrivals(&self, wanted: Arrival) -> Keyed<i64, (K, V)> {
        let (op, schema) = (Op::Rows((self.arrivals)(wanted)), <(i64, (K, V))>::schema());
        let node = (self.graph).add_to(self.input, op, schema, self.operator.clone());
        Keyed::at(&self.graph, node)
    }

    /// The interval of RDDs of results that are emitted so long after the end of their interval.
    fn slide(&self, after: i64) -> Option<u64> {
        let every = self.rule.every;
        (after % every == 0).then_some(every as u64)
    }

    fn select<R: Record>(
        &self,
        kinds: u8,
        showing: Showing,
        slide: Option<u64>,
    ) -> Keyed<(i64, K), R> {
        let schema = <((i64, K), R)>::schema();
        let node = self.selected(kinds, showing, slide, schema);
        Keyed::at(&self.graph, node)
    }

    fn selected(
        &self,
        kinds: u8,
        showing: Showing,
        slide: Option<u64>,
        schema: SchemaRef,
    ) -> NodeId {
        let select = Select {
            emitted: self.emitted.clone(),
            kinds,
            showing,
            schema: Arc::clone(&schema),
        };
        let mut graph = self.graph.lock();
        let slide = slide.unwrap_or(graph.node(self.emitted_node).slide_ms);
        let (op, inputs) = (Op::Rows(Arc::new(select)), vec![self.emitted_node]);
        graph.push(op, inputs, schema, self.operator.clone(), slide)
    }
}

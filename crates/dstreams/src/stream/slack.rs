//! Slack: records in the interval that their event time says.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::dstream::DStream;
use super::graph::{GraphRef, NodeId, Op, View};
use super::history::Recall;
use super::keyed::Keyed;
use super::record::{Out, Record};
use super::rejects::OffTimeReaders;
use super::rows::{Closure, RowsFn, RowsTask};
use super::window::multiple_or_zero;
use crate::debug::debug_as;
use crate::error::{Operator, Result};

/// How long records are waited for, by event time: see [`DStream::by_time`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slack {
    wait: Duration,
    ahead: Option<Duration>,
}

impl Slack {
    /// Records count that come up to `wait` after the end of their interval: a multiple of the interval, or zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Slack;
    ///
    /// let slack = Slack::of(Duration::from_secs(2));
    /// ```
    pub fn of(wait: Duration) -> Self {
        Slack { wait, ahead: None }
    }

    /// Records count whose interval ends up to `ahead` after the one in which they come, since clocks of producers may
    /// be fast: a multiple of the interval, or zero. By default as long as records are waited for, and at least one
    /// interval.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Slack;
    ///
    /// let second = Duration::from_secs(1);
    /// let slack = Slack::of(60 * second).ahead(second);
    /// ```
    pub fn ahead(self, ahead: Duration) -> Self {
        Slack {
            ahead: Some(ahead),
            ..self
        }
    }
}

/// The end of the interval of `every` milliseconds that contains a time, in milliseconds since the epoch.
fn interval_of(time: i64, every: i64) -> i64 {
    time.div_euclid(every)
        .saturating_add(1)
        .saturating_mul(every)
}

impl<T: Record> DStream<T> {
    /// Puts records into the intervals that their event time says, once records have been waited for.
    ///
    /// `time` returns a record's event time in milliseconds since the epoch. An interval of it is `[e - E, e)`, named by
    /// its end `e`, a multiple of the interval `E` of this stream. With the wait `S` and the time `A` that records may
    /// be ahead ([`Slack`]), a record of the interval `e` that comes in the batch `t` is
    ///
    /// * in the RDD of [`Timed::records`] at the batch time `e + S`, if `t <= e + S` and `e <= t + A`;
    /// * in the RDD of [`Timed::late`] at `t`, if `t > e + S`;
    /// * in the RDD of [`Timed::ahead`] at `t`, if `e > t + A`.
    ///
    /// With `E` of 1 s and `S` of 2 s, a record of 10.4 s belongs to the interval 11. If it comes in the batch 11, 12 or
    /// 13 it is in the RDD at 13; in the batch 14 it is late.
    ///
    /// The stream of records has an RDD at every interval, empty or not. The batch time alone releases it: a silent
    /// source holds up nothing, and there are no watermarks. Its RDD at `t` is that of the interval `t - S`: windows
    /// and timeouts that follow count event time, and a slide is a multiple of that time (a window over an hour with a
    /// slide of an hour has its RDDs `S` after each full hour). Streams that are late by different times cannot be
    /// combined; [`DStream::delayed`] makes others as late.
    ///
    /// A batch costs O(its records and those that are released); memory is O(records of `S + A`, and one interval
    /// more). Paper: section 3.2, slack time.
    ///
    /// `name` is that of the state that holds the records until they are released. In a program with a directory
    /// they survive restarts, and each is still in exactly one of the three. The slack must not change between two
    /// runs: batches since the last checkpoint run again, and would release intervals at other times. A restart refuses
    /// another slack, if there is a checkpoint. Without a directory, records that are held when the program stops are lost.
    ///
    /// ```
    /// # use dstreams::{Record, Slack, StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # #[derive(Record)] struct Click { ad: i64, at_ms: i64 }
    /// # let second = Duration::from_secs(1);
    /// # let mut ctx = StreamContext::new(second)?;
    /// # let (_, clicks) = ctx.queue::<Click>("clicks");
    /// let clicks = clicks.by_time("clicks", |click| click.at_ms, Slack::of(2 * second))?;
    /// let by_ad = clicks.records().key_by(|click| click.ad);
    /// by_ad.window_agg(60 * second, 60 * second, count())?.top(10).print(10); // of each minute of their event time
    /// clicks.late().agg(count())?.pairs().print(10); // late clicks of each interval
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn by_time(
        &self,
        name: &str,
        time: impl for<'a> Fn(T::Ref<'a>) -> i64 + Closure,
        slack: Slack,
    ) -> Result<Timed<T>> {
        let operator = Operator::new("by_time", Location::caller());
        let (every, recall) = self.check_slack(slack, &operator)?;
        let off_time = OffTimeReaders::of(&operator);
        let op = Op::History {
            name: Some(name.to_owned()),
            keys: 0,
            recall,
            off_time: Some(off_time.clone()),
        };
        self.graph.lock().check_name(&op, &operator)?;
        let readers = [&off_time.late, &off_time.ahead].map(Arc::clone);
        self.graph.lock().rejects.extend(readers);
        let interval = move |row: T::Ref<'_>, out: &mut Out<'_, i64>| {
            out.append(interval_of(time(row), every));
        };
        let by_interval: Keyed<i64, T> = self.emit_keys(operator.clone(), interval);
        let node = (self.graph).add_to(by_interval.node, op, <(i64, T)>::schema(), operator);
        Ok(Timed {
            graph: self.graph.clone(),
            node,
            recall,
            off_time,
            record: PhantomData,
        })
    }

    /// The interval of this stream in milliseconds, and the bounds of what is on time.
    fn check_slack(&self, slack: Slack, operator: &Operator) -> Result<(i64, Recall)> {
        let every = {
            let graph = self.graph.lock();
            let remedy = "put records into their intervals once, before";
            graph.check_not_late(self.node, operator, remedy)?;
            graph.node(self.node).slide_ms
        };
        let wait_ms = multiple_or_zero(every, slack.wait, "slack", operator)?;
        let ahead_ms = match slack.ahead {
            Some(ahead) => multiple_or_zero(every, ahead, "time ahead", operator)?,
            None => wait_ms.max(every),
        };
        let every = i64::try_from(every).unwrap_or(i64::MAX);
        Ok((every, Recall::ByTime { wait_ms, ahead_ms }))
    }
}

/// A stream by its records' event time: see [`DStream::by_time`]. Each record is in exactly one of its three streams.
///
/// Records that are late or ahead and that nothing reads are counted in [`Status::rejected`](crate::Status::rejected),
/// and logged.
#[must_use = "read `records`, and `late` and `ahead` too: what nothing reads is gone"]
pub struct Timed<T> {
    graph: GraphRef,
    node: NodeId,
    recall: Recall,
    off_time: OffTimeReaders,
    record: PhantomData<fn() -> T>,
}

debug_as!([T] Timed<T> { node });

impl<T> Clone for Timed<T> {
    fn clone(&self) -> Self {
        Timed {
            graph: self.graph.clone(),
            node: self.node,
            recall: self.recall,
            off_time: self.off_time.clone(),
            record: PhantomData,
        }
    }
}

impl<T: Record> Timed<T> {
    /// The records that came in time, in the RDD of their interval. Within a partition, in order of arrival.
    ///
    /// ```
    /// # use dstreams::{Slack, StreamContext};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, times) = ctx.queue::<i64>("times");
    /// let times = times.by_time("times", |at_ms| at_ms, Slack::of(Duration::from_secs(2)))?;
    /// times.records().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn records(&self) -> DStream<T> {
        let operator = Operator::new("records", Location::caller());
        let by_interval = self.view(View::Released, operator.clone());
        let rows = Arc::new(WithoutFirst(T::schema()));
        let mut graph = self.graph.lock();
        if let Recall::ByTime { wait_ms, .. } = self.recall {
            graph.shift(by_interval.node, wait_ms);
        }
        let every = graph.node(by_interval.node).slide_ms;
        let inputs = vec![by_interval.node];
        let node = graph.push(Op::Rows(rows), inputs, T::schema(), operator, every);
        DStream::at(&self.graph, node)
    }

    /// The records that came too late, in the batch in which they came, by the end of their interval in milliseconds
    /// since the epoch.
    ///
    /// ```
    /// # use dstreams::{Slack, StreamContext, agg::count};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, times) = ctx.queue::<i64>("times");
    /// let times = times.by_time("times", |at_ms| at_ms, Slack::of(Duration::from_secs(2)))?;
    /// times.late().agg(count())?.pairs().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn late(&self) -> Keyed<i64, T> {
        self.off_time.late.add();
        self.view(View::Late, Operator::new("late", Location::caller()))
    }

    /// The records whose interval is too far ahead, in the batch in which they came, by the end of their interval in
    /// milliseconds since the epoch.
    ///
    /// ```
    /// # use dstreams::{Slack, StreamContext};
    /// # use std::time::Duration;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, times) = ctx.queue::<i64>("times");
    /// let times = times.by_time("times", |at_ms| at_ms, Slack::of(Duration::from_secs(2)))?;
    /// times.ahead().pairs().print(10); // whose clock is wrong
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn ahead(&self) -> Keyed<i64, T> {
        self.off_time.ahead.add();
        self.view(View::Ahead, Operator::new("ahead", Location::caller()))
    }

    fn view(&self, view: View, operator: Operator) -> Keyed<i64, T> {
        let schema = <(i64, T)>::schema();
        let node = (self.graph).add_to(self.node, Op::StateView(view), schema, operator);
        Keyed::at(&self.graph, node)
    }
}

/// Drops the first column; the others get the names of a schema.
#[derive(Clone)]
struct WithoutFirst(SchemaRef);

impl RowsFn for WithoutFirst {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for WithoutFirst {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.slice(from, input.num_rows() - from);
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns()[1..].to_vec();
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.0), columns, &options)?;
        Ok((rows, input.num_rows()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_named_by_its_end_and_times_of_any_year_have_one() {
        let of = |time| interval_of(time, 1000);
        let times = [0, 999, 1000, 10_400, -1, -1000, -1001];
        assert_eq!(times.map(of), [1000, 1000, 2000, 11_000, 0, 0, -1000]);
        let least = -9_223_372_036_854_775_000;
        assert_eq!([i64::MAX, i64::MIN].map(of), [i64::MAX, least]);
    }
}

//! [`Keyed::session_agg`]: aggregates of records that come close upon each other.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::agg::{Agg, AggPart, AggPlan, Function};
use super::graph::{GraphRef, NodeId, Op, View};
use super::join::JoinOp;
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::rejects::Readers;
use super::rows::{Closure, RowsFn};
use super::session_rows::{OfOneKind, OwnTimes, PerhapsLate, WithoutInterval};
use super::session_rule::SessionRule;
use super::window;
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};

/// When sessions end: see [`Keyed::session_agg`].
#[derive(Debug, Clone, Copy)]
pub struct Sessions {
    gap: Duration,
    slack: Duration,
    longest: Option<Duration>,
}

impl Sessions {
    /// A session ends when its key has no record for so long, in event time. A multiple of the interval at
    /// which the stream has RDDs, as are all durations here.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Sessions;
    /// let visits = Sessions::gap(Duration::from_secs(1800));
    /// ```
    pub fn gap(gap: Duration) -> Self {
        Sessions {
            gap,
            slack: Duration::ZERO,
            longest: None,
        }
    }

    /// Records may come so much later than their interval. Default: zero.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Sessions;
    /// let visits = Sessions::gap(Duration::from_secs(1800)).slack(Duration::from_secs(5));
    /// ```
    pub fn slack(self, slack: Duration) -> Self {
        Sessions { slack, ..self }
    }

    /// Cuts sessions at this length, no shorter than the slack, so that one of a robot ends too. Default: never.
    ///
    /// A session has the records of intervals of the stream that begin less than so long after the one that its first
    /// record is in. The next record begins a new session, even within the gap. Where it is cut depends on the batches in
    /// which records come only if some come later than the slack allows, or before their own interval.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::Sessions;
    /// let visits = Sessions::gap(Duration::from_secs(1800)).longest(Duration::from_secs(86_400));
    /// ```
    pub fn longest(self, longest: Duration) -> Self {
        Sessions {
            longest: Some(longest),
            ..self
        }
    }

    /// Checked against the interval of a stream, whose RDDs are late by `shift` milliseconds: so are the ends of sessions.
    fn rule(&self, every: u64, shift: u64, operator: &Operator) -> Result<SessionRule> {
        // At most a thousand years.
        let ms = |length, what| window::multiple_of(every, length, what, operator);
        let gap = ms(self.gap, "gap")?;
        let slack = window::multiple_or_zero(every, self.slack, "slack", operator)?;
        let longest = self.longest.map(|longest| ms(longest, "longest session"));
        let longest = longest.transpose()?;
        if let Some(longest) = longest.filter(|longest| *longest < slack) {
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "sessions are cut after {longest} ms, before their slack of {slack} ms is over; cut them \
                     after {slack} ms or later"
                ),
            });
        }
        Ok(SessionRule {
            every: every as i64,
            gap: gap as i64,
            slack: (slack + shift) as i64,
            longest: longest.map(|longest| longest as i64),
        })
    }
}

/// Sessions as the engine finds them.
#[derive(Debug)]
pub(crate) struct SessionOp {
    pub name: String,
    /// The number of columns of the key.
    pub keys: usize,
    /// The parts of the aggregate, of the first and the last time, and of the number of records.
    pub plan: AggPlan,
    pub rule: SessionRule,
    /// The columns of the parts with the first and the last time, and with the number of records.
    pub start: usize,
    pub last: usize,
    pub count: usize,
    /// The columns of what a batch emits: keys, the kind, first and last time, the result.
    pub emitted: SchemaRef,
    pub late: Arc<Readers>,
}

/// The kinds of what a batch emits.
pub(crate) mod kind {
    /// A session that ends.
    pub const ENDED: u8 = 0;
    /// The late records of a key in one interval of the stream, which begins at the first time.
    pub const LATE: u8 = 1;
}

/// The column with the event time of a record.
const TIME: &str = "$time";
/// The column with the beginning of the interval of the stream that it is in.
const INTERVAL: &str = "$interval";

/// The sessions of each key: see [`Keyed::session_agg`].
#[must_use = "nothing computes sessions that no stream reads"]
pub struct Sessioned<K, V, O> {
    graph: GraphRef,
    /// The records with their times.
    timed: NodeId,
    state: NodeId,
    /// What the batch emits.
    emitted: NodeId,
    op: Arc<SessionOp>,
    operator: Operator,
    types: PhantomData<fn() -> (K, V, O)>,
}

debug_as!([K, V, O] Sessioned<K, V, O> { state, operator });

impl<K, V, O> Clone for Sessioned<K, V, O> {
    fn clone(&self) -> Self {
        Sessioned {
            graph: self.graph.clone(),
            op: Arc::clone(&self.op),
            operator: self.operator.clone(),
            ..*self
        }
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Aggregates the values of each key by sessions: runs of records that come close upon each other in event time.
    ///
    /// `time` returns the time of a value in milliseconds since the Unix epoch. With *G* the gap and *S* the slack, a
    /// session is a greatest run of records of a key, each less than *G* after the one before. It is emitted once, with
    /// the first batch at or after the time of its last record + *G + S*, with that batch's records. A record may join
    /// two sessions, and any record that comes in time for a session that is still open belongs to it.
    ///
    /// A record is late if it belongs to no open session, and one that it began would have been emitted with an earlier
    /// batch. It is in [`Sessioned::late`], in no session. If no record comes more than *S* later than its own
    /// interval, none is late, and the sessions do not depend on the batches in which the records come.
    ///
    /// Behind [`DStream::by_time`](crate::DStream::by_time) and [`delayed`](Keyed::delayed) all of this is later by their
    /// slack or delay: each RDD counts as the one of its interval. A session by event time needs no slack of its own.
    ///
    /// Results of some records of a session are combined in order of their times. A batch costs O(its records + open
    /// sessions of their keys, and of keys of which one ends), however many are open. Memory is O(open sessions), whatever
    /// the number of their records, limited by [`Config::state_memory`](crate::Config::state_memory) like all keyed
    /// state. A record from the far future opens a session that stays open until then: filter such records. Takes all of
    /// [`agg`](crate::agg) that [`Keyed::running_agg`] takes.
    ///
    /// `name` names the state. The lengths must not change between two runs: batches since the last checkpoint run again,
    /// and would end sessions at other times. A restart refuses it. A graceful stop ends no session: what is open stays
    /// open in the directory of the program, and is dropped without one.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// use std::time::Duration;
    /// use dstreams::{Clock, Sessions, StreamContext, agg::count};
    ///
    /// let minute = Duration::from_secs(60);
    /// let mut ctx = StreamContext::new(minute)?;
    /// let (time, clock) = Clock::manual(Duration::ZERO);
    /// ctx.set_clock(clock);
    /// let (queue, clicks) = ctx.queue::<(String, i64)>("clicks"); // who, and when
    /// let sessions = Sessions::gap(2 * minute);
    /// let visits = clicks.by_key().session_agg("visits", |at_ms| at_ms, sessions, count())?;
    /// let mut visits = visits.ended().collect();
    /// let running = ctx.start().await?;
    /// // Minute by minute.
    /// for at_ms in [10_000, 70_000] {
    ///     queue.push([("ada".to_owned(), at_ms)]).await?;
    ///     time.advance(minute);
    ///     assert!(visits.recv().await.unwrap().collect()?.is_empty());
    /// }
    /// time.advance(minute); // 180 s: the last click was 110 s ago
    /// assert!(visits.recv().await.unwrap().collect()?.is_empty());
    /// time.advance(minute); // 240 s
    /// let visit = ("ada".to_owned(), ((10_000, 70_000), 2));
    /// assert_eq!(visits.recv().await.unwrap().collect()?, [visit]);
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Refused like [`Keyed::running_agg`], if a duration is not a multiple of the interval at which this stream has
    /// RDDs, or if sessions are cut before their slack is over.
    #[track_caller]
    pub fn session_agg<A: Agg<V>>(
        &self,
        name: &str,
        time: impl for<'a> Fn(V::Ref<'a>) -> i64 + Closure,
        sessions: Sessions,
        agg: A,
    ) -> Result<Sessioned<K, V, A::Out>> {
        let operator = Operator::new("session_agg", Location::caller());
        let mut plan = Self::resolve(&agg, &operator)?;
        window::check_columns(&plan, &<(K, V)>::schema(), &operator)?;
        let mut graph = self.graph.lock();
        let node = graph.node(self.node);
        let every = node.slide_ms;
        let rule = sessions.rule(every, node.shift_ms, &operator)?;
        let mut part = |function, column: Option<&str>| {
            plan.column_of(AggPart {
                function,
                column: column.map(str::to_owned),
            })
        };
        let count = part(Function::Count, None);
        let start = part(Function::Min, Some(TIME));
        let last = part(Function::Max, Some(TIME));
        let keys = Self::key_columns();
        let result = <(K, ((i64, i64), A::Out))>::schema();
        let late = Arc::new(Readers::new(format!("late records of {operator}")));
        let op = Arc::new(SessionOp {
            name: name.to_owned(),
            keys,
            plan,
            rule,
            start,
            last,
            count,
            emitted: with_columns(
                &result,
                keys,
                &[Field::new("$kind", DataType::UInt8, false)],
            ),
            late: Arc::clone(&late),
        });
        graph.check_name(&Op::Sessions(Arc::clone(&op)), &operator)?;
        graph.rejects.push(late);
        let numbers = [INTERVAL, TIME].map(|name| Field::new(name, DataType::Int64, false));
        let schema = with_columns(&<(K, V)>::schema(), keys, &numbers);
        let times: Arc<dyn RowsFn> = Arc::new(OwnTimes::<V, _> {
            time: Arc::new(time),
            rule,
            skip: keys,
            schema: Arc::clone(&schema),
            value: PhantomData,
        });
        let mut push =
            |op, input, schema| graph.push(op, vec![input], schema, operator.clone(), every);
        let timed = push(Op::Rows(times), self.node, schema);
        let state = push(Op::Sessions(Arc::clone(&op)), timed, result);
        let emitted = push(Op::StateView(View::Mapped), state, Arc::clone(&op.emitted));
        drop(graph);
        Ok(Sessioned {
            graph: self.graph.clone(),
            timed,
            state,
            emitted,
            op,
            operator,
            types: PhantomData,
        })
    }
}

/// The columns of a schema, with others behind its first `keys`.
fn with_columns(schema: &Schema, keys: usize, others: &[Field]) -> SchemaRef {
    let mut fields: Vec<FieldRef> = schema.fields().to_vec();
    fields.splice(keys..keys, others.iter().cloned().map(Arc::new));
    Arc::new(Schema::new(fields))
}

impl<K: Key, V: Record, O: Record> Sessioned<K, V, O> {
    /// Each session, once, when it is over: the times of its first and last record, and its result. O(sessions that
    /// end).
    ///
    /// In each partition first sessions of keys with records in the batch, in the order in which the keys arrived; then
    /// those of other keys, in the order in which these last changed. Sessions of a key are in order of time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Sessions, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // who and when
    /// let sessions = Sessions::gap(Duration::from_secs(1800));
    /// let visits = clicks.by_key().session_agg("visits", |at_ms| at_ms, sessions, count())?;
    /// let seconds = visits.ended().map_values(|((first, last), _clicks)| (last - first) / 1000);
    /// seconds.print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn ended(&self) -> Keyed<K, ((i64, i64), O)> {
        let schema = <(K, ((i64, i64), O))>::schema();
        let node = self.of_kind(kind::ENDED, schema);
        Keyed::at(&self.graph, node)
    }

    /// The sessions that are open after each batch, in the order in which their keys last changed; those of a key in
    /// order of time. O(sessions stored).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Sessions, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // who and when
    /// let sessions = Sessions::gap(Duration::from_secs(1800));
    /// let visits = clicks.by_key().session_agg("visits", |at_ms| at_ms, sessions, count())?;
    /// let visitors = visits.open().pairs().count()?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn open(&self) -> Keyed<K, ((i64, i64), O)> {
        let (op, schema) = (Op::StateView(View::All), <(K, ((i64, i64), O))>::schema());
        let node = (self.graph).add_to(self.state, op, schema, self.operator.clone());
        Keyed::at(&self.graph, node)
    }

    /// The records that came too late; a large batch, partition by partition. O(records of the batch).
    ///
    /// What nothing reads is logged and counted in [`Status::rejected`](crate::Status::rejected).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{Sessions, StreamContext, agg::count};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks"); // who and when
    /// let sessions = Sessions::gap(Duration::from_secs(1800)).slack(Duration::from_secs(5));
    /// let visits = clicks.by_key().session_agg("visits", |at_ms| at_ms, sessions, count())?;
    /// visits.late().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn late(&self) -> Keyed<K, V> {
        self.op.late.add();
        let keys = self.op.keys;
        let interval = [Field::new(INTERVAL, DataType::Int64, false)];
        let schema = <(K, V)>::schema();
        let with_interval = with_columns(&schema, keys, &interval);
        let of_key = Schema::new(schema.fields()[..keys].to_vec());
        // Records that are late unless an open session has them, joined with the intervals of those that are.
        let old = PerhapsLate {
            keys,
            rule: self.op.rule,
            schema: Arc::clone(&with_interval),
        };
        let operator = || self.operator.clone();
        let add = |op, input, schema| self.graph.add_to(input, op, schema, operator());
        let old = add(
            Op::Rows(Arc::new(old)),
            self.timed,
            Arc::clone(&with_interval),
        );
        let late = self.of_kind(kind::LATE, with_columns(&of_key, keys, &interval));
        let join = Op::Join(JoinOp {
            keys: keys + 1,
            first_unmatched: false,
            second_unmatched: false,
            marked: [false, false],
        });
        let mut graph = self.graph.lock();
        let slide = graph.node(self.timed).slide_ms;
        let joined = graph.push(join, vec![old, late], with_interval, operator(), slide);
        drop(graph);
        let without = WithoutInterval {
            keys,
            schema: Arc::clone(&schema),
        };
        let node = add(Op::Rows(Arc::new(without)), joined, schema);
        Keyed::at(&self.graph, node)
    }

    /// What a batch emits of one kind: the keys, then as many of the other columns as `schema` has.
    fn of_kind(&self, kind: u8, schema: SchemaRef) -> NodeId {
        let select = OfOneKind {
            keys: self.op.keys,
            kind,
            schema: Arc::clone(&schema),
        };
        let op = Op::Rows(Arc::new(select));
        self.graph
            .add_to(self.emitted, op, schema, self.operator.clone())
    }
}

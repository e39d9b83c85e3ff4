//! [`Keyed::join_within`]: joins of records that are near in time.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type};
use dstreams_control::BatchTime;

use super::graph::{GraphRef, NodeId, Op, View};
use super::join::is_marked;
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::rows::{RowsFn, RowsTask};
use super::{same_context, window};
use crate::debug::debug_as;
use crate::error::{Operator, Result};

/// The most records of a key that are held on each side, unless [`Within::max_records`] says otherwise.
const MOST: usize = 65_536;

/// How near records must be to be joined: see [`Keyed::join_within`].
#[derive(Debug, Clone, Copy)]
pub struct Within {
    before: Duration,
    after: Duration,
    most: usize,
}

impl Within {
    /// The second record comes up to `before` earlier and up to `after` later than the first, both included, in batch
    /// times: multiples of the interval of the streams, or zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Within;
    ///
    /// // A click comes up to ten seconds after the impression, and not before it.
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10));
    /// ```
    pub fn new(before: Duration, after: Duration) -> Self {
        Within {
            before,
            after,
            most: MOST,
        }
    }

    /// Records of one key that are held on each side at most, by default 65,536. What comes beyond is not joined: see
    /// [`Joined::refused`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Within;
    ///
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10)).max_records(100);
    /// ```
    pub fn max_records(mut self, records: usize) -> Self {
        self.most = records;
        self
    }
}

/// The join as the engine runs it.
#[derive(Debug)]
pub(crate) struct WithinOp {
    pub name: String,
    /// The number of columns of the key.
    pub keys: usize,
    pub before_ms: u64,
    pub after_ms: u64,
    pub most: usize,
    /// The number of columns of the values of each side.
    pub widths: [usize; 2],
    /// The columns of the records: keys, whether it is of the first stream, values of both.
    pub records: SchemaRef,
    /// The columns of the results: keys, the kind, values of both.
    pub results: SchemaRef,
}

/// The kinds of results.
pub(crate) mod kind {
    pub const PAIR: u8 = 0;
    /// A record of the first stream that leaves without a pair; that of the second is the next.
    pub const UNMATCHED: [u8; 2] = [1, 2];
    /// A record of the first stream that is not joined; that of the second is the next.
    pub const REFUSED: [u8; 2] = [3, 4];
}

/// The result of [`Keyed::join_within`].
#[must_use = "nothing computes a stream that no operator and no output reads"]
pub struct Joined<K, V, W> {
    graph: GraphRef,
    results: NodeId,
    types: PhantomData<fn() -> (K, V, W)>,
}

debug_as!([K, V, W] Joined<K, V, W> { results });

impl<K, V, W> Clone for Joined<K, V, W> {
    fn clone(&self) -> Self {
        Joined {
            graph: self.graph.clone(),
            results: self.results,
            types: PhantomData,
        }
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Joins records of two streams that come near to each other in time, each pair once.
    ///
    /// With batch times *t(v)* of a record here and *t(w)* of one in `other`, they are a pair if their keys are equal and
    /// *-before <= t(w) - t(v) <= after*. The pair is in the batch in which the later of the two comes. A record *v* is
    /// held up to and with batch *t(v) + after*, and *w* up to and with *t(w) + before*; with that batch it leaves, and
    /// is in [`Joined::first_unmatched`] or [`Joined::second_unmatched`] if it was in no pair.
    ///
    /// In order, for each partition: each new *v* in order of arrival, first with the held *w* in order of theirs, then
    /// with the new ones; then each new *w* with the held *v*.
    ///
    /// What is held is a state, named `name`, as durable as every state. A batch costs O(records held of its keys +
    /// records held of keys of which one leaves + pairs). Memory is O(records of `after` here and of `before` there), at
    /// most [`Within::max_records`] of a key on each side; beyond [`Config::state_memory`](crate::Config::state_memory)
    /// it is in files. At a graceful stop what is held stays held in the directory of the program, and is dropped
    /// without one.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// use std::time::Duration;
    /// use dstreams::{Clock, StreamContext, Within};
    ///
    /// let interval = Duration::from_secs(1);
    /// let mut ctx = StreamContext::new(interval)?;
    /// # let (time, clock) = Clock::manual(Duration::ZERO);
    /// # ctx.set_clock(clock);
    /// let (shown, impressions) = ctx.queue::<(i64, String)>("impressions"); // id, campaign
    /// let (clicked, clicks) = ctx.queue::<(i64, String)>("clicks"); // id of the impression, user
    /// let within = Within::new(Duration::ZERO, 2 * interval);
    /// let joined = impressions.by_key().join_within("ads", &clicks.by_key(), within)?;
    /// let mut pairs = joined.pairs().collect();
    /// let mut ignored = joined.first_unmatched().collect();
    /// # let running = ctx.start().await?;
    /// shown.push([1, 2].map(|id| (id, "tea".to_owned()))).await?;
    /// # time.advance(interval);
    /// # assert!(pairs.recv().await.unwrap().collect()?.is_empty());
    /// # assert!(ignored.recv().await.unwrap().collect()?.is_empty());
    /// // One interval later:
    /// clicked.push([(1, "ada".to_owned())]).await?;
    /// # time.advance(interval);
    /// assert_eq!(pairs.recv().await.unwrap().collect()?, [(1, ("tea".to_owned(), "ada".to_owned()))]);
    /// # assert!(ignored.recv().await.unwrap().collect()?.is_empty());
    /// # time.advance(interval);
    /// # pairs.recv().await.unwrap();
    /// // And one more: impression 2 was shown two intervals ago.
    /// assert_eq!(ignored.recv().await.unwrap().collect()?, [(2, "tea".to_owned())]);
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// For event time, join the streams that [`DStream::by_time`](crate::DStream::by_time) returns, with the same slack:
    /// *t* is then the interval of event time of a record. The lengths and the bound must not change between two runs:
    /// batches since the last checkpoint run again, and would join other records. A restart refuses it.
    ///
    /// Refused if another state has the name, if the streams are of different contexts or have RDDs at different times,
    /// or if a length is no multiple of the time between these.
    #[track_caller]
    pub fn join_within<W: Record>(
        &self,
        name: &str,
        other: &Keyed<K, W>,
        within: Within,
    ) -> Result<Joined<K, V, W>> {
        let operator = Operator::new("join_within", Location::caller());
        same_context(&self.graph, &other.graph, &operator)?;
        let mut graph = self.graph.lock();
        let every = graph.slide_of(&[self.node, other.node], &operator)?;
        let length = |length: Duration, what| match length.is_zero() {
            true => Ok(0),
            false => window::multiple_of(every, length, what, &operator),
        };
        let keys = Self::key_columns();
        let within = WithinOp {
            name: name.to_owned(),
            keys,
            before_ms: length(within.before, "length before")?,
            after_ms: length(within.after, "length after")?,
            most: within.most,
            widths: [V::schema().fields().len(), W::schema().fields().len()],
            records: both::<K, V, W>(Field::new("$first", DataType::Boolean, false)),
            results: both::<K, V, W>(Field::new("$kind", DataType::UInt8, false)),
        };
        let (records, results) = (Arc::clone(&within.records), Arc::clone(&within.results));
        let op = Op::Within(Arc::new(within));
        graph.check_name(&op, &operator)?;
        let mut tagged = Vec::with_capacity(2);
        for (node, first) in [(self.node, true), (other.node, false)] {
            let tag = Tag {
                keys,
                first,
                schema: Arc::clone(&records),
            };
            let op = Op::Rows(Arc::new(tag));
            let schema = Arc::clone(&records);
            tagged.push(graph.push(op, vec![node], schema, operator.clone(), every));
        }
        let union = graph.push(Op::Union, tagged, records, operator.clone(), every);
        let held = <(K, (Vec<(i64, bool, V)>, Vec<(i64, bool, W)>))>::schema();
        let state = graph.push(op, vec![union], held, operator.clone(), every);
        let mapped = Op::StateView(View::Mapped);
        let results = graph.push(mapped, vec![state], results, operator, every);
        drop(graph);
        Ok(Joined {
            graph: self.graph.clone(),
            results,
            types: PhantomData,
        })
    }
}

/// The columns of the key, one more, and those of both values, which may be null.
fn both<K: Record, V: Record, W: Record>(tag: Field) -> SchemaRef {
    let (mut fields, mut values) = (Vec::new(), Vec::new());
    K::fields("key", &mut fields);
    V::fields("first", &mut values);
    W::fields("second", &mut values);
    fields.push(tag);
    fields.extend(values.into_iter().map(|field| field.with_nullable(true)));
    Arc::new(Schema::new(fields))
}

impl<K: Key, V: Record, W: Record> Joined<K, V, W> {
    /// The pairs, each once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{StreamContext, Within};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, shown) = ctx.queue::<(i64, String)>("shown");
    /// # let (_, clicks) = ctx.queue::<(i64, String)>("clicks");
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10));
    /// let joined = shown.by_key().join_within("ads", &clicks.by_key(), within)?;
    /// joined.pairs().map_values(|(campaign, _user)| campaign.to_owned()).print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn pairs(&self) -> Keyed<K, (V, W)> {
        let operator = Operator::new("pairs", Location::caller());
        self.read(&[kind::PAIR], [Some(false), Some(false)], operator)
    }

    /// The records of the first stream that leave without a pair: for a left join. In no promised order.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{StreamContext, Within};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, shown) = ctx.queue::<(i64, String)>("shown");
    /// # let (_, clicks) = ctx.queue::<(i64, String)>("clicks");
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10));
    /// let joined = shown.by_key().join_within("ads", &clicks.by_key(), within)?;
    /// joined.first_unmatched().print(10); // shown, and not clicked within ten seconds
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn first_unmatched(&self) -> Keyed<K, V> {
        let operator = Operator::new("first_unmatched", Location::caller());
        self.read(&kind::UNMATCHED[..1], [Some(false), None], operator)
    }

    /// The records of the second stream that leave without a pair.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{StreamContext, Within};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, shown) = ctx.queue::<(i64, String)>("shown");
    /// # let (_, clicks) = ctx.queue::<(i64, String)>("clicks");
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10));
    /// let joined = shown.by_key().join_within("ads", &clicks.by_key(), within)?;
    /// joined.second_unmatched().print(10); // clicked, and not shown
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn second_unmatched(&self) -> Keyed<K, W> {
        let operator = Operator::new("second_unmatched", Location::caller());
        self.read(&kind::UNMATCHED[1..], [None, Some(false)], operator)
    }

    /// The records that were not joined, because so many of their key were held already ([`Within::max_records`]); in
    /// order of arrival.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{StreamContext, Within};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, shown) = ctx.queue::<(i64, String)>("shown");
    /// # let (_, clicks) = ctx.queue::<(i64, String)>("clicks");
    /// let within = Within::new(Duration::ZERO, Duration::from_secs(10)).max_records(16);
    /// let joined = shown.by_key().join_within("ads", &clicks.by_key(), within)?;
    /// joined.refused().print(10); // of robots
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn refused(&self) -> Keyed<K, (Option<V>, Option<W>)> {
        let operator = Operator::new("refused", Location::caller());
        let marked = [is_marked::<V>(), is_marked::<W>()];
        self.read(&kind::REFUSED, marked.map(Some), operator)
    }

    /// The results of some kinds: the columns of each side that `sides` has, and before them whether they are there.
    fn read<U: Record>(
        &self,
        kinds: &'static [u8],
        sides: [Option<bool>; 2],
        operator: Operator,
    ) -> Keyed<K, U> {
        let keys = K::schema().fields().len();
        let mut columns: Vec<ResultColumn> = (0..keys).map(ResultColumn::Of).collect();
        let mut from = keys + 1;
        let widths = [V::schema().fields().len(), W::schema().fields().len()];
        for (side, width) in widths.into_iter().enumerate() {
            if let Some(marked) = sides[side] {
                columns.extend(marked.then_some(ResultColumn::Is(kind::REFUSED[side])));
                columns.extend((from..from + width).map(ResultColumn::Of));
            }
            from += width;
        }
        let schema = <(K, U)>::schema();
        let rows = OfKinds {
            keys,
            kinds,
            columns: columns.into(),
            schema: Arc::clone(&schema),
        };
        let op = Op::Rows(Arc::new(rows));
        let node = self.graph.add_to(self.results, op, schema, operator);
        Keyed::at(&self.graph, node)
    }
}

/// Puts the records of one stream into the columns of both.
#[derive(Clone)]
struct Tag {
    keys: usize,
    first: bool,
    schema: SchemaRef,
}

impl RowsFn for Tag {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Tag {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.slice(from, input.num_rows() - from);
        let count = rows.num_rows();
        let (keys, values) = rows.columns().split_at(self.keys);
        let fields = &self.schema.fields()[self.keys + 1..];
        let absent = fields.len() - values.len();
        let nulls = |fields: &[Arc<Field>]| -> Vec<ArrayRef> {
            let nulls = fields
                .iter()
                .map(|of| new_null_array(of.data_type(), count));
            nulls.collect()
        };
        let mut columns = keys.to_vec();
        columns.push(Arc::new(BooleanArray::from(vec![self.first; count])));
        match self.first {
            true => {
                columns.extend(values.iter().cloned());
                columns.extend(nulls(&fields[values.len()..]));
            }
            false => {
                columns.extend(nulls(&fields[..absent]));
                columns.extend(values.iter().cloned());
            }
        }
        let tagged = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok((tagged, input.num_rows()))
    }
}

/// Selects results by their kind.
#[derive(Clone)]
struct OfKinds {
    keys: usize,
    kinds: &'static [u8],
    columns: Arc<[ResultColumn]>,
    schema: SchemaRef,
}

/// Where a column comes from.
enum ResultColumn {
    /// From a column.
    Of(usize),
    /// It says if the row is of a kind.
    Is(u8),
}

impl RowsFn for OfKinds {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for OfKinds {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.slice(from, input.num_rows() - from);
        let kinds = rows.column(self.keys).as_primitive::<UInt8Type>().values();
        let is_one = |row| self.kinds.contains(&kinds[row]);
        let wanted = BooleanArray::new(BooleanBuffer::collect_bool(kinds.len(), is_one), None);
        let mut columns = Vec::with_capacity(self.columns.len());
        for source in self.columns.iter() {
            let column: ArrayRef = match source {
                ResultColumn::Of(at) => Arc::clone(rows.column(*at)),
                ResultColumn::Is(kind) => {
                    let is = BooleanBuffer::collect_bool(kinds.len(), |row| kinds[row] == *kind);
                    Arc::new(BooleanArray::new(is, None))
                }
            };
            columns.push(filter(&column, &wanted)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(wanted.true_count()));
        let schema = Arc::clone(&self.schema);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok((rows, input.num_rows()))
    }
}

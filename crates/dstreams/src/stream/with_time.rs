//! `with_time`: the time of a batch in its records.

use std::panic::Location;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::dstream::DStream;
use super::graph::Op;
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::rows::{RowsFn, RowsTask};
use crate::error::{Operator, Result};

impl<T: Record> DStream<T> {
    /// Each record with the time of its RDD, in milliseconds since the epoch: the columns `key` and `value`. O(records
    /// of the batch), one column; the others are not copied.
    ///
    /// The time is the end of the interval, the same as [`Rdd::batch_time`](crate::Rdd::batch_time) and the same in
    /// every run of the batch: after a restart, in a copy of a task, on another worker. Behind a window it is that of
    /// the window's RDD. In a stream that is late ([`DStream::by_time`], [`DStream::delayed`]) it is the end of the
    /// earlier interval that the RDD is of.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use std::time::Duration;
    /// # use dstreams::{BatchTime, Config, testing};
    /// let config = Config::new(Duration::from_secs(1));
    /// let found = testing::run(&config, [vec![7i64], vec![8, 9]], |numbers| Ok(numbers.with_time()));
    /// let wanted = [(1_000, vec![(1_000, 7)]), (2_000, vec![(2_000, 8), (2_000, 9)])];
    /// assert_eq!(found.await?, wanted.map(|(at, records)| (BatchTime(at), records)));
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn with_time(&self) -> DStream<(i64, T)> {
        let operator = Operator::new("with_time", Location::caller());
        let schema = <(i64, T)>::schema();
        let shift_ms = self.graph.lock().node(self.node).shift_ms;
        let rows = WithTime::before(0, &schema, shift_ms);
        self.rows(operator, schema, rows)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Each value with the time of its RDD, as [`DStream::with_time`] has it; the keys do not change.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, readings) = ctx.queue::<(String, f64)>("readings");
    /// // The newest reading of each sensor, and when it came.
    /// let newest = readings.by_key().with_time().reduce(|_, newer| newer);
    /// ```
    #[track_caller]
    pub fn with_time(&self) -> Keyed<K, (i64, V)> {
        let operator = Operator::new("with_time", Location::caller());
        let shift_ms = self.graph.lock().node(self.node).shift_ms;
        let schema = <(K, (i64, V))>::schema();
        let rows = WithTime::before(Self::key_columns(), &schema, shift_ms);
        self.next(Op::Rows(rows), operator)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// The same with the time in the key, behind the other columns of the key.
    pub(super) fn by_time_too(&self, operator: Operator) -> Keyed<(K, i64), V> {
        let schema = <((K, i64), V)>::schema();
        let shift_ms = self.graph.lock().node(self.node).shift_ms;
        let rows = WithTime::before(Self::key_columns(), &schema, shift_ms);
        let node = self
            .graph
            .add_to(self.node, Op::Rows(rows), schema, operator);
        Keyed::at(&self.graph, node)
    }
}

/// Inserts a column with the time of the batch.
struct WithTime {
    /// Columns before it.
    place: usize,
    schema: SchemaRef,
    /// How much later than its interval an RDD is there, in milliseconds.
    shift_ms: u64,
}

impl WithTime {
    fn before(place: usize, schema: &SchemaRef, shift_ms: u64) -> Arc<Self> {
        let schema = Arc::clone(schema);
        Arc::new(WithTime {
            place,
            schema,
            shift_ms,
        })
    }
}

struct WithTimeTask {
    time: i64,
    place: usize,
    schema: SchemaRef,
}

impl RowsFn for WithTime {
    fn start(&self, at: BatchTime) -> Box<dyn RowsTask> {
        Box::new(WithTimeTask {
            // Batch times are points of time that the clock can express.
            time: (at.millis() as i64).saturating_sub_unsigned(self.shift_ms),
            place: self.place,
            schema: Arc::clone(&self.schema),
        })
    }
}

impl RowsTask for WithTimeTask {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.num_rows();
        let times: ArrayRef = Arc::new(Int64Array::from_value(self.time, rows));
        let mut columns = input.columns().to_vec();
        columns.insert(self.place, times);
        let schema = Arc::clone(&self.schema);
        Ok((RecordBatch::try_new(schema, columns)?, rows))
    }
}

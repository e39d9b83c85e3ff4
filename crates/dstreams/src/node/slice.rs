//! [`Running::slice`]: the RDDs of a remembered stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use dstreams_control::BatchTime;

use super::running::Running;
use crate::encoding::columns;
use crate::error::{Error, Result};
use crate::plan::{HistorySpec, StateSpec};
use crate::stream::history::Recall;
use crate::stream::output::{Rdd, UntypedRdd};
use crate::stream::record::Record;

/// How long reading states is retried while they cannot be read.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest pause between two retries.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// By partition.
type TableRows = Vec<Vec<RecordBatch>>;

impl Running {
    /// The rows of states as of the last batch that took effect, and that batch; it is zero before the first.
    pub(super) async fn read_states(
        &self,
        states: &[usize],
    ) -> Result<(BatchTime, Vec<TableRows>)> {
        let workers = &self.watched.workers;
        let (begun, mut pause) = (Instant::now(), Duration::ZERO);
        loop {
            let last = self.last_batch().or(self.restored);
            let last = last.unwrap_or(BatchTime(0));
            let reads = states.iter().map(|state| workers.table(*state, last));
            match futures::future::try_join_all(reads).await {
                // New batches released the version meanwhile, or a worker was lost.
                Err(error) if is_transient(&error) && begun.elapsed() < READ_TIMEOUT => {
                    tracing::debug!(%error, "cannot read states; retrying");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).clamp(Duration::from_millis(1), MAX_RETRY_PAUSE);
                }
                rows => return Ok((last, rows?)),
            }
        }
    }

    /// The RDDs that the stream remembered as `name` ([`DStream::remember`](crate::DStream::remember)) had at the batch
    /// times from `from` to `to`, both included, in order; empty ones too, also those before the first batch.
    ///
    /// All are of batches that took effect. Fails with [`Error::Version`] if the records of `from` are no longer kept,
    /// or the batch `to` has not taken effect; with [`Error::Schema`] if `T` has other columns than the stream, or no
    /// stream has that name. O(records remembered). On a cluster, workers send them to this process; as to that, see
    /// [`Running::session`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let hour = std::time::Duration::from_secs(3600);
    /// # let mut ctx = StreamContext::new(hour)?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// lines.remember("lines", 24 * hour)?;
    /// # lines.print(0);
    /// # let running = ctx.start().await?;
    /// # queue.push(["to be".to_owned()]).await?;
    /// # running.stop().await?;
    /// // While it runs: the newest RDD.
    /// if let Some(last) = running.last_batch() {
    ///     let rdds = running.slice::<String>("lines", last, last).await?;
    ///     println!("{:?}", rdds[0].collect()?);
    /// #   assert_eq!(rdds[0].collect()?, ["to be"]);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn slice<T: Record>(
        &self,
        name: &str,
        from: BatchTime,
        to: BatchTime,
    ) -> Result<Vec<Rdd<T>>> {
        let (state, history, length_ms) = self.remembered(name)?;
        let (expected, found) = (columns(&T::schema()), columns(&history.schema));
        if expected != found {
            return Err(Error::Schema {
                what: format!("columns of the remembered stream `{name}`"),
                expected,
                found,
            });
        }
        let (last, mut rows) = self.read_states(&[state]).await?;
        let oldest = last.minus(length_ms).map(|before| before.plus(1));
        let outside = |time: BatchTime| Error::Version {
            asked: time,
            oldest,
            newest: Some(last).filter(|last| last.millis() > 0),
        };
        if Some(from) < oldest {
            return Err(outside(from));
        }
        if to > last {
            return Err(outside(to));
        }
        let rows = rows.pop().unwrap_or_default();
        rdds_of(&history, rows, from, to)
    }

    /// The number of a remembered state, and for how long it keeps its rows.
    fn remembered(&self, name: &str) -> Result<(usize, Arc<HistorySpec>, u64)> {
        let mut names = Vec::new();
        let states = &self.watched.workers.plans().states;
        for (at, spec) in states.iter().enumerate() {
            let StateSpec::History(history) = spec else {
                continue;
            };
            let (Some(of), Recall::Asked { length_ms }) = (&history.name, history.recall) else {
                continue;
            };
            if of == name {
                return Ok((at, Arc::clone(history), length_ms));
            }
            names.push(format!("`{of}`"));
        }
        Err(Error::Schema {
            what: "streams that the program remembers".into(),
            expected: format!("`{name}`"),
            found: match names.is_empty() {
                true => "none: it calls `remember` nowhere".into(),
                false => names.join(", "),
            },
        })
    }
}

/// Whether a retry may be able to read the states.
fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Version { .. }) || error.is_retryable()
}

/// The RDDs of these batch times from the rows of the table.
fn rdds_of<T: Record>(
    history: &HistorySpec,
    rows: TableRows,
    from: BatchTime,
    to: BatchTime,
) -> Result<Vec<Rdd<T>>> {
    let at = history.input_at;
    let first = (from.millis()..=to.millis()).find(|time| at.has(BatchTime(*time)));
    let times = first.into_iter().flat_map(|first| {
        let step = usize::try_from(at.slide_ms).unwrap_or(usize::MAX);
        (first..=to.millis()).step_by(step)
    });
    let mut rdds: Vec<(u64, TableRows)> = times
        .map(|time| (time, vec![Vec::new(); rows.len()]))
        .collect();
    for (partition, batches) in rows.into_iter().enumerate() {
        for batch in batches {
            let times = batch.column(0).as_primitive::<Int64Type>().values().clone();
            let columns: Vec<usize> = (1..batch.num_columns()).collect();
            let rows = batch.project(&columns)?;
            let mut row = 0;
            for run in times.chunk_by(|one, other| one == other) {
                let time = u64::try_from(run[0]).unwrap_or_default();
                if let Ok(rdd) = rdds.binary_search_by_key(&time, |(time, _)| *time) {
                    rdds[rdd].1[partition].push(rows.slice(row, run.len()));
                }
                row += run.len();
            }
        }
    }
    let rdd = |(time, rows)| {
        Rdd::new(UntypedRdd {
            batch: BatchTime(time),
            shift_ms: history.input_at.shift_ms,
            schema: Arc::clone(&history.schema),
            partitions: Arc::new(rows),
        })
    };
    Ok(rdds.into_iter().map(rdd).collect())
}

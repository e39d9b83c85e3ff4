//! A row of the task table: the inputs of one task of a step, besides exchanges.

use datafusion::arrow::array::RecordBatch;
use dstreams_control::{BatchTime, BlockId};
use serde::{Deserialize, Serialize};

/// Rows stored on a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// A block.
    Block(BlockId),
    /// A partition that a job of this batch cached on a worker.
    Kept(CachedId),
    /// A partition of a named state, as of a committed batch.
    State {
        /// The number of the state.
        state: usize,
        /// Its partition.
        partition: usize,
        /// The batch.
        batch: BatchTime,
    },
    /// When a partition of the states next changes or emits without new records: a row with the two times of a
    /// [`Due`](dstreams_control::Due), or none.
    Due {
        /// The partition.
        partition: usize,
        /// The batch.
        after: BatchTime,
    },
}

/// Name of a partition that a task cached on its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CachedId {
    /// The batch.
    pub batch: BatchTime,
    /// The attempt of the batch.
    pub attempt: u32,
    /// The dataset.
    pub slot: usize,
    /// Its partition.
    pub partition: usize,
}

/// A range of rows of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The source of the rows.
    pub source: Source,
    /// The first row.
    pub from: u64,
    /// Number of rows; `None` for all.
    pub rows: Option<u64>,
}

/// A range of rows, and the workers that store it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The rows.
    #[serde(flatten)]
    pub part: Part,
    /// Addresses of the workers that store it.
    pub at: Vec<String>,
}

impl From<Source> for Part {
    /// All rows of the source.
    fn from(source: Source) -> Self {
        let (from, rows) = (0, None);
        Part { source, from, rows }
    }
}

impl Part {
    /// Cuts this range out of all rows of the source.
    pub fn cut(&self, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let Some(rows) = self.rows else {
            return batches;
        };
        let (mut skip, mut left) = (self.from as usize, rows as usize);
        let mut output = Vec::new();
        for batch in batches {
            let start = skip.min(batch.num_rows());
            skip -= start;
            let length = left.min(batch.num_rows() - start);
            left -= length;
            if length > 0 {
                output.push(batch.slice(start, length));
            }
        }
        output
    }
}

/// One task of a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its number in its stage: the partition of the plan that it executes.
    pub task: usize,
    /// Rows to read from workers.
    pub reads: Vec<ReadSpec>,
}

/// A partition of a dataset, stored on workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadSpec {
    /// The dataset.
    pub slot: usize,
    /// Which of its partitions.
    pub partition: usize,
    /// Its rows, in their order.
    pub slices: Vec<Slice>,
}

impl TaskSpec {
    /// A task that reads nothing yet.
    pub fn number(task: usize) -> Self {
        TaskSpec {
            task,
            reads: Vec::new(),
        }
    }

    /// As JSON, for the task table.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Cannot fail: numbers, texts and lists only.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the task table.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A task's name in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskName {
    pub job: String,
    pub stage: usize,
    pub task: usize,
}

/// The state of a task, as its worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    Runs,
    /// It ended this many milliseconds ago.
    Ended(u64),
    /// It did not begin, or ended long ago.
    Unknown,
}

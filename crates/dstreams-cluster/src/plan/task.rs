//! What one task of a step reads besides exchanges: the row of the task table.

use datafusion::arrow::array::RecordBatch;
use dstreams_control::{BatchTime, BlockId};
use serde::{Deserialize, Serialize};

/// Rows that a worker holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// A block that was received.
    Block(BlockId),
    /// A partition that a job of this batch left on a worker.
    Kept(KeptId),
    /// A partition of a named state, as of a batch that took effect.
    State {
        /// The number of the state.
        state: usize,
        /// Its partition.
        partition: usize,
        /// The batch.
        batch: BatchTime,
    },
}

/// Name of a partition that a task left on its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptId {
    /// The batch, and which run of it.
    pub batch: BatchTime,
    /// Which run of the batch.
    pub attempt: u32,
    /// The dataset.
    pub slot: usize,
    /// Its partition.
    pub partition: usize,
}

/// Some rows of what a worker holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Where they are in.
    pub source: Source,
    /// The first row.
    pub from: u64,
    /// How many; all of them if none.
    pub rows: Option<u64>,
}

/// Some rows, and who holds them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The rows.
    #[serde(flatten)]
    pub part: Part,
    /// Addresses of those who hold it.
    pub at: Vec<String>,
}

impl From<Source> for Part {
    /// All of it.
    fn from(source: Source) -> Self {
        let (from, rows) = (0, None);
        Part { source, from, rows }
    }
}

impl Part {
    /// Its rows of all that are there.
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
    /// Rows that lie with workers.
    pub reads: Vec<ReadSpec>,
}

/// A partition of a dataset that lies with workers.
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

    /// As JSON, into the task table.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Numbers, texts and lists only: there is nothing that JSON cannot hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the task table.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A task's name for the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskName {
    pub job: String,
    pub stage: usize,
    pub task: usize,
}

/// What a worker knows of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    Runs,
    /// It ended so many milliseconds ago.
    Ended(u64),
    /// It did not begin, or ended long ago.
    Unknown,
}

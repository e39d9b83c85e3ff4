//! [`Launcher`]: sends tasks to an executor.
//!
//! In as many messages of bounded size as it takes. The engine's own launcher sends all tasks of an executor in one
//! message, and if the executor refuses that, considers it broken for good.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::MultiTaskDefinition;
use ballista_core::serde::scheduler::ExecutorMetadata;
use ballista_scheduler::state::executor_manager::ExecutorManager;
use ballista_scheduler::state::task_manager::TaskLauncher;
use bytesize::ByteSize;
use dstreams::Error;

use super::scheduler_proxy::Failures;
use super::speculate::{TaskCopies, TaskId};
use super::task_error::TaskError;

/// The most bytes of several tasks in one message.
const GROUP_BYTES: usize = 8 << 20;
/// The most bytes of a message of the engine: one task with references to about a million blocks.
pub const MESSAGE: usize = 256 << 20;
/// Bytes of a task besides its plan and its settings.
const FRAME: usize = 4 << 10;

/// Sends tasks to an executor.
pub struct Launcher {
    /// Address to which executors report.
    pub endpoint: String,
    pub failures: Arc<Failures>,
    pub copies: TaskCopies,
}

fn bytes(task: &MultiTaskDefinition) -> usize {
    let props = task.props.iter();
    let props = props.map(|prop| prop.key.len() + prop.value.as_ref().map_or(0, String::len) + 16);
    FRAME + task.plan.len() + props.sum::<usize>()
}

/// The tasks grouped into messages, and the jobs and sizes of tasks that are too large for any message.
fn messages(
    tasks: Vec<MultiTaskDefinition>,
) -> (Vec<Vec<MultiTaskDefinition>>, Vec<(String, usize)>) {
    let (mut messages, mut refused) = (Vec::new(), Vec::new());
    let mut room = 0;
    for task in tasks {
        let bytes = bytes(&task);
        if bytes > MESSAGE {
            refused.push((task.job_id, bytes));
            continue;
        }
        if bytes > room {
            messages.push(Vec::new());
            room = GROUP_BYTES;
        }
        room = room.saturating_sub(bytes);
        if let Some(message) = messages.last_mut() {
            message.push(task);
        }
    }
    (messages, refused)
}

/// The stage and the number of each task.
fn names(tasks: &[MultiTaskDefinition]) -> impl Iterator<Item = TaskId> {
    tasks.iter().flat_map(|task| {
        let (stage, attempt) = (task.stage_id as usize, task.stage_attempt_num as usize);
        let stage = (task.job_id.clone(), stage, attempt);
        let ids = task.task_ids.iter().map(|id| id.task_id as usize);
        ids.map(move |id| (stage.clone(), id))
    })
}

#[async_trait]
impl TaskLauncher for Launcher {
    /// Returns the jobs that cannot run. A failed call removes the executor, which registers again: so the first
    /// failure is the last call, and it is not retried, since the executor may have received the tasks.
    async fn launch_tasks(
        &self,
        executor: &ExecutorMetadata,
        tasks: Vec<MultiTaskDefinition>,
        executors: &ExecutorManager,
    ) -> Result<HashSet<JobId>> {
        let (messages, refused) = messages(tasks);
        let mut jobs = HashSet::new();
        for (job, bytes) in refused {
            let error = Error::Config {
                setting: "block_bytes",
                message: format!(
                    "a task of a batch takes {} to describe, mostly references to its blocks, and at \
                     most {} can be sent; make blocks larger or the interval shorter",
                    ByteSize(bytes as u64),
                    ByteSize(MESSAGE as u64)
                ),
            };
            self.failures.note(&job, TaskError::of(&error));
            jobs.insert(JobId::new(job));
        }
        for tasks in messages {
            if self.copies.are_made() {
                names(&tasks).for_each(|task| self.copies.sent(task));
            }
            let sent = executors.launch_multi_task(&executor.id, tasks, self.endpoint.clone());
            let rejected = sent.await.inspect_err(|error| {
                tracing::warn!(worker = executor.id, %error, "cannot send tasks to a worker");
                self.copies.lost(&executor.id);
            })?;
            for job in rejected {
                tracing::warn!(worker = executor.id, %job, "a worker cannot read its tasks");
                jobs.insert(job);
            }
        }
        Ok(jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(job: &str, bytes: usize) -> MultiTaskDefinition {
        MultiTaskDefinition {
            job_id: job.into(),
            plan: vec![0; bytes],
            ..MultiTaskDefinition::default()
        }
    }

    #[test]
    fn messages_of_several_tasks_have_bounded_size() {
        let tasks = (0..100).map(|at| task(&at.to_string(), 1 << 20));
        let (sent, refused) = messages(tasks.collect());
        assert!(refused.is_empty());
        let sizes = sent
            .iter()
            .map(|tasks| tasks.iter().map(bytes).sum::<usize>());
        assert!(sizes.into_iter().all(|bytes| bytes <= GROUP_BYTES));
        let order: Vec<String> = sent.into_iter().flatten().map(|task| task.job_id).collect();
        assert_eq!(order, (0..100).map(|at| at.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_large_task_is_sent_alone_and_too_large_a_task_is_refused() {
        let tasks = vec![
            task("a", 10),
            task("b", GROUP_BYTES * 2),
            task("c", 10),
            task("d", MESSAGE + 1),
        ];
        let (sent, refused) = messages(tasks);
        let jobs = |tasks: &Vec<MultiTaskDefinition>| {
            tasks
                .iter()
                .map(|task| task.job_id.clone())
                .collect::<String>()
        };
        assert_eq!(sent.iter().map(jobs).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, "d");
    }
}

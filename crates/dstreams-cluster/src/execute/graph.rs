//! Changes to the engine's graph of a job, for which the engine has no call of its own.
//!
//! The engine has one task for each partition of a stage: the one that runs. A task that it has given up is ignored
//! from then on, whatever it reports.

use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{FailedTask, RunningTask, TaskKilled, TaskStatus};
use ballista_core::serde::scheduler::{
    ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification,
};
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use ballista_scheduler::state::execution_stage::{ExecutionStage, RunningStage};

/// A stage of a job, and its attempt.
pub type StageName = (String, usize, usize);

/// The stage, if this attempt of it is running.
pub fn running_stage<'g>(
    graph: &'g ExecutionGraphBox,
    (_, stage, attempt): &StageName,
) -> Option<&'g RunningStage> {
    match graph.stages().get(stage) {
        Some(ExecutionStage::Running(running)) if running.stage_attempt_num == *attempt => {
            Some(running)
        }
        _ => None,
    }
}

/// The stage for changes. The engine gives it only while partitions of it wait for a worker.
fn waiting_stage<'g>(
    graph: &'g mut ExecutionGraphBox,
    name: &StageName,
) -> Option<&'g mut RunningStage> {
    running_stage(graph, name)?;
    let stages = graph.stages().keys().filter(|stage| **stage != name.1);
    let others: Vec<_> = stages.copied().collect();
    let stage = graph.fetch_running_stage(&others)?;
    (stage.stage_id == name.1).then_some(stage)
}

/// Makes the engine give up a task that runs, so that its partition waits for a worker. That is no failure of the
/// task. Returns whether it ran.
pub fn give_up(graph: &mut ExecutionGraphBox, name: &StageName, task: usize) -> bool {
    let info = running_stage(graph, name).and_then(|stage| stage.task_infos.get(task));
    let Some(info) = info.filter(|info| matches!(info.task_status, Status::Running(_))) else {
        return false;
    };
    let partitions = info.global_input_partition_ids.clone();
    let failed = FailedTask {
        error: "another task runs in its place".into(),
        retryable: true,
        count_to_failures: false,
        failed_reason: Some(FailedReason::TaskKilled(TaskKilled {})),
    };
    let status = TaskStatus {
        task_id: task as u32,
        job_id: name.0.clone(),
        stage_id: name.1 as u32,
        stage_attempt_num: name.2 as u32,
        status: Some(Status::Failed(failed)),
        ..TaskStatus::default()
    };
    // The executor matters for results only, and the limits for failures that count.
    let given_up = graph.update_task_status(&nobody(), vec![status], usize::MAX, usize::MAX);
    if let Err(error) = given_up {
        tracing::warn!(job = name.0, stage = name.1, task, %error, "cannot give up a task");
        return false;
    }
    // The engine has counted it all the same.
    if let Some(stage) = waiting_stage(graph, name) {
        for partition in partitions {
            if let Some(failures) = stage.task_failure_numbers.get_mut(partition) {
                *failures = failures.saturating_sub(1);
            }
        }
    }
    true
}

/// Makes a task that was given up the one of its partition again, in place of another that runs or is to start.
/// Returns whether it is; it is not if the partition has a result, or the stage does not run any more.
pub fn restore(graph: &mut ExecutionGraphBox, name: &StageName, task: usize, worker: &str) -> bool {
    let Some(stage) = running_stage(graph, name) else {
        return false;
    };
    let Some(partitions) = stage.task_infos.get(task) else {
        return false;
    };
    let partitions = partitions.global_input_partition_ids.clone();
    let of = |at: &usize| stage.task_infos[*at].global_input_partition_ids == partitions;
    let tasks: Vec<_> = (0..stage.task_infos.len()).filter(of).collect();
    let status = |at: &usize| &stage.task_infos[*at].task_status;
    if tasks
        .iter()
        .any(|at| matches!(status(at), Status::Successful(_)))
    {
        return false;
    }
    let running = tasks
        .iter()
        .filter(|at| matches!(status(at), Status::Running(_)));
    for other in running.copied().collect::<Vec<_>>() {
        give_up(graph, name, other);
    }
    let Some(stage) = waiting_stage(graph, name) else {
        return false;
    };
    let (back, others): (Vec<_>, Vec<_>) = stage
        .pending
        .next_slice(usize::MAX)
        .into_iter()
        .partition(|waiting| partitions.contains(waiting));
    stage.pending.reschedule(others);
    if back.is_empty() {
        return false;
    }
    stage.task_infos[task].task_status = Status::Running(RunningTask {
        executor_id: worker.to_owned(),
    });
    // If the stage runs again after it was over, the engine looks only at the newest task of each partition, and
    // would run this one again while its result stays. The others are over, and it ignores what they report.
    for other in tasks.into_iter().filter(|other| *other != task) {
        stage.task_infos[other].global_input_partition_ids.clear();
    }
    true
}

fn nobody() -> ExecutorMetadata {
    ExecutorMetadata {
        id: String::new(),
        host: String::new(),
        port: 0,
        grpc_port: 0,
        specification: ExecutorSpecification::default(),
        os_info: ExecutorOperatingSystemSpecification::default(),
    }
}

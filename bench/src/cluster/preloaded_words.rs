//! The executors of the engine alone, and their scan of words in their memory.

use std::fmt;
use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use bench_input::LINE_BYTES;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use dstreams::arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray};
use dstreams::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use dstreams::datafusion::common::tree_node::TreeNodeRecursion;
use dstreams::datafusion::common::{DataFusionError, Result, internal_err};
use dstreams::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use dstreams::datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use dstreams::datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use dstreams::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dstreams::datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};

use super::bare::{PARTS, session_config};
use super::processes::guard;
use super::runtime;
use super::small::input;
use crate::own::{Outcome, flag};

/// Words by batch and part.
type Preloaded = Arc<Vec<RecordBatch>>;

/// One row for each word.
pub fn words_schema() -> SchemaRef {
    let word = Field::new("word", DataType::Utf8View, false);
    Arc::new(Schema::new(vec![word]))
}

/// One row for each part of a batch: its index among all parts.
pub fn reference_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("at", DataType::Int64, false)]))
}

/// The words of half of a batch's lines.
pub fn words_of_part(text: &[u8], part: usize) -> Outcome<RecordBatch> {
    let lines = bench_input::input::part(text, part, PARTS);
    debug_assert_eq!(lines.len() % LINE_BYTES, 0);
    let words = std::str::from_utf8(lines)?.split_ascii_whitespace();
    let words: ArrayRef = Arc::new(StringViewArray::from_iter_values(words));
    Ok(RecordBatch::try_new(words_schema(), vec![words])?)
}

/// `bench executor PORT --number N --batches N --work-dir DIR`
pub fn executor(flags: &[String]) -> Outcome<()> {
    guard(flags);
    let scheduler: u16 = flags.first().ok_or("an executor needs a port")?.parse()?;
    let number: usize = flag(flags, "--number", 0)?;
    let (_, input) = input(flags)?;
    let parts = input.batches.iter();
    let parts = parts.flat_map(|text| (0..PARTS).map(|part| words_of_part(text, part)));
    let preloaded: Preloaded = Arc::new(parts.collect::<Outcome<_>>()?);
    let work_dir: String = flag(flags, "--work-dir", String::new())?;
    let free = || -> std::io::Result<u16> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        Ok(listener.local_addr()?.port())
    };
    let config = ExecutorProcessConfig {
        executor_id: format!("executor-{number}"),
        bind_host: "127.0.0.1".into(),
        external_host: Some("127.0.0.1".into()),
        port: free()?,
        grpc_port: free()?,
        scheduler_host: "127.0.0.1".into(),
        scheduler_port: scheduler,
        scheduler_connect_timeout_seconds: 20,
        vcores: 1,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_heartbeat_interval_seconds: 5,
        work_dir: Some(work_dir),
        memory_pool_size: Some(0),
        override_physical_codec: Some(Arc::new(Codec::of(preloaded))),
        override_config_producer: Some(Arc::new(session_config)),
        ..Default::default()
    };
    Ok(runtime()?.block_on(start_executor_process(Arc::new(config)))?)
}

/// Reads the words that the rows of its child refer to.
pub struct PreloadedExec {
    child: Arc<dyn ExecutionPlan>,
    preloaded: Option<Preloaded>,
    properties: Arc<PlanProperties>,
}

impl PreloadedExec {
    /// On the scheduler, without words.
    pub fn new(child: Arc<dyn ExecutionPlan>, preloaded: Option<Preloaded>) -> Self {
        let parts = child.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(words_schema()),
            Partitioning::UnknownPartitioning(parts),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        PreloadedExec {
            child,
            preloaded,
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for PreloadedExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldExec")
    }
}

impl DisplayAs for PreloadedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("HeldExec")
    }
}

impl ExecutionPlan for PreloadedExec {
    fn name(&self) -> &str {
        "HeldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.child]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let child = children.swap_remove(0);
        Ok(Arc::new(PreloadedExec::new(child, self.preloaded.clone())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(preloaded) = self.preloaded.clone() else {
            return internal_err!("words are held by executors only");
        };
        let rows = self.child.execute(partition, context)?;
        let words = rows.map_ok(move |rows| {
            let at = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
            let preloaded = Arc::clone(&preloaded);
            futures::stream::iter(at).map(move |at| {
                let words = preloaded.get(at as usize).cloned();
                words.ok_or_else(|| DataFusionError::Internal(format!("no words at {at}")))
            })
        });
        let words = words.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            words_schema(),
            words,
        )))
    }
}

/// Encoding of a [`PreloadedExec`] in a plan.
const NODE_TAG: &[u8] = b"dstreams-bench-held";

/// Encodes [`PreloadedExec`]; the engine encodes its own nodes.
#[derive(Default)]
pub struct Codec {
    preloaded: Option<Preloaded>,
    engine: BallistaPhysicalExtensionCodec,
}

impl Codec {
    fn of(preloaded: Preloaded) -> Self {
        Codec {
            preloaded: Some(preloaded),
            ..Codec::default()
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (bytes == NODE_TAG, inputs) {
            (true, [child]) => Ok(Arc::new(PreloadedExec::new(
                Arc::clone(child),
                self.preloaded.clone(),
            ))),
            _ => self.engine.try_decode(bytes, inputs, context, converter),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if node.downcast_ref::<PreloadedExec>().is_some() {
            bytes.extend_from_slice(NODE_TAG);
            return Ok(());
        }
        self.engine.try_encode(node, bytes, converter)
    }
}

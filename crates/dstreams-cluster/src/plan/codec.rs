//! [`Codec`]: serializes our plan node; the engine's own codec does the rest.

use std::fmt;
use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use dstreams::internal::Plans;

use super::step::{RunStep, StepExec, StepHeader};

/// First bytes of a [`StepExec`]; its header follows as JSON.
const STEP: &[u8] = b"dstreams-step-1 ";

/// Serializes and parses plans of one program.
pub struct Codec {
    plans: Arc<Plans>,
    site: Option<Arc<dyn RunStep>>,
    engine: BallistaPhysicalExtensionCodec,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({:?})", self.site)
    }
}

impl Codec {
    /// For the master.
    pub fn master(plans: Arc<Plans>) -> Self {
        Codec {
            plans,
            site: None,
            engine: BallistaPhysicalExtensionCodec::default(),
        }
    }

    /// For a worker: decoded nodes can run.
    pub fn worker(site: Arc<dyn RunStep>) -> Self {
        Codec {
            plans: Arc::clone(site.plans()),
            site: Some(site),
            engine: BallistaPhysicalExtensionCodec::default(),
        }
    }
}

fn json(error: serde_json::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(header) = bytes.strip_prefix(STEP) else {
            return self.engine.try_decode(bytes, inputs, context, converter);
        };
        let header: StepHeader = serde_json::from_slice(header).map_err(json)?;
        Ok(Arc::new(StepExec::new(
            header,
            inputs.to_vec(),
            &self.plans,
            Arc::default(),
            self.site.clone(),
        )?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(step) = node.downcast_ref::<StepExec>() else {
            return self.engine.try_encode(node, bytes, converter);
        };
        bytes.extend_from_slice(STEP);
        serde_json::to_writer(bytes, &step.header).map_err(json)
    }
}

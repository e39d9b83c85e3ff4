//! The inputs that the master itself receives.

use std::sync::Arc;

use dstreams::Result;
use dstreams::cluster::{BlockStore, Description, Durable, Receivers, Restored, open_source};
use dstreams_control::cluster::InputKind;

use super::hub::Hub;
use crate::data::RECORD;

/// Opens the inputs and runs them, after an earlier process where one left something.
pub async fn begin(
    parts: &mut Description,
    hub: &Hub,
    store: &Arc<BlockStore>,
    kept: Option<(&Arc<Durable>, &Restored)>,
) -> Result<Receivers> {
    let mut receivers =
        Receivers::new(store, &hub.mailbox, parts.config.block_memory).with_record_bytes(RECORD);
    let sources = std::mem::take(&mut parts.sources);
    for (at, mut source) in (0u32..).zip(sources) {
        if hub.inputs[at as usize].kind != InputKind::Master {
            continue;
        }
        let intake = receivers.add(at, parts, kept);
        hub.receives(intake.receiver(), at);
        if let Err(error) = open_source(source.as_mut(), &intake).await {
            // Those that run already must not outlive a start that failed.
            receivers.close();
            receivers.end().await;
            return Err(error);
        }
        receivers.run(source, &intake, &parts.listeners);
    }
    Ok(receivers)
}

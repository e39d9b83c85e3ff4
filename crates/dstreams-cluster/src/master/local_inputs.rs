//! The inputs that the master itself receives.

use std::sync::Arc;

use dstreams::Result;
use dstreams::internal::{
    BlockStore, Budget, Description, Durable, NewReceiver, Receivers, Restored, of_master,
    open_source,
};
use dstreams_control::cluster::InputKind;

use super::hub::Hub;
use crate::data::RECORD;

/// Opens and runs the inputs, from the offsets of an earlier process if there was one.
pub async fn begin(
    parts: &mut Description,
    hub: &Hub,
    store: &Arc<BlockStore>,
    persisted: Option<(&Arc<Durable>, &Restored)>,
) -> Result<Receivers> {
    let budget = Budget::new(parts.config.block_memory);
    let receivers = Receivers::new(&parts.config, budget)
        .with_record_bytes(RECORD)
        .with_clock(&parts.clock);
    let durability = of_master(store, &hub.mailbox, persisted.map(|(durable, _)| durable));
    let streams = parts.inputs();
    let sources = std::mem::take(&mut parts.sources);
    for ((at, mut source), (name, schema)) in (0u32..).zip(sources).zip(streams) {
        if hub.inputs[at as usize].kind != InputKind::Master {
            continue;
        }
        let receiver = NewReceiver::of_master(at, persisted.map(|(_, restored)| restored));
        let intake = receivers.add(receiver, (&name, schema), &durability);
        hub.lock()
            .receivers
            .add_of_masters([(intake.receiver(), at)]);
        if let Err(error) = open_source(source.as_mut(), &intake).await {
            // Inputs that run already must not outlive a failed start.
            receivers.close();
            receivers.end().await;
            return Err(error);
        }
        receivers.run(source, &intake, &parts.listeners);
    }
    Ok(receivers)
}

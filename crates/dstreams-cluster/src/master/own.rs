//! The inputs that the master itself receives.

use std::sync::Arc;

use dstreams::cluster::{
    BlockStore, Budget, DeadLetters, Durable, Parts, Receivers, Restored, open_source,
};
use dstreams::{Closing, Result};

use super::calls::is_own;
use super::hub::Hub;

/// Opens the inputs and runs them, after an earlier process where one left something.
pub async fn begin(
    parts: &mut Parts,
    hub: &Hub,
    store: &Arc<BlockStore>,
    closing: &Closing,
    kept: Option<(&Arc<Durable>, &Restored)>,
) -> Result<Receivers> {
    let budget = Budget::new(parts.config.block_memory);
    let mut receivers = Receivers::new(store, &hub.mailbox);
    let sources = std::mem::take(&mut parts.sources);
    for (at, mut source) in (0u32..).zip(sources) {
        if !is_own(hub.inputs[at as usize].kind) {
            continue;
        }
        let dead = DeadLetters::default();
        let intake = receivers.add(at, parts, (&budget, &dead), kept);
        hub.receives(intake.receiver(), at);
        open_source(source.as_mut(), &intake).await?;
        receivers.run(source, &intake, closing, &parts.listeners);
    }
    Ok(receivers)
}

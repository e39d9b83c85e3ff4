//! Link: the connection of a worker to its master, over which both say what happens.
//!
//! Messages arrive in order or the link breaks; a link that has broken is never used again: the
//! worker joins anew, as another one.

mod message;

use std::sync::Arc;

use arrow_flight::FlightData;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

pub use message::{HeldBlock, Holds, ToMaster, ToWorker, VERSION};

/// The sending end.
#[derive(Clone)]
pub struct Sender<M> {
    messages: mpsc::UnboundedSender<FlightData>,
    message: std::marker::PhantomData<fn(M)>,
}

impl<M: Serialize> Sender<M> {
    /// Says something; without effect when the link has broken, which its reader notices.
    pub fn say(&self, message: &M) {
        match serde_json::to_vec(message) {
            Ok(json) => {
                let _ = self.messages.send(FlightData {
                    app_metadata: json.into(),
                    ..FlightData::default()
                });
            }
            Err(error) => tracing::error!(%error, "a message that is no JSON"),
        }
    }
}

/// Both ends of one direction.
pub fn channel<M>() -> (Sender<M>, UnboundedReceiverStream<FlightData>) {
    let (messages, receiver) = mpsc::unbounded_channel();
    let sender = Sender {
        messages,
        message: std::marker::PhantomData,
    };
    (sender, UnboundedReceiverStream::new(receiver))
}

/// The next message; none when the other side has ended the link.
pub async fn hear<M: DeserializeOwned>(
    messages: &mut Streaming<FlightData>,
) -> Result<Option<M>, Status> {
    let Some(message) = messages.message().await? else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&message.app_metadata);
    message
        .map(Some)
        .map_err(|error| Status::invalid_argument(format!("no message of this cluster: {error}")))
}

/// Name of this build: processes of one cluster run the same.
pub fn build_id() -> Arc<str> {
    static ID: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    let id = ID.get_or_init(|| {
        let bytes = std::env::current_exe().and_then(std::fs::read);
        let hash = bytes.map(|bytes| xxhash_rust::xxh3::xxh3_64(&bytes));
        let version = env!("CARGO_PKG_VERSION");
        match hash {
            Ok(hash) => format!("{version}-{hash:016x}").into(),
            Err(_) => version.into(),
        }
    });
    Arc::clone(id)
}

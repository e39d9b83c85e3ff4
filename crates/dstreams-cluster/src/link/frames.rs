//! Messages of a link in frames of bounded size, with a bound on unsent bytes.
//!
//! A message may list every block, so it can be larger than any frame. The sender splits it, the receiver joins it;
//! frames of two messages are never interleaved. Unsent bytes are counted: a link whose other side does not read
//! is closed, without effect on other links.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_flight::FlightData;
use bytes::Bytes;
use dstreams_client::protocol::refusal;
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// The most bytes of a message in one frame: far below a peer's limit.
const FRAME: usize = 1 << 20;
/// The most bytes of one message: some eight million blocks. A larger one closes the link.
const MESSAGE: usize = 1 << 30;
/// The most unsent bytes, besides the last message: more than a minute of a busy worker's messages.
const MAX_UNSENT: usize = 256 << 20;
/// Header of a frame that is not the last of its message.
const MORE: &[u8] = b"+";

/// The sending end.
pub struct Sender<M> {
    messages: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<AtomicUsize>,
    full: CancellationToken,
    message: PhantomData<fn(M)>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Sender {
            messages: self.messages.clone(),
            waiting: Arc::clone(&self.waiting),
            full: self.full.clone(),
            message: PhantomData,
        }
    }
}

impl<M: Serialize> Sender<M> {
    /// Queues a message; never blocks. Without effect when the link has broken, which its reader notices.
    pub fn send(&self, message: &M) {
        match serde_json::to_vec(message) {
            Ok(json) => self.queue(json.into(), MAX_UNSENT),
            Err(error) => tracing::error!(%error, "cannot serialize a message as JSON"),
        }
    }

    fn queue(&self, message: Bytes, bound: usize) {
        if self.full.is_cancelled() {
            return;
        }
        let waiting = self.waiting.fetch_add(message.len(), Ordering::Relaxed);
        if waiting > bound {
            tracing::error!(waiting, "closing a link: its other side does not read");
            return self.full.cancel();
        }
        let _ = self.messages.send(message);
    }

    /// Bytes that have not been handed to the connection.
    pub fn unsent(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until too many bytes are unsent; the link is closed then.
    pub async fn is_full(&self) {
        self.full.cancelled().await;
    }
}

/// Both ends of one direction; the second yields frames in the order of their messages.
pub fn channel<M>() -> (Sender<M>, impl Stream<Item = FlightData> + Send + 'static) {
    let (messages, said) = mpsc::unbounded_channel();
    let (waiting, full) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let sender = Sender {
        messages,
        waiting: Arc::clone(&waiting),
        full: full.clone(),
        message: PhantomData,
    };
    let frames = UnboundedReceiverStream::new(said).flat_map(move |mut message: Bytes| {
        let waiting = Arc::clone(&waiting);
        let mut begun = false;
        let frames = std::iter::from_fn(move || {
            if std::mem::replace(&mut begun, true) && message.is_empty() {
                return None;
            }
            let frame = message.split_to(message.len().min(FRAME));
            waiting.fetch_sub(frame.len(), Ordering::Relaxed);
            let more = if message.is_empty() { b"" } else { MORE };
            Some(FlightData {
                app_metadata: frame,
                data_header: Bytes::from_static(more),
                ..FlightData::default()
            })
        });
        futures::stream::iter(frames)
    });
    (sender, frames.take_until(full.cancelled_owned()))
}

/// The receiving end.
pub struct LinkReceiver<M> {
    frames: Streaming<FlightData>,
    joined: Joined,
    message: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> LinkReceiver<M> {
    pub fn new(frames: Streaming<FlightData>) -> Self {
        LinkReceiver {
            frames,
            joined: Joined::default(),
            message: PhantomData,
        }
    }

    /// The next message; none when the other side has closed the link. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        while let Some(frame) = self.frames.message().await? {
            if let Some(message) = self.joined.add(&frame, MESSAGE)? {
                return parse(&message).map(Some);
            }
        }
        Ok(None)
    }
}

/// Parses a message. It takes at most some thirty times the memory of its text: an empty list in it becomes a `Vec`.
pub(super) fn parse<M: DeserializeOwned>(message: &[u8]) -> Result<M, Status> {
    serde_json::from_slice(message).map_err(|error| {
        refusal(Status::invalid_argument(format!(
            "not a message of this cluster: {error}"
        )))
    })
}

/// The frames of a message that have arrived so far.
#[derive(Default)]
struct Joined(Vec<u8>);

impl Joined {
    /// Adds the next frame; returns the message if this was its last frame.
    fn add(&mut self, frame: &FlightData, bound: usize) -> Result<Option<Bytes>, Status> {
        let has_more = frame.data_header == MORE;
        if self.0.is_empty() && !has_more {
            return Ok(Some(frame.app_metadata.clone()));
        }
        if self.0.len() + frame.app_metadata.len() > bound {
            return Err(Status::out_of_range(format!(
                "a message of more than {bound} bytes: too many blocks wait for their batches"
            )));
        }
        self.0.extend_from_slice(&frame.app_metadata);
        Ok((!has_more).then(|| std::mem::take(&mut self.0).into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
    use futures::FutureExt;

    use super::*;
    use crate::link::{BlockReport, ToMaster, ToWorker};

    /// Sends messages; returns the size of the largest frame, and the messages received.
    fn over<M: Serialize + DeserializeOwned>(messages: &[M]) -> (usize, Vec<M>) {
        let (sender, frames) = channel();
        messages.iter().for_each(|message| sender.send(message));
        let waiting = Arc::clone(&sender.waiting);
        drop(sender);
        let mut largest = 0;
        let mut joined = Joined::default();
        let heard = frames.filter_map(|frame| {
            largest = largest.max(frame.app_metadata.len() + frame.data_header.len());
            let message = joined.add(&frame, MESSAGE).unwrap();
            futures::future::ready(message.map(|message| parse(&message).unwrap()))
        });
        let heard = futures::executor::block_on(heard.collect());
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        (largest, heard)
    }

    fn same<M: Serialize + DeserializeOwned + Debug>(messages: &[M]) -> usize {
        let (largest, heard) = over(messages);
        assert!(largest <= FRAME + MORE.len(), "{largest}");
        assert_eq!(heard.len(), messages.len());
        for (heard, said) in heard.iter().zip(messages) {
            let [heard, said] = [heard, said].map(|message| serde_json::to_vec(message).unwrap());
            assert!(heard == said);
        }
        largest
    }

    /// Blocks after a long pause: more than fit into one frame.
    const MANY: u64 = 200_000;

    fn id(seq: u64) -> BlockId {
        BlockId {
            receiver: ReceiverId(1 << 40),
            seq,
        }
    }

    fn blocks() -> impl Iterator<Item = BlockMeta> {
        (0..MANY).map(|seq| BlockMeta {
            id: id(seq),
            rows: 1,
            bytes: 100,
        })
    }

    #[test]
    fn messages_to_the_master_have_bounded_frames_whatever_the_number_of_blocks() {
        let held = |meta: BlockMeta| BlockReport {
            marks: vec![(0, format!("producer {}", meta.id.seq), meta.id.seq)],
            meta,
        };
        let part = |partition: u64| {
            serde_json::json!({
                "partition": partition, "state": 1, "from": 1_u64 << 40, "bytes": 1_u64 << 40,
                "xxh3": u64::MAX, "version": 1_u64 << 50, "whole": true, "more": false,
            })
        };
        let parts: Vec<_> = (0..20_000).map(part).collect();
        let file = serde_json::json!({ "name": "state", "parts": parts });
        same(&[
            ToMaster::Stored {
                blocks: blocks().map(held).collect(),
            },
            ToMaster::Ready,
            ToMaster::Fenced {
                lost: 3,
                blocks: blocks().map(held).collect(),
            },
            ToMaster::Reported {
                batch: BatchTime(7),
                receiver: ReceiverId(1),
                blocks: blocks().collect(),
            },
            ToMaster::SourceEnded {
                input: 1,
                failure: Some("x".repeat(3 * FRAME)),
            },
            ToMaster::Written {
                checkpoint: 1,
                written: Ok(vec![serde_json::from_value(file).unwrap()]),
            },
        ]);
    }

    #[test]
    fn messages_to_a_worker_have_bounded_frames_whatever_the_number_of_blocks() {
        let positions =
            (0..MANY).map(|file| (format!("a/rather/long/name/of/a/file-{file}"), file));
        same(&[
            ToWorker::Drop {
                blocks: blocks().map(|block| block.id).collect(),
            },
            ToWorker::Receive {
                input: 1,
                receiver: ReceiverId(1),
                positions: positions.collect::<BTreeMap<_, _>>(),
            },
            ToWorker::Close,
            ToWorker::Checkpoint {
                checkpoint: 1,
                file: "state".into(),
                since: (0..5_000)
                    .map(|at| (at, vec![Some(BatchTime(1 << 50)); 50]))
                    .collect(),
            },
            ToWorker::Forget {
                batch: BatchTime(1),
                but: (0..100_000).map(|at| (at, BatchTime(1 << 50))).collect(),
                slots: (0..100_000).collect(),
            },
        ]);
    }

    /// Just below and above the size of some frames, each alone and all after each other.
    #[test]
    fn messages_of_every_length_arrive_unchanged_and_in_order() {
        let quotes = 2;
        let text = |frames: usize, more: isize| {
            "x".repeat((frames * FRAME).saturating_add_signed(more - quotes))
        };
        let lengths = (0..4).flat_map(|frames| (-2..3).map(move |more| text(frames, more)));
        let texts: Vec<String> = lengths.collect();
        for alone in texts.chunks(1) {
            same(alone);
        }
        same(&texts);
    }

    #[test]
    fn a_message_beyond_its_bound_is_refused() {
        let mut joined = Joined::default();
        let frame = |more| FlightData {
            app_metadata: vec![b'x'; 6].into(),
            data_header: Bytes::from_static(more),
            ..FlightData::default()
        };
        assert!(joined.add(&frame(MORE), 10).unwrap().is_none());
        assert_eq!(
            joined.add(&frame(b""), 10).unwrap_err().code(),
            tonic::Code::OutOfRange
        );
    }

    /// An unread link closes when it exceeds its bound; another link is unaffected.
    #[test]
    fn an_unread_link_is_closed_and_no_other() {
        let (slow, unread) = channel::<String>();
        let (other, read) = channel::<String>();
        for _ in 0..2 {
            slow.queue(vec![b'x'; 6].into(), 10);
            assert!(slow.is_full().now_or_never().is_none());
            other.send(&"x".into());
        }
        slow.queue(vec![b'x'; 6].into(), 10);
        assert!(slow.is_full().now_or_never().is_some());
        assert!(slow.waiting.load(Ordering::Relaxed) < 30);
        drop((slow, other));
        assert_eq!(futures::executor::block_on(unread.count()), 0);
        assert_eq!(futures::executor::block_on(read.count()), 2);
    }

    /// Bytes no longer count once they are sent.
    #[test]
    fn a_link_that_is_read_is_never_full() {
        let (sender, frames) = channel::<String>();
        let mut frames = std::pin::pin!(frames);
        for _ in 0..100 {
            sender.queue(vec![b'x'; 6].into(), 5);
            frames.next().now_or_never().unwrap().unwrap();
        }
        assert!(sender.is_full().now_or_never().is_none());
    }
}

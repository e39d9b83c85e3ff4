//! The background task of a sender: keeps a session open until the sender is finished or all tries are used up.
//!
//! It owns all messages in flight. A session (`session.rs`) is one connection; when it breaks the link records
//! which address failed (`route.rs` chooses the next), pauses, and starts another with the same window. While there
//! is nothing to send it does not reconnect.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use arrow_flight::FlightData;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::backoff::{Backoff, UsedUp};
use crate::encode::{Encoded, Encoder};
use crate::error::{Error, Tally};
use crate::options::Options;
use crate::pack::Slot;
use crate::route::Route;
use crate::window::Window;

/// The report of a link to its sender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The server has answered once: the stream exists and takes this schema.
    pub(crate) opened: bool,
    /// Records.
    pub(crate) acknowledged: u64,
    /// Bytes of the messages sent, each counted once.
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
    pub(crate) resends: u64,
    pub(crate) reconnects: u64,
    pub(crate) failed: Option<Error>,
}

pub(crate) struct Link {
    pub(crate) stream: String,
    pub(crate) route: Route,
    /// The address of the current session, or of the last.
    pub(crate) peer: String,
    pub(crate) failures: Failures,
    pub(crate) options: Options,
    /// Schema and descriptor: the first message of each session.
    pub(crate) first: FlightData,
    pub(crate) flow: Flow,
    pub(crate) backoff: Backoff,
    pub(crate) progress: watch::Sender<Progress>,
}

/// The newest failure of each address since the last progress, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Error>);

/// Failures listed in the error of giving up: more addresses would not be worth reading.
const MOST_FAILURES: usize = 8;

impl Failures {
    pub(crate) fn note(&mut self, error: Error) {
        self.0.retain(|known| known.address() != error.address());
        if self.0.len() >= MOST_FAILURES {
            self.0.remove(0);
        }
        self.0.push(error);
    }

    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    fn of_others(&self, last: &Error) -> Vec<Error> {
        let others = self.0.iter();
        let others = others.filter(|error| error.address() != last.address());
        others.cloned().collect()
    }
}

/// Messages from the sender to the window.
pub(crate) struct Flow {
    pub(crate) input: mpsc::Receiver<Vec<Encoded>>,
    /// The sender has finished; nothing more will come.
    pub(crate) closed: bool,
    /// Lines that linger; `None` for a sender of batches.
    pub(crate) slot: Option<Arc<Slot>>,
    pub(crate) encoder: Encoder,
    /// Taken from the sender, and not yet in the window.
    pub(crate) waiting: VecDeque<Encoded>,
    pub(crate) window: Window,
}

impl Flow {
    /// Nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.window.is_empty() && self.waiting.is_empty()
    }

    /// Should the task take more from the sender now?
    pub(crate) fn wants_input(&self) -> bool {
        !self.closed && self.waiting.is_empty() && self.window.has_room()
    }

    /// The next message that fits the window, with its number.
    pub(crate) fn admit_next(&mut self) -> Option<FlightData> {
        let bytes = self.waiting.front()?.bytes();
        if !self.window.fits(bytes) {
            return None;
        }
        self.waiting
            .pop_front()
            .map(|encoded| self.window.admit(encoded))
    }

    /// Waits for a full pack or a batch, or for lines that have lingered. Cancelled, it loses nothing.
    pub(crate) async fn take_input(&mut self) -> Result<(), Error> {
        let lingered = async {
            match &self.slot {
                Some(slot) => slot.due().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            group = self.input.recv() => match group {
                Some(group) => self.waiting.extend(group),
                None => self.closed = true,
            },
            () = lingered => self.take_pack()?,
        }
        Ok(())
    }

    fn take_pack(&mut self) -> Result<(), Error> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        // A pack that was full before this one was opened is in the channel and goes first, but not one filled
        // after this one was taken: so both are taken at once.
        let batch = slot.take_after(|| {
            while let Ok(group) = self.input.try_recv() {
                self.waiting.extend(group);
            }
        });
        let Some(batch) = batch else {
            return Ok(());
        };
        self.waiting.push_back(self.encoder.encode(&batch?)?);
        Ok(())
    }
}

impl Link {
    /// Runs to the end and reports it; drops what is left in the channel only after that.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.run_sessions().await {
            tracing::debug!(stream = self.stream, %error, "sender ended");
            self.progress
                .send_modify(|progress| progress.failed = Some(error));
        }
    }

    async fn run_sessions(&mut self) -> Result<(), Error> {
        loop {
            let error = match self.session().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(stream = self.stream, %error, "connection lost");
            let round_over = self.route.failed();
            let opened = self.progress.borrow().opened;
            if opened && self.flow.is_idle() {
                self.backoff.progress();
                self.failures.forget();
                self.route.begin_round();
                while self.flow.is_idle() && !self.flow.closed {
                    self.flow.take_input().await?;
                }
                if self.flow.is_idle() {
                    return Ok(());
                }
            } else {
                match self.backoff.failed(Instant::now(), round_over) {
                    Ok(pause) => {
                        self.failures.note(error);
                        sleep(pause).await;
                    }
                    Err(used) => return Err(self.give_up(used, error)),
                }
            }
            if opened {
                self.progress
                    .send_modify(|progress| progress.reconnects += 1);
            }
        }
    }

    fn give_up(&self, used: UsedUp, last: Error) -> Error {
        Error::GaveUp {
            stream: self.stream.clone(),
            tries: used.tries,
            elapsed: used.elapsed,
            tally: Tally::default(),
            before: self.failures.of_others(&last),
            cause: Box::new(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A pack is full and in the channel, and the next one is full before the task wakes.
    #[tokio::test]
    async fn handed_over_packs_go_before_later_lines() {
        let options = Options {
            pack_lines: 1,
            ..Options::default()
        };
        let slot = Arc::new(Slot::new(&options));
        let (sender, input) = mpsc::channel(1);
        let mut flow = Flow {
            input,
            closed: false,
            slot: Some(Arc::clone(&slot)),
            encoder: Encoder::new(),
            waiting: VecDeque::new(),
            window: Window::new(&options),
        };
        let earlier = Encoded {
            header: Bytes::new(),
            body: Bytes::new(),
            records: 100,
        };
        sender.send(vec![earlier]).await.unwrap();
        assert!(slot.push_line("later").full);
        flow.take_pack().unwrap();
        let records: Vec<_> = flow.waiting.iter().map(|encoded| encoded.records).collect();
        assert_eq!(records, [100, 1]);
    }

    #[test]
    fn the_newest_failure_of_each_address_is_remembered_until_progress() {
        let failure = |address: usize, seconds| Error::NoAck {
            address: format!("a:{address}"),
            after: std::time::Duration::from_secs(seconds),
        };
        let mut failures = Failures::default();
        (1..=MOST_FAILURES).for_each(|address| failures.note(failure(address, 1)));
        // Again, and of one address more.
        failures.note(failure(2, 2));
        failures.note(failure(MOST_FAILURES + 1, 1));
        let last = failure(MOST_FAILURES + 1, 3);
        let others: Vec<_> = failures
            .of_others(&last)
            .iter()
            .map(Error::to_string)
            .collect();
        let wanted = (3..=MOST_FAILURES).map(|address| failure(address, 1));
        let wanted = wanted.chain([failure(2, 2)]).map(|error| error.to_string());
        assert_eq!(others, wanted.collect::<Vec<_>>());
        failures.forget();
        assert!(failures.of_others(&last).is_empty());
    }

    /// The eight digits of a message with one line.
    fn number(encoded: &Encoded) -> usize {
        let digits = |text: &&[u8]| text.iter().all(u8::is_ascii_digit);
        let line = encoded.body.windows(8).find(digits).unwrap();
        std::str::from_utf8(line).unwrap().parse().unwrap()
    }

    /// Two threads take packs, and each line fills one.
    #[test]
    fn lines_stay_in_order_with_two_takers() {
        const LINES: usize = 10_000;
        let options = Options {
            pack_lines: 1,
            ..Options::default()
        };
        let slot = Arc::new(Slot::new(&options));
        let (sender, input) = mpsc::channel(1);
        let mut flow = Flow {
            input,
            closed: false,
            slot: Some(Arc::clone(&slot)),
            encoder: Encoder::new(),
            waiting: VecDeque::new(),
            window: Window::new(&options),
        };
        let sending = std::thread::spawn(move || {
            let mut encoder = Encoder::new();
            for line in 0..LINES {
                // Like a sender of lines: it takes a full pack where there is room, else the task does.
                while slot.push_line(&format!("{line:08}")).lines == 0 {
                    std::thread::yield_now();
                }
                if let Ok(permit) = sender.try_reserve()
                    && let Some(batch) = slot.take()
                {
                    permit.send(vec![encoder.encode(&batch.unwrap()).unwrap()]);
                }
            }
        });
        let mut came = 0;
        while came < LINES {
            match flow.input.try_recv() {
                Ok(group) => flow.waiting.extend(group),
                Err(_) => flow.take_pack().unwrap(),
            }
            for encoded in flow.waiting.drain(..) {
                assert_eq!(number(&encoded), came);
                came += 1;
            }
        }
        sending.join().unwrap();
    }
}

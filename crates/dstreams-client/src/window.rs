//! The messages in flight: numbered, stored until acknowledged, bounded in number and bytes. Pure.
//!
//! Acknowledgements are cumulative. The window is all that is needed to resume over a new connection: the encoded
//! messages share their bytes with what was sent, so storing them copies nothing.

use std::collections::VecDeque;

use arrow_flight::FlightData;

use crate::encode::Encoded;
use crate::options::Options;
use crate::protocol::{Malformed, batch_metadata};

#[derive(Debug)]
pub(crate) struct Window {
    in_flight: VecDeque<InFlight>,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
    /// Everything up to this number is acknowledged.
    acknowledged: u64,
}

#[derive(Debug)]
struct InFlight {
    message: FlightData,
    bytes: usize,
    records: u64,
}

/// The messages released by an acknowledgement.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) messages: u64,
    pub(crate) records: u64,
}

impl Window {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            in_flight: VecDeque::new(),
            bytes: 0,
            max_messages: options.window_messages,
            max_bytes: options.window_bytes,
            acknowledged: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Could any message be admitted?
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < self.max_messages && self.bytes < self.max_bytes
    }

    /// May a message of so many bytes be admitted? One larger than the whole window goes alone.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.is_empty()
            || (self.in_flight.len() < self.max_messages && self.bytes + bytes <= self.max_bytes)
    }

    /// Numbers the message and stores it; returns the message to send.
    pub(crate) fn admit(&mut self, encoded: Encoded) -> FlightData {
        let bytes = encoded.bytes();
        debug_assert!(
            self.fits(bytes),
            "{bytes} bytes do not fit {} messages",
            self.in_flight.len()
        );
        let message = FlightData {
            flight_descriptor: None,
            data_header: encoded.header,
            app_metadata: batch_metadata(self.last() + 1),
            data_body: encoded.body,
        };
        self.bytes += bytes;
        self.in_flight.push_back(InFlight {
            message: message.clone(),
            bytes,
            records: encoded.records,
        });
        message
    }

    /// The number of the last message admitted.
    fn last(&self) -> u64 {
        self.acknowledged + self.in_flight.len() as u64
    }

    /// The server knows this producer: the first message follows `last`.
    pub(crate) fn start_after(&mut self, last: u64) {
        debug_assert!(self.in_flight.is_empty(), "numbers are given already");
        self.acknowledged = last;
    }

    /// Everything up to `ack` is safe. A lower number than before changes nothing.
    pub(crate) fn acknowledge(&mut self, ack: u64) -> Result<Freed, Malformed> {
        if ack > self.last() {
            let last = self.last();
            let detail = format!("acknowledged {ack}, and only {last} were sent");
            return Err(Malformed { detail });
        }
        let mut freed = Freed::default();
        while self.acknowledged < ack {
            let Some(in_flight) = self.in_flight.pop_front() else {
                break;
            };
            self.acknowledged += 1;
            self.bytes -= in_flight.bytes;
            freed.messages += 1;
            freed.records += in_flight.records;
        }
        Ok(freed)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The messages to send again over a new connection, in order.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = FlightData> {
        self.in_flight
            .iter()
            .map(|in_flight| in_flight.message.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::parse_batch_metadata;

    fn window(max_messages: usize, max_bytes: usize) -> Window {
        let options = Options {
            window_messages: max_messages,
            window_bytes: max_bytes,
            ..Options::default()
        };
        Window::new(&options)
    }

    fn message(bytes: usize) -> Encoded {
        Encoded {
            header: Bytes::new(),
            body: Bytes::from(vec![0; bytes]),
            records: 10,
        }
    }

    #[test]
    fn window_is_bounded_in_messages_and_bytes_and_never_stuck() {
        let mut window = window(2, 100);
        assert!(window.fits(1000), "a message over the bound must go alone");
        window.admit(message(60));
        assert!(!window.fits(41));
        assert!(window.fits(40));
        window.admit(message(40));
        assert!(!window.has_room());
        window.acknowledge(1).unwrap();
        assert!(window.has_room() && window.fits(60) && !window.fits(61));
        window.admit(message(1));
        assert!(!window.fits(1), "two messages are the most");
    }

    #[test]
    fn either_bound_leaves_no_room() {
        for (messages, bytes, sizes) in [(2, 100, &[1, 1][..]), (9, 100, &[100]), (9, 100, &[101])]
        {
            let mut window = window(messages, bytes);
            for size in sizes {
                assert!(window.has_room());
                window.admit(message(*size));
            }
            assert!(!window.has_room(), "{sizes:?}");
        }
    }

    #[test]
    fn acknowledgements_are_cumulative_and_never_ahead() {
        let mut window = window(10, 1000);
        for _ in 0..3 {
            window.admit(message(1));
        }
        assert_eq!(
            window.acknowledge(2),
            Ok(Freed {
                messages: 2,
                records: 20
            })
        );
        assert_eq!(window.acknowledge(2), Ok(Freed::default()));
        assert_eq!(window.acknowledge(1), Ok(Freed::default()));
        let error = window.acknowledge(4).unwrap_err().to_string();
        assert!(
            error.contains("acknowledged 4, and only 3 were sent"),
            "{error}"
        );
        assert_eq!(
            window.acknowledge(3),
            Ok(Freed {
                messages: 1,
                records: 10
            })
        );
        assert!(window.is_empty());
    }

    #[test]
    fn numbers_resume_at_the_servers_and_stay_when_sent_again() {
        let mut window = window(10, 1000);
        window.start_after(5);
        for _ in 0..3 {
            window.admit(message(1));
        }
        window.acknowledge(6).unwrap();
        assert_eq!(window.acknowledged(), 6);
        let numbers: Vec<_> = window
            .unacknowledged()
            .map(|message| {
                parse_batch_metadata(&message.app_metadata)
                    .unwrap()
                    .unwrap()
            })
            .collect();
        assert_eq!(numbers, [7, 8]);
    }
}

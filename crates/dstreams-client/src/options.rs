//! Every bound and timeout of the client, each with its unit and reason.
//!
//! The defaults suit a feed of text lines over a local network: messages of 256 KiB, 16 MiB in flight, reconnecting
//! for up to two minutes.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::protocol::is_token;

/// How a client packs, sends, waits and retries.
///
/// [`Options::default`] has the defaults; what is to be another way is assigned. A time may be `Duration::MAX`: no
/// limit. Waits for an answer are at least a millisecond.
///
/// ```
/// use dstreams_client::Options;
/// use std::time::Duration;
/// let mut options = Options::default();
/// options.linger = Duration::from_millis(1);
/// assert_eq!(options.pack_bytes, 256 * 1024);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "settings do nothing before a client has them"]
pub struct Options {
    /// Bytes of lines after which they are sent as one message. Default 256 KiB: large enough that the cost
    /// of a message (tens of microseconds) vanishes, small enough to stay in a core's cache.
    pub pack_bytes: usize,
    /// Lines after which they are sent as one message. Default 8192, the batch size of DataFusion.
    pub pack_lines: usize,
    /// The longest a line waits for others to share its message. Default 2 ms: a slow feed
    /// is acknowledged within some 5 ms, and a fast one fills its messages sooner.
    pub linger: Duration,
    /// Messages sent and not acknowledged, per sender; `send` waits at this bound. Default 64.
    pub window_messages: usize,
    /// Bytes sent and not acknowledged, per sender; `send` waits at this bound. They are stored for sending again,
    /// so this bounds memory too (two messages more may be ready). Default 16 MiB: enough for a link of 1 GB/s and
    /// 16 ms. A single larger message is sent alone.
    pub window_bytes: usize,
    /// The largest message, in bytes of data. Default 2 MiB. A larger batch is split by rows; a single larger
    /// record is refused. Stay well below the server's limit (its refusal ends the sender).
    pub max_message_bytes: usize,
    /// Timeout for opening a connection to one address. Default 5 s.
    pub connect_timeout: Duration,
    /// Timeout for a master's answer, for the server's first answer on a stream, and for its last. Default 10 s.
    pub open_timeout: Duration,
    /// The longest silence of the server while messages wait for acknowledgement; then the connection counts as
    /// broken. A server under backpressure reports so every 5 s, so a program that is behind does not reach this.
    /// Default 30 s.
    pub ack_timeout: Duration,
    /// How often an idle connection is probed, and how long a probe may take: detects a peer that vanished
    /// silently. Default 10 s.
    pub keep_alive: Duration,
    /// How often and how long to retry a broken connection.
    pub retry: Retry,
    /// The secret shared by a cluster and its clients, sent with every call; `None` (the default) sends none.
    /// Visible ASCII characters. It travels unencrypted: it keeps strangers out of a trusted network, but does not
    /// protect against listeners. Not shown by `Debug`.
    pub token: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pack_bytes: 256 * 1024,
            pack_lines: 8192,
            linger: Duration::from_millis(2),
            window_messages: 64,
            window_bytes: 16 * 1024 * 1024,
            max_message_bytes: 2 * 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            retry: Retry::default(),
            token: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All fields by name, so that none is forgotten.
        let Self {
            pack_bytes,
            pack_lines,
            linger,
            window_messages,
            window_bytes,
            max_message_bytes,
            connect_timeout,
            open_timeout,
            ack_timeout,
            keep_alive,
            retry,
            token,
        } = self;
        f.debug_struct("Options")
            .field("pack_bytes", pack_bytes)
            .field("pack_lines", pack_lines)
            .field("linger", linger)
            .field("window_messages", window_messages)
            .field("window_bytes", window_bytes)
            .field("max_message_bytes", max_message_bytes)
            .field("connect_timeout", connect_timeout)
            .field("open_timeout", open_timeout)
            .field("ack_timeout", ack_timeout)
            .field("keep_alive", keep_alive)
            .field("retry", retry)
            .field("token", &token.as_ref().map(|_| "not shown"))
            .finish()
    }
}

/// Bounded exponential backoff with jitter. Each acknowledgement resets it: a connection that breaks often but
/// makes progress is never given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "settings do nothing before a client has them"]
pub struct Retry {
    /// Rounds of tries without progress before giving up. A round tries every given address, and every worker that
    /// a master names, once; 0 gives up after the round of the first break. So the bound does not depend on the
    /// number of workers. Default 40 per sender.
    pub tries: u32,
    /// Time without progress before giving up, counted from the first failed try. Default 2 min: longer than the
    /// restart of a program.
    pub elapsed: Duration,
    /// The first pause, after the first round. Doubles with each round. Default 50 ms.
    pub first_pause: Duration,
    /// The longest pause. Default 5 s. Each pause is between half and all of its value, at random, so that many
    /// clients do not reconnect at once.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 40,
            elapsed: Duration::from_secs(120),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// Offsets of a text column are 32 bits: no message may come near 2 GiB.
const LARGEST_MESSAGE: usize = 1024 * 1024 * 1024;

/// The longest timer, in place of `Duration::MAX`, which would overflow it.
const LONGEST_TIMER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// The shortest timeout for an answer.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

impl Options {
    /// These options, with longer times reduced to what timers support.
    pub(crate) fn bounded(self) -> Self {
        let bounded = |time: Duration| time.min(LONGEST_TIMER);
        Self {
            linger: bounded(self.linger),
            connect_timeout: bounded(self.connect_timeout),
            open_timeout: bounded(self.open_timeout),
            ack_timeout: bounded(self.ack_timeout),
            keep_alive: bounded(self.keep_alive),
            retry: Retry {
                elapsed: bounded(self.retry.elapsed),
                first_pause: bounded(self.retry.first_pause),
                longest_pause: bounded(self.retry.longest_pause),
                ..self.retry
            },
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = [
            ("pack_bytes", self.pack_bytes),
            ("pack_lines", self.pack_lines),
            ("window_messages", self.window_messages),
            ("window_bytes", self.window_bytes),
            ("max_message_bytes", self.max_message_bytes),
        ];
        let refuse = |detail: String| Err(Error::Options { detail });
        for (name, value) in positive {
            if value == 0 {
                return refuse(format!("{name} is 0, it must be at least 1"));
            }
        }
        let waits = [
            ("connect_timeout", self.connect_timeout),
            ("open_timeout", self.open_timeout),
            ("ack_timeout", self.ack_timeout),
            ("keep_alive", self.keep_alive),
        ];
        for (name, value) in waits {
            if value < SHORTEST_WAIT {
                return refuse(format!(
                    "{name} is {value:?}, it must be at least {SHORTEST_WAIT:?}: no server answers sooner"
                ));
            }
        }
        if self.max_message_bytes > LARGEST_MESSAGE {
            let got = self.max_message_bytes;
            return refuse(format!(
                "max_message_bytes is {got}, at most 1 GiB is possible"
            ));
        }
        if self.pack_bytes > self.max_message_bytes {
            let (pack, max) = (self.pack_bytes, self.max_message_bytes);
            return refuse(format!(
                "pack_bytes ({pack}) is over max_message_bytes ({max})"
            ));
        }
        if self.token.as_deref().is_some_and(|token| !is_token(token)) {
            return Err(self.wrong_token());
        }
        Ok(())
    }

    /// Does not show the token.
    pub(crate) fn wrong_token(&self) -> Error {
        let bytes = self.token.as_ref().map_or(0, String::len);
        let detail = format!(
            "the token ({bytes} bytes) cannot be sent, visible ASCII characters are needed"
        );
        Error::Options { detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_options_are_refused_by_name() {
        Options::default().check().unwrap();
        let cases = [
            (
                Options {
                    window_messages: 0,
                    ..Options::default()
                },
                "window_messages",
            ),
            (
                Options {
                    pack_bytes: 3 << 20,
                    ..Options::default()
                },
                "over max_message_bytes",
            ),
            (
                Options {
                    max_message_bytes: 2 << 30,
                    ..Options::default()
                },
                "1 GiB",
            ),
            (
                Options {
                    keep_alive: Duration::ZERO,
                    ..Options::default()
                },
                "keep_alive is 0ns",
            ),
            (
                Options {
                    ack_timeout: Duration::from_nanos(1),
                    ..Options::default()
                },
                "ack_timeout is 1ns",
            ),
            (
                Options {
                    token: Some(String::new()),
                    ..Options::default()
                },
                "token (0 bytes)",
            ),
        ];
        for (options, wanted) in cases {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error} does not say {wanted}");
        }
    }

    #[test]
    fn the_largest_and_shortest_options_are_accepted() {
        let options = Options {
            pack_bytes: LARGEST_MESSAGE,
            max_message_bytes: LARGEST_MESSAGE,
            keep_alive: SHORTEST_WAIT,
            ..Options::default()
        };
        options.check().unwrap();
    }

    /// Timers overflow beyond that.
    #[test]
    fn endless_times_become_ten_years_and_others_stay() {
        let forever = Options {
            linger: Duration::MAX,
            connect_timeout: Duration::MAX,
            open_timeout: Duration::MAX,
            ack_timeout: Duration::MAX,
            keep_alive: Duration::MAX,
            retry: Retry {
                tries: 3,
                elapsed: Duration::MAX,
                first_pause: Duration::MAX,
                longest_pause: Duration::MAX,
            },
            pack_lines: 7,
            ..Options::default()
        };
        let bounded = forever.bounded();
        let retry = &bounded.retry;
        let times = [
            bounded.linger,
            bounded.connect_timeout,
            bounded.open_timeout,
            bounded.ack_timeout,
            bounded.keep_alive,
            retry.elapsed,
            retry.first_pause,
            retry.longest_pause,
        ];
        assert_eq!(times, [Duration::from_secs(315_360_000); 8]);
        assert_eq!((bounded.pack_lines, retry.tries), (7, 3));
        let usual = format!("{:?}", Options::default());
        assert_eq!(format!("{:?}", Options::default().bounded()), usual);
        assert!(usual.contains("pack_lines: 8192"), "{usual}");
    }

    #[test]
    fn the_token_is_never_shown() {
        let options = Options {
            token: Some("s3cret\n".to_string()),
            ..Options::default()
        };
        assert!(!format!("{options:?}").contains("s3cret"));
        let error = options.check().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}

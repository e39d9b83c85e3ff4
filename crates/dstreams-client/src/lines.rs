//! Sending lines of text.

use std::sync::Arc;

use crate::encode::Encoder;
use crate::error::Error;
use crate::options::Options;
use crate::pack::Slot;
use crate::sender::{Permit, Report, Sender};

/// Sends lines of text to one stream; made by [`Client::lines`](crate::Client::lines).
///
/// Lines arrive in the order in which they were sent, each exactly once as long as this sender lives, whatever
/// happens to the connection or to its worker (a server that forgets its producers may store lines twice that were
/// in flight when it stopped). A line that was taken is not safe until it is acknowledged: [`flush`](Self::flush)
/// or [`finish`](Self::finish) has returned, or [`acknowledged`](Self::acknowledged) has counted it.
///
/// **Dropping it** without `finish` closes the connection at once: unacknowledged lines may or may not be stored,
/// and lines not yet packed are not sent.
///
/// After an error that ends it, each call returns that error again.
#[derive(Debug)]
#[must_use = "send records, then `finish`: only then are they known to be safe"]
pub struct LineSender {
    sender: Sender,
    slot: Arc<Slot>,
    encoder: Encoder,
    max_line: usize,
}

impl LineSender {
    pub(crate) fn new(sender: Sender, slot: Arc<Slot>, options: &Options) -> Self {
        let max_line = options.max_message_bytes;
        Self {
            sender,
            slot,
            encoder: Encoder::new(),
            max_line,
        }
    }

    /// Sends one line as it is: a line end in it is part of the record.
    ///
    /// Returns when the line is taken, which is at once unless the window is full (see [`Options::window_bytes`]).
    /// It is sent with others when a message is full, or after [`Options::linger`]. If the future is dropped before
    /// it is ready, the line was not taken.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if the line alone is over [`Options::max_message_bytes`]; the sender can still be
    /// used. Any other error has ended the sender.
    pub async fn send(&mut self, line: &str) -> Result<(), Error> {
        self.sender.check()?;
        self.check_line(line.len())?;
        let mut pushed = self.slot.push_line(line);
        while pushed.lines == 0 {
            self.hand_over().await?;
            pushed = self.slot.push_line(line);
        }
        self.sender.count_sent(1);
        if pushed.full {
            self.try_hand_over()?;
        }
        Ok(())
    }

    /// Sends a text of whole lines, much faster than line by line; returns how many lines it had.
    ///
    /// Lines end with `\n` or `\r\n`, which are not part of the record; the last one needs no end. So split a
    /// larger text only after line ends. Waits as [`send`](Self::send) does. If the future is dropped before it is
    /// ready, the first lines may have been taken; [`sent`](Self::sent) says how many.
    ///
    /// # Errors
    ///
    /// [`Error::NotText`] and [`Error::TooLarge`], for the text as a whole: none of it was taken, the sender can
    /// still be used. Any other error has ended the sender.
    pub async fn send_text(&mut self, text: &[u8]) -> Result<u64, Error> {
        self.sender.check()?;
        let mut rest = std::str::from_utf8(text).map_err(|error| Error::NotText {
            valid_up_to: error.valid_up_to(),
        })?;
        if text.len() > self.max_line {
            let lengths = text.split(|byte| *byte == b'\n').map(<[u8]>::len);
            self.check_line(lengths.max().unwrap_or(0))?;
        }
        let mut lines = 0;
        while !rest.is_empty() {
            let pushed = self.slot.push_text(rest);
            self.sender.count_sent(pushed.lines);
            lines += pushed.lines;
            rest = rest.get(pushed.bytes..).unwrap_or_default();
            if !rest.is_empty() {
                self.hand_over().await?;
            } else if pushed.full {
                self.try_hand_over()?;
            }
        }
        Ok(lines)
    }

    /// Sends the lines packed so far and waits until every line is acknowledged.
    ///
    /// # Errors
    ///
    /// The error that ended the sender; [`Error::tally`] says how many lines were safe then.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.hand_over().await?;
        self.sender.all_acknowledged().await
    }

    /// [`flush`](Self::flush), then closes the stream gracefully.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub async fn finish(mut self) -> Result<Report, Error> {
        self.flush().await?;
        Ok(self.sender.close().await)
    }

    /// Lines taken so far.
    pub fn sent(&self) -> u64 {
        self.sender.sent()
    }

    /// Lines that are safe so far; never counts one that is not. Cheap enough for a progress bar.
    pub fn acknowledged(&self) -> u64 {
        self.sender.acknowledged()
    }

    /// The numbers so far.
    pub fn report(&self) -> Report {
        self.sender.report()
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        self.sender.stream()
    }

    /// The sender's unique random name: find it in the server's log.
    pub fn producer(&self) -> &str {
        self.sender.producer()
    }

    fn check_line(&self, bytes: usize) -> Result<(), Error> {
        let limit = self.max_line;
        if bytes > limit {
            Err(Error::TooLarge { bytes, limit })
        } else {
            Ok(())
        }
    }

    /// Waits until the pack can go, then takes and sends it. Cancelled, it leaves the pack in place.
    async fn hand_over(&mut self) -> Result<(), Error> {
        let permit = self.sender.permit().await?;
        send_pack(&self.slot, &mut self.encoder, permit).map_err(|error| self.sender.end(error))
    }

    /// Sends a full pack if that needs no waiting; otherwise the task takes it when there is room.
    fn try_hand_over(&mut self) -> Result<(), Error> {
        let Some(permit) = self.sender.try_permit() else {
            self.slot.notify_full();
            return Ok(());
        };
        send_pack(&self.slot, &mut self.encoder, permit).map_err(|error| self.sender.end(error))
    }
}

fn send_pack(slot: &Slot, encoder: &mut Encoder, permit: Permit<'_>) -> Result<(), Error> {
    if let Some(batch) = slot.take() {
        permit.send(vec![encoder.encode(&batch?)?]);
    }
    Ok(())
}

//! Lines on their way into a message: filled by the sender, emptied by the sender when full and by the background
//! task when they have lingered.
//!
//! A slow feed stops calling, so the task must be able to take the rest: hence one lock, held for one append and
//! contended only when a pack is taken (a call with a whole chunk locks it once).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayBuilder, ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::SchemaRef;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::options::Options;
use crate::protocol::lines_schema;

/// The one pack that is open.
#[derive(Debug)]
pub(crate) struct Slot {
    pack: Mutex<Pack>,
    /// The pack was opened, or filled and not taken.
    changed: Notify,
    linger: Duration,
    pack_bytes: usize,
    pack_lines: usize,
    schema: SchemaRef,
}

#[derive(Debug)]
struct Pack {
    lines: StringBuilder,
    bytes: usize,
    opened: Option<Instant>,
}

/// An offset of the Utf8 column: the cost of a line beside its text.
const OFFSET_BYTES: usize = 4;

/// The result of a push.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Lines taken.
    pub(crate) lines: u64,
    /// Bytes of the text that were taken, line ends included.
    pub(crate) bytes: usize,
    /// The pack is full: take it before pushing more.
    pub(crate) full: bool,
}

impl Slot {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            pack: Mutex::new(Pack {
                lines: StringBuilder::new(),
                bytes: 0,
                opened: None,
            }),
            changed: Notify::new(),
            linger: options.linger,
            pack_bytes: options.pack_bytes,
            pack_lines: options.pack_lines,
            schema: lines_schema(),
        }
    }

    /// Takes one line as it is, unless the pack has lines and no room for it.
    pub(crate) fn push_line(&self, line: &str) -> Pushed {
        let mut pack = self.lock();
        let taken = self.append(&mut pack, line);
        let full = !taken || self.is_full(&pack);
        Pushed {
            lines: u64::from(taken),
            bytes: if taken { line.len() } else { 0 },
            full,
        }
    }

    /// Takes lines from the start of a text until the pack is full.
    pub(crate) fn push_text(&self, text: &str) -> Pushed {
        let mut pack = self.lock();
        let mut pushed = Pushed::default();
        while !pushed.full && pushed.bytes < text.len() {
            let rest = text.get(pushed.bytes..).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest.as_bytes());
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            if self.append(&mut pack, line.strip_suffix('\r').unwrap_or(line)) {
                pushed.lines += 1;
                pushed.bytes += end.map_or(rest.len(), |end| end + 1);
                pushed.full = self.is_full(&pack);
            } else {
                pushed.full = true;
            }
        }
        pushed
    }

    fn append(&self, pack: &mut Pack, line: &str) -> bool {
        let bytes = line.len() + OFFSET_BYTES;
        let first = pack.opened.is_none();
        if !first && (pack.bytes + bytes > self.pack_bytes || self.is_full(pack)) {
            return false;
        }
        pack.lines.append_value(line);
        pack.bytes += bytes;
        if first {
            pack.opened = Some(Instant::now());
            self.changed.notify_one();
        }
        true
    }

    fn is_full(&self, pack: &Pack) -> bool {
        pack.bytes >= self.pack_bytes || pack.lines.len() >= self.pack_lines
    }

    /// The pack is full, and the sender could not take it: let the task do it.
    pub(crate) fn notify_full(&self) {
        self.changed.notify_one();
    }

    /// The lines so far, as a batch; `None` if there are none.
    pub(crate) fn take(&self) -> Option<Result<RecordBatch, Error>> {
        self.take_after(|| ())
    }

    /// The same. `before` runs first; until the pack is taken no line is added and no other pack is taken.
    pub(crate) fn take_after(&self, before: impl FnOnce()) -> Option<Result<RecordBatch, Error>> {
        let mut lines = {
            let mut pack = self.lock();
            pack.opened?;
            before();
            pack.opened = None;
            let bytes = std::mem::take(&mut pack.bytes);
            // The next pack will probably be as large.
            let next = StringBuilder::with_capacity(pack.lines.len(), bytes);
            std::mem::replace(&mut pack.lines, next)
        };
        let column: ArrayRef = Arc::new(lines.finish());
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![column]);
        Some(batch.map_err(Error::from))
    }

    /// Waits until the pack is due: its oldest line has lingered, or it is full.
    pub(crate) async fn due(&self) {
        loop {
            match self.due_at() {
                None => self.changed.notified().await,
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn due_at(&self) -> Option<Instant> {
        let pack = self.lock();
        let opened = pack.opened?;
        Some(if self.is_full(&pack) {
            opened
        } else {
            opened + self.linger
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pack> {
        self.pack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    fn slot(pack_bytes: usize, pack_lines: usize) -> Slot {
        Slot::new(&Options {
            pack_bytes,
            pack_lines,
            ..Options::default()
        })
    }

    fn taken(slot: &Slot) -> Vec<String> {
        let Some(batch) = slot.take() else {
            return Vec::new();
        };
        let batch = batch.unwrap();
        let lines = batch.column(0).as_string::<i32>().iter();
        lines.map(|line| line.unwrap().to_string()).collect()
    }

    #[test]
    fn a_pack_is_full_by_lines_and_by_bytes() {
        let by_lines = slot(1000, 2);
        assert!(!by_lines.push_line("a").full);
        assert_eq!(
            by_lines.push_line("b"),
            Pushed {
                lines: 1,
                bytes: 1,
                full: true
            }
        );
        assert_eq!(
            by_lines.push_line("c"),
            Pushed {
                lines: 0,
                bytes: 0,
                full: true
            }
        );
        assert_eq!(taken(&by_lines), ["a", "b"]);
        assert!(taken(&by_lines).is_empty());

        let by_bytes = slot(20, 1000);
        assert!(!by_bytes.push_line("123456").full);
        assert_eq!(
            by_bytes.push_line("1234567").lines,
            0,
            "over 20 bytes with the offsets"
        );
        assert!(by_bytes.push_line("123456").full, "exactly 20 bytes");
        assert_eq!(taken(&by_bytes), ["123456", "123456"]);
        assert!(
            by_bytes.push_line(&"x".repeat(100)).full,
            "a long line goes alone"
        );
    }

    #[test]
    fn text_is_split_at_line_ends_and_continues_after_a_full_pack() {
        let slot = slot(1000, 3);
        let text = "one\r\n\ntwo \r x\nthree\nlast";
        let first = slot.push_text(text);
        assert_eq!(
            first,
            Pushed {
                lines: 3,
                bytes: 14,
                full: true
            }
        );
        assert_eq!(taken(&slot), ["one", "", "two \r x"]);
        let second = slot.push_text(&text[first.bytes..]);
        assert_eq!(
            second,
            Pushed {
                lines: 2,
                bytes: text.len() - 14,
                full: false
            }
        );
        assert_eq!(taken(&slot), ["three", "last"]);
        assert_eq!(slot.push_text(""), Pushed::default());
    }

    async fn soon(due: impl Future<Output = ()>) {
        let waited = tokio::time::timeout(Duration::from_secs(20), due).await;
        assert!(waited.is_ok(), "the pack is never due");
    }

    #[tokio::test]
    async fn a_pack_is_due_after_the_linger_or_when_left_full() {
        let slot = slot(1000, 2);
        let start = Instant::now();
        slot.push_line("a");
        slot.due().await;
        assert!(
            start.elapsed() >= Options::default().linger,
            "{:?}",
            start.elapsed()
        );
        assert_eq!(taken(&slot), ["a"]);
        assert!(
            futures::poll!(std::pin::pin!(slot.due())).is_pending(),
            "an empty pack is not due"
        );

        let hour = Duration::from_secs(3600);
        let slot = Slot::new(&Options {
            linger: hour,
            pack_lines: 2,
            ..Options::default()
        });
        slot.push_line("a");
        let mut due = std::pin::pin!(slot.due());
        assert!(futures::poll!(&mut due).is_pending());
        slot.push_line("b");
        slot.notify_full();
        soon(due).await;
        assert_eq!(taken(&slot), ["a", "b"]);
    }
}

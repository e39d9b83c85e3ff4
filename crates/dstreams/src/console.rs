//! [`Console`]: standard output or standard error, each written by its own thread.
//!
//! A stopped terminal, or a pipe that nobody reads, blocks a write indefinitely. Here that blocks only one thread,
//! and the end of the process does not wait for it. The queue is bounded: [`Console::line`] waits for room,
//! [`Console::offer`] drops and counts what does not fit.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::debug::debug_as;
use tokio::sync::Notify;

/// Most bytes that wait to be written: as many as a pipe buffers. A larger piece waits alone.
const QUEUE_BYTES: usize = 64 << 10;
/// How long an offer waits until it is written, if the previous one was written in time: so the last message before
/// a process ends is seen.
const OFFER_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause before a retry, if another process has made the file non-blocking.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Standard output or error, written by its own thread: a slow or absent reader blocks nothing else.
pub struct Console(Arc<Shared>);

debug_as!(Console);

struct Shared {
    queue: Mutex<ConsoleQueue>,
    /// Notified when something is queued, or was written.
    moved: Condvar,
    /// Notified when something was written, or writing has failed.
    written: Notify,
}

#[derive(Default)]
struct ConsoleQueue {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the queued pieces, and of the one that is being written.
    bytes: usize,
    /// Whether a piece is being written.
    writing: bool,
    /// Why nothing can be written any more.
    failed: Option<ErrorKind>,
    /// The last offer was not written in time.
    stuck: bool,
    /// Number of dropped offers.
    dropped: u64,
}

impl ConsoleQueue {
    fn waiting(&self) -> usize {
        self.pieces.len() + usize::from(self.writing)
    }
}

impl Console {
    /// Standard output.
    pub fn stdout() -> &'static Console {
        static STDOUT: OnceLock<Console> = OnceLock::new();
        STDOUT.get_or_init(|| Console::over("stdout", io::stdout()))
    }

    /// Standard error.
    pub fn stderr() -> &'static Console {
        static STDERR: OnceLock<Console> = OnceLock::new();
        STDERR.get_or_init(|| Console::over("stderr", io::stderr()))
    }

    fn over(name: &str, to: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            moved: Condvar::new(),
            written: Notify::new(),
        });
        let console = Console(Arc::clone(&shared));
        let thread = thread::Builder::new().name(format!("dstreams-{name}"));
        if let Err(error) = thread.spawn(move || shared.write(to)) {
            console.lock().failed = Some(error.kind());
        }
        console
    }

    fn lock(&self) -> MutexGuard<'_, ConsoleQueue> {
        self.0.lock()
    }

    /// Queues a line when there is room. Cancellation-safe: a cancelled call queues nothing. Fails if standard
    /// output is closed, such as a pipe without reader.
    pub async fn line(&self, line: impl Display) -> io::Result<()> {
        let mut piece = Some(format!("{line}\n").into_bytes());
        self.until(move |queue| {
            let length = piece.as_ref().map_or(0, Vec::len);
            let room = queue.waiting() == 0 || queue.bytes + length <= QUEUE_BYTES;
            if room && let Some(piece) = piece.take() {
                queue.bytes += length;
                queue.pieces.push_back(piece);
            }
            room
        })
        .await
    }

    /// Waits until everything in the queue is written. Cancellation-safe.
    pub async fn written(&self) -> io::Result<()> {
        self.until(|queue| queue.waiting() == 0).await
    }

    async fn until(&self, mut condition: impl FnMut(&mut ConsoleQueue) -> bool) -> io::Result<()> {
        loop {
            let mut written = pin!(self.0.written.notified());
            written.as_mut().enable();
            {
                let mut queue = self.lock();
                if let Some(failed) = queue.failed {
                    return Err(failed.into());
                }
                if condition(&mut queue) {
                    self.0.moved.notify_all();
                    return Ok(());
                }
            }
            written.await;
        }
    }

    /// Queues bytes if there is room; otherwise they are dropped, which is reported when there is room again.
    /// Blocks for a fifth of a second at most, and not at all while nobody reads.
    pub fn offer(&self, piece: impl Into<Vec<u8>>) {
        let piece = piece.into();
        let mut queue = self.lock();
        if queue.failed.is_some() || piece.is_empty() {
            return;
        }
        if queue.waiting() > 0 && queue.bytes + piece.len() > QUEUE_BYTES {
            queue.dropped += 1;
            return;
        }
        queue.bytes += piece.len();
        queue.pieces.push_back(piece);
        self.0.moved.notify_all();
        if !queue.stuck {
            drop(queue);
            let written = self.settle(OFFER_TIMEOUT);
            self.lock().stuck = !written;
        }
    }

    /// Blocks until everything is written and returns `true`, or returns `false` after `most`.
    pub fn settle(&self, most: Duration) -> bool {
        let begun = Instant::now();
        let mut queue = self.lock();
        while queue.waiting() > 0 && queue.failed.is_none() {
            let Some(left) = most.checked_sub(begun.elapsed()) else {
                return false;
            };
            let waited = self.0.moved.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Number of pieces that are not written yet.
    pub fn waiting(&self) -> usize {
        self.lock().waiting()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ConsoleQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop of the thread.
    fn write(&self, mut to: impl Write) {
        loop {
            let piece = self.next();
            let length = piece.len();
            let done = write_all(&mut to, &piece);
            let mut queue = self.lock();
            queue.writing = false;
            queue.bytes -= length;
            queue.stuck = false;
            if let Err(error) = &done {
                queue.failed = Some(error.kind());
                queue.pieces.clear();
            } else if queue.dropped > 0 {
                let dropped = std::mem::take(&mut queue.dropped);
                let line = format!("{dropped} line(s) were dropped here: nobody read them\n");
                queue.bytes += line.len();
                queue.pieces.push_back(line.into_bytes());
            }
            drop(queue);
            self.moved.notify_all();
            self.written.notify_waiters();
            if done.is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(piece) = queue.pieces.pop_front() {
                queue.writing = true;
                return piece;
            }
            queue = self
                .moved
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_all(to: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(error) => return Err(error),
        }
    }
    loop {
        match to.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, pipe};

    use futures::FutureExt;

    use super::*;

    fn console() -> (Console, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Console::over("test", writer), reader)
    }

    /// Queues lines until one has to wait, and nothing is being written.
    fn fill(console: &Console) {
        let line = "x".repeat(999);
        let full = || console.line(&line).now_or_never().is_none();
        // The thread may still be writing.
        while !full() || console.settle(Duration::from_millis(50)) || !full() {}
    }

    #[tokio::test]
    async fn a_line_waits_for_room_and_none_is_lost() {
        let (console, reader) = console();
        fill(&console);
        let waiting = console.waiting();
        assert!(
            (50..200).contains(&waiting),
            "{waiting} lines of 1000 bytes"
        );
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let reads = thread::spawn(|| lines.take_while(|line| line != "the last").count());
        console.line("the last").await.unwrap();
        console.written().await.unwrap();
        assert_eq!(console.waiting(), 0);
        assert!(reads.join().unwrap() > waiting);
    }

    #[test]
    fn offers_do_not_block_and_dropped_ones_are_counted() {
        let (console, reader) = console();
        fill(&console);
        for _ in 0..1000 {
            console.offer("y".repeat(1000) + "\n");
        }
        assert!(console.waiting() < 200);
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let said = lines.find(|line| line.contains("dropped")).unwrap();
        let dropped: u64 = said.split(' ').next().unwrap().parse().unwrap();
        assert!((900..=1000).contains(&dropped), "{said}");
        // Somebody reads again: an offer is written when the call returns.
        console.offer("z\n");
        assert_eq!(lines.next().unwrap(), "z");
    }

    #[tokio::test]
    async fn a_closed_pipe_fails_waiting_calls() {
        let (console, reader) = console();
        fill(&console);
        let line = "x".repeat(999);
        let waits = async { console.line(&line).await.map_err(|error| error.kind()) };
        let (waited, ()) = tokio::join!(waits, async { drop(reader) });
        assert_eq!(waited, Err(ErrorKind::BrokenPipe));
        assert!(console.settle(Duration::ZERO));
        console.offer("nothing");
        assert_eq!(console.waiting(), 0);
    }
}

//! [`Bar`]: a progress bar on standard error, if that is a terminal.
//!
//! A separate thread draws it, so that a stopped terminal does not block sending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// How long clearing the bar may take.
const CLEAR_TIMEOUT: Duration = Duration::from_millis(200);

/// A progress bar on standard error.
pub struct Bar {
    progress: Arc<Progress>,
    /// Dropping the sender ends the thread; the receiver then disconnects.
    drawn: Option<(Sender<()>, Receiver<()>)>,
}

#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Bar {
    /// A bar for `size` bytes, if that is known.
    pub fn new(size: Option<u64>) -> Self {
        let template = match size {
            Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {msg}",
            None => "{spinner} {bytes}, {bytes_per_sec}, {msg}",
        };
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let progress = Arc::<Progress>::default();
        let drawn = (!bar.is_hidden()).then(|| {
            let ((end, ended), (tell, cleared)) = (channel(), channel());
            let progress = Arc::clone(&progress);
            // Without a thread there is no bar.
            let thread = thread::Builder::new().name("bar".to_owned());
            drop(thread.spawn(move || {
                draw(&bar, &progress, &ended);
                drop(tell);
            }));
            (end, cleared)
        });
        Bar { progress, drawn }
    }

    /// Adds bytes, and sets the total numbers of lines.
    pub fn moved(&self, bytes: u64, sent: u64, acknowledged: u64) {
        self.progress.bytes.fetch_add(bytes, Relaxed);
        self.progress.sent.store(sent, Relaxed);
        self.progress.acknowledged.store(acknowledged, Relaxed);
    }

    /// Removes the bar, before something else is printed.
    pub fn clear(&mut self) {
        if let Some((end, cleared)) = self.drawn.take() {
            drop(end);
            let _: Result<(), _> = cleared.recv_timeout(CLEAR_TIMEOUT);
        }
    }
}

fn draw(bar: &ProgressBar, progress: &Progress, ended: &Receiver<()>) {
    while ended.recv_timeout(DRAW_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let (sent, safe) = (
            progress.sent.load(Relaxed),
            progress.acknowledged.load(Relaxed),
        );
        bar.set_position(progress.bytes.load(Relaxed));
        bar.set_message(format!("{sent} lines, {safe} acknowledged"));
        bar.tick();
    }
    bar.finish_and_clear();
}

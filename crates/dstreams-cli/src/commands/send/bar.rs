//! [`Bar`]: how far sending has come, on standard error, if that is a terminal.
//!
//! It is drawn by a thread of its own: a terminal that is stopped holds up nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(100);
/// How long its last line may take to go.
const GOES: Duration = Duration::from_millis(200);

/// A progress bar on standard error.
pub struct Bar {
    progress: Arc<Progress>,
    /// Ends the thread when it is dropped; what comes back is the end of it.
    drawn: Option<(Sender<()>, Receiver<()>)>,
}

#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Bar {
    /// Of `size` bytes, if that is known.
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
            let ((end, ended), (tell, told)) = (channel(), channel());
            let progress = Arc::clone(&progress);
            // Without a thread there is no bar.
            let thread = thread::Builder::new().name("bar".to_owned());
            drop(thread.spawn(move || {
                draw(&bar, &progress, &ended);
                drop(tell);
            }));
            (end, told)
        });
        Bar { progress, drawn }
    }

    /// So many bytes more, so many lines in all.
    pub fn moved(&self, bytes: u64, sent: u64, acknowledged: u64) {
        self.progress.bytes.fetch_add(bytes, Relaxed);
        self.progress.sent.store(sent, Relaxed);
        self.progress.acknowledged.store(acknowledged, Relaxed);
    }

    /// Takes it away, before something else is printed.
    pub fn clear(&mut self) {
        if let Some((end, told)) = self.drawn.take() {
            drop(end);
            let _: Result<(), _> = told.recv_timeout(GOES);
        }
    }
}

fn draw(bar: &ProgressBar, progress: &Progress, ended: &Receiver<()>) {
    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
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

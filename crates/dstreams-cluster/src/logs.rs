//! What happens, on standard error: for people who run a cluster.

use std::io;

use dstreams::internal::Console;
use tracing::Level;
use tracing_subscriber::fmt;

/// Writes what the library and the engine say to standard error, from the level that the
/// environment variable `DSTREAMS_LOG` names on: `error`, `warn` (the default), `info`, `debug`.
/// Without effect when something else listens already. Lines that nobody reads are left out and counted: they hold
/// nothing up.
pub fn to_stderr() {
    let level = std::env::var("DSTREAMS_LOG").ok();
    let level = level
        .and_then(|level| level.parse().ok())
        .unwrap_or(Level::WARN);
    let subscriber = fmt::fmt()
        .with_max_level(level)
        .with_writer(|| Lines)
        .with_target(true)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // What the engine says of a lost worker is an error to it, and everyday life here.
        let engine = match level {
            Level::ERROR | Level::WARN => log::LevelFilter::Off,
            Level::INFO => log::LevelFilter::Warn,
            _ => log::LevelFilter::Info,
        };
        log::set_max_level(engine);
        let _ = log::set_logger(&EngineFilter);
    }
}

/// Each line, as a whole.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Console::stderr().offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the engine says.
struct EngineFilter;

impl log::Log for EngineFilter {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let (module, said) = (record.target(), record.args());
            match record.level() {
                log::Level::Error => tracing::error!(module, "{said}"),
                log::Level::Warn => tracing::warn!(module, "{said}"),
                _ => tracing::info!(module, "{said}"),
            }
        }
    }

    fn flush(&self) {}
}

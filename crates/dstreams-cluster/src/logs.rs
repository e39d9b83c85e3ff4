//! The log on standard error, for operators of a cluster.

use std::io;

use dstreams::internal::Console;
use tracing::Level;
use tracing_subscriber::fmt;

/// Logs events of the library and the engine to standard error, from the level in the environment
/// variable `DSTREAMS_LOG` upwards: `error`, `warn` (the default), `info`, `debug`.
/// Without effect if a subscriber is installed already. Never blocks: lines that nobody reads are dropped and counted.
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
        // The engine logs a lost worker as an error; here it is routine.
        let engine = match level {
            Level::ERROR | Level::WARN => log::LevelFilter::Off,
            Level::INFO => log::LevelFilter::Warn,
            _ => log::LevelFilter::Info,
        };
        log::set_max_level(engine);
        let _ = log::set_logger(&EngineFilter);
    }
}

/// Writes whole lines.
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

/// Forwards the engine's log lines.
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

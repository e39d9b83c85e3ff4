//! [`MasterOptions`]: the options of a master.

use std::fmt;

use std::time::Duration;

use dstreams::{Error, Result};
use dstreams_control::cluster::SpeculationConfig;

use crate::data::{check_advertised, check_exposure};

/// Default of [`MasterOptions::silence`].
pub const SILENCE: Duration = Duration::from_secs(2);
/// Default of [`MasterOptions::lease`].
const LEASE: Duration = Duration::from_secs(5);
/// The shortest lease.
const MIN_LEASE: Duration = Duration::from_secs(1);
/// The shortest silence: ticks of 10 ms, in which every live process answers.
const MIN_SILENCE: Duration = Duration::from_millis(200);
/// The longest silence, and the longest lease.
const MAX_SILENCE: Duration = Duration::from_secs(3600);

/// The options of a master.
#[derive(Clone)]
#[non_exhaustive]
#[must_use = "settings do nothing before a master has them"]
pub struct MasterOptions {
    /// Address on which it listens for workers and clients; port 0 takes a free one. Default: loopback.
    pub listen: String,
    /// Address at which others reach it, if not the one it listens on; required if it listens on every address
    /// of the machine. Port 0 means the port it listens on.
    pub advertise: Option<String>,
    /// Workers to wait for before the first batch. Default: 1.
    pub workers: usize,
    /// Partitions of keyed data, and tasks of a large batch; the same for the life of the program.
    /// Default: the cores of the workers at the start, at least 2.
    pub partitions: Option<usize>,
    /// Workers that store each block: 1 or 2. Default: 2, so that acknowledged records survive the
    /// loss of any one worker. With 1, or while there is only one worker, they do not.
    pub copies: usize,
    /// Workers that follow the primary of each partition of state: 1 or 0. Default: 1, which takes over at once when the
    /// primary is lost. With 0, only for programs in a directory, states take half the memory and work; but after each
    /// loss the whole state is rebuilt from the newest checkpoint and the batches since, and batches wait for that.
    pub standbys: usize,
    /// The secret of the cluster; required beyond loopback. Not shown by `Debug`.
    pub token: Option<String>,
    /// Time within which a worker is given up that says nothing (stopped, hung, cut off), or does not answer since it
    /// does not hear the master (cut off one way). The end of a process is noticed at once. Time in which the master
    /// itself stalls or sleeps does not count. From 200 ms to an hour. Default: 2 s.
    ///
    /// A worker that answers within nine tenths of it is never given up. One that is given up and runs on joins again
    /// as another one, with nothing: make it longer where machines swap or are migrated.
    pub silence: Duration,
    /// When a slow task is run once more on another worker; the result of the first one counts. Only tasks that do not
    /// work on state. A worker whose tasks lose to their copies again and again gets neither tasks nor state for a while.
    /// Default: `None`, never. The defaults of [`SpeculationConfig`] are the paper's: 1.4 times the median of the stage's
    /// tasks.
    pub speculation: Option<SpeculationConfig>,
    /// Time after which a standby ([`Master::stand_by`](crate::Master::stand_by)) gives up this master if it renews nothing
    /// in the directory of the program: its machine is gone, or it is stopped. The end of its process on the standby's machine
    /// is noticed within a fifth of it. From 1 s to an hour. Default: 5 s.
    ///
    /// It is of the master that leads, whatever its standbys have. Shorter than a pause of the file system, it changes
    /// masters in vain; nothing is lost thereby.
    pub lease: Duration,
    /// Arguments of the program, which workers get from the master.
    pub arguments: Vec<String>,
}

impl fmt::Debug for MasterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Destructured, so that no field is forgotten.
        let Self {
            listen,
            workers,
            partitions,
            copies,
            standbys,
            token,
            advertise,
            silence,
            speculation,
            lease,
            arguments,
        } = self;
        f.debug_struct("MasterOptions")
            .field("listen", listen)
            .field("workers", workers)
            .field("partitions", partitions)
            .field("copies", copies)
            .field("standbys", standbys)
            .field("token", &token.as_ref().map(|_| "not shown"))
            .field("advertise", advertise)
            .field("silence", silence)
            .field("speculation", speculation)
            .field("lease", lease)
            .field("arguments", arguments)
            .finish()
    }
}

impl Default for MasterOptions {
    fn default() -> Self {
        MasterOptions {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            workers: 1,
            partitions: None,
            copies: 2,
            standbys: 1,
            token: None,
            silence: SILENCE,
            speculation: None,
            lease: LEASE,
            arguments: Vec::new(),
        }
    }
}

impl MasterOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |setting, message: String| Err(Error::Config { setting, message });
        if self.workers == 0 {
            return wrong(
                "workers",
                "0 does not fit; a program needs 1 or more".into(),
            );
        }
        if !(1..=2).contains(&self.copies) {
            let copies = self.copies;
            return wrong(
                "copies",
                format!("{copies} does not fit; it must be 1 or 2"),
            );
        }
        if self.standbys > 1 {
            let standbys = self.standbys;
            return wrong(
                "standbys",
                format!("{standbys} does not fit; it must be 0 or 1"),
            );
        }
        if self.partitions.is_some_and(|n| n == 0 || n > 128) {
            return wrong(
                "partitions",
                "it must be 1 to 128, the number of shards".into(),
            );
        }
        if !(MIN_SILENCE..=MAX_SILENCE).contains(&self.silence) {
            let silence = self.silence;
            return wrong(
                "silence",
                format!("{silence:?} does not fit; it must be 200 ms to an hour"),
            );
        }
        if !(MIN_LEASE..=MAX_SILENCE).contains(&self.lease) {
            let lease = self.lease;
            return wrong(
                "lease",
                format!("{lease:?} does not fit; it must be 1 s to an hour"),
            );
        }
        if let Some(speculation) = &self.speculation {
            check_speculation(speculation)?;
        }
        check_exposure("master", &self.listen, self.token.as_deref())?;
        check_advertised("master", &self.listen, self.advertise.as_deref())
    }
}

fn check_speculation(config: &SpeculationConfig) -> Result<()> {
    let (multiplier, share, copies) = (config.multiplier, config.share, config.copies);
    let fits = [
        (
            "multiplier",
            multiplier,
            1.0 <= multiplier && multiplier.is_finite(),
            "1 or more",
        ),
        (
            "share",
            share,
            0.0 < share && share <= 1.0,
            "above 0, at most 1",
        ),
        ("copies", copies, (0.0..=1.0).contains(&copies), "0 to 1"),
        ("slow", config.slow.into(), config.slow > 0, "1 or more"),
        (
            "rest",
            config.rest.as_secs_f64(),
            !config.rest.is_zero(),
            "above 0",
        ),
    ];
    match fits.into_iter().find(|(_, _, fits, _)| !fits) {
        None => Ok(()),
        Some((name, value, _, range)) => Err(Error::Config {
            setting: "speculation",
            message: format!("a {name} of {value} does not fit; it must be {range}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerOptions;

    #[test]
    fn the_token_is_never_shown() {
        let token = Some("s3cret".to_owned());
        let mut worker = WorkerOptions::new("127.0.0.1:1");
        worker.token = token.clone();
        let master = MasterOptions {
            token,
            ..MasterOptions::default()
        };
        let shown = format!("{master:?} {worker:?}");
        assert!(
            !shown.contains("s3cret") && shown.contains("not shown"),
            "{shown}"
        );
    }
}

//! All schedules of a small model of the processes that lead a program one after the other: of its lock, and of the journal
//! of the master.
//!
//! A standby may take over at any time: whether the leader is lost, is not known for certain. It puts its name into the lock,
//! reads the journal, looks whether its name is still there, and begins the next file, which says how much of the file before
//! it counts. If that file is there, it reads again. A leader writes entries, looks whether its name is still in the lock,
//! and acknowledges what it wrote before that. Any process may stop between any two of these steps, for as long as it takes
//! the others to do anything, and then go on.
//!
//! Not in the model: when a standby takes over (`LeaseWatch` has tests of its own), checkpoints, the journals of workers,
//! and that files are removed.
//!
//! | sabotage | found by |
//! |---|---|
//! | entries are acknowledged without a look; a look counts for what is written after it | lost |
//! | the journal is read before the name is in the lock; a file is begun without a look | lost |
//! | what a former leader wrote too late is read by later processes | lost |
//! | a file is begun in the place of one that is there | lost |

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeSet, VecDeque};

/// Processes of a schedule; the first leads at the beginning.
const PROCESSES: usize = 3;
/// Entries that each writes at most.
const ENTRIES: u8 = 2;

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Fault {
    AcknowledgedWithoutLook,
    LookBeforeWrite,
    ReadBeforeName,
    BegunWithoutLook,
    LateBytesCount,
    FilesAreReplaced,
}

const FAULTS: &[Fault] = &[
    Fault::AcknowledgedWithoutLook,
    Fault::LookBeforeWrite,
    Fault::ReadBeforeName,
    Fault::BegunWithoutLook,
    Fault::LateBytesCount,
    Fault::FilesAreReplaced,
];

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Action {
    /// A standby puts its name into the lock.
    Take,
    Read,
    /// It begins its file of the journal, and leads.
    Begin,
    Write,
    /// A leader looks at the lock.
    Look,
    Acknowledge,
}

const ACTIONS: [Action; 6] = [
    Action::Take,
    Action::Read,
    Action::Begin,
    Action::Write,
    Action::Look,
    Action::Acknowledge,
];

/// A process, and the how-manieth of its entries.
type Entry = (usize, u8);

/// A process that has read the journal.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct Reader {
    log: Vec<Entry>,
    /// The length of the last file.
    last: usize,
    files: usize,
    /// Whether its name was in the lock afterwards.
    looked: bool,
}

#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct Leader {
    file: usize,
    /// All entries that it knows, its own at the end.
    log: Vec<Entry>,
    written: u8,
    /// Entries that may be acknowledged: those written before its name was there.
    safe: usize,
    looked: bool,
}

#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
enum Process {
    Standby,
    /// Its name is in the lock, or was.
    Named,
    Reader(Reader),
    Leader(Leader),
    /// It has found that it was replaced.
    Ended,
}

#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct File {
    /// How much of the file before it counts.
    before: usize,
    entries: Vec<Entry>,
}

#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct World {
    lock: usize,
    files: Vec<File>,
    processes: Vec<Process>,
    acknowledged: Vec<Entry>,
}

impl World {
    fn new() -> Self {
        let mut processes = vec![Process::Standby; PROCESSES];
        processes[0] = Process::Leader(Leader {
            file: 0,
            log: Vec::new(),
            written: 0,
            safe: 0,
            looked: false,
        });
        let first = File {
            before: 0,
            entries: Vec::new(),
        };
        World {
            lock: 0,
            files: vec![first],
            processes,
            acknowledged: Vec::new(),
        }
    }

    /// The journal as a process reads it now, and the length of its last file.
    fn journal(&self, fault: Option<Fault>) -> (Vec<Entry>, usize) {
        let mut log = Vec::new();
        for (at, file) in self.files.iter().enumerate() {
            let counts = match self.files.get(at + 1) {
                Some(next) if fault != Some(Fault::LateBytesCount) => next.before,
                _ => file.entries.len(),
            };
            log.extend(&file.entries[..counts]);
        }
        (log, self.files.last().map_or(0, |file| file.entries.len()))
    }

    /// Takes an action of a process; `None` if it cannot.
    fn take(&self, at: usize, action: Action, fault: Option<Fault>) -> Option<Self> {
        let mut next = self.clone();
        let read_first = fault == Some(Fault::ReadBeforeName);
        let owns = self.lock == at;
        next.processes[at] = match (action, self.processes[at].clone()) {
            (Action::Take, Process::Standby) if !read_first => {
                next.lock = at;
                Process::Named
            }
            (Action::Read, Process::Named) => self.reader(fault),
            // Sabotage: its name is in the lock once it has read.
            (Action::Read, Process::Standby) if read_first => self.reader(fault),
            (Action::Take, Process::Reader(reader)) if read_first && !reader.looked => {
                next.lock = at;
                Process::Reader(Reader {
                    looked: true,
                    ..reader
                })
            }
            (Action::Look, Process::Reader(reader)) if !read_first => match owns {
                true => Process::Reader(Reader {
                    looked: true,
                    ..reader
                }),
                false => Process::Ended,
            },
            (Action::Begin, Process::Reader(reader)) => next.begin(reader, fault)?,
            (Action::Write, Process::Leader(mut leader)) if leader.written < ENTRIES => {
                let entry = (at, leader.written);
                leader.log.push(entry);
                leader.written += 1;
                // Sabotage: its file may have been replaced.
                if let Some(file) = next.files.get_mut(leader.file) {
                    file.entries.push(entry);
                }
                Process::Leader(leader)
            }
            (Action::Look, Process::Leader(leader)) => match owns {
                true => Process::Leader(Leader {
                    safe: leader.log.len(),
                    looked: true,
                    ..leader
                }),
                false => Process::Ended,
            },
            (Action::Acknowledge, Process::Leader(leader)) => {
                let until = match fault {
                    Some(Fault::AcknowledgedWithoutLook) => leader.log.len(),
                    Some(Fault::LookBeforeWrite) if leader.looked => leader.log.len(),
                    _ => leader.safe,
                };
                if until <= self.acknowledged.len() {
                    return None;
                }
                next.acknowledged = leader.log[..until].to_vec();
                Process::Leader(leader)
            }
            _ => return None,
        };
        Some(next)
    }

    fn reader(&self, fault: Option<Fault>) -> Process {
        let (log, last) = self.journal(fault);
        Process::Reader(Reader {
            log,
            last,
            files: self.files.len(),
            looked: false,
        })
    }

    /// A process that has read the journal begins the next file.
    fn begin(&mut self, reader: Reader, fault: Option<Fault>) -> Option<Process> {
        if !reader.looked && fault != Some(Fault::BegunWithoutLook) {
            return None;
        }
        let file = reader.files;
        if self.files.len() > file {
            if fault != Some(Fault::FilesAreReplaced) {
                return Some(Process::Named);
            }
            // Whoever has the former one writes to a file without a name.
            self.files.truncate(file);
        }
        self.files.push(File {
            before: reader.last,
            entries: Vec::new(),
        });
        Some(Process::Leader(Leader {
            file,
            log: reader.log,
            written: 0,
            safe: 0,
            looked: false,
        }))
    }

    /// The invariant that a step from `before` violates, if any.
    fn wrong(&self, before: &World, fault: Option<Fault>) -> Option<String> {
        if !self.acknowledged.starts_with(&before.acknowledged) {
            return Some(format!(
                "changed: {:?} was acknowledged",
                before.acknowledged
            ));
        }
        let (journal, _) = self.journal(fault);
        if !journal.starts_with(&self.acknowledged) {
            return Some(format!("lost: the next process reads {journal:?}"));
        }
        None
    }
}

/// Walks through all worlds that can be reached; returns their number, or what is wrong with one.
fn explore(fault: Option<Fault>) -> Result<usize, String> {
    let first = World::new();
    let (mut known, mut queue) = (BTreeSet::from([first.clone()]), VecDeque::from([first]));
    while let Some(world) = queue.pop_front() {
        for at in 0..PROCESSES {
            for action in ACTIONS {
                let Some(next) = world.take(at, action, fault) else {
                    continue;
                };
                if let Some(wrong) = next.wrong(&world, fault) {
                    return Err(format!(
                        "{wrong}, after {action:?} of process {at} in {world:?}"
                    ));
                }
                if known.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
    }
    Ok(known.len())
}

#[test]
fn every_schedule_keeps_what_was_acknowledged() {
    let worlds = explore(None).unwrap();
    println!("{worlds} worlds");
    assert!(worlds > 1_000, "only {worlds} worlds");
}

#[test]
fn sabotage_is_found() {
    for &fault in FAULTS {
        let found = explore(Some(fault)).unwrap_err();
        println!("{fault:?}: {found}");
        assert!(found.starts_with("lost"), "{fault:?}: {found}");
    }
}

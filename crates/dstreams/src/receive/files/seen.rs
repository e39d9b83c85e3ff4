//! [`Seen`]: the files that are known, while they exist and for some time after.
//!
//! A name is not enough: its file may be renamed, replaced, or away for a moment. So a file is known by its name
//! and, once it was read, by its [`Identity`]; it is forgotten when no listing has found it for long enough,
//! counted from the first that did not. Failed listings, and files below a directory that cannot be listed, do not
//! count.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file_offset::{FileOffset, Identity};
use super::look::{ListedFile, Listing};
use super::read::OpenedFile;
use crate::error::Error;

/// Number of files that are checked again after they were read, since a writer may append: a thousand cost a
/// millisecond.
const MAX_RECENT: usize = 1000;

/// The files that were read, and how long they have been gone.
#[derive(Default)]
pub(super) struct Seen {
    files: HashMap<Arc<str>, KnownFile>,
    /// Finished files, with a name of each.
    done: HashMap<Identity, Arc<str>>,
    /// Names that cannot be listed or read.
    closed: HashSet<String>,
    /// The files read last, by their current names.
    recent: VecDeque<(Arc<str>, OpenedFile)>,
    looks: u64,
}

/// What is known of a file.
struct KnownFile {
    /// The version last found under this name; `None` if only earlier processes have found it.
    version: Option<u64>,
    /// Its offset.
    offset: FileOffset,
    /// The last listing that found it.
    look: u64,
    /// Time of the first listing that did not find it.
    missing: Option<Instant>,
}

/// Changes that a listing reveals.
#[derive(Default)]
pub(super) struct ListingChanges {
    /// Names that could be listed or read before, and cannot now.
    pub closed: Vec<(String, Error)>,
    /// Files to check: new ones, and those that may have been replaced.
    pub unsure: Vec<ListedFile>,
    /// Files that are forgotten now.
    pub forgotten: Vec<Arc<str>>,
}

/// The state of the file behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileStatus {
    /// Not read yet, or only up to this offset.
    New(FileOffset),
    /// Already read.
    Known,
    /// Another file than the one that was read.
    Other,
}

impl Seen {
    /// Starts with the offsets of earlier processes.
    pub fn begin<'a>(&mut self, offsets: impl Iterator<Item = (&'a String, &'a u64)>) {
        for (name, offset) in offsets {
            let (name, offset) = (Arc::<str>::from(name.as_str()), FileOffset::from(*offset));
            let (version, look, missing) = (None, 0, None);
            if let Some(identity) = offset.identity() {
                self.done.insert(identity, Arc::clone(&name));
            }
            let known = KnownFile {
                version,
                offset,
                look,
                missing,
            };
            self.files.insert(name, known);
        }
    }

    /// Takes in the result of a listing at `now`. Files that were not found for `forget_after` are forgotten.
    pub fn looked(
        &mut self,
        found: Listing,
        now: Instant,
        forget_after: Duration,
    ) -> ListingChanges {
        self.looks += 1;
        let mut news = ListingChanges::default();
        for entry in found.files {
            match self.files.get_mut(&*entry.name) {
                Some(known) if known.missing.is_none() && known.version == Some(entry.version) => {
                    known.look = self.looks;
                }
                Some(known) => {
                    known.look = self.looks;
                    news.unsure.push(entry);
                }
                None => news.unsure.push(entry),
            }
        }
        news.unsure.sort_by(|a, b| a.name.cmp(&b.name));
        let folders: Vec<_> = found.closed.iter().map(|(name, _)| name.clone()).collect();
        let is_closed = |name: &str| folders.iter().any(|folder| name.starts_with(&**folder));
        self.files.retain(|name, known| {
            if known.look == self.looks || is_closed(name) {
                return true;
            }
            let missing = *known.missing.get_or_insert(now);
            // The next listing may follow at once and find it again, however long ago the previous one was.
            let is_gone = missing < now && now.duration_since(missing) >= forget_after;
            if is_gone {
                news.forgotten.push(Arc::clone(name));
            }
            !is_gone
        });
        if !news.forgotten.is_empty() {
            let done = self.files.iter();
            let done = done.filter_map(|(name, known)| Some((known.offset.identity()?, name)));
            self.done = done.map(|(id, name)| (id, Arc::clone(name))).collect();
        }
        let closed = std::mem::take(&mut self.closed);
        for (name, error) in found.closed {
            if !closed.contains(&name) {
                news.closed.push((name.clone(), error));
            }
            self.closed.insert(name);
        }
        news
    }

    /// The state of a file that was found, without opening it.
    pub fn status(&mut self, entry: &ListedFile, opened: Option<OpenedFile>) -> FileStatus {
        let Some(known) = self.files.get_mut(&*entry.name) else {
            return FileStatus::New(FileOffset::NONE);
        };
        known.missing = None;
        if known.version.is_none() && !matches!(known.offset, FileOffset::Done { .. }) {
            return FileStatus::New(known.offset);
        }
        let before = known.version.replace(entry.version);
        let same = match (known.offset.identity(), opened) {
            (Some(read), Some(opened)) => read == opened.identity,
            _ => before.is_none_or(|before| before == entry.version),
        };
        if same {
            FileStatus::Known
        } else {
            FileStatus::Other
        }
    }

    /// Notes that this file is about to be read.
    pub fn found(&mut self, entry: ListedFile) -> Arc<str> {
        let name = Arc::<str>::from(entry.name);
        let known = KnownFile {
            version: Some(entry.version),
            offset: FileOffset::NONE,
            look: self.looks,
            missing: None,
        };
        self.files.insert(Arc::clone(&name), known);
        name
    }

    /// The name under which a file was read, if it was.
    pub fn read_as(&self, file: Identity) -> Option<&Arc<str>> {
        self.done.get(&file)
    }

    /// Adds another name of a file that was read.
    pub fn is_named(&mut self, name: &Arc<str>, file: Identity) {
        self.is_done(name, Some(file));
        let recent = self.recent.iter_mut();
        for (of, _) in recent.filter(|(_, known)| known.identity == file) {
            *of = Arc::clone(name);
        }
    }

    /// Notes that all readable parts of a file were read; `all` if that is the whole file.
    pub fn was_read(&mut self, name: &Arc<str>, opened: Option<OpenedFile>, all: bool) {
        if all {
            self.is_done(name, opened.map(|opened| opened.identity));
        }
        let Some(opened) = opened else { return };
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((Arc::clone(name), opened));
    }

    fn is_done(&mut self, name: &Arc<str>, identity: Option<Identity>) {
        if let Some(known) = self.files.get_mut(name) {
            known.offset = FileOffset::Done { identity };
        }
        if let Some(identity) = identity {
            self.done.insert(identity, Arc::clone(name));
        }
    }

    /// The files that were read last, in the order that [`Seen::changed`] expects.
    pub fn recent(&self) -> Vec<String> {
        self.recent
            .iter()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Given the current state of the recent files, those that have changed since they were read, each with the
    /// reason; they are removed from the recent ones.
    pub fn changed(&mut self, now: Vec<Option<OpenedFile>>) -> Vec<(Arc<str>, String)> {
        let (mut now, mut changed) = (now.into_iter(), Vec::new());
        self.recent.retain(|(name, read)| {
            // Another inode number is another file, which a listing finds.
            let now = now.next().flatten().filter(|now| now.number == read.number);
            let why = match now {
                Some(now) if now.bytes > read.bytes => format!(
                    "it had {} bytes when it was read, and has {} now: {} bytes are not read; \
                     write a file under another name and rename it when it is whole",
                    read.bytes,
                    now.bytes,
                    now.bytes - read.bytes
                ),
                // Inode numbers are reused.
                Some(now) if now.identity != read.identity => super::source::REPLACED.to_owned(),
                _ => return true,
            };
            changed.push((Arc::clone(name), why));
            false
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A source that knows the files of a directory, whose inode numbers serve as identities.
    struct Looks(Seen, Instant);

    fn opened(number: u64) -> OpenedFile {
        OpenedFile {
            identity: Identity::of_number(number),
            number,
            bytes: 10,
        }
    }

    impl Looks {
        fn begin(offsets: &[(&str, u64)]) -> Self {
            let offset = |(name, number): &(&str, u64)| {
                let identity = Some(Identity::of_number(*number));
                ((*name).to_owned(), u64::from(FileOffset::Done { identity }))
            };
            let offsets: Vec<_> = offsets.iter().map(offset).collect();
            let mut seen = Seen::default();
            seen.begin(offsets.iter().map(|(name, offset)| (name, offset)));
            Looks(seen, Instant::now())
        }

        /// One minute later: the files to read, the replaced ones, and the forgotten ones.
        fn look(&mut self, files: &[(&str, u64)]) -> [String; 3] {
            self.look_beside(files, &[])
        }

        fn look_beside(&mut self, files: &[(&str, u64)], closed: &[&str]) -> [String; 3] {
            self.1 += Duration::from_secs(60);
            let entry = |(name, version): &(&str, u64)| ListedFile {
                name: (*name).to_owned(),
                version: *version,
            };
            let error = || Error::file("list", "x".as_ref(), std::io::Error::other("closed"));
            let found = Listing {
                files: files.iter().map(entry).collect(),
                closed: closed
                    .iter()
                    .map(|name| ((*name).to_owned(), error()))
                    .collect(),
            };
            let news = self.0.looked(found, self.1, HOUR);
            let (mut read, mut other) = (String::new(), String::new());
            for entry in news.unsure {
                let now = opened(entry.version);
                match self.0.status(&entry, Some(now)) {
                    FileStatus::New(FileOffset::NONE) => {
                        let as_one = self.0.read_as(now.identity).is_some();
                        let name = self.0.found(entry);
                        match as_one {
                            true => self.0.is_named(&name, now.identity),
                            false => {
                                read += &name;
                                self.0.was_read(&name, Some(now), true);
                            }
                        }
                    }
                    FileStatus::New(offset) => panic!("{offset:?}"),
                    FileStatus::Other => other += &entry.name,
                    FileStatus::Known => {}
                }
            }
            let mut gone = news.forgotten;
            gone.sort();
            [read, other, gone.concat()]
        }
    }

    fn says(read: &str, other: &str, gone: &str) -> [String; 3] {
        [read, other, gone].map(str::to_owned)
    }

    #[test]
    fn a_missing_file_is_forgotten_after_a_while_and_not_at_once() {
        let mut looks = Looks::begin(&[]);
        assert_eq!(looks.look(&[("a", 1), ("b", 2)]), says("ab", "", ""));
        // As if a disk was away for a while.
        for _ in 0..60 {
            assert_eq!(looks.look(&[("b", 2)]), says("", "", ""));
        }
        assert_eq!(looks.look(&[("a", 1), ("b", 2)]), says("", "", ""));
        // The hour starts again; a single listing is not enough, however long ago the previous one was.
        looks.1 += 10 * HOUR;
        for _ in 0..60 {
            assert_eq!(looks.look(&[("b", 2)]), says("", "", ""));
        }
        assert_eq!(looks.look(&[("b", 2)]), says("", "", "a"));
        assert_eq!(looks.0.files.len(), 1);
        assert_eq!(looks.0.done.len(), 1);
        assert_eq!(looks.look(&[("a", 1), ("b", 2)]), says("a", "", ""));
    }

    #[test]
    fn a_file_is_known_by_its_remaining_names() {
        let mut looks = Looks::begin(&[("a", 1), ("link", 1), ("gone", 2)]);
        for _ in 0..60 {
            assert_eq!(looks.look(&[("a", 1)]), says("", "", ""));
        }
        // Files that only earlier processes have seen are forgotten, too.
        assert_eq!(looks.look(&[("a", 1)]), says("", "", "gonelink"));
        for _ in 0..60 {
            assert_eq!(looks.look(&[("b", 1)]), says("", "", ""));
        }
        assert_eq!(looks.look(&[("b", 1)]), says("", "", "a"));
        assert_eq!(looks.look(&[("c", 1)]), says("", "", ""));
    }

    #[test]
    fn a_replaced_file_is_reported() {
        let mut looks = Looks::begin(&[("a", 1), ("b", 2)]);
        assert_eq!(looks.look(&[("a", 1), ("b", 3)]), says("", "b", ""));
        assert_eq!(looks.look(&[("a", 1), ("b", 3)]), says("", "", ""));
        assert_eq!(looks.look(&[("b", 3)]), says("", "", ""));
        assert_eq!(looks.look(&[("a", 4), ("b", 3)]), says("", "a", ""));
    }

    #[test]
    fn files_in_an_unreadable_directory_are_not_missing() {
        let mut looks = Looks::begin(&[("d/a", 1), ("e/a", 2)]);
        for _ in 0..60 {
            assert_eq!(looks.look_beside(&[], &["d/"]), says("", "", ""));
        }
        assert_eq!(looks.look_beside(&[], &["d/"]), says("", "", "e/a"));
        assert_eq!(looks.look(&[("d/a", 1)]), says("", "", ""));
    }

    /// File systems reuse the inode numbers of deleted files.
    #[test]
    fn a_recent_file_whose_inode_number_was_reused_is_reported() {
        let mut looks = Looks::begin(&[]);
        looks.look(&[("a", 1), ("b", 2)]);
        let other = OpenedFile {
            identity: Identity::of_number(9),
            ..opened(1)
        };
        let changed = looks.0.changed(vec![Some(other), Some(opened(2))]);
        assert_eq!(changed.len(), 1);
        assert!(&*changed[0].0 == "a" && changed[0].1.contains("another one"));
        assert_eq!(looks.0.recent(), ["b"]);
    }
}

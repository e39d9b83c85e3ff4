//! [`Seen`]: what is known of files, for as long as they are there, and some time after.
//!
//! A name says little: what it leads to may be renamed, replaced, or away for a moment. So a file is known by its name and,
//! once it was read, by its [`Identity`]; and it is forgotten when no look has found it for long enough, counted from the
//! first look that did not. Looks that fail, and files below a directory that cannot be looked into, count for nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::look::{ListedFile, Listing};
use super::mark::{FileOffset, Identity};
use super::read::OpenedFile;
use crate::error::Error;

/// Files that are looked at again after they were read, since somebody may write on: a thousand cost a millisecond.
const RECENT: usize = 1000;

/// The files that were read, and for how long they have been gone.
#[derive(Default)]
pub(super) struct Seen {
    files: HashMap<Arc<str>, KnownFile>,
    /// Those that are done, and a name of each.
    done: HashMap<Identity, Arc<str>>,
    /// Names that cannot be looked at.
    closed: HashSet<String>,
    /// The last that were read, by their names now.
    recent: VecDeque<(Arc<str>, OpenedFile)>,
    looks: u64,
}

/// What is known of a file.
struct KnownFile {
    /// What had its name; none of one that only earlier processes have found.
    version: Option<u64>,
    /// How far it was read.
    mark: FileOffset,
    /// The last look that found it.
    look: u64,
    /// When a look first did not.
    missing: Option<Instant>,
}

/// What a look says of the files that were known.
#[derive(Default)]
pub(super) struct News {
    /// Names that cannot be looked at, which could before.
    pub closed: Vec<(String, Error)>,
    /// Files to look at: new ones, and those that may be others than before.
    pub unsure: Vec<ListedFile>,
    /// Files that are forgotten now.
    pub forgotten: Vec<Arc<str>>,
}

/// What is behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// Nothing was read of it, or what the mark says.
    New(FileOffset),
    /// What was read.
    Known,
    /// Another file than the one that was read.
    Other,
}

impl Seen {
    /// With what former processes have read.
    pub fn begin<'a>(&mut self, marks: impl Iterator<Item = (&'a String, &'a u64)>) {
        for (name, mark) in marks {
            let (name, mark) = (Arc::<str>::from(name.as_str()), FileOffset::from(*mark));
            let (version, look, missing) = (None, 0, None);
            if let Some(identity) = mark.identity() {
                self.done.insert(identity, Arc::clone(&name));
            }
            let known = KnownFile {
                version,
                mark,
                look,
                missing,
            };
            self.files.insert(name, known);
        }
    }

    /// Takes in what a look has found at `now`. What was not found for `forget_after` is forgotten.
    pub fn looked(&mut self, found: Listing, now: Instant, forget_after: Duration) -> News {
        self.looks += 1;
        let mut news = News::default();
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
            // A look that follows this one at once may find it again, however long the last one is ago.
            let is_gone = missing < now && now.duration_since(missing) >= forget_after;
            if is_gone {
                news.forgotten.push(Arc::clone(name));
            }
            !is_gone
        });
        if !news.forgotten.is_empty() {
            let done = self.files.iter();
            let done = done.filter_map(|(name, known)| Some((known.mark.identity()?, name)));
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

    /// What a file that was found is, by what is known of it without opening it.
    pub fn is(&mut self, entry: &ListedFile, opened: Option<OpenedFile>) -> Is {
        let Some(known) = self.files.get_mut(&*entry.name) else {
            return Is::New(FileOffset::NONE);
        };
        known.missing = None;
        if known.version.is_none() && !matches!(known.mark, FileOffset::Done { .. }) {
            return Is::New(known.mark);
        }
        let before = known.version.replace(entry.version);
        let same = match (known.mark.identity(), opened) {
            (Some(read), Some(opened)) => read == opened.identity,
            _ => before.is_none_or(|before| before == entry.version),
        };
        if same { Is::Known } else { Is::Other }
    }

    /// It is about to be read.
    pub fn found(&mut self, entry: ListedFile) -> Arc<str> {
        let name = Arc::<str>::from(entry.name);
        let known = KnownFile {
            version: Some(entry.version),
            mark: FileOffset::NONE,
            look: self.looks,
            missing: None,
        };
        self.files.insert(Arc::clone(&name), known);
        name
    }

    /// The name by which a file was read, if it was.
    pub fn read_as(&self, file: Identity) -> Option<&Arc<str>> {
        self.done.get(&file)
    }

    /// A file that was read has this name, too.
    pub fn is_named(&mut self, name: &Arc<str>, file: Identity) {
        self.is_done(name, Some(file));
        let recent = self.recent.iter_mut();
        for (of, _) in recent.filter(|(_, known)| known.identity == file) {
            *of = Arc::clone(name);
        }
    }

    /// What could be read of a file was; all of it, or not.
    pub fn was_read(&mut self, name: &Arc<str>, opened: Option<OpenedFile>, all: bool) {
        if all {
            self.is_done(name, opened.map(|opened| opened.identity));
        }
        let Some(opened) = opened else { return };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((Arc::clone(name), opened));
    }

    fn is_done(&mut self, name: &Arc<str>, identity: Option<Identity>) {
        if let Some(known) = self.files.get_mut(name) {
            known.mark = FileOffset::Done { identity };
        }
        if let Some(identity) = identity {
            self.done.insert(identity, Arc::clone(name));
        }
    }

    /// The files that were read last, in the order of [`Seen::changed`].
    pub fn recent(&self) -> Vec<String> {
        self.recent
            .iter()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Of the recent files, as they are now, those that are not as they were read, each with why. They are recent no more.
    pub fn changed(&mut self, now: Vec<Option<OpenedFile>>) -> Vec<(Arc<str>, String)> {
        let (mut now, mut changed) = (now.into_iter(), Vec::new());
        self.recent.retain(|(name, read)| {
            // Another number is another file, which a look finds.
            let now = now.next().flatten().filter(|now| now.number == read.number);
            let why = match now {
                Some(now) if now.bytes > read.bytes => format!(
                    "it had {} bytes when it was read, and has {} now: {} bytes are not read; \
                     write a file under another name and rename it when it is whole",
                    read.bytes,
                    now.bytes,
                    now.bytes - read.bytes
                ),
                // Numbers are given again.
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

    /// A source that knows the files of a directory, by numbers that are their identities too.
    struct Looks(Seen, Instant);

    fn opened(number: u64) -> OpenedFile {
        OpenedFile {
            identity: Identity::of_number(number),
            number,
            bytes: 10,
        }
    }

    impl Looks {
        fn begin(marks: &[(&str, u64)]) -> Self {
            let mark = |(name, number): &(&str, u64)| {
                let identity = Some(Identity::of_number(*number));
                ((*name).to_owned(), u64::from(FileOffset::Done { identity }))
            };
            let marks: Vec<_> = marks.iter().map(mark).collect();
            let mut seen = Seen::default();
            seen.begin(marks.iter().map(|(name, mark)| (name, mark)));
            Looks(seen, Instant::now())
        }

        /// A minute later: what is read, what is another file, and what is forgotten.
        fn look(&mut self, files: &[(&str, u64)]) -> [String; 3] {
            self.look_beside(files, &[])
        }

        fn look_beside(&mut self, files: &[(&str, u64)], closed: &[&str]) -> [String; 3] {
            self.1 += Duration::from_secs(60);
            let entry = |(name, version): &(&str, u64)| ListedFile {
                name: (*name).to_owned(),
                version: *version,
            };
            let error = || Error::file("look into", "x".as_ref(), std::io::Error::other("closed"));
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
                match self.0.is(&entry, Some(now)) {
                    Is::New(FileOffset::NONE) => {
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
                    Is::New(mark) => panic!("{mark:?}"),
                    Is::Other => other += &entry.name,
                    Is::Known => {}
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
    fn a_file_that_is_gone_is_forgotten_in_time_and_not_at_once() {
        let mut looks = Looks::begin(&[]);
        assert_eq!(looks.look(&[("a", 1), ("b", 2)]), says("ab", "", ""));
        // As when a disk is away for a while.
        for _ in 0..60 {
            assert_eq!(looks.look(&[("b", 2)]), says("", "", ""));
        }
        assert_eq!(looks.look(&[("a", 1), ("b", 2)]), says("", "", ""));
        // The hour begins again; and one look alone says nothing, however long the last one is ago.
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
    fn a_file_is_known_by_the_names_that_are_left_of_it() {
        let mut looks = Looks::begin(&[("a", 1), ("link", 1), ("gone", 2)]);
        for _ in 0..60 {
            assert_eq!(looks.look(&[("a", 1)]), says("", "", ""));
        }
        // Those that only earlier processes have seen go, too.
        assert_eq!(looks.look(&[("a", 1)]), says("", "", "gonelink"));
        for _ in 0..60 {
            assert_eq!(looks.look(&[("b", 1)]), says("", "", ""));
        }
        assert_eq!(looks.look(&[("b", 1)]), says("", "", "a"));
        assert_eq!(looks.look(&[("c", 1)]), says("", "", ""));
    }

    #[test]
    fn another_file_under_a_name_that_was_read_is_told() {
        let mut looks = Looks::begin(&[("a", 1), ("b", 2)]);
        assert_eq!(looks.look(&[("a", 1), ("b", 3)]), says("", "b", ""));
        assert_eq!(looks.look(&[("a", 1), ("b", 3)]), says("", "", ""));
        assert_eq!(looks.look(&[("b", 3)]), says("", "", ""));
        assert_eq!(looks.look(&[("a", 4), ("b", 3)]), says("", "a", ""));
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_gone() {
        let mut looks = Looks::begin(&[("d/a", 1), ("e/a", 2)]);
        for _ in 0..60 {
            assert_eq!(looks.look_beside(&[], &["d/"]), says("", "", ""));
        }
        assert_eq!(looks.look_beside(&[], &["d/"]), says("", "", "e/a"));
        assert_eq!(looks.look(&[("d/a", 1)]), says("", "", ""));
    }

    /// File systems give the numbers of files that are gone to new ones.
    #[test]
    fn another_file_of_the_same_number_is_told_while_it_is_recent() {
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

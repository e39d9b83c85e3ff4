//! Lists a directory, or the objects below a path of an object store: the files to read, by relative path.

use std::fs::{self, DirEntry, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use datafusion::object_store::path::Path as At;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use futures::TryStreamExt;
use xxhash_rust::xxh3::xxh3_64;

use super::file_offset::{number, number_of};
use crate::error::{Error, Result};

/// The result of one listing.
#[derive(Default)]
pub(super) struct Listing {
    /// Files below the directory, unordered.
    pub files: Vec<ListedFile>,
    /// Directories below it that cannot be listed, with `/` at the end, and files whose names are not UTF-8.
    pub closed: Vec<(String, Error)>,
}

/// A file that was found.
pub(super) struct ListedFile {
    /// Its path below the directory, with `/` between the parts.
    pub name: String,
    /// Tells it from another file of this name: the inode number, or a hash of an object's version.
    pub version: u64,
}

/// Whether to read a file, by its path below the directory.
pub(super) type PathFilter = dyn Fn(&str) -> bool + Send + Sync;

pub(super) fn directory(directory: &Path, filter: &PathFilter) -> Result<Listing> {
    let mut found = Listing::default();
    collect(directory, "", filter, &mut found)
        .map_err(|source| Error::file("list", directory, source))?;
    Ok(found)
}

pub(super) async fn objects(
    store: &dyn ObjectStore,
    at: &At,
    filter: &PathFilter,
) -> Result<Listing> {
    let mut found = Listing::default();
    let mut listed = store.list(Some(at));
    let failed = |error: datafusion::object_store::Error| {
        Error::file("list", Path::new(at.as_ref()), error.into())
    };
    while let Some(object) = listed.try_next().await.map_err(failed)? {
        let version = (&object.e_tag, object.size, object.last_modified);
        let version = xxh3_64(format!("{version:?}").as_bytes());
        let name = name_below(at, &object).filter(|name| filter(name));
        found
            .files
            .extend(name.map(|name| ListedFile { name, version }));
    }
    Ok(found)
}

/// The relative path of an object that may be read.
fn name_below(at: &At, object: &ObjectMeta) -> Option<String> {
    // An empty object has no records; some tools represent folders by one.
    if object.size == 0 {
        return None;
    }
    let parts: Vec<_> = object.location.prefix_match(at)?.collect();
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
    let (_, folders) = parts.split_last()?;
    let read = !folders.iter().any(|part| is_hidden(part));
    read.then(|| parts.join("/"))
}

fn collect(
    directory: &Path,
    prefix: &str,
    filter: &PathFilter,
    found: &mut Listing,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let shown = name.as_encoded_bytes().escape_ascii();
            if !shown.to_string().starts_with(['.', '_']) {
                // The hash of its bytes makes it unique: its lossy text may not be.
                found.closed.push((format!("{prefix}{shown}"), no_text()));
            }
            continue;
        };
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            if is_hidden(&name[prefix.len()..]) {
                continue;
            }
            let (name, path) = (format!("{name}/"), entry.path());
            match collect(&path, &name, filter, found) {
                Ok(()) => {}
                // Directories come and go.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let error = Error::file("list", &path, error);
                    found.closed.push((name, error));
                }
            }
        } else if filter(&name)
            && let Some(version) = version_of(kind, &entry)
        {
            found.files.push(ListedFile { name, version });
        }
    }
    Ok(())
}

fn no_text() -> Error {
    Error::Bytes {
        what: "the name of a file".into(),
        message: "it is not UTF-8; rename the file".into(),
    }
}

/// The inode number of a file, or of a link's target; `None` for anything but a file. A file without accessible
/// metadata has a number too: opening it reports the error. A dangling link may get a target later.
fn version_of(kind: FileType, entry: &DirEntry) -> Option<u64> {
    if kind.is_file() {
        return Some(number_of(entry));
    }
    if !kind.is_symlink() {
        return None;
    }
    match fs::metadata(entry.path()) {
        Ok(found) => found.is_file().then(|| number(&found)),
        Err(error) => (error.kind() != ErrorKind::NotFound).then(|| number_of(entry)),
    }
}

/// Names that other tools use for their own files, and for directories of incomplete files.
fn is_hidden(part: &str) -> bool {
    part.starts_with(['.', '_']) || part.ends_with(".tmp")
}

/// Suffixes of incomplete files: still being written, copied or downloaded, and renamed afterwards.
const INCOMPLETE_SUFFIXES: [&str; 9] = [
    "._COPYING_",
    ".crdownload",
    ".download",
    ".filepart",
    ".inprogress",
    ".part",
    ".partial",
    ".swp",
    "~",
];

/// Whether a file is complete, judged by its name: the default filter.
pub(super) fn is_whole(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    // With or without a number after it.
    let temporary = |(_, rest): (&str, &str)| !rest.starts_with(|c: char| c.is_alphanumeric());
    !is_hidden(name)
        && !INCOMPLETE_SUFFIXES.iter().any(|end| name.ends_with(end))
        && !name.rsplit_once(".tmp").is_some_and(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_files_are_skipped() {
        let on_their_way = "p._COPYING_ p.part p.filepart p.crdownload p.partial p~ .p.crc _SUCCESS p.inprogress \
                            p.tmp.1234 p.tmp p.tmp-1 p.download .p.swp p.swp a/p.part";
        for name in on_their_way.split_whitespace() {
            assert!(!is_whole(name), "{name}");
        }
        for name in
            "p part part-0 p.partition p.tmpl p.tmp2 a.part/p a~/p p.log.1 tmp p_".split(' ')
        {
            assert!(is_whole(name), "{name}");
        }
    }
}

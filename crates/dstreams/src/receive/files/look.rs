//! What is in a directory, or below a path of an object store: the files to read, by their paths below it.

use std::fs::{self, DirEntry, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use datafusion::object_store::path::Path as At;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use futures::TryStreamExt;
use xxhash_rust::xxh3::xxh3_64;

use super::mark::{number, number_of};
use crate::error::{Error, Result};

/// What a look has found.
#[derive(Default)]
pub(super) struct Listing {
    /// Files below the directory, in no order.
    pub files: Vec<ListedFile>,
    /// Directories below it that cannot be looked into, with `/` at the end, and files whose names are no text.
    pub closed: Vec<(String, Error)>,
}

/// A file that is there.
pub(super) struct ListedFile {
    /// Its path below the directory, with `/` between the parts.
    pub name: String,
    /// What tells it from another of this name: the number of a file, a hash of the version of an object.
    pub version: u64,
}

/// Whether a file is read, by its path below the directory.
pub(super) type PathFilter = dyn Fn(&str) -> bool + Send + Sync;

pub(super) fn directory(directory: &Path, filter: &PathFilter) -> Result<Listing> {
    let mut found = Listing::default();
    collect(directory, "", filter, &mut found)
        .map_err(|source| Error::file("look into", directory, source))?;
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

/// The name of an object that may be read.
fn name_below(at: &At, object: &ObjectMeta) -> Option<String> {
    // What has no bytes has no records; some tools show folders by it.
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
                // Each is told apart by its bytes, as no text can be.
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
                    let error = Error::file("look into", &path, error);
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
        message: "it is no UTF-8; rename the file".into(),
    }
}

/// The number of a file, or of what a link leads to; none where that is no file. What cannot be looked at has one, too:
/// whoever opens it is told why. A link that leads nowhere may do so later.
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

/// What others keep next to their files, and directories of files that are not whole yet.
fn is_hidden(part: &str) -> bool {
    part.starts_with(['.', '_']) || part.ends_with(".tmp")
}

/// How names end of files that are on their way: written, copied or fetched by somebody who renames them then.
const ON_THEIR_WAY: [&str; 9] = [
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

/// Files that are read where the program says nothing else.
pub(super) fn is_whole(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    // With or without a number behind it.
    let temporary = |(_, rest): (&str, &str)| !rest.starts_with(|c: char| c.is_alphanumeric());
    !is_hidden(name)
        && !ON_THEIR_WAY.iter().any(|end| name.ends_with(end))
        && !name.rsplit_once(".tmp").is_some_and(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_on_their_way_are_not_whole() {
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

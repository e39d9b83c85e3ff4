//! What is in a directory, or below a path of an object store: the files to read, by their paths below it.

use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use datafusion::object_store::path::Path as At;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use futures::TryStreamExt;

use crate::error::{Error, Result};

/// What a look has found.
#[derive(Default)]
pub(super) struct Found {
    /// Names of files below the directory, with `/` between the parts, in order.
    pub files: Vec<String>,
    /// Directories below it that cannot be looked into, with `/` at the end.
    pub closed: Vec<(String, Error)>,
}

pub(super) fn directory(directory: &Path) -> Result<Found> {
    let mut found = Found::default();
    collect(directory, "", &mut found)
        .map_err(|source| Error::file("look into", directory, source))?;
    found.files.sort();
    Ok(found)
}

pub(super) async fn objects(store: &dyn ObjectStore, at: &At) -> Result<Found> {
    let mut found = Found::default();
    let mut listed = store.list(Some(at));
    let failed = |error: datafusion::object_store::Error| {
        Error::file("list", Path::new(at.as_ref()), error.into())
    };
    while let Some(object) = listed.try_next().await.map_err(failed)? {
        found.files.extend(name_below(at, &object));
    }
    found.files.sort();
    Ok(found)
}

/// The name of an object that is to be read.
fn name_below(at: &At, object: &ObjectMeta) -> Option<String> {
    // What has no bytes has no records; some tools show folders by it.
    if object.size == 0 {
        return None;
    }
    let parts: Vec<_> = object.location.prefix_match(at)?.collect();
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
    let read = !parts.is_empty() && !parts.iter().any(|part| is_passed_over(part));
    read.then(|| parts.join("/"))
}

fn collect(directory: &Path, prefix: &str, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_passed_over(&name) {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let name = format!("{name}/");
            match collect(&path, &name, found) {
                Ok(()) => {}
                // Directories come and go.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let error = Error::file("look into", &path, error);
                    found.closed.push((name, error));
                }
            }
        } else if kind.is_file() || leads_to_a_file(kind, &path) {
            found.files.push(name);
        }
    }
    Ok(())
}

/// Or to what cannot be read: whoever opens it is told why. One that leads nowhere may do so later.
fn leads_to_a_file(kind: FileType, path: &Path) -> bool {
    kind.is_symlink()
        && match fs::metadata(path) {
            Ok(found) => found.is_file(),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
}

/// Files that are not whole yet, and what others keep next to theirs.
fn is_passed_over(name: &str) -> bool {
    name.starts_with(['.', '_']) || name.ends_with(".tmp")
}

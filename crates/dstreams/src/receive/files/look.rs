//! What is in a directory: the files to read, by their paths below it.

use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// What a look has found.
#[derive(Default)]
pub(super) struct Found {
    /// Names of files below the directory, with `/` between the parts, in order.
    pub files: Vec<String>,
    /// Directories below it that cannot be looked into, with `/` at the end.
    pub closed: Vec<(String, Error)>,
}

pub(super) fn look(directory: &Path) -> Result<Found> {
    let mut found = Found::default();
    collect(directory, "", &mut found)
        .map_err(|source| Error::file("look into", directory, source))?;
    found.files.sort();
    Ok(found)
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

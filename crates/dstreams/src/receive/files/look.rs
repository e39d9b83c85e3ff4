//! What is in a directory: the files to read, by their paths below it.

use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// Names of files below `directory`, with `/` between the parts, in order.
pub(super) fn look(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect(directory, "", &mut found)
        .map_err(|source| Error::file("look into", directory, source))?;
    found.sort();
    Ok(found)
}

fn collect(directory: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
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
            // Directories come and go.
            match collect(&path, &format!("{name}/"), found) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done?,
            }
        } else if kind.is_file() || leads_to_a_file(kind, &path) {
            found.push(name);
        }
    }
    Ok(())
}

fn leads_to_a_file(kind: FileType, path: &Path) -> bool {
    kind.is_symlink() && fs::metadata(path).is_ok_and(|found| found.is_file())
}

/// Files that are not whole yet, and what others keep next to theirs.
fn is_passed_over(name: &str) -> bool {
    name.starts_with(['.', '_']) || name.ends_with(".tmp")
}

//! Syncing directories, and removing what was left unfinished in them.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Syncs a directory: names that were added, changed or removed in it are on disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::file("sync", dir, error))
}

/// Removes the hidden files with these beginnings of names that killed processes have left half written. A process that is
/// still writing one fails: it does not own the directory any more.
pub(super) fn remove_unfinished(dir: &Path, beginnings: &[&str]) -> Result<()> {
    let failed = |error| Error::file("read", dir, error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.strip_suffix(".tmp"));
        if name.is_some_and(|name| beginnings.iter().any(|of| name.starts_with(of)))
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(Error::file("remove", &path, error));
        }
    }
    Ok(())
}

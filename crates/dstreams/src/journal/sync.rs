//! Syncing directories.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Syncs a directory: names that were added, changed or removed in it are on disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::file("sync", dir, error))
}

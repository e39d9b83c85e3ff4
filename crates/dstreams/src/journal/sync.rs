//! Names of files on disk.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Has what was named, renamed or removed in a directory on disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::file("sync", dir, error))
}

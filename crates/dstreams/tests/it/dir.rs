//! Directories of tests.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of a test's own, removed at its end.
pub struct Dir {
    path: PathBuf,
    _parent: TempDir,
}

impl Dir {
    /// An empty one.
    pub fn new() -> Self {
        let dir = Dir::missing();
        std::fs::create_dir(dir.path()).unwrap();
        dir
    }

    /// One that does not exist yet.
    pub fn missing() -> Self {
        let parent = tempfile::Builder::new().prefix("dstreams-").tempdir();
        let parent = parent.unwrap();
        Dir {
            path: parent.path().join("dir"),
            _parent: parent,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside of it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

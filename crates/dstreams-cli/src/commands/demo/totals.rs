//! [`Totals`]: the counts of words since the start, from the files that the program writes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// Counts from a directory, in which each batch has a directory with the counts that it has changed.
pub struct Totals {
    directory: PathBuf,
    counts: HashMap<String, i64>,
    /// The newest batch that was read. Its directory stays: the sink needs it.
    newest: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Total {
    key: String,
    value: i64,
}

impl Totals {
    pub fn new(directory: PathBuf) -> Self {
        Totals {
            directory,
            counts: HashMap::new(),
            newest: None,
        }
    }

    /// Where the program writes them.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the batches that are there now, and removes all but the newest: the demo may run for a long time.
    pub fn read(&mut self) -> Result<&HashMap<String, i64>, Error> {
        let new = batches(&self.directory, self.newest.as_deref());
        for batch in new.map_err(|error| input(&self.directory, error))? {
            for file in files(&batch).map_err(|error| input(&batch, error))? {
                let text = fs::read_to_string(&file).map_err(|error| input(&file, error))?;
                for line in text.lines() {
                    let total: Total = serde_json::from_str(line)
                        .map_err(|error| input(&file, io::Error::other(error)))?;
                    self.counts.insert(total.key, total.value);
                }
            }
            if let Some(read) = self.newest.replace(batch) {
                fs::remove_dir_all(&read).map_err(|error| input(&read, error))?;
            }
        }
        Ok(&self.counts)
    }
}

/// The directories of batches after `newest`, in order.
fn batches(directory: &Path, newest: Option<&Path>) -> io::Result<Vec<PathBuf>> {
    let mut all = files(directory)?;
    let is_batch = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("batch="))
    };
    all.retain(|path| is_batch(path) && Some(path.as_path()) > newest);
    Ok(all)
}

/// The entries of a directory, in order; none if it is not there yet.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn input(path: &Path, source: io::Error) -> Error {
    Error::Input {
        name: path.display().to_string(),
        source,
    }
}

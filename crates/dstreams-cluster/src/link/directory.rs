//! [`Directory`]: the state directory of a program, as one of its processes sees it.
//!
//! A worker acknowledges records once they are in its journal, which a later master process reads: both must see the
//! same files. So the master writes a random name into the directory, and a joining worker reports the name it reads.

use dstreams::internal::{Description, Owner};
use serde::{Deserialize, Serialize};

/// The directory of a program, as one of its processes sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub path: String,
    /// The owner's name read there, or why it cannot be read.
    pub owner: Result<String, String>,
    /// The place of checkpoints, if elsewhere.
    pub checkpoints: Option<String>,
}

impl Directory {
    /// The directory of a program, if it has one.
    pub fn of(parts: &Description) -> Option<Self> {
        let state_directory = parts.directory()?;
        let owner = Owner::of(&state_directory.dir);
        Some(Directory {
            path: state_directory.dir.display().to_string(),
            owner: owner
                .map(|owner| owner.name)
                .map_err(|error| error.to_string()),
            checkpoints: state_directory
                .checkpoints
                .as_ref()
                .map(|store| store.place()),
        })
    }

    /// The same, of a process that owns it.
    pub fn owned_by(self, owner: &Owner) -> Self {
        Directory {
            owner: Ok(owner.name.clone()),
            ..self
        }
    }

    /// Why a worker that sees `theirs` cannot work for a master that sees `ours`.
    pub fn differs(ours: Option<&Self>, theirs: Option<&Self>) -> Option<String> {
        let (ours, theirs) = match (ours, theirs) {
            (None, None) => return None,
            (Some(ours), None) => {
                let path = &ours.path;
                return Some(format!(
                    "the master's program is persisted in the directory {path} and this worker's in none, so records \
                     that it acknowledges would be lost with it; call `persist_in` in every process"
                ));
            }
            (None, Some(theirs)) => {
                let path = &theirs.path;
                return Some(format!(
                    "this worker's program is persisted in the directory {path} and the master's in none; call `persist_in` \
                     in every process, or in none"
                ));
            }
            (Some(ours), Some(theirs)) => (ours, theirs),
        };
        if ours.owner != theirs.owner {
            let why = match &theirs.owner {
                Ok(_) => "which another process works in".to_owned(),
                Err(error) => format!("where {error}"),
            };
            return Some(format!(
                "the master's directory is {}; this worker sees {}, {why}; have both reach one file system by the same \
                 absolute path",
                ours.path, theirs.path
            ));
        }
        if ours.checkpoints != theirs.checkpoints {
            let place = |of: &Self| of.checkpoints.clone().unwrap_or_else(|| of.path.clone());
            return Some(format!(
                "the master has checkpoints at {}, this worker at {}; name the same place everywhere",
                place(ours),
                place(theirs)
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str, owner: Result<&str, &str>, checkpoints: Option<&str>) -> Option<Directory> {
        Some(Directory {
            path: path.to_owned(),
            owner: owner.map(str::to_owned).map_err(str::to_owned),
            checkpoints: checkpoints.map(str::to_owned),
        })
    }

    #[test]
    fn differences_are_reported() {
        let ours = seen("/kept", Ok("name"), None);
        let refusal =
            |theirs: Option<Directory>| Directory::differs(ours.as_ref(), theirs.as_ref());
        assert_eq!(refusal(seen("/kept", Ok("name"), None)), None);
        // The same file system at another path.
        assert_eq!(refusal(seen("/mnt/kept", Ok("name"), None)), None);
        assert_eq!(Directory::differs(None, None), None);
        for (theirs, says) in [
            (None, "this worker's in none"),
            (seen("/kept", Ok("other"), None), "another process"),
            (seen("/kept", Err("cannot read"), None), "where cannot read"),
            (
                seen("/kept", Ok("name"), Some("s3://b")),
                "this worker at s3://b",
            ),
        ] {
            let why = refusal(theirs).unwrap();
            assert!(why.contains("/kept") && why.contains(says), "{why}");
        }
        let why = Directory::differs(None, ours.as_ref()).unwrap();
        assert!(why.contains("the master's in none"), "{why}");
    }
}

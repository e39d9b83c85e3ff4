//! The rules of the source code, of every crate, checked by reading it.
//!
//! `rooms` checks who may import whom, `names` what files and types are called, `shape` how long things are and how
//! they are documented, `examples` that what programs call is shown. Each rule also runs over a small example that
//! breaks it.

mod examples;
mod names;
mod rooms;
mod shape;

use std::path::{Path, PathBuf};

/// A source file: its crate, its path below `src`, its text.
struct Source {
    krate: String,
    path: PathBuf,
    text: String,
}

impl Source {
    /// For examples that break a rule.
    fn example(krate: &str, path: &str, text: &str) -> Self {
        Source {
            krate: krate.into(),
            path: path.into(),
            text: text.into(),
        }
    }

    /// Whether the file as a whole is tests.
    fn is_test(&self) -> bool {
        let parts = self.path.iter().map(|part| part.to_string_lossy());
        parts
            .into_iter()
            .any(|part| part.trim_end_matches(".rs") == "tests")
    }

    /// The text without the tests at its end.
    fn without_tests(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod").next().unwrap()
    }

    /// The code: without tests, comments and the contents of texts.
    fn code(&self) -> String {
        let mut code = String::new();
        for line in self.without_tests().lines() {
            let mut in_text = false;
            let mut before = ' ';
            for (at, c) in line.char_indices() {
                let quote = c == '"'
                    && before != '\\'
                    && !(before == '\'' && line[at + 1..].starts_with('\''));
                if !in_text && line[at..].starts_with("//") {
                    break;
                }
                if quote {
                    in_text = !in_text;
                }
                // A brace in quotes opens nothing.
                let quoted = before == '\'' && line[at + c.len_utf8()..].starts_with('\'');
                if (!in_text || quote) && !quoted {
                    code.push(c);
                }
                before = if before == '\\' { ' ' } else { c };
            }
            code.push('\n');
        }
        code
    }
}

fn crates() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap().to_owned()
}

/// All Rust files below a folder, with their text.
fn files(below: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = std::fs::read_dir(below) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let krates = std::fs::read_dir(crates()).unwrap();
    let folders = krates.map(|krate| krate.unwrap().path());
    for folder in folders {
        let krate = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (mut found, src) = (Vec::new(), folder.join("src"));
        files(&src, &mut found);
        sources.extend(found.into_iter().map(|(path, text)| Source {
            krate: krate.clone(),
            path: path.strip_prefix(&src).unwrap().to_owned(),
            text,
        }));
    }
    assert!(sources.len() > 200, "only {} files", sources.len());
    sources
}

/// Fails with every place that breaks a rule.
fn check(rule: &str, broken: impl Fn(&Source) -> Vec<String>) {
    let mut all = Vec::new();
    for source in sources() {
        let name = format!("{}/src/{}", source.krate, source.path.display());
        all.extend(broken(&source).iter().map(|what| format!("{name}: {what}")));
    }
    assert!(all.is_empty(), "{rule}:\n  {}", all.join("\n  "));
}

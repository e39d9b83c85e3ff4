//! The rules of the source code, held by reading it.

use std::path::{Path, PathBuf};

/// The stages in the order of a record's way; each may use the ones before it.
const STAGES: [&str; 9] = [
    "stream",
    "receive",
    "replicate",
    "batch",
    "plan",
    "execute",
    "state",
    "commit",
    "node",
];
/// Used everywhere.
const EVERYWHERE: [&str; 4] = ["error", "config", "console", "crash"];
/// Names that say nothing.
const NAMELESS: [&str; 6] = ["utils", "common", "core", "helpers", "manager", "base"];
/// Lines of a file without its tests.
const MOST_LINES: usize = 500;

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All Rust files below, with their text.
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

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for krate in std::fs::read_dir(crates()).unwrap() {
        files(&krate.unwrap().path().join("src"), &mut found);
    }
    assert!(found.len() > 60, "only {} files", found.len());
    found
}

fn check(rule: &str, broken: impl Fn(&Path, &str) -> Vec<String>) {
    let mut all = Vec::new();
    for (path, text) in sources() {
        let name = path.strip_prefix(crates()).unwrap();
        all.extend(
            broken(name, &text)
                .iter()
                .map(|what| format!("{}: {what}", name.display())),
        );
    }
    assert!(all.is_empty(), "{rule}:\n  {}", all.join("\n  "));
}

/// What a file is without its tests and without comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    check("a file opens with `//!`", |_, text| {
        match text.starts_with("//! ") {
            true => vec![],
            false => vec![text.lines().next().unwrap_or_default().to_owned()],
        }
    });
}

#[test]
fn no_file_is_too_long() {
    check(
        "a file has 500 lines at most, without tests",
        |path, text| {
            // Files that are tests as a whole are named so.
            if path.file_stem().is_some_and(|stem| stem == "tests") {
                return vec![];
            }
            let lines = text
                .split("#[cfg(test)]\nmod")
                .next()
                .unwrap()
                .lines()
                .count();
            if lines > MOST_LINES {
                vec![format!("{lines} lines")]
            } else {
                vec![]
            }
        },
    );
}

#[test]
fn no_name_says_nothing() {
    check("names say what is in them", |path, _| {
        let parts = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        let stems = parts.map(|part| part.trim_end_matches(".rs").to_owned());
        stems
            .filter(|stem| NAMELESS.contains(&stem.as_str()))
            .collect()
    });
}

#[test]
fn stages_say_what_they_promise() {
    for stage in STAGES {
        let path = crates().join("dstreams/src").join(stage).join("mod.rs");
        let text = std::fs::read_to_string(&path).unwrap();
        let head: Vec<_> = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        let head = head.join("\n");
        let mut from = 0;
        for heading in ["**In**", "**Out**", "**Promise**", "**On failure**"] {
            let at = head[from..].find(heading);
            from +=
                at.unwrap_or_else(|| panic!("{stage}/mod.rs has no {heading}, or not in order"));
        }
    }
}

/// Modules named after `crate::` in `code`, those in braces too.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` of a macro counts; `my_crate::` does not.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => top_level(list),
            None => vec![rest],
        };
        let name = |item: &str| {
            item.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        found.extend(list.into_iter().map(name));
    }
    found
}

/// The items of a list in braces, which was opened before.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// What the crate root exports, so that `crate::Name` is known to come from a stage.
fn exports() -> Vec<(String, String)> {
    let root = std::fs::read_to_string(crates().join("dstreams/src/lib.rs")).unwrap();
    let mut exports = Vec::new();
    for statement in code(&root).split(';') {
        let Some(at) = statement.find("pub use ") else {
            continue;
        };
        let path = statement[at + "pub use ".len()..]
            .trim()
            .trim_start_matches("crate::");
        let stage = path.split("::").next().unwrap().to_owned();
        let names = path.split(|c: char| !c.is_alphanumeric() && c != '_');
        // Types and functions: modules on the way to them are in lower case.
        let names = names.filter(|name| name.starts_with(char::is_uppercase));
        exports.extend(names.map(|name| (name.to_owned(), stage.clone())));
    }
    exports
}

/// Uses of later stages in a file of stage `place`.
fn later_uses(place: usize, code: &str, exports: &[(String, String)]) -> Vec<String> {
    let mut broken = Vec::new();
    for name in uses(code) {
        let module = exports.iter().find(|(export, _)| *export == name);
        let module = module.map_or(name.as_str(), |(_, stage)| stage.as_str());
        let later = STAGES.iter().position(|stage| *stage == module);
        match later {
            Some(at) if at > place => broken.push(format!("uses `{module}` (as `crate::{name}`)")),
            Some(_) => {}
            None if EVERYWHERE.contains(&module) || module.starts_with("dstreams") => {}
            None => broken.push(format!("uses `crate::{name}`, which is no stage")),
        }
    }
    broken
}

#[test]
fn no_stage_uses_a_later_one() {
    let exports = exports();
    check("a stage uses earlier stages only", |path, text| {
        let mut parts = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        if parts.next().as_deref() != Some("dstreams") {
            return vec![];
        }
        let Some(stage) = parts.nth(1) else {
            return vec![];
        };
        let stage = stage.trim_end_matches(".rs").to_owned();
        let Some(place) = STAGES.iter().position(|s| *s == stage) else {
            return vec![];
        };
        later_uses(place, &code(text), &exports)
    });
}

#[test]
fn the_check_of_uses_finds_what_it_should() {
    let exports = exports();
    let find = |stage: &str, code: &str| {
        let place = STAGES.iter().position(|s| *s == stage).unwrap();
        later_uses(place, code, &exports).len()
    };
    assert_eq!(find("receive", "use crate::state::States;"), 1);
    assert_eq!(
        find(
            "receive",
            "use crate::{error::Error, plan::{compile, Slot}, node};"
        ),
        2
    );
    assert_eq!(find("plan", "let x: crate::commit::PreparedBatch;"), 1);
    assert_eq!(find("stream", "fn f(_: crate::RddReceiver<()>) {}"), 1);
    assert_eq!(find("batch", "crate::helpers::f()"), 1);
    assert_eq!(
        find(
            "state",
            "use crate::{Error, config::Config}; use crate::plan::Slot;"
        ),
        0
    );
    assert_eq!(find("node", "use crate::commit::{commit, prepare};"), 0);
}

//! Rooms import one way.
//!
//! A room is a folder or file of `src`. Each crate lists its rooms in order; a room uses the rooms before it only,
//! so there is no circle between them.

use std::collections::BTreeMap;

use super::{Source, check, sources};

/// The rooms of `dstreams`, in the order of a record's way.
pub const DSTREAMS: [&str; 13] = [
    "stream",
    "encoding",
    "group",
    "blocks",
    "receive",
    "plan",
    "execute",
    "state",
    "commit",
    "journal",
    "checkpoint",
    "program",
    "node",
];

/// Functions that the root of a crate exports.
const EXPORTED: [&str; 1] = ["run_worker"];

/// What the rooms of `dstreams` do not know: the kit for tests of users, which is built on all of them.
const TESTING: &str = "testing";

/// The rooms of each crate whose rooms are folders, the ones that are used by all of them first.
fn order(krate: &str) -> Option<Vec<&'static str>> {
    let everywhere: &[&str] = match krate {
        "dstreams" => &["debug", "error", "config", "console", "crash"],
        _ => &[],
    };
    let rooms: &[&str] = match krate {
        "dstreams" => &DSTREAMS,
        "dstreams-cluster" => &[
            "retry", "logs", "link", "plan", "data", "execute", "worker", "master", "app",
        ],
        "dstreams-cli" => &[
            "error",
            "ending",
            "memory",
            "output",
            "arguments",
            "program",
            "cluster",
            "commands",
        ],
        _ => return None,
    };
    let last: &[&str] = match krate {
        "dstreams" => &[TESTING],
        _ => &[],
    };
    Some([everywhere, rooms, last].concat())
}

/// Paths of modules in `code`, a file of module `own`, as paths from the crate's root. Lists in braces count item by
/// item.
fn uses(own: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let starts = ["crate::", "super::"];
    let mut from = 0;
    while let Some(at) = starts
        .iter()
        .filter_map(|start| code[from..].find(start))
        .min()
    {
        let at = from + at;
        let inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let (mut base, mut rest) = match code[at..].strip_prefix("crate::") {
            Some(rest) => (Vec::new(), rest),
            None => (own.to_vec(), &code[at..]),
        };
        while let Some(up) = rest.strip_prefix("super::") {
            base.pop();
            rest = up;
        }
        from = code.len() - rest.len();
        // `$crate::` of a macro counts; `my_crate::` does not.
        if inside && !code[..at].ends_with('$') {
            continue;
        }
        let items = match rest.strip_prefix('{') {
            Some(list) => top_level(list),
            None => vec![rest],
        };
        for item in items {
            let name = item
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_');
            let mut path = base.clone();
            path.push(name.collect());
            found.push(path);
        }
    }
    found
}

/// The items of a list whose brace was opened before.
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

/// The room of each name that the root of a crate exports, so that `crate::Name` counts as its room.
fn exports(root: &Source) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for statement in root.code().split(';') {
        let Some(at) = statement.find("pub use ") else {
            continue;
        };
        let path = statement[at + "pub use ".len()..].trim();
        let path = path.trim_start_matches("crate::");
        let room = path.split("::").next().unwrap();
        let names = path.split(|c: char| !c.is_alphanumeric() && c != '_');
        // Types: modules on the way to them are in lower case.
        for name in names.filter(|name| name.starts_with(char::is_uppercase)) {
            exports.insert(name.to_owned(), room.to_owned());
        }
    }
    exports
}

/// The module of a file, from the crate's root.
fn module(source: &Source) -> Vec<String> {
    let parts = source
        .path
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    let mut parts: Vec<_> = parts.collect();
    let stem = parts.pop().unwrap_or_default();
    let stem = stem.trim_end_matches(".rs");
    if stem != "mod" {
        parts.push(stem.to_owned());
    }
    parts
}

/// Uses of later rooms in a file.
fn later_uses(source: &Source, exports: &BTreeMap<String, String>) -> Vec<String> {
    let own = module(source);
    let order = order(&source.krate).unwrap_or_default();
    let Some(place) = order.iter().position(|room| *room == own[0]) else {
        return vec![];
    };
    let mut broken = Vec::new();
    for path in uses(&own, &source.code()) {
        let name = path[0].as_str();
        let room = exports.get(name).map_or(name, String::as_str);
        match order.iter().position(|other| *other == room) {
            Some(at) if at > place => {
                broken.push(format!("uses `{room}` (as `{}`)", path.join("::")))
            }
            Some(_) => {}
            // A public module of the root stands for what it exports; other crates are no rooms.
            None if room.starts_with("dstreams")
                || room == "contract"
                || EXPORTED.contains(&room) => {}
            None => broken.push(format!("uses `{room}`, which is not listed as a room")),
        }
    }
    broken
}

fn exports_of_crates() -> BTreeMap<String, BTreeMap<String, String>> {
    let sources = sources();
    let roots = sources
        .iter()
        .filter(|source| source.path.as_os_str() == "lib.rs");
    roots
        .map(|root| (root.krate.clone(), exports(root)))
        .collect()
}

#[test]
fn no_room_uses_a_later_one() {
    let exports = exports_of_crates();
    check("a room uses earlier rooms only", |source| {
        match source.is_test() {
            true => vec![],
            false => later_uses(
                source,
                exports.get(&source.krate).unwrap_or(&BTreeMap::new()),
            ),
        }
    });
}

/// Every folder of a crate with rooms is in its list: a new one gets its place.
#[test]
fn every_folder_is_a_room() {
    let sources = sources();
    for krate in ["dstreams", "dstreams-cluster", "dstreams-cli"] {
        let order = order(krate).unwrap();
        for source in sources.iter().filter(|source| source.krate == krate) {
            let first = module(source).swap_remove(0);
            let listed = order.contains(&first.as_str())
                || ["lib", "main", "contract", "guide"].contains(&first.as_str());
            assert!(listed, "{krate}: `{first}` is not in the list of rooms");
        }
    }
}

#[test]
fn the_check_of_rooms_finds_what_it_should() {
    let exports = exports_of_crates();
    let find = |krate: &str, path: &str, code: &str| {
        later_uses(&Source::example(krate, path, code), &exports["dstreams"]).len()
    };
    let dstreams = |path, code| find("dstreams", path, code);
    assert_eq!(dstreams("receive/tcp.rs", "use crate::state::States;"), 1);
    let several = "use crate::{error::Error, plan::{compile, Slot}, node};";
    assert_eq!(dstreams("receive/mod.rs", several), 2);
    assert_eq!(
        dstreams("plan/a.rs", "let x: crate::commit::PreparedBatch;"),
        1
    );
    assert_eq!(
        dstreams("stream/a.rs", "fn f(_: crate::RddReceiver<()>) {}"),
        1
    );
    assert_eq!(dstreams("blocks/a.rs", "crate::helpers::f()"), 1);
    assert_eq!(
        dstreams("blocks/a/b.rs", "use super::super::super::node::Running;"),
        1
    );
    assert_eq!(
        dstreams("blocks/a/b.rs", "use super::super::node::Running;"),
        0
    );
    assert_eq!(dstreams("node/a.rs", "use crate::testing::TestProgram;"), 1);
    let fine = "use crate::{Error, config::Config}; use crate::plan::Slot;";
    assert_eq!(dstreams("state/a.rs", fine), 0);
    assert_eq!(
        dstreams("node/a.rs", "use crate::commit::{commit, prepare};"),
        0
    );
    assert_eq!(
        find(
            "dstreams-cluster",
            "plan/codec.rs",
            "use crate::execute::Site;"
        ),
        1
    );
    assert_eq!(
        find("dstreams-cli", "error.rs", "use crate::cluster::Ended;"),
        1
    );
}

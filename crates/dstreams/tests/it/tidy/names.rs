//! What files and types are called.

use std::collections::BTreeMap;

use super::{Source, check, sources};

/// File names that say nothing: containers of anything, participles without their noun, pronouns.
const NAMELESS: [&str; 14] = [
    "utils", "common", "core", "helpers", "manager", "base", "found", "held", "told", "kept",
    "own", "made", "gone", "hear",
];

fn nameless(source: &Source) -> Vec<String> {
    let parts = source.path.iter().map(|part| part.to_string_lossy());
    let stems = parts.map(|part| part.trim_end_matches(".rs").to_owned());
    stems
        .filter(|stem| NAMELESS.contains(&stem.as_str()) || stem == "it")
        .collect()
}

#[test]
fn file_names_say_what_is_in_them() {
    check("a file is named after what is in it", nameless);
    let example = |path| nameless(&Source::example("a", path, ""));
    assert_eq!(example("plan/held.rs"), ["held"]);
    assert_eq!(example("own/mod.rs"), ["own"]);
    assert!(example("plan/withheld.rs").is_empty());
}

/// The types that a file defines.
fn types(source: &Source) -> Vec<String> {
    let mut types = Vec::new();
    for line in source.code().lines() {
        // Types of functions and of traits are not seen from outside.
        let item = line
            .strip_prefix("pub")
            .map_or(line, |rest| match rest.strip_prefix('(') {
                Some(rest) => rest.split_once(')').map_or("", |(_, rest)| rest),
                None => rest,
            });
        let mut words = item
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty());
        if line.starts_with(' ') {
            continue;
        }
        if let (Some("struct" | "enum" | "trait" | "type" | "union"), Some(name)) =
            (words.next(), words.next())
        {
            types.push(name.to_owned());
        }
    }
    types
}

/// Types of one crate that are defined in several files.
fn collisions<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<String> {
    let mut places = BTreeMap::<(String, String), Vec<String>>::new();
    for source in sources.filter(|source| !source.is_test()) {
        for name in types(source) {
            let place = source.path.display().to_string();
            places
                .entry((source.krate.clone(), name))
                .or_default()
                .push(place);
        }
    }
    // One of several for different systems is in the same file.
    places.values_mut().for_each(|files| files.dedup());
    places.retain(|_, files| files.len() > 1);
    let list = places.iter();
    list.map(|((krate, name), files)| format!("{krate}: {name} in {}", files.join(", ")))
        .collect()
}

#[test]
fn a_type_name_is_defined_once_in_a_crate() {
    let sources = sources();
    let found = collisions(sources.iter());
    assert!(
        found.is_empty(),
        "a type name is unique in its crate:\n  {}",
        found.join("\n  ")
    );
    let examples = [
        Source::example("a", "b.rs", "pub(crate) struct State {\n}\n"),
        Source::example(
            "a",
            "c.rs",
            "enum State {\n}\nfn f() {\n    struct Local;\n}\n",
        ),
        Source::example(
            "b",
            "c.rs",
            "pub trait State {}\npub struct Local<'a>(&'a u8);\n",
        ),
    ];
    assert_eq!(collisions(examples.iter()), ["a: State in b.rs, c.rs"]);
}

//! How long files and functions are, and what documents them.

use super::{Source, check, crates};

/// Lines of a file without its tests.
const MOST_LINES: usize = 500;
/// Lines of a function.
const MOST_LINES_OF_A_FUNCTION: usize = 100;

#[test]
fn every_file_opens_with_its_purpose() {
    check("a file opens with `//!`", |source| {
        match source.text.starts_with("//! ") {
            true => vec![],
            false => vec![source.text.lines().next().unwrap_or_default().to_owned()],
        }
    });
}

#[test]
fn no_file_is_too_long() {
    check("a file has 500 lines at most, without tests", |source| {
        let lines = source.without_tests().lines().count();
        match lines > MOST_LINES && !source.is_test() {
            true => vec![format!("{lines} lines")],
            false => vec![],
        }
    });
}

/// The functions of a file that are too long, those of macros left out.
fn long_functions(source: &Source) -> Vec<String> {
    let mut long = Vec::new();
    let code = source.code();
    let mut open: Vec<(String, usize, usize)> = Vec::new();
    let (mut depth, mut name, mut in_macro) = (0_usize, None::<String>, None::<usize>);
    for (number, line) in code.lines().enumerate() {
        if in_macro.is_none() && line.trim_start().starts_with("macro_rules!") {
            in_macro = Some(depth);
        }
        if let Some(at) = line
            .find("fn ")
            .filter(|at| line[..*at].trim_end().is_empty() || line[..*at].ends_with(' '))
        {
            let rest = &line[at + 3..];
            name = Some(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
        for c in line.chars() {
            match c {
                '{' => {
                    if let Some(name) = name.take() {
                        open.push((name, depth, number));
                    }
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if in_macro == Some(depth) {
                        in_macro = None;
                    }
                    if open.last().is_some_and(|(_, at, _)| *at == depth) {
                        let (name, _, from) = open.pop().unwrap();
                        if number - from > MOST_LINES_OF_A_FUNCTION && in_macro.is_none() {
                            long.push(format!("`{name}` has {} lines", number - from));
                        }
                    }
                }
                ';' => name = None,
                _ => {}
            }
        }
    }
    long
}

#[test]
fn no_function_is_too_long() {
    check("a function has 100 lines at most", |source| {
        match source.is_test() {
            true => vec![],
            false => long_functions(source),
        }
    });
    let body = "    let x = 1;\n".repeat(101);
    let long = format!("impl A {{\nfn f(\n  a: u8,\n) {{\n{body}}}\nfn g() {{}}\n}}\n");
    let found = long_functions(&Source::example("a", "b.rs", &long));
    assert_eq!(found, ["`f` has 102 lines"]);
}

/// Doc comments that document nothing.
fn empty_docs(source: &Source) -> Vec<String> {
    let lines = source.text.lines().map(str::trim);
    let empty = lines.filter(|line| line.starts_with("/// See the module."));
    empty.map(str::to_owned).collect()
}

#[test]
fn every_doc_comment_says_something() {
    check("a doc comment says what the item is", empty_docs);
    let example = Source::example("a", "b.rs", "/// See the module.\npub struct A;\n");
    assert_eq!(empty_docs(&example).len(), 1);
}

#[test]
fn rooms_say_what_they_promise() {
    for (krate, rooms) in [("dstreams", &super::rooms::DSTREAMS[..])] {
        for room in rooms {
            let path = crates().join(krate).join("src").join(room).join("mod.rs");
            let text = std::fs::read_to_string(&path).unwrap();
            let head = text.lines().take_while(|line| line.starts_with("//!"));
            let head = head.collect::<Vec<_>>().join("\n");
            let mut from = 0;
            for heading in ["**In**", "**Out**", "**Promise**", "**On failure**"] {
                let at = head[from..].find(heading);
                from +=
                    at.unwrap_or_else(|| panic!("{room}/mod.rs has no {heading}, or not in order"));
            }
        }
    }
}

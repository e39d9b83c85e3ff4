//! Every public operator, source, output and setting has an example in its documentation.

use super::{Source, sources};

/// The types whose methods a program calls. `$of` stands for those that a macro gives methods to.
const CALLED: [&str; 26] = [
    "$of",
    "ByTime",
    "Clients",
    "Clock",
    "StopSignal",
    "DStream",
    "FileSink",
    "Files",
    "Generator",
    "Ingest",
    "Intervals",
    "Joined",
    "KeyState",
    "Keyed",
    "ManualClock",
    "MapWithState",
    "Queue",
    "Rdd",
    "RddReceiver",
    "Running",
    "State",
    "StreamContext",
    "TcpText",
    "Track",
    "Tried",
    "Within",
];

/// The type that an `impl` without a trait is of.
fn type_of(header: &str) -> Option<String> {
    let header = header.replace("for<'a>", "");
    if header.contains(" for ") {
        return None;
    }
    let rest = header.trim_start_matches("impl");
    let rest = match rest.strip_prefix('<') {
        Some(generics) => {
            let mut depth = 1;
            let closed = generics.char_indices().find(|(at, c)| {
                match c {
                    '<' => depth += 1,
                    '>' if !generics[..*at].ends_with('-') => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            &generics[closed?.0 + 1..]
        }
        None => rest,
    };
    let name = rest.trim_start().chars();
    let name = name.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    Some(name.collect())
}

/// The public methods of these types in a file, and whether each has an example.
fn methods(source: &Source) -> Vec<(String, bool)> {
    let (mut header, mut of) = (String::new(), None);
    let (mut example, mut hidden) = (false, false);
    let mut methods = Vec::new();
    for line in source.without_tests().lines() {
        let text = line.trim();
        if text.starts_with("///") {
            example |= text.contains("```");
            continue;
        }
        if text.starts_with("#[") {
            hidden |= text.contains("doc(hidden)");
            continue;
        }
        if text.starts_with("impl<") || text.starts_with("impl ") || !header.is_empty() {
            header = format!("{header} {text}").trim().to_owned();
            if let Some((head, _)) = header.split_once('{') {
                of = type_of(head);
                header.clear();
            }
        }
        let item = text.strip_prefix("pub ").filter(|_| line.starts_with(' '));
        let item = item.map(|item| {
            item.trim_start_matches("const ")
                .trim_start_matches("async ")
        });
        if let (Some(name), Some(of)) = (item.and_then(|item| item.strip_prefix("fn ")), &of)
            && !hidden
            && CALLED.contains(&of.as_str())
        {
            let name = name.chars();
            let name = name.take_while(|c| c.is_alphanumeric() || *c == '_');
            methods.push((format!("{of}::{}", name.collect::<String>()), example));
        }
        (example, hidden) = (false, false);
    }
    methods
}

#[test]
fn every_public_operator_has_an_example() {
    let sources = sources();
    let own = sources.iter().filter(|source| source.krate == "dstreams");
    let all: Vec<_> = own.flat_map(methods).collect();
    println!("{} methods", all.len());
    assert!(all.len() > 120, "only {} methods were found", all.len());
    let without = all.iter().filter(|(_, example)| !example);
    let without: Vec<_> = without.map(|(name, _)| name.as_str()).collect();
    assert!(
        without.is_empty(),
        "a public operator has an example in its documentation:\n  {}",
        without.join("\n  ")
    );
    let example = "impl<T: Fn(u8) -> u8> DStream<T> {\n    /// Maps.\n    ///\n    /// ```\n    /// ```\n    \
         #[track_caller]\n    pub fn map(&self) {}\n\n    /// Filters.\n    pub async fn filter(&self) {}\n\n    \
         /// Internal.\n    #[doc(hidden)]\n    pub fn graph(&self) {}\n}\n\nimpl SqlInput for DStream<u8> {\n    \
         fn place(&self) {}\n}\n\nimpl Nobody {\n    pub fn calls(&self) {}\n}\n";
    let found = methods(&Source::example("dstreams", "stream/a.rs", example));
    let wanted = [("DStream::map", true), ("DStream::filter", false)];
    assert_eq!(
        found,
        wanted.map(|(name, example)| (name.to_owned(), example))
    );
}

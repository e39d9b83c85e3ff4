//! Valid and invalid JSON: by hand, and against serde_json.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

/// The members of a line, with the raw text of each value.
fn members(line: &str) -> Result<Vec<(String, JsonType, String)>, Fault> {
    let mut found = Vec::new();
    object(line, |name, value| {
        found.push((name.text.to_owned(), value.kind, value.text.to_owned()));
    })?;
    Ok(found)
}

/// Whether this is a valid value of a member of an object.
fn is_value(text: &str) -> bool {
    members(&format!("{{\"a\":{text}}}")).is_ok_and(|found| found.len() == 1)
}

#[test]
fn members_are_found_with_their_values() {
    let line =
        " {\"a\" : [1, {\"b\":[ ]}] ,\"\\u0062\":\"x\\\"}\",\t\"\":-0.5e+7,\"d\":{} , \"e\":null} ";
    let found = members(line).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|(a, b, c)| (a.as_str(), *b, c.as_str()))
        .collect();
    let wanted = [
        ("a", JsonType::List, "[1, {\"b\":[ ]}]"),
        ("\\u0062", JsonType::Text(true), "x\\\"}"),
        ("", JsonType::Number, "-0.5e+7"),
        ("d", JsonType::Object, "{}"),
        ("e", JsonType::Null, "null"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(members("{ }"), Ok(vec![]));
}

#[test]
fn invalid_json_is_refused_at_the_position_of_the_error() {
    let wrong = [
        ("", 0, "not a JSON object"),
        ("[]", 0, "not a JSON object"),
        ("{", 1, "name"),
        ("{,}", 1, "name"),
        ("{\"a\":1,}", 7, "name"),
        ("{\"a\":1,,\"b\":2}", 7, "name"),
        ("{\"a\" 1}", 5, "colon"),
        ("{\"a\"::1}", 5, "value"),
        ("{\"a\":1 \"b\":2}", 7, "comma"),
        ("{\"a\":1]", 6, "comma"),
        ("{\"a\":01}", 6, "begins with 0"),
        ("{\"a\":1.}", 7, "digit"),
        ("{\"a\":-}", 6, "digit"),
        ("{\"a\":\"\t\"}", 6, "control"),
        ("{\"a\":\"\\x\"}", 7, "escape"),
        ("{\"a\":\"\\u12G4\"}", 7, "hexadecimal"),
        ("{\"a\":\"", 6, "no end"),
        ("{\"a\":[1 2]}", 8, "comma"),
        ("{\"a\":[1,]}", 8, "value"),
        ("{\"a\":[,1]}", 6, "value"),
        ("{\"a\":[1}}", 7, "comma"),
        ("{\"a\":{\"b\":1]}", 11, "comma"),
        ("{\"a\":1}{", 7, "follows"),
        ("{\"a\":1}\0", 7, "follows"),
        ("\u{feff}{}", 0, "not a JSON object"),
    ];
    for (line, at, words) in wrong {
        let fault = members(line).unwrap_err();
        assert!(
            fault.at == at && fault.what.contains(words),
            "{line}: {fault:?}"
        );
    }
    let none = "tru nul True NaN Infinity -Infinity +1 .5 1e 1e+ 1.e1 0x1 0e -01 -.5 1_0 '1' 1,2 [ ] [[] {} \
                [1,,2] [1,,] [\"a\"x] {a:1} {1:1} {\"a\"} {\"a\":} {\"a\":1,} {\"a\":1\"b\"} \"\\ud8\" \"\\\" //1 /**/1 1#";
    for text in none.split(' ').filter(|text| *text != "{}") {
        assert!(!is_value(text), "{text}");
    }
    let values = [
        "0",
        "-0",
        "1E22",
        "0e+1",
        "123.456e-789",
        "\"\\u0000\\/\\b\"",
        "\"\u{7f}\u{2028}😀\"",
        "\"\\uD83D\\uDE00\"",
        "[]",
        "[ [ ] , null ]",
        "{\"a\":1,\"a\":{}}",
        "{\"\":[{}]}",
        " true\t",
    ];
    for text in values {
        assert!(is_value(text), "{text}");
    }
}

/// A reader that recursed into each level, to read or to print it, would need stack for each of them.
#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| {
        let deep = ["[".repeat(levels), "]".repeat(levels)].concat();
        let mixed = "{\"a\":[".repeat(levels / 2) + &"]}".repeat(levels / 2);
        [deep, mixed].map(|text| is_value(&text))
    };
    assert_eq!(nested(126), [true; 2]);
    assert_eq!(nested(128), [false; 2]);
    assert_eq!(nested(1_000_000), [false; 2]);
    let open = format!("{{\"a\":{}", "[".repeat(1_000_000));
    assert_eq!(members(&open).unwrap_err().at, 5 + 127);
}

#[test]
fn escapes_become_characters() {
    let unescaped = |text: &str| {
        let mut to = String::from("<");
        unescape(text, &mut to).map(|()| to)
    };
    let right = [
        ("a", "<a"),
        ("\\\"\\\\\\/\\b\\f\\n\\r\\t", "<\"\\/\u{8}\u{c}\n\r\t"),
        ("ä\\u00e4ö", "<ääö"),
        ("\\ud83d\\uDE00x", "<😀x"),
        ("\\u0000", "<\0"),
    ];
    for (text, wanted) in right {
        assert_eq!(unescaped(text).unwrap(), wanted, "{text}");
    }
    for half in [
        "\\ud83d",
        "\\ude00",
        "\\ud83dx",
        "\\ud83d\\n",
        "\\ud83d\\u0041",
        "\\ud83d\\ud83d",
    ] {
        assert!(unescaped(half).unwrap_err().contains("surrogate"), "{half}");
    }
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "[a\"\\\\\u{0}-\u{1f}ä😀/]{0,6}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from);
        let members = prop::collection::btree_map("[a-c\"]{0,2}", inner, 0..5);
        prop_oneof![
            list,
            members.prop_map(|all| Json::Object(all.into_iter().collect()))
        ]
    })
}

/// A line of JSON with some bytes changed, mostly invalid.
fn damaged() -> impl Strategy<Value = String> {
    let bytes = prop_oneof![
        prop::sample::select(b"{}[],:\"\\ \t\r\nu0123456789.eE+-tfn\x00\x1f\x7fa".to_vec()),
        any::<u8>(),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, bytes), 0..4);
    (json(), changes).prop_map(|(value, changes)| {
        let mut line = format!("{{\"a\":{value}, \"b\" :1}}").into_bytes();
        for (at, how, byte) in changes {
            let at = at.index(line.len());
            match how {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                _ => drop(line.remove(at)),
            }
        }
        String::from_utf8_lossy(&line).into_owned()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    /// Accepts the same lines with the same members as serde_json, except that serde_json refuses some of what RFC
    /// 8259 allows: numbers that are too large, and halves of surrogate pairs.
    #[test]
    fn lines_are_those_of_serde_json(line in damaged()) {
        let found = members(&line);
        match serde_json::from_str::<Json>(&line) {
            Ok(Json::Object(wanted)) => {
                let mut values = serde_json::Map::new();
                for (name, kind, text) in found.unwrap() {
                    let text = if let JsonType::Text(_) = kind { format!("\"{text}\"") } else { text };
                    let name = serde_json::from_str::<String>(&format!("\"{name}\"")).unwrap();
                    values.insert(name, serde_json::from_str(&text).unwrap());
                }
                prop_assert_eq!(values, wanted);
            }
            Ok(_) => prop_assert!(found.is_err()),
            Err(error) => {
                let larger = ["out of range", "surrogate", "hex escape"];
                let is_larger = larger.iter().any(|words| error.to_string().contains(words));
                prop_assert!(found.is_err() || is_larger, "{}: {}", line, error);
            }
        }
    }

    #[test]
    fn escapes_are_those_of_serde_json(text in "([a-zä]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}|\\\\ud8[0-9a-f]{2}\\\\udc[0-9A-F]{2}){0,8}") {
        let wanted = serde_json::from_str::<String>(&format!("\"{text}\""));
        let mut found = String::new();
        match (unescape(&text, &mut found), wanted) {
            (Ok(()), Ok(wanted)) => prop_assert_eq!(found, wanted),
            (found, wanted) => prop_assert!(found.is_err() && wanted.is_err(), "{text}: {found:?} {wanted:?}"),
        }
    }
}

//! Each side reads what the other writes; anything else is refused with a short text.

use arrow_flight::{FlightEndpoint, FlightInfo};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// JSON as other implementations may write it, and near misses.
fn json() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        (0u64..3).prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        prop::sample::select(vec![
            "null",
            "true",
            "1.0",
            "1e3",
            "-0",
            "18446744073709551616",
            "\"7\"",
            "[7]",
            "{}",
            "01",
            "",
        ])
        .prop_map(str::to_owned),
        (1..200usize).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
    ];
    let name = prop::sample::select(vec!["seq", "ack", "Seq", "", "s\\u0065q"]);
    let member = (name, value).prop_map(|(name, value)| format!("\"{name}\": {value}"));
    let object =
        prop::collection::vec(member, 0..4).prop_map(|all| format!(" {{{}}}", all.join(",")));
    let list = prop::collection::vec(any::<u8>(), 0..3).prop_map(|list| format!("\n{list:?}"));
    let text = prop_oneof![8 => object, 1 => list, 1 => "\\PC{0,9}"];
    let end = prop::collection::vec(any::<u8>(), 0..2);
    (text, prop_oneof![9 => Just(vec![]), 1 => end])
        .prop_map(|(text, end)| [text.into_bytes(), end].concat())
}

/// The number of this name in an object without duplicate names; serde reads other objects differently.
fn number_of(name: &str, json: &[u8]) -> Option<Option<u64>> {
    let value: Value = serde_json::from_slice(json).ok()?;
    match value.as_object()?.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_u64().map(Some),
    }
}

fn twice(json: &[u8]) -> bool {
    let text = String::from_utf8_lossy(json).replace("s\\u0065q", "seq");
    ["\"seq\"", "\"ack\""]
        .iter()
        .any(|name| text.matches(name).count() > 1)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn numbers_survive_the_wire(seq in any::<u64>()) {
        prop_assert_eq!(parse_batch_metadata(&batch_metadata(seq)).ok(), (seq > 0).then_some(Some(seq)));
        prop_assert_eq!(Answer::parse(&Answer::Ack(seq).to_put_result()), Ok(Answer::Ack(seq)));
    }

    #[test]
    fn metadata_is_an_object_with_a_number_or_refused(json in json()) {
        let seq = parse_batch_metadata(&json);
        if let Err(refused) = &seq {
            prop_assert!(refused.detail.len() <= MAX_REFUSAL_BYTES);
        }
        let ack = Answer::parse(&PutResult { app_metadata: json.clone().into() });
        // Ignored members may be nested deeper than parsed ones.
        let deep = serde_json::from_slice::<Value>(&json);
        let deep = deep.is_err_and(|error| error.to_string().contains("recursion"));
        if !twice(&json) && !json.is_empty() && !deep {
            let expected = number_of("seq", &json).flatten().filter(|seq| *seq > 0);
            prop_assert_eq!(seq.ok(), expected.map(Some));
            let expected = number_of("ack", &json).map(|ack| ack.map_or(Answer::Alive, Answer::Ack));
            prop_assert_eq!(ack.ok(), expected);
        }
    }

    #[test]
    fn an_opening_is_what_was_sent_or_refused(
        path in prop::collection::vec(prop_oneof!["\\PC{0,9}", "x{250,260}"], 0..4),
        kind in -1i32..4,
        cmd in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let descriptor = FlightDescriptor { r#type: kind, cmd: cmd.into(), path: path.clone() };
        let fits = path.iter().all(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
        let good = kind == DescriptorType::Path as i32 && fits && (1..=2).contains(&path.len());
        match Opening::parse(Some(&descriptor)) {
            Ok(opening) => {
                prop_assert!(good);
                prop_assert_eq!(opening.descriptor().path, path);
            }
            Err(refused) => {
                prop_assert!(!good);
                prop_assert!(refused.detail.len() <= MAX_REFUSAL_BYTES);
            }
        }
    }

    #[test]
    fn workers_survive_the_wire_each_once(workers in prop::collection::vec("[a-c]:[1-3]", 0..9)) {
        let info = workers_answer(workers_question("lines"), &workers);
        let mut expected: Vec<String> = Vec::new();
        for worker in workers {
            if !expected.contains(&worker) {
                expected.push(worker);
            }
        }
        prop_assert_eq!(parse_workers(&info, "asked:1").unwrap(), expected);
    }

    #[test]
    fn any_locations_give_addresses_or_are_refused(
        uris in prop::collection::vec(prop::collection::vec(
            prop_oneof!["(grpc|http|grpc\\+tcp|unix)?:?/{0,3}[a-z:\\[\\] /@%]{0,9}:?[0-9]{0,6}/?", "\\PC{0,12}", "y{3000}"], 0..3), 0..4),
    ) {
        let endpoint = |uris: &Vec<String>| {
            uris.iter().fold(FlightEndpoint::new(), |to, uri| to.with_location(uri))
        };
        let info = FlightInfo::new().with_endpoints(uris.iter().map(endpoint).collect());
        match parse_workers(&info, "asked:1") {
            Ok(workers) => {
                for worker in workers {
                    let (host, port) = worker.rsplit_once(':').unwrap();
                    prop_assert!(!host.is_empty() && port.parse::<u16>().is_ok(), "{worker}");
                }
            }
            Err(refused) => {
                prop_assert!(uris.iter().any(|uris| !uris.is_empty()));
                prop_assert!(refused.detail.len() <= MAX_REFUSAL_BYTES);
            }
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_sent(token in "[!-~]{1,20}", other in "\\PC{0,20}") {
        prop_assert!(is_token(&token));
        let sent = token_metadata(&token);
        prop_assert_eq!(parse_token_metadata(&sent), Some(&token[..]));
        if let Some(read) = parse_token_metadata(&other) {
            prop_assert!(other.ends_with(read) || other.trim_end().ends_with(read));
        }
    }

    /// The rule of numbers, against a set of the numbers taken.
    #[test]
    fn a_sequence_takes_each_number_once_and_none_out_of_order(
        offers in prop::collection::vec(prop_oneof![4 => (1u64..9).prop_map(Some), 1 => Just(None)], 0..40),
    ) {
        let (mut sequence, mut taken) = (Sequence::default(), Vec::new());
        for offer in offers {
            match sequence.offer(offer) {
                Offer::Next(seq) => {
                    prop_assert!(offer.is_none_or(|offer| offer == seq));
                    prop_assert!(taken.last().is_none_or(|last| last + 1 == seq));
                    sequence.taken(seq);
                    taken.push(seq);
                }
                Offer::Repeated => prop_assert!(offer <= taken.last().copied()),
                Offer::Gap { expected } => {
                    prop_assert_eq!(expected, sequence.last() + 1);
                    prop_assert!(offer > Some(expected) && !taken.is_empty());
                }
            }
            prop_assert_eq!(sequence.last(), taken.last().copied().unwrap_or(0));
        }
    }
}

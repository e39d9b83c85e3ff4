//! Messages round-trip; anything else is refused with a short error.

use std::collections::BTreeMap;

use dstreams_client::protocol::MAX_REFUSAL_BYTES;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use proptest::prelude::*;
use serde_json::Value;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::frames::parse;
use super::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..9, any::<u64>(), Just(u64::MAX)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c:/]{0,9}",
        "\\PC{0,9}",
        Just("\"\\\u{0}\u{1f980}".to_owned())
    ]
}

fn block() -> impl Strategy<Value = BlockId> {
    (number(), number()).prop_map(|(receiver, seq)| BlockId {
        receiver: ReceiverId(receiver),
        seq,
    })
}

fn held() -> impl Strategy<Value = Vec<BlockReport>> {
    let mark = (any::<u32>(), text(), number());
    let meta =
        (block(), number(), number()).prop_map(|(id, rows, bytes)| BlockMeta { id, rows, bytes });
    let held = (meta, prop::collection::vec(mark, 0..3));
    let held = held.prop_map(|(meta, marks)| BlockReport { meta, marks });
    prop::collection::vec(held, 0..3)
}

fn to_master() -> impl Strategy<Value = ToMaster> {
    let directory = (text(), text(), any::<bool>(), prop::option::of(text()));
    let directory = directory.prop_map(|(path, owner, known, checkpoints)| Directory {
        path,
        owner: if known { Ok(owner) } else { Err(owner) },
        checkpoints,
    });
    let letters = prop::collection::btree_map(text(), number(), 0..3);
    prop_oneof![
        (any::<u32>(), text(), any::<u32>(), any::<usize>()).prop_map(
            |(version, build, pid, cores)| ToMaster::Hello {
                version,
                build,
                pid,
                cores
            }
        ),
        (text(), text(), prop::option::of(directory)).prop_map(
            |(fingerprint, address, directory)| {
                ToMaster::Join {
                    fingerprint,
                    address,
                    directory,
                }
            }
        ),
        Just(ToMaster::Ready),
        held().prop_map(|blocks| ToMaster::Stored { blocks }),
        number().prop_map(|number| ToMaster::Hear { number }),
        (number(), number(), held()).prop_map(|(batch, receiver, blocks)| ToMaster::Reported {
            batch: BatchTime(batch),
            receiver: ReceiverId(receiver),
            blocks: blocks.into_iter().map(|held| held.meta).collect(),
        }),
        (any::<u32>(), held()).prop_map(|(lost, blocks)| ToMaster::Fenced { lost, blocks }),
        (block(), any::<u32>()).prop_map(|(block, to)| ToMaster::CopyFailed { block, to }),
        (any::<u32>(), text(), number()).prop_map(|(input, producer, token)| ToMaster::Claim {
            input,
            producer,
            token
        }),
        (any::<u32>(), text(), number(), number()).prop_map(|(input, producer, grant, last)| {
            ToMaster::Revoked {
                input,
                producer,
                grant,
                last,
            }
        }),
        (any::<u32>(), prop::option::of(text()))
            .prop_map(|(input, failure)| ToMaster::SourceEnded { input, failure }),
        (any::<u32>(), prop::collection::vec(text(), 0..3))
            .prop_map(|(input, parts)| ToMaster::PartsGone { input, parts }),
        (any::<usize>(), letters).prop_map(|(blocks, dead_letters)| {
            ToMaster::Holds(WorkerUsage {
                blocks,
                dead_letters,
                ..WorkerUsage::default()
            })
        }),
        number().prop_map(|probe| ToMaster::Answer { probe }),
        (number(), text()).prop_map(|(checkpoint, why)| ToMaster::Written {
            checkpoint,
            written: Err(why),
        }),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let positions = prop::collection::btree_map(text(), number(), 0..3);
    let versions = prop::collection::vec(prop::option::of(number().prop_map(BatchTime)), 0..3);
    let since = prop::collection::vec((any::<u32>(), versions), 0..3);
    prop_oneof![
        (any::<u32>(), prop::collection::vec(text(), 0..4))
            .prop_map(|(worker, arguments)| ToWorker::Welcome { worker, arguments }),
        text().prop_map(|reason| ToWorker::Refused { reason }),
        (any::<usize>(), text(), prop::option::of(number()), number()).prop_map(
            |(partitions, engine, incarnation, silence_ms)| ToWorker::Begin {
                partitions,
                engine,
                incarnation,
                silence_ms,
            }
        ),
        number().prop_map(|number| ToWorker::Probe { number }),
        text().prop_map(|address| ToWorker::GivenUp { address }),
        (any::<u32>(), number(), positions).prop_map(|(input, receiver, positions)| {
            ToWorker::Receive {
                input,
                receiver: ReceiverId(receiver),
                positions,
            }
        }),
        prop::option::of((any::<u32>(), text())).prop_map(|to| ToWorker::Peer { to }),
        (number(), any::<bool>()).prop_map(|(batch, last)| ToWorker::Seal {
            batch: BatchTime(batch),
            last
        }),
        prop::collection::vec(block(), 0..4).prop_map(|blocks| ToWorker::Drop { blocks }),
        (number(), text(), since).prop_map(|(checkpoint, file, since)| ToWorker::Checkpoint {
            checkpoint,
            file,
            since,
        }),
        Just(ToWorker::End),
    ]
}

/// Checks that `said` round-trips; compares values, since maps have no order in text.
fn same<M: Serialize + DeserializeOwned>(said: &M) -> Result<(), TestCaseError> {
    let json = serde_json::to_vec(said).unwrap();
    let heard: M = parse(&json).unwrap();
    let value = |of: &M| serde_json::to_value(of).unwrap();
    prop_assert_eq!(value(&heard), value(said));
    // Trailing or missing bytes are errors.
    let two = [&json[..], b" {}"].concat();
    prop_assert!(parse::<M>(&two).is_err());
    for end in 0..json.len() {
        prop_assert!(parse::<M>(&json[..end]).is_err(), "{} bytes", end);
    }
    Ok(())
}

fn refused_shortly<M>(heard: Result<M, Status>) {
    if let Err(status) = heard {
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().len() <= MAX_REFUSAL_BYTES);
    }
}

/// Replaces the part of a message at index `at`.
fn replaced(value: &mut Value, at: usize, by: &Value) -> usize {
    let mut next = at;
    if next == 0 {
        *value = by.clone();
        return usize::MAX;
    }
    next -= 1;
    let parts: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    for part in parts {
        next = replaced(part, next, by);
        if next == usize::MAX {
            break;
        }
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn messages_to_a_master_round_trip(said in to_master()) {
        same(&said)?;
    }

    #[test]
    fn messages_to_a_worker_round_trip(said in to_worker()) {
        same(&said)?;
    }

    #[test]
    fn other_bytes_are_refused(
        said in to_master(),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..9),
        cut in any::<bool>(),
    ) {
        let mut json = serde_json::to_vec(&said).unwrap();
        let at = at.index(json.len());
        let end = if cut { json.len() } else { json.len().min(at + bytes.len()) };
        json.splice(at..end, bytes);
        refused_shortly(parse::<ToMaster>(&json));
        refused_shortly(parse::<ToWorker>(&json));
    }

    #[test]
    fn values_of_other_types_are_refused(
        said in to_master(),
        at in 0..20usize,
        by in prop::sample::select(vec![
            "null", "-1", "1e400", "18446744073709551616", "[]", "{}", "\"\"", "true", "[[[]]]", "{\"Ok\":1}", "4294967296",
        ]),
    ) {
        let mut value = serde_json::to_value(&said).unwrap();
        let by = serde_json::from_str(by).unwrap_or(Value::Null);
        replaced(&mut value, at, &by);
        refused_shortly(parse::<ToMaster>(&serde_json::to_vec(&value).unwrap()));
    }
}

#[test]
fn long_and_deep_messages_are_refused_shortly() {
    let long = format!("{{\"Hear\":{{\"number\":\"{}\"}}}}", "x".repeat(1 << 20));
    let name = format!("{{\"{}\":1}}", "y".repeat(1 << 20));
    let deep = "[".repeat(1 << 20);
    for json in [long, name, deep] {
        let heard = parse::<ToMaster>(json.as_bytes());
        assert!(heard.is_err());
        refused_shortly(heard);
    }
    let blocks = BTreeMap::from([("Stored", BTreeMap::from([("blocks", vec![0; 1 << 20])]))]);
    refused_shortly(parse::<ToMaster>(&serde_json::to_vec(&blocks).unwrap()));
}

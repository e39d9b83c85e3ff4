//! Clients that send anything: each gets a refusal with a reason, or an acknowledgement, and a well-behaved client
//! is served meanwhile.

use std::cell::RefCell;

use bytes::Bytes;
use dstreams_client::protocol::MAX_REFUSAL_BYTES;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::receive::message::tests::{Change, change, changed};

/// Which part of a call's two messages is changed.
#[derive(Debug, Clone, Copy)]
enum Of {
    Schema,
    Header,
    Body,
    Number,
    Path,
}

fn changed_bytes(bytes: &Bytes, changes: &[Change]) -> Bytes {
    changes.iter().fold(bytes.to_vec(), changed).into()
}

/// Makes a call of two messages; returns how it ended.
async fn call(served: &Served, first: FlightData, second: FlightData) -> Result<u64, Status> {
    let (messages, sent) = mpsc::channel(2);
    messages.send(first).await.unwrap();
    messages.send(second).await.unwrap();
    drop(messages);
    let put = flight(served).await.do_put(ReceiverStream::new(sent)).await;
    let mut answers = put?.into_inner();
    let mut last = 0;
    while let Some(answer) = answers.message().await? {
        if let Answer::Ack(ack) = Answer::parse(&answer).unwrap() {
            last = ack;
        }
    }
    Ok(last)
}

fn opening(schema: &Schema) -> FlightData {
    let opening = Opening {
        stream: "lines".into(),
        producer: None,
    };
    let mut first: FlightData = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into();
    first.flight_descriptor = Some(opening.descriptor());
    first
}

#[test]
fn a_strange_client_is_refused_by_a_final_code_and_others_are_served() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let served = runtime.block_on(Served::lines());
    let mut first = runtime.block_on(Hand::lines(&served, Some("good")));
    assert_eq!(runtime.block_on(first.next_ack()), 0);
    // The good client and its number, and how many others were refused and accepted.
    let state = RefCell::new((first, 0, 0, 0));
    let of = [Of::Schema, Of::Header, Of::Body, Of::Number, Of::Path];
    let case = (
        prop::sample::select(of.to_vec()),
        prop::collection::vec(change(), 1..3),
        any::<u8>(),
    );
    let cases = ProptestConfig::default().cases;
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    };
    let tried = TestRunner::new(config).run(&case, |(of, changes, byte)| {
        let (mut first, mut second) = (
            opening(&lines_schema()),
            line("a line of some length", Some(1)),
        );
        match of {
            Of::Schema => first.data_header = changed_bytes(&first.data_header, &changes),
            Of::Header => second.data_header = changed_bytes(&second.data_header, &changes),
            Of::Body => second.data_body = changed_bytes(&second.data_body, &changes),
            Of::Number => second.app_metadata = changed_bytes(&second.app_metadata, &changes),
            Of::Path => {
                let text = changed_bytes(&Bytes::from_static(b"lines"), &changes);
                let text = String::from_utf8_lossy(&text).repeat(1 + usize::from(byte));
                first.flight_descriptor =
                    Some(arrow_flight::FlightDescriptor::new_path(vec![text]));
            }
        }
        let mut state = state.borrow_mut();
        let (good, number, refused, taken) = &mut *state;
        runtime.block_on(async {
            match soon(call(&served, first, second)).await {
                Ok(_) => *taken += 1,
                Err(status) => {
                    let codes = [Code::InvalidArgument, Code::OutOfRange, Code::NotFound];
                    prop_assert!(codes.contains(&status.code()), "{status:?}");
                    prop_assert!(status.message().len() <= MAX_REFUSAL_BYTES);
                    *refused += 1;
                }
            }
            *number += 1;
            good.send(line("good", Some(*number))).await;
            good.acknowledged(*number).await;
            let lines = served.taken_lines();
            prop_assert!(lines.contains(&"good".to_owned()));
            Ok(())
        })
    });
    tried.unwrap();
    let (_, _, refused, taken) = state.into_inner();
    assert!(
        refused > 10 && taken > 10,
        "{refused} refused, {taken} taken"
    );
}

/// The text of a refusal repeats what came: a text too long for a header would lose the code as well.
#[tokio::test]
async fn a_long_refusal_still_arrives() {
    let served = Served::lines().await;
    let names = (0..2000).map(|n| format!("a column of a wide table, number {n}"));
    let fields: Vec<Field> = names
        .map(|name| Field::new(name, DataType::Utf8, true))
        .collect();
    let refused = Hand::call(&served, None, &Schema::new(fields))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused
            .message()
            .starts_with("columns for stream `lines`: expected (value: Utf8View)")
    );

    let mut hand = Hand::lines(&served, None).await;
    let metadata = format!("{{\"seq\":\"{}\"}}", "x".repeat(1 << 20));
    hand.send(FlightData {
        app_metadata: metadata.into(),
        ..line("text", None)
    })
    .await;
    let refused = hand.refused().await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused.message().contains("expected the app_metadata"),
        "{refused:?}"
    );
}

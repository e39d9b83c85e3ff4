//! Stream names and addresses at the start of a program, and the cleanup of a failed start.

use std::net::TcpListener;
use std::sync::Arc;

use dstreams::{Clients, DStream, Error, Generator, Result, Running, StreamContext};

use crate::dir::Dir;
use crate::program::{INTERVAL, block_on};

/// An address of this machine that only its test uses: a host of its own, with a free port.
fn address(host: u8) -> String {
    let listener = TcpListener::bind(format!("127.0.0.{host}:0")).unwrap();
    listener.local_addr().unwrap().to_string()
}

fn error(started: Result<Running>) -> Error {
    started.expect_err("it starts")
}

/// A stream of this name.
type Make = fn(&mut StreamContext, &str) -> DStream<String>;

const MAKERS: [Make; 4] = [
    |ctx, name| ctx.tcp_text(name, "127.0.0.1:0"),
    |ctx, name| ctx.queue::<String>(name).1,
    |ctx, name| ctx.clients::<String>(name, &Clients::listen("127.0.0.1:0")),
    |ctx, name| ctx.generator(name, Generator::new(1, |_| String::new())),
];

#[test]
fn two_streams_of_one_name_are_refused() {
    block_on(async {
        for first in MAKERS {
            for second in MAKERS {
                let mut ctx = StreamContext::new(INTERVAL).unwrap();
                let lines = first(&mut ctx, "lines");
                second(&mut ctx, "other").print(1);
                let both = lines.union(&second(&mut ctx, "lines")).unwrap();
                both.print(1);
                let error = error(ctx.start().await);
                assert!(matches!(error, Error::Graph { .. }), "{error:?}");
                let message = error.to_string();
                assert_eq!(message.matches("doors.rs:").count(), 2, "{message}");
                assert!(
                    message.contains("stream `lines` already exists"),
                    "{message}"
                );
                assert!(message.contains("a unique name"), "{message}");
            }
        }
        let mut ctx = StreamContext::new(INTERVAL).unwrap();
        ctx.dead_letters().print(1);
        ctx.dead_letters().print(1);
        let message = error(ctx.start().await).to_string();
        assert!(
            message.contains("stream `dead letters` already exists"),
            "{message}"
        );
    });
}

/// A directory that does not exist; removed on drop.
#[test]
fn a_failed_start_closes_everything_it_opened() {
    let dir = Dir::missing();
    let (text, clients) = (address(71), address(72));
    let taken = TcpListener::bind("127.0.0.73:0").unwrap();
    let last = taken.local_addr().unwrap().to_string();
    let held = Arc::new(());
    let program = |kept: bool| {
        let mut ctx = StreamContext::new(INTERVAL).unwrap();
        let lines = ctx.tcp_text("text", &text);
        let sent = ctx.clients("sent", &Clients::listen(&clients));
        let last = ctx.tcp_text("last", &last);
        let lines = lines.union(&sent).unwrap().union(&last).unwrap();
        let held = Arc::clone(&held);
        lines.for_each_rdd(move |_| drop(Arc::clone(&held)));
        if kept {
            ctx.persist_in(dir.path());
        }
        ctx
    };
    block_on(async {
        for kept in [false, true, true] {
            let error = error(program(kept).start().await).to_string();
            assert!(error.contains(&last) && error.contains("in use"), "{error}");
            // At once: nothing closes later.
            for address in [&text, &clients] {
                TcpListener::bind(address).unwrap();
            }
            assert_eq!(Arc::strong_count(&held), 1, "something holds the program");
        }
        drop(taken);
        for kept in [false, true] {
            let running = program(kept).start().await.unwrap();
            running.stop().await.unwrap();
        }
    });
}

#[test]
fn an_unreachable_place_for_checkpoints_fails_the_start() {
    let dir = Dir::missing();
    let text = address(74);
    block_on(async {
        for _ in 0..2 {
            let mut ctx = StreamContext::new(INTERVAL).unwrap();
            ctx.tcp_text("text", &text).print(1);
            ctx.persist_in(dir.path());
            let error = match ctx.checkpoint_to("file:///dev/null/checkpoints") {
                Ok(()) => error(ctx.start().await),
                Err(error) => error,
            };
            assert!(error.to_string().contains("/dev/null"), "{error}");
            TcpListener::bind(&text).unwrap();
        }
    });
}

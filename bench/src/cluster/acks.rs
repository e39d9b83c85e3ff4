//! How long an acknowledgement takes when two workers must hold the records, and how much is acknowledged at
//! most.

use serde_json::{Value, json};

use super::program::{Answers, Program, Spec, build};
use super::small::next;
use super::start::Cluster;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag};

/// `bench part acks [--clients N] [--rate LINES_PER_S] [--seconds N] [--every-ms N] [--linger-ms N]`: paced
/// sends while a count runs every 100 ms.
pub fn acks(flags: &[String]) -> Outcome<Value> {
    let clients = flag(flags, "--clients", 1usize)?;
    let rate = flag(flags, "--rate", 10_000u64)?;
    let seconds = flag(flags, "--seconds", 30u64)?;
    let every = flag(flags, "--every-ms", 1u64)?;
    let linger = flag(flags, "--linger-ms", 5u64)?;
    let spec = Spec::on_the_clock("grep", 100);
    let ctx = build(&spec)?.ctx;
    let (sent, summary) = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, ctx, 2).await?;
        let asked = format!(
            "--clients {clients} --rate {rate} --seconds {seconds} --every-ms {every} \
             --linger-ms {linger}"
        );
        let sent = send(&cluster.addresses(), &asked).await?;
        Ok::<_, Box<dyn std::error::Error>>((sent, cluster.stop(true).await?))
    })?;
    let mut rows = Rows::new(&["from_ms", "sends"]);
    for bin in sent["table"].as_array().into_iter().flatten() {
        let number = |at: usize| bin[at].as_f64().unwrap_or_default();
        rows.push(vec![number(0), number(1)]);
    }
    Ok(json!({
        "work": "acks", "program": format!("{clients} clients, linger {linger} ms"),
        "checked": json!(summary.records) == sent["records"],
        "clients": clients, "rate": rate, "seconds": seconds, "every_ms": every,
        "linger_ms": linger, "records": sent["records"], "messages": sent["messages"],
        "ack_ms": sent["ack_ms"], "late_ms": sent["late_ms"], "resends": sent["resends"],
        "rows": rows.json(),
    }))
}

/// `bench part bulk [--clients N] [--lines N] [--as lines|batches]`: as much as the workers take, while no
/// interval ends.
pub fn bulk(flags: &[String]) -> Outcome<Value> {
    let clients = flag(flags, "--clients", 1usize)?;
    let lines = flag(flags, "--lines", 4_000_000usize)?;
    let form = flag(flags, "--as", "lines".to_owned())?;
    let spec = Spec::by_hand("grep", "clients");
    let Program {
        ctx,
        clock,
        answers,
        ..
    } = build(&spec)?;
    let sent = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, ctx, 2).await?;
        let asked = format!("--clients {clients} --lines {lines} --as {form}");
        let sent = send(&cluster.addresses(), &asked).await?;
        clock.advance(spec.interval());
        let Answers::Found(mut found) = answers else {
            return Err("a grep keeps its answers".into());
        };
        let found = next(&mut found, &cluster).await?.collect()?;
        if json!(found[0]) != sent["found"] {
            let wanted = &sent["found"];
            return Err(format!("{} lines were found, not {wanted}", found[0]).into());
        }
        cluster.stop(true).await?;
        Ok::<_, Box<dyn std::error::Error>>(sent)
    })?;
    Ok(result(&format!("dstreams {form}"), clients, &sent))
}

/// A line of JSON about sends at once.
pub fn result(program: &str, clients: usize, sent: &Value) -> Value {
    json!({
        "work": "bulk", "program": format!("{program}, {clients} clients"), "clients": clients,
        "checked": sent["checked"], "records": sent["records"], "messages": sent["messages"],
        "message_bytes": sent["message_bytes"], "seconds": sent["seconds"],
        "bytes_per_s": sent["bytes_per_s"],
    })
}

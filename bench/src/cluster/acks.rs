//! Latency of acknowledgements when two workers must store the records, and their maximum rate.

use std::time::Duration;

use serde_json::{Value, json};

use super::program::{Spec, build};
use super::sender::usual_linger;
use super::start::Cluster;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag};
use crate::system::cpu;

/// `bench part acks [--clients N] [--rate LINES_PER_S] [--seconds N] [--every-ms N] [--linger-ms N]`: paced
/// sends while a count runs every 100 ms.
pub fn acks(flags: &[String]) -> Outcome<Value> {
    let clients = flag(flags, "--clients", 1usize)?;
    let rate = flag(flags, "--rate", 10_000u64)?;
    let seconds = flag(flags, "--seconds", 30u64)?;
    let every = flag(flags, "--every-ms", 1u64)?;
    let linger = flag(flags, "--linger-ms", usual_linger())?;
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

/// `bench part bulk [--clients N] [--lines N] [--as lines|batches] [--interval-ms N]`: as much as the workers take,
/// while a grep keeps consuming and releasing the blocks.
pub fn bulk(flags: &[String]) -> Outcome<Value> {
    let clients = flag(flags, "--clients", 1usize)?;
    let lines = flag(flags, "--lines", 4_000_000usize)?;
    let form = flag(flags, "--as", "lines".to_owned())?;
    let spec = Spec::on_the_clock("grep", flag(flags, "--interval-ms", 100)?);
    let program = build(&spec)?;
    let (sent, used, summary) = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, program.ctx, 2).await?;
        let asked = format!("--clients {clients} --lines {lines} --as {form}");
        let pids = cluster.pids();
        let all = || pids.iter().map(|pid| cpu(*pid)).sum::<Duration>();
        let before = all();
        let sent = send(&cluster.addresses(), &asked).await?;
        let used = all() - before;
        Ok::<_, Box<dyn std::error::Error>>((sent, used, cluster.stop(true).await?))
    })?;
    let found = program.totals.sum.load(std::sync::atomic::Ordering::SeqCst);
    if json!(found) != sent["found"] || json!(summary.records) != sent["records"] {
        let (records, wanted) = (summary.records, &sent["found"]);
        return Err(format!("{found} of {records} lines were found, not {wanted}").into());
    }
    Ok(result(&format!("dstreams {form}"), clients, &sent, used))
}

/// A line of JSON about bulk sends; `used` is the processor time of the receivers.
pub fn result(program: &str, clients: usize, sent: &Value, used: Duration) -> Value {
    let records = sent["records"].as_f64().unwrap_or_default();
    let gigabytes = records * bench_input::LINE_BYTES as f64 / 1e9;
    json!({
        "work": "bulk", "program": format!("{program}, {clients} clients"), "clients": clients,
        "checked": sent["checked"], "records": sent["records"], "messages": sent["messages"],
        "message_bytes": sent["message_bytes"], "seconds": sent["seconds"],
        "bytes_per_s": sent["bytes_per_s"],
        "sender_cpu_s_per_gb": sent["cpu_s"].as_f64().unwrap_or_default() / gigabytes,
        "taker_cpu_s_per_gb": used.as_secs_f64() / gigabytes,
    })
}

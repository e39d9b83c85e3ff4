//! The graph as text and as a picture.

use std::collections::BTreeSet;
use std::time::Duration;

use dstreams::{StreamContext, agg::count};

fn program() -> StreamContext {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let mut ctx = StreamContext::new(second).unwrap();
    let (_, lines) = ctx.queue::<String>("lines <1>");
    let words = lines.flat_map::<String>(|line, out| out.push(line));
    words
        .keyed()
        .window_agg(minute, 2 * second, count())
        .unwrap()
        .top(3)
        .print(3);
    let longer = words.sql::<String>("select value from this where char_length(value) > 9");
    longer.unwrap().repartition(4).unwrap().print(1);
    ctx
}

/// Without file and line, which change with this file.
fn without_places(text: &str) -> String {
    let mut parts = text.split("crates/dstreams/tests/it/explain.rs:");
    let mut kept = parts.next().unwrap().to_owned();
    for part in parts {
        kept += "HERE";
        kept += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    kept
}

#[test]
fn the_text_has_operators_states_and_what_moves() {
    let text = program().explain();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("     |"))
        .collect();
    let wanted = [
        "every 1000 ms",
        "0: `queue` at HERE; stream `lines <1>`",
        "     (value: Utf8View)",
        "1: `flat_map` at HERE of 0; 2 readers",
        "     (value: Utf8View)",
        "2: `keyed` at HERE of 1",
        "     (key: Utf8View)",
        "3: `window_agg` at HERE of 2, by key; state: count over 60 batches; every 2000 ms",
        "     (key: Utf8View, value: Int64)",
        "4: `top` at HERE of 3, to one partition; the first 3; every 2000 ms",
        "     (key: Utf8View, value: Int64)",
        "5: `sql` at HERE of 1",
        "     (value: Utf8View)",
        "6: `repartition` at HERE of 5, to 4 partitions",
        "     (value: Utf8View)",
        "output `print` at HERE of 4",
        "output `print` at HERE of 6",
    ];
    assert_eq!(without_places(&lines.join("\n")), wanted.join("\n"));
    assert!(text.contains("     | "), "no plan of the query: {text}");
}

#[test]
fn the_picture_has_a_node_and_an_edge_for_each() {
    let picture = without_places(&program().explain_mermaid());
    let mut lines = picture.lines().map(str::trim);
    assert_eq!(lines.next(), Some("flowchart TD"));
    let (edges, nodes): (BTreeSet<_>, Vec<_>) = {
        let all: Vec<_> = lines.collect();
        let (edges, nodes): (Vec<_>, Vec<_>) = all.into_iter().partition(|l| l.contains("-->"));
        (edges.into_iter().collect(), nodes)
    };
    let wanted = [
        "n0 --> n1",
        "n1 --> n2",
        "n2 -->|by key| n3",
        "n3 -->|to one partition| n4",
        "n1 --> n5",
        "n5 -->|to 4 partitions| n6",
        "n4 --> out0",
        "n6 --> out1",
    ];
    assert_eq!(edges, BTreeSet::from(wanted));
    assert_eq!(nodes.len(), 7 + 2);
    assert_eq!(
        nodes[0],
        "n0([\"<b>queue</b><br/>stream `lines #lt;1#gt;`<br/>HERE\"])"
    );
    assert!(
        nodes[3].starts_with("n3[(\"<b>window_agg</b>"),
        "{}",
        nodes[3]
    );
    assert_eq!(nodes[7], "out0[/\"<b>print</b><br/>HERE\"/]");
}

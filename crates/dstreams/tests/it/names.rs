//! Column names that need quoting in SQL or Rust: upper case, keywords, signs; in files, queries and aggregates.

use std::fs;
use std::time::Duration;

use dstreams::Record;
use dstreams::agg::{by_name, count, sum_of};
use dstreams::files::{Files, Format};

use crate::dir::Dir;
use crate::files_source::{Reader, put};
use crate::program::{Program, block_on, run, small};

#[derive(Record, Debug, Clone, PartialEq)]
#[allow(non_snake_case)]
struct Click {
    userId: i64,
    #[record(name = "@timestamp")]
    at: String,
    #[record(name = "user-agent")]
    agent: Option<String>,
    r#type: String,
}

fn click(n: i64) -> Click {
    Click {
        userId: n,
        at: "t".into(),
        agent: Some("x".into()),
        r#type: "click".into(),
    }
}

#[test]
fn columns_have_the_given_names() {
    let names: Vec<_> = Click::schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names, ["userId", "@timestamp", "user-agent", "type"]);
    let names = <(String, Click)>::schema();
    assert_eq!(names.field(1).name(), "value_userId");
    assert_eq!(names.field(3).name(), "value_user-agent");
}

#[test]
fn files_have_the_exact_names() {
    block_on(async {
        let line = r#"{"userId":7,"@timestamp":"t","user-agent":"x","type":"click"}"#;
        let csv = "userId,@timestamp,user-agent,type\n7,t,x,click\n";
        for (format, text) in [(Format::JsonLines, line), (Format::Csv, csv)] {
            let dir = Dir::new();
            put(&dir, "a", text);
            let files = Files::dir(dir.path(), format).every(Duration::from_millis(2));
            let mut reader = Reader::<Click>::start(small(2, 4, 3), files).await;
            assert_eq!(reader.receive(1, 0).await, (vec![click(7)], vec![]));
        }
        // Another letter case is another name: nothing is read, and that is reported.
        let dir = Dir::new();
        put(&dir, "a", line.to_lowercase());
        let files = Files::dir(dir.path(), Format::JsonLines).every(Duration::from_millis(2));
        let mut reader = Reader::<Click>::start(small(2, 4, 3), files).await;
        let (found, dead) = reader.receive(0, 1).await;
        assert!(
            found.is_empty() && dead[0].reason.contains("userId"),
            "{dead:?}"
        );
    });
    // Written, and read again.
    for format in [Format::JsonLines, Format::Csv, Format::Parquet] {
        let dir = Dir::new();
        let out = dir.join("out");
        block_on(async {
            let mut program = Program::new(small(1, 4, 4));
            let (queue, clicks) = program.ctx.queue::<Click>("clicks");
            clicks.write_files(&out, format).unwrap();
            let mut live = program.start().await;
            queue.push([click(1), click(2)]).await.unwrap();
            live.batch().await;
            live.running.stop().await.unwrap();
        });
        let batch = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let batch = batch.filter(|path| path.is_dir()).max().unwrap();
        block_on(async {
            let files = Files::dir(&batch, format).every(Duration::from_millis(2));
            let mut reader = Reader::<Click>::start(small(1, 4, 4), files).await;
            let (found, dead) = reader.receive(2, 0).await;
            assert_eq!(found, [click(1), click(2)], "{format:?} {dead:?}");
        });
    }
}

#[test]
fn queries_and_aggregates_find_quoted_names() {
    let input = [vec![vec![click(3), click(4)]]];
    let config = small(2, 1, 1);
    let got = run(&config, &input, |_, clicks| {
        let query = r#"select "userId" + 1 as "userId", "@timestamp", "user-agent", type from this order by 1"#;
        clicks.sql::<Click>(query).unwrap()
    });
    assert_eq!(got, [(100, vec![click(4), click(5)])]);
    let got = run(&config, &input, |_, clicks| {
        let refused = clicks
            .sql::<i64>("select userId from this")
            .err()
            .unwrap()
            .to_string();
        for part in ["userid", "userId", "quote", "`sql`"] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
        let by_type = clicks.key_by_into::<String>(|click, key| key.push(click.r#type));
        let sums = (
            sum_of::<i64>("userId"),
            by_name::<i64>("max", "userId"),
            count(),
        );
        by_type.agg(sums).unwrap().pairs()
    });
    assert_eq!(got, [(100, vec![("click".to_owned(), (7, 4, 2))])]);
    let got = run(&config, &input, |_, clicks| {
        let by_type = clicks.key_by_into::<String>(|click, key| key.push(click.r#type));
        let query = r#"select key, "value_userId" as value from this where "value_user-agent" = 'x' order by 2 limit 1"#;
        by_type.pairs().sql::<(String, i64)>(query).unwrap()
    });
    assert_eq!(got, [(100, vec![("click".to_owned(), 3)])]);
}

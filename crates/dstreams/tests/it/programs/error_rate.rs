//! The share of errors in the log of each service over the last minute, with a last row when a service falls silent;
//! lines that are none of a log are kept.

use dstreams::agg::{count, sum};
use dstreams::testing::{TestProgram, batches, records, sorted};
use dstreams::{DStream, Keyed, Result, text::words};

use super::{SECOND, ends, random, sql, table};
use crate::program::block_on;

/// `TIME SERVICE LEVEL MESSAGE`: the service, and 1 for an error.
fn parse(line: &str) -> Option<(&str, i64)> {
    let mut words = words(line).skip(1);
    let service = words.next()?;
    match words.next()? {
        "ERROR" | "FATAL" => Some((service, 1)),
        "DEBUG" | "INFO" | "WARN" => Some((service, 0)),
        _ => None,
    }
}

/// Errors and lines of each service, and what is no line of a log, with the reason.
type Rates = (Keyed<String, (i64, i64)>, DStream<(String, String)>);

fn describe(lines: &DStream<String>) -> Result<Rates> {
    let parsed = lines.try_flat_map::<(String, i64), &str>(|line, out| {
        out.push(parse(line).ok_or("no line of a log")?);
        Ok(())
    });
    let minute = parsed.ok().by_key();
    let minute = minute.window_agg(60 * SECOND, 20 * SECOND, (sum::<i64>(), count()))?;
    let rates = minute.full_join(&minute.past(20 * SECOND)?)?;
    let rates = rates.map_values(|(now, _before)| now.unwrap_or((0, 0)));
    Ok((rates, parsed.rejected()))
}

#[test]
fn errors_of_each_service() {
    block_on(async {
        let mut test = TestProgram::new(10 * SECOND).unwrap();
        let (queue, lines) = test.context().queue::<String>("lines");
        let (rates, unparsed) = describe(&lines).unwrap();
        let (mut rates, mut unparsed) = (rates.pairs().collect(), unparsed.collect());

        let (mut sent, mut bad) = (Vec::new(), Vec::new());
        let mut run = test.start().await.unwrap();
        for batch in 1..=36 {
            let mut lines = Vec::new();
            for n in 0..12 {
                let r = random(batch * 100 + n);
                let service = ["mail", "web", "db"][(r % 3) as usize];
                // The mail falls silent for two minutes.
                if service == "mail" && (10..22).contains(&batch) {
                    continue;
                }
                let level = ["INFO", "WARN", "ERROR", "FATAL", "??"][(r / 10 % 5) as usize];
                let line = format!("{batch} {service} {level} something happened");
                match level {
                    "??" => bad.push(line.clone()),
                    level => {
                        let error = i64::from(matches!(level, "ERROR" | "FATAL"));
                        sent.push((10_000 * batch as i64, (service.to_owned(), error)));
                    }
                }
                lines.push(line);
            }
            queue.push(lines).await.unwrap();
            run.end_interval().await.unwrap();
        }
        run.stop().await.unwrap();

        let tables = [("lines", table(&sent)), ("ends", ends(20_000, 360_000))];
        let wanted = "
            with minutes as (
              select e.value as w, l.value_key as service, sum(l.value_value) as errors, count(*) as n
              from lines l join ends e on l.key <= e.value and l.key > e.value - 60000 group by 1, 2)
            select w, service, errors, n from minutes
            union all
            select b.w + 20000, b.service, 0, 0 from minutes b
            where b.w < 360000
              and not exists (select 1 from minutes m where m.w = b.w + 20000 and m.service = b.service)";
        let wanted: Vec<(i64, String, i64, i64)> = sql(&tables, wanted).await;
        assert!(
            wanted.iter().any(|(.., lines)| *lines == 0),
            "nobody falls silent"
        );
        let found = batches(&mut rates)
            .unwrap()
            .into_iter()
            .flat_map(|(batch, rates)| {
                let rates = rates.into_iter();
                rates.map(move |(service, (errors, n))| (batch.millis() as i64, service, errors, n))
            });
        assert_eq!(sorted(found.collect()), sorted(wanted));
        let found = records(&mut unparsed).unwrap().into_iter();
        assert_eq!(sorted(found.map(|(_, line)| line).collect()), sorted(bad));
    });
}

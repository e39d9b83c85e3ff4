//! Payments with what is known of the account, in SQL with a function of one's own; and questions meanwhile, which
//! know the same table and function.

use std::sync::Arc;

use dstreams::datafusion::datasource::{MemTable, TableProvider};
use dstreams::record::records_of;
use dstreams::testing::{TestProgram, records, sorted};
use dstreams::{DStream, Record, Result, StreamContext};

use super::{SECOND, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Payment {
    id: i64,
    account: i64,
    cents: i64,
}

#[derive(Record, Debug, Clone)]
struct Account {
    id: i64,
    name: String,
    country: String,
}

/// Nothing is known of some accounts.
#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Enriched {
    id: i64,
    name: Option<String>,
    country: Option<String>,
    tier: String,
    cents: i64,
}

fn describe(
    ctx: &StreamContext,
    payments: &DStream<Payment>,
    accounts: Arc<dyn TableProvider>,
) -> Result<DStream<Enriched>> {
    ctx.register_table("accounts", accounts);
    ctx.register_fn::<i64, String>("tier", |cents| {
        if cents >= 100_000 { "large" } else { "small" }.to_owned()
    })?;
    payments.remember("payments", 3 * SECOND)?;
    payments.sql(
        "select t.id, a.name, a.country, tier(t.cents) as tier, t.cents
         from this t left join accounts a on t.account = a.id",
    )
}

#[test]
fn payments_with_their_accounts() {
    block_on(async {
        let account = |id: i64| Account {
            id,
            name: format!("account {id}"),
            country: ["DE", "FR"][(id % 2) as usize].to_owned(),
        };
        let accounts: Vec<Account> = (0..15).map(account).collect();
        let rows = table(&accounts);
        let provider = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap();
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, payments) = test.context().queue::<Payment>("payments");
        let enriched = describe(test.context(), &payments, Arc::new(provider)).unwrap();
        // Without an `Option` there would be no place for an unknown name.
        let refused = payments.sql::<(i64, String)>(
            "select t.id as key, a.name as value from this t left join accounts a on t.account = a.id",
        );
        let refused = refused.err().unwrap().to_string();
        assert!(
            refused.contains("`value`") && refused.contains("null"),
            "{refused}"
        );
        let mut enriched = enriched.collect();

        let payment = |id: i64| {
            let r = random(id as u64);
            Payment {
                id,
                account: (r % 20) as i64,
                cents: (r / 20 % 200_000) as i64,
            }
        };
        let payments: Vec<Payment> = (0..120).map(payment).collect();
        let mut run = test.start().await.unwrap();
        for second in payments.chunks(20) {
            queue.push(second.to_vec()).await.unwrap();
            run.end_interval().await.unwrap();
        }
        let tables = [("t", table(&payments)), ("a", rows)];
        let session = run.running().session().await.unwrap();
        let question = "
            select a.country, tier(p.cents) as tier, count(*) as payments
            from payments p join accounts a on p.account = a.id group by 1, 2 order by 1, 2";
        let answer = session
            .sql(question)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        let answer = answer
            .iter()
            .flat_map(|rows| records_of::<(String, String, i64)>(rows).unwrap());
        let wanted = "
            select a.country, arrow_cast(case when t.cents >= 100000 then 'large' else 'small' end, 'Utf8View'), count(*)
            from t join a on t.account = a.id where t.id >= 60 group by 1, 2 order by 1, 2";
        let wanted: Vec<(String, String, i64)> = sql(&tables, wanted).await;
        assert_eq!(answer.collect::<Vec<_>>(), wanted);
        run.stop().await.unwrap();

        let wanted = "
            select t.id, a.name, a.country,
                   arrow_cast(case when t.cents >= 100000 then 'large' else 'small' end, 'Utf8View') as tier, t.cents
            from t left join a on t.account = a.id order by t.id";
        let wanted: Vec<Enriched> = sql(&tables, wanted).await;
        assert!(wanted.iter().any(|payment| payment.name.is_none()));
        assert_eq!(sorted(records(&mut enriched).unwrap()), wanted);
    });
}

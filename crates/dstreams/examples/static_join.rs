//! Sales joined with a fixed table of shops, in SQL.
//!
//! Shows how typed streams and SQL combine: structs go in, a query joins each batch with a table of the context,
//! structs come out, and the columns are checked before anything runs.
//!
//! ```text
//! cargo run --example static_join        # until Ctrl-C
//! cargo run --example static_join 5      # five batches
//! ```

use std::sync::Arc;
use std::time::Duration;

use dstreams::datafusion::datasource::MemTable;
use dstreams::{Generator, Record, StreamContext, record::batch_of};

#[derive(Record)]
struct Shop {
    id: i64,
    city: String,
}

#[derive(Record)]
struct Sale {
    shop: i64,
    cents: i64,
}

#[derive(Record)]
struct Turnover {
    city: String,
    sales: i64,
    euros: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batches: Option<usize> = std::env::args().nth(1).map(|n| n.parse()).transpose()?;

    let mut ctx = StreamContext::new(Duration::from_millis(500))?;
    let cities = (0..).zip(["Berlin", "Hamburg", "Berlin"].map(str::to_owned));
    let shops = cities.map(|(id, city)| Shop { id, city });
    let shops = MemTable::try_new(Shop::schema(), vec![vec![batch_of(shops)?]])?;
    ctx.register_table("shops", Arc::new(shops));

    // Shop 3 is not in the table: an inner join leaves its sales out.
    let sale = |n: i64| Sale {
        shop: n % 4,
        cents: n % 1_000,
    };
    let sales = ctx.generator("sales", Generator::new(4_000, move |n| sale(n as i64)));
    // Planned once, and run for each batch, which is the table `this`.
    let turnover = sales.sql::<Turnover>(
        "select city, count(*) as sales, sum(cents) / 100.0 as euros
         from this join shops on this.shop = shops.id group by city order by city",
    )?;
    let mut turnovers = turnover.collect();

    let running = ctx.start().await?;
    for _ in 0..batches.unwrap_or(usize::MAX) {
        let Some(rdd) = turnovers.recv().await else {
            break;
        };
        let time = rdd.batch_time();
        for Turnover { city, sales, euros } in rdd.collect()? {
            println!("{time} {city:<8} {sales:>5} sales {euros:>9.2} EUR");
        }
    }
    running.abort().await?;
    Ok(())
}

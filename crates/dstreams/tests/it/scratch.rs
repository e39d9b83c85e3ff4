//! Scratch.
use crate::program::*;
use dstreams::agg::*;
use dstreams::Record;

#[derive(Record, Debug, Clone)]
struct Sale { shop: String, ok: bool, tags: Vec<i64>, x: f64 }

#[test]
fn nan() {
    for threads in [1, 2, 3] {
        for order in [vec![f64::NAN, 1.0, 2.0], vec![1.0, f64::NAN, 2.0], vec![2.0, 1.0, f64::NAN], vec![-0.0, 0.0], vec![0.0, -0.0]] {
            let input = vec![vec![order.iter().map(|x| (1i64, *x)).collect::<Vec<_>>()]];
            let got = run(&small(threads, 1, 1), &input, |_, p| p.by_key().agg((min::<f64>(), max::<f64>())).unwrap().pairs());
            let w = run(&small(threads, 1, 1), &input, |_, p| p.by_key().window_agg(INTERVAL, INTERVAL, (min::<f64>(), max::<f64>())).unwrap().pairs());
            println!("{threads} {order:?} {:?} {:?}", got[0].1, w[0].1);
        }
    }
}

#[test]
fn lists() {
    let input = vec![vec![vec![Sale { shop: "a".into(), ok: true, tags: vec![1, 2], x: 1.0 }, Sale { shop: "a".into(), ok: false, tags: vec![3], x: 1.0 }]]];
    let got = run(&small(2, 1, 1), &input, |_, s| s.key_by::<String>(|s, k| k.push(s.shop)).agg((max_of::<bool>("ok"), min_of::<bool>("ok"))).unwrap().pairs());
    println!("{got:?}");
    let got = run(&small(2, 1, 1), &input, |_, s| s.key_by::<String>(|s, k| k.push(s.shop)).agg(max_of::<Vec<i64>>("tags")).unwrap().pairs());
    println!("{got:?}");
}

#[test]
fn no_inputs() {
    let got = run(&small(2, 1, 1), &[vec![vec![1i64, 2, 3]], vec![]], |ctx, _| ctx.sql::<i64>(&[], "select 1 as value").unwrap());
    println!("{got:?}");
}

#[test]
fn top_lists() {
    let input = vec![vec![vec![(1i64, vec![1i64, 2]), (2, vec![3])], vec![(3, vec![])]]];
    let got = run(&small(2, 1, 1), &input, |_, s| s.by_key().top(2));
    println!("{got:?}");
}

#[test]
fn decimals() {
    let input = vec![vec![vec![1i64, 2, 3, 2, 1]]];
    let got = run(&small(2, 1, 1), &input, |_, s| s.sql::<(String, i64)>("select cast(d as varchar) as key, n as value from (select cast(value as decimal(10,2)) as d, count(*) as n from this group by 1)").unwrap());
    println!("{got:?}");
}
#[test]
fn binary() {
    let input = vec![vec![vec![1i64, 2, 3, 2, 1]]];
    for e in ["arrow_cast(cast(value as varchar), 'Binary')", "arrow_cast(value, 'Timestamp(Millisecond, None)')", "arrow_cast(cast(value as varchar), 'Dictionary(Int32, Utf8)')", "make_array(value)", "cast(value as double)", "named_struct('a', value)", "arrow_cast(value, 'Interval(DayTime)')", "arrow_cast(value,'Duration(Second)')"] {
      let r = std::panic::catch_unwind(|| {
        let got = run(&small(2, 1, 1), &input, |_, s| s.sql::<i64>(&format!("select n as value from (select {e} as d, count(*) as n from this group by 1)")).unwrap());
        println!("{e} {got:?}");});
      println!("{e} {}", r.is_ok());
    }
}

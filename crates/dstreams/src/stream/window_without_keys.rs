//! Windows over all records of a stream: those of a single key.

use std::panic::Location;
use std::time::Duration;

use super::agg::{Agg, sum};
use super::dstream::DStream;
use super::keyed::Keyed;
use super::record::Record;
use crate::error::{Operator, Result};

impl<T: Record> DStream<T> {
    /// Aggregates all records of the last `len`, every `slide`, to one record; none if there are no records.
    ///
    /// As [`Keyed::window_agg`] of a single key: a batch costs O(its records), a slide O(1) more, regardless of `len`.
    /// Refused as that is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::{avg_of, count, max_of}};
    /// # #[derive(dstreams::Record)] struct Sale { shop: String, price: f64 }
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, sales) = ctx.queue::<Sale>("sales");
    /// let of_all = (count(), avg_of::<f64>("price"), max_of::<f64>("price"));
    /// sales.window_agg(Duration::from_secs(60), Duration::from_secs(5), of_all)?.print(1);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn window_agg<A: Agg<T>>(
        &self,
        len: Duration,
        slide: Duration,
        agg: A,
    ) -> Result<DStream<A::Out>> {
        let operator = Operator::new("window_agg", Location::caller());
        let window = self.under_one_key();
        Ok(window
            .window_of(None, (len, slide), agg, operator)?
            .of_one_key())
    }

    /// The same, with a name by which a changed program finds the contents again: see [`Keyed::named_window_agg`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::sum};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, cents) = ctx.queue::<i64>("cents");
    /// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    /// cents.named_window_agg("turnover", minute, second, sum::<i64>())?.print(1);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn named_window_agg<A: Agg<T>>(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        agg: A,
    ) -> Result<DStream<A::Out>> {
        let operator = Operator::new("named_window_agg", Location::caller());
        let window = self.under_one_key();
        let window = window.window_of(Some(name), (len, slide), agg, operator)?;
        Ok(window.of_one_key())
    }

    /// The number of records of the last `len`, every `slide`: always one record, 0 if there are none.
    ///
    /// A batch costs O(its records), a slide O(1) more, regardless of `len`. Refused as [`Keyed::window_agg`] is. For
    /// the number of each record there is [`keyed`](DStream::keyed) with [`window_agg`](Keyed::window_agg).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use std::time::Duration;
    /// # use dstreams::{Config, testing};
    /// let second = Duration::from_secs(1);
    /// let config = Config::new(second);
    /// let input = [vec![7i64, 8], vec![9], vec![], vec![]];
    /// let batches = testing::run(&config, input, |numbers| {
    ///     numbers.count_by_window(2 * second, second)
    /// });
    /// let counts: Vec<_> = batches.await?.into_iter().map(|(_, counts)| counts[0]).collect();
    /// assert_eq!(counts, [2, 3, 1, 0]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn count_by_window(&self, len: Duration, slide: Duration) -> Result<DStream<i64>> {
        let operator = Operator::new("count_by_window", Location::caller());
        // Each batch has a count, and so each window a sum.
        let counts = self.count()?.under_one_key();
        let window = counts.window_of(None, (len, slide), sum::<i64>(), operator)?;
        Ok(window.of_one_key())
    }

    #[track_caller]
    pub(super) fn under_one_key(&self) -> Keyed<bool, T> {
        self.key_by(|_| true)
    }
}

impl<V: Record> Keyed<bool, V> {
    /// The values of the only key.
    #[track_caller]
    pub(super) fn of_one_key(&self) -> DStream<V> {
        self.pairs().map(|(_, value)| V::own(value))
    }
}

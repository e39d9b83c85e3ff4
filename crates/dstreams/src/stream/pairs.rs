//! Operators of [`DStream`] on the pairs of a [`Keyed`], and `flat_map_values`.

use std::panic::Location;

use datafusion::dataframe::DataFrame;

use super::dstream::DStream;
use super::keyed::Keyed;
use super::record::{Builder, Key, Out, Record};
use super::rows::Closure;
use crate::error::{Operator, Result};

impl<K: Key, V: Record> Keyed<K, V> {
    /// The pairs for which `f` of key and value is true, in their order. O(records of the batch).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// let dear = sales.by_key().filter(|shop, cents| shop != "test" && cents > 10_000);
    /// ```
    #[track_caller]
    pub fn filter(
        &self,
        f: impl for<'a> Fn(K::Ref<'a>, V::Ref<'a>) -> bool + Closure,
    ) -> Keyed<K, V> {
        let filtered = self.pairs().filter(move |(key, value)| f(key, value));
        filtered.by_key()
    }

    /// The values without their keys, in their order. O(records of the batch); text is not copied.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// // How many words came once, how many twice.
    /// let counts = words.keyed().agg(count())?.values();
    /// let mut often = counts.count_by_value().pairs().collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "to"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// # let mut found = often.recv().await.unwrap().collect()?;
    /// # found.sort();
    /// # assert_eq!(found, [(1, 1), (2, 1)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn values(&self) -> DStream<V> {
        let emit = |(_, value): <(K, V) as Record>::Ref<'_>, out: &mut Out<'_, V>| {
            V::append_ref(value, out.builder())
        };
        let operator = Operator::new("values", Location::caller());
        self.pairs().emit(operator, emit)
    }

    /// Any number of values for each value: the closure pushes them, in order; each gets the key of the value.
    /// O(records in and out).
    ///
    /// Text borrowed from the value is not copied, and neither is the text of keys.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<(i64, String)>("lines");
    /// // The words of each user.
    /// let words = lines.by_key().flat_map_values::<String>(|line, out| {
    ///     for word in dstreams::text::words(line) {
    ///         out.push(word)
    ///     }
    /// });
    /// ```
    #[track_caller]
    pub fn flat_map_values<U: Record>(
        &self,
        f: impl for<'a> Fn(V::Ref<'a>, &mut Out<'_, U>) + Closure,
    ) -> Keyed<K, U> {
        let emit = move |(key, value): <(K, V) as Record>::Ref<'_>, out: &mut Out<'_, (K, U)>| {
            let (keys, values) = out.builder();
            let before = values.len();
            f(value, &mut Out::new(values));
            for _ in before..values.len() {
                K::append_ref(key, keys);
            }
        };
        let operator = Operator::new("flat_map_values", Location::caller());
        self.pairs().emit(operator, emit).by_key()
    }

    /// [`DStream::sql`] over the pairs: the columns of the key are named `key`, those of the value `value`.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// let shares = sales.by_key().sql::<(String, f64)>(
    ///     "select key, value / sum(cast(value as double)) over () from this",
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn sql<U: Record>(&self, query: &str) -> Result<DStream<U>> {
        self.pairs().sql(query)
    }

    /// [`DStream::transform`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// use dstreams::datafusion::prelude::{col, lit};
    ///
    /// let refunds = sales.by_key().transform::<(String, i64)>(|frame| {
    ///     frame.filter(col("value").lt(lit(0)))
    /// })?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn transform<U: Record>(
        &self,
        f: impl Fn(DataFrame) -> datafusion::error::Result<DataFrame> + Closure,
    ) -> Result<DStream<U>> {
        self.pairs().transform(f)
    }

    /// The pairs of both streams, those of `self` first: [`DStream::union`] of the pairs.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, online) = ctx.queue::<(String, i64)>("online");
    /// # let (_, shops) = ctx.queue::<(String, i64)>("shops");
    /// use dstreams::agg::sum;
    ///
    /// let turnover = online.by_key().union(&shops.by_key())?.agg(sum::<i64>())?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn union(&self, other: &Keyed<K, V>) -> Result<Keyed<K, V>> {
        Ok(self.pairs().union(&other.pairs())?.by_key())
    }
}

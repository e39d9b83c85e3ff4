//! [`Correction`]: a result that takes the place of another.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::Field;

use super::record::{Builder, ColumnReader, Columns, Push, Record, field_name};
use crate::debug::debug_as;
use crate::error::Result;

/// A result of event time that is emitted after the slack of its interval: see
/// [`ByTime::corrections`](crate::ByTime::corrections).
///
/// Its columns are `interval`, `key`, `version`, `before` and `after`; those of parts that are composite are as in any
/// record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction<K, O> {
    /// The end of the interval, in milliseconds since the Unix epoch.
    pub interval: i64,
    /// The key.
    pub key: K,
    /// One more than the version before.
    pub version: u32,
    /// What the result was; none if the key had no records when the slack ended, and version is 1.
    pub before: Option<O>,
    /// What it is.
    pub after: O,
}

/// A row view of a [`Correction`].
#[allow(missing_docs)]
pub struct CorrectionRef<'a, K: Record, O: Record> {
    pub interval: i64,
    pub key: K::Ref<'a>,
    pub version: u32,
    pub before: Option<O::Ref<'a>>,
    pub after: O::Ref<'a>,
}

debug_as!([K: Record, O: Record] CorrectionRef<'_, K, O> { interval, version });

impl<K: Record, O: Record> Clone for CorrectionRef<'_, K, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Record, O: Record> Copy for CorrectionRef<'_, K, O> {}

/// The columns as those of a tuple.
type AsTuple<K, O> = (i64, K, u32, Option<O>, O);

/// The columns of corrections.
pub struct CorrectionCols<K: Record, O: Record>(<AsTuple<K, O> as Record>::Cols);

debug_as!([K: Record, O: Record] CorrectionCols<K, O>);

/// Builder of the columns of corrections.
pub struct CorrectionBuilder<K: Record, O: Record>(<AsTuple<K, O> as Record>::Builder);

debug_as!([K: Record, O: Record] CorrectionBuilder<K, O>);

impl<K: Record, O: Record> Default for CorrectionBuilder<K, O> {
    fn default() -> Self {
        CorrectionBuilder(Default::default())
    }
}

impl<K: Record, O: Record> Record for Correction<K, O> {
    type Ref<'a> = CorrectionRef<'a, K, O>;
    type Cols = CorrectionCols<K, O>;
    type Builder = CorrectionBuilder<K, O>;

    fn fields(name: &str, out: &mut Vec<Field>) {
        i64::fields(&field_name(name, "interval"), out);
        K::fields(&field_name(name, "key"), out);
        u32::fields(&field_name(name, "version"), out);
        Option::<O>::fields(&field_name(name, "before"), out);
        O::fields(&field_name(name, "after"), out);
    }

    fn own(row: Self::Ref<'_>) -> Self {
        Correction {
            interval: row.interval,
            key: K::own(row.key),
            version: row.version,
            before: row.before.map(O::own),
            after: O::own(row.after),
        }
    }

    fn append(self, to: &mut Self::Builder) {
        let Correction {
            interval,
            key,
            version,
            before,
            after,
        } = self;
        AsTuple::append((interval, key, version, before, after), &mut to.0);
    }

    fn append_ref(row: Self::Ref<'_>, to: &mut Self::Builder) {
        let row = (row.interval, row.key, row.version, row.before, row.after);
        AsTuple::<K, O>::append_ref(row, &mut to.0);
    }

    fn append_null(to: &mut Self::Builder) {
        AsTuple::<K, O>::append_null(&mut to.0);
    }
}

impl<K: Record, O: Record> Columns<Correction<K, O>> for CorrectionCols<K, O> {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        Ok(CorrectionCols(Columns::<AsTuple<K, O>>::try_new(reader)?))
    }

    #[inline]
    fn get(&self, row: usize) -> CorrectionRef<'_, K, O> {
        let (interval, key, version, before, after) = Columns::<AsTuple<K, O>>::get(&self.0, row);
        CorrectionRef {
            interval,
            key,
            version,
            before,
            after,
        }
    }
}

impl<K: Record, O: Record> Builder for CorrectionBuilder<K, O> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn attach(&mut self, buffers: &[Buffer]) {
        self.0.attach(buffers);
    }

    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        self.0.finish(out)
    }
}

impl<K: Record, O: Record> Push<Correction<K, O>> for Correction<K, O> {
    fn push_to(self, to: &mut CorrectionBuilder<K, O>) {
        self.append(to);
    }
}

impl<K: Record, O: Record> Push<Correction<K, O>> for CorrectionRef<'_, K, O> {
    fn push_to(self, to: &mut CorrectionBuilder<K, O>) {
        Correction::<K, O>::append_ref(self, to);
    }
}

//! Enums without fields: a text column with the names of the variants.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::{ColumnReader, Record, leaf_name};
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Metadata of the fields of [`checked_schema`]: the texts of an enum, one a line.
const TEXTS: &str = "dstreams.texts";
/// How much of a text that names no variant is in the error, in bytes.
const SHOWN: usize = 100;

/// An enum that is a record: derived.
///
/// ```
/// use dstreams::record::Variants;
///
/// #[derive(dstreams::Record, Clone, Copy)]
/// enum Level { Info, #[record(name = "warning")] Warn }
///
/// assert_eq!(Level::Warn.text(), "warning");
/// assert_eq!(Level::ALL.len(), 2);
/// ```
pub trait Variants: Copy + Send + Sync + 'static {
    /// Name of the enum.
    const NAME: &'static str;
    /// All variants.
    const ALL: &'static [Self];
    /// The text of this variant.
    fn text(self) -> &'static str;
}

/// The values of a column of an enum.
pub struct VariantCols<T>(Vec<T>);

debug_as!([T] VariantCols<T>);

impl<T: Variants> VariantCols<T> {
    /// Reads the next column.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] if a text names no variant, with the text.
    pub fn read(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let texts = reader.column::<StringViewArray>(&DataType::Utf8View)?;
        let mut all = Vec::with_capacity(texts.len());
        let mut last = None;
        for row in 0..texts.len() {
            let there = reader.present().is_none_or(|there| there.value(row));
            let found = match there && texts.is_valid(row) {
                true => variant::<T>(texts.value(row), last),
                // It is never looked at.
                false => T::ALL.first().copied(),
            };
            let Some(found) = found else {
                let text = texts.value(row);
                return Err(Error::Schema {
                    what: format!("a text of `{}`", T::NAME),
                    expected: format!("one of {}", names(T::ALL.iter().map(|it| it.text()))),
                    found: format!("`{}`", &text[..text.floor_char_boundary(SHOWN)]),
                });
            };
            last = Some(found);
            all.push(found);
        }
        Ok(VariantCols(all))
    }

    /// The variant in a row.
    ///
    /// # Panics
    ///
    /// When `row` is not below the number of rows.
    #[inline]
    pub fn variant(&self, row: usize) -> T {
        self.0[row]
    }
}

/// The variant with this text; most often that of the row before.
fn variant<T: Variants>(text: &str, last: Option<T>) -> Option<T> {
    let is = |it: &T| it.text() == text;
    last.filter(is).or_else(|| T::ALL.iter().copied().find(is))
}

/// Texts as a list, for messages.
fn names<'a>(of: impl Iterator<Item = &'a str>) -> String {
    of.map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Appends the column of an enum.
pub fn variant_field<T: Variants>(name: &str, out: &mut Vec<Field>) {
    let texts: Vec<_> = T::ALL.iter().map(|variant| variant.text()).collect();
    let metadata = HashMap::from([(TEXTS.to_owned(), texts.join("\n"))]);
    let field = Field::new(leaf_name(name), DataType::Utf8View, false);
    out.push(field.with_metadata(metadata));
}

/// The texts that a column of [`checked_schema`] may have; any if there are none.
pub(crate) struct AllowedTexts(Vec<String>);

impl AllowedTexts {
    pub fn of(field: &Field) -> Option<Self> {
        let texts = field.metadata().get(TEXTS)?;
        Some(AllowedTexts(texts.split('\n').map(str::to_owned).collect()))
    }

    /// Fails with the reason if `text` is not one of them.
    pub fn check(&self, text: &str) -> Result<(), String> {
        match self.0.iter().any(|allowed| allowed == text) {
            true => Ok(()),
            false => Err(format!(
                "it is none of {}",
                names(self.0.iter().map(|it| &**it))
            )),
        }
    }
}

/// The columns of a record, with the texts of enums, for sources that check them.
pub(crate) fn checked_schema<T: Record>() -> SchemaRef {
    let mut fields = Vec::new();
    T::fields("", &mut fields);
    Arc::new(Schema::new(fields))
}

/// The same columns without the texts of enums, which no plan and no file knows.
pub(crate) fn plain_schema(of: &Schema) -> SchemaRef {
    let fields = of.fields().iter();
    Arc::new(Schema::new(
        fields.map(|field| plain_field(field)).collect::<Fields>(),
    ))
}

/// A field without the texts of enums in it.
pub(crate) fn plain_field(of: &Field) -> Field {
    let kind = match of.data_type() {
        DataType::List(item) => DataType::List(Arc::new(plain_field(item))),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain_field(field)).collect())
        }
        other => other.clone(),
    };
    Field::new(of.name(), kind, of.is_nullable())
}

//! [`KeyTable`]: keys of any columns.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::packed::{Layout, PackedKeys};
use super::texts::Texts;
use crate::debug::debug_as;
use crate::error::Result;

/// Numbers keys: equal keys have the same number. Keys are equal as in DataFusion's grouping, so null equals null.
pub struct KeyTable(KeyKind);

debug_as!(KeyTable);

enum KeyKind {
    Texts(Texts),
    Narrow(PackedKeys<u64>),
    Wide(PackedKeys<u128>),
    /// Floating-point numbers, nested values, and what is wider than 128 bits.
    Other(Box<dyn GroupValues>),
}

impl KeyTable {
    /// For keys with these columns.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        KeyTable::with_room(schema, 0)
    }

    /// The same, with room for a number of keys, so that it need not grow before.
    pub fn with_room(schema: &SchemaRef, room: usize) -> Result<Self> {
        Ok(KeyTable(match KeyKind::of(schema, room) {
            Some(kind) => kind,
            None => KeyKind::Other(new_group_values(schema.clone(), &GroupOrdering::None)?),
        }))
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        match &self.0 {
            KeyKind::Texts(keys) => keys.len(),
            KeyKind::Narrow(keys) => keys.len(),
            KeyKind::Wide(keys) => keys.len(),
            KeyKind::Other(keys) => keys.len(),
        }
    }

    /// Writes the number of each row's key to `numbers`. New keys get the next numbers: in the order of their rows,
    /// but for keys that DataFusion numbers.
    pub fn number(&mut self, columns: &[ArrayRef], numbers: &mut Vec<usize>) -> Result<()> {
        match &mut self.0 {
            KeyKind::Texts(keys) => keys.number(&columns[0], numbers),
            KeyKind::Narrow(keys) => keys.number(columns, numbers),
            KeyKind::Wide(keys) => keys.number(columns, numbers),
            KeyKind::Other(keys) => Ok(keys.intern(columns, numbers)?),
        }
    }

    /// Whether it has a sum for each key.
    pub fn has_sums(&self) -> bool {
        !matches!(self.0, KeyKind::Other(_))
    }

    /// Adds the value of each row to the sum of its key, which begins with zero and wraps around. Only for tables that
    /// have sums.
    pub fn add(&mut self, columns: &[ArrayRef], value: impl Fn(usize) -> i64) -> Result<()> {
        match &mut self.0 {
            KeyKind::Texts(keys) => keys.add(&columns[0], value),
            KeyKind::Narrow(keys) => keys.add(columns, value),
            KeyKind::Wide(keys) => keys.add(columns, value),
            KeyKind::Other(_) => Ok(()),
        }
    }

    /// The sums by number; none remain.
    pub fn take_sums(&mut self) -> Vec<i64> {
        match &mut self.0 {
            KeyKind::Texts(keys) => keys.take_sums(),
            KeyKind::Narrow(keys) => keys.take_sums(),
            KeyKind::Wide(keys) => keys.take_sums(),
            KeyKind::Other(_) => Vec::new(),
        }
    }

    /// The keys by number, as columns; none remain.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.0 {
            KeyKind::Texts(keys) => Ok(vec![keys.take()?]),
            KeyKind::Narrow(keys) => keys.take(),
            KeyKind::Wide(keys) => keys.take(),
            KeyKind::Other(keys) => Ok(keys.emit(EmitTo::All)?),
        }
    }
}

#[cfg(test)]
impl KeyTable {
    /// Keys that something else numbers.
    pub fn of(groups: Box<dyn GroupValues>) -> Self {
        KeyTable(KeyKind::Other(groups))
    }
}

impl KeyKind {
    fn of(schema: &Schema, room: usize) -> Option<Self> {
        if let [field] = &schema.fields()[..]
            && matches!(field.data_type(), DataType::Utf8View | DataType::BinaryView)
        {
            return Some(KeyKind::Texts(Texts::new(field.data_type().clone(), room)));
        }
        let layout = Layout::of(schema)?;
        Some(match layout.bits {
            ..=64 => KeyKind::Narrow(PackedKeys::new(layout, room)),
            _ => KeyKind::Wide(PackedKeys::new(layout, room)),
        })
    }
}

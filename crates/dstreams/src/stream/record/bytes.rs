//! Bytes: of any length, and of the length of a UUID.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryViewArray, BinaryViewBuilder, FixedSizeBinaryArray,
};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, Field};

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record, RecordShape, leaf_name};
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Any bytes: a column `BinaryView`, read as `&[u8]`.
///
/// A `Vec<u8>` is a list of numbers for SQL and takes a place for each; this is one value, compared and hashed as a
/// whole, and may be a key. Bytes that a closure pushes are copied.
///
/// ```
/// use dstreams::{Bytes, StreamContext};
///
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, packets) = ctx.queue::<Bytes>("packets");
/// let lengths = packets.map(|packet| packet.len() as u64);
/// let parts = packets.flat_map::<Bytes>(|packet, out| {
///     for part in packet.chunks(4) {
///         out.push(part)
///     }
/// });
/// # lengths.print(1);
/// # parts.print(1);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

/// Sixteen bytes: a column `FixedSizeBinary(16)`. Its text is the usual one, in groups of hexadecimal digits.
///
/// ```
/// use dstreams::Uuid;
///
/// let id = Uuid(*b"0123456789abcdef");
/// assert_eq!(id.to_string(), "30313233-3435-3637-3839-616263646566");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The values of a column of bytes.
pub struct BytesCols(BinaryViewArray);

debug_as!(BytesCols);

/// Builder of a column of bytes.
#[derive(Default)]
pub struct BytesBuilder(BinaryViewBuilder);

debug_as!(BytesBuilder);

impl Record for Bytes {
    type Ref<'a> = &'a [u8];
    type Cols = BytesCols;
    type Builder = BytesBuilder;
    const SHAPE: RecordShape = RecordShape::Leaf;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(leaf_name(name), DataType::BinaryView, false));
    }
    fn own(row: &[u8]) -> Self {
        Bytes(row.to_vec())
    }
    fn append(self, to: &mut BytesBuilder) {
        to.0.append_value(&self.0)
    }
    fn append_ref(row: &[u8], to: &mut BytesBuilder) {
        to.0.append_value(row)
    }
    fn append_null(to: &mut BytesBuilder) {
        to.0.append_value([])
    }
}

impl Leaf for Bytes {}
impl Key for Bytes {}

impl Columns<Bytes> for BytesCols {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let column = reader.column::<BinaryViewArray>(&DataType::BinaryView)?;
        Ok(BytesCols(column))
    }
    #[inline]
    fn get(&self, row: usize) -> &[u8] {
        self.0.value(row)
    }
}

impl Builder for BytesBuilder {
    fn len(&self) -> usize {
        datafusion::arrow::array::ArrayBuilder::len(&self.0)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        out.push(Arc::new(self.0.finish()));
        Ok(())
    }
}

impl Push<Bytes> for Bytes {
    fn push_to(self, to: &mut BytesBuilder) {
        to.0.append_value(&self.0)
    }
}

impl Push<Bytes> for &[u8] {
    fn push_to(self, to: &mut BytesBuilder) {
        to.0.append_value(self)
    }
}

impl Push<Bytes> for Vec<u8> {
    fn push_to(self, to: &mut BytesBuilder) {
        to.0.append_value(self)
    }
}

/// The values of a column of UUIDs.
pub struct UuidCols(FixedSizeBinaryArray);

debug_as!(UuidCols);

/// Builder of a column of UUIDs.
#[derive(Default)]
pub struct UuidBuilder(Vec<[u8; 16]>);

debug_as!(UuidBuilder);

const UUID: DataType = DataType::FixedSizeBinary(16);

impl Record for Uuid {
    type Ref<'a> = Uuid;
    type Cols = UuidCols;
    type Builder = UuidBuilder;
    const SHAPE: RecordShape = RecordShape::Leaf;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(leaf_name(name), UUID, false));
    }
    fn own(row: Uuid) -> Self {
        row
    }
    fn append(self, to: &mut UuidBuilder) {
        to.0.push(self.0)
    }
    fn append_ref(row: Uuid, to: &mut UuidBuilder) {
        to.0.push(row.0)
    }
    fn append_null(to: &mut UuidBuilder) {
        to.0.push([0; 16])
    }
}

impl Leaf for Uuid {}
impl Key for Uuid {}

impl Columns<Uuid> for UuidCols {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let column = reader.column::<FixedSizeBinaryArray>(&UUID)?;
        match column.value_length() {
            16 => Ok(UuidCols(column)),
            _ => Err(Error::Schema {
                what: "a column".into(),
                expected: UUID.to_string(),
                found: column.data_type().to_string(),
            }),
        }
    }
    #[inline]
    fn get(&self, row: usize) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(self.0.value(row));
        Uuid(bytes)
    }
}

impl Builder for UuidBuilder {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let bytes = std::mem::take(&mut self.0).into_flattened();
        let column = FixedSizeBinaryArray::try_new(16, Buffer::from_vec(bytes), None)?;
        out.push(Arc::new(column));
        Ok(())
    }
}

impl Push<Uuid> for Uuid {
    fn push_to(self, to: &mut UuidBuilder) {
        to.0.push(self.0)
    }
}

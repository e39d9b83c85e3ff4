//! [`ByteChunks`]: bytes in several buffers.

use std::borrow::Cow;

use datafusion::arrow::buffer::Buffer;

/// Bytes in pieces that share buffers with their source: a block becomes bytes without a copy of its columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct ByteChunks(Vec<Buffer>);

impl ByteChunks {
    /// Appends these pieces.
    pub fn append(&mut self, mut more: ByteChunks) {
        self.0.append(&mut more.0);
    }

    /// The total number of bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Buffer::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Buffer::as_slice)
    }

    /// All bytes in one slice.
    pub fn whole(&self) -> Cow<'_, [u8]> {
        match self.0.as_slice() {
            [one] => Cow::Borrowed(one),
            _ => Cow::Owned(self.iter().collect::<Vec<_>>().concat()),
        }
    }
}

impl FromIterator<Buffer> for ByteChunks {
    fn from_iter<I: IntoIterator<Item = Buffer>>(pieces: I) -> Self {
        ByteChunks(pieces.into_iter().collect())
    }
}

impl From<Vec<u8>> for ByteChunks {
    fn from(bytes: Vec<u8>) -> Self {
        ByteChunks(vec![bytes.into()])
    }
}

/// Compares the bytes, however they are cut.
impl PartialEq for ByteChunks {
    fn eq(&self, other: &Self) -> bool {
        self.whole() == other.whole()
    }
}

impl Eq for ByteChunks {}

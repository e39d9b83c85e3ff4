//! [`ByteChunks`]: bytes that lie in several places.

use std::borrow::Cow;

use datafusion::arrow::buffer::Buffer;

/// Bytes in pieces, shared with those they are of: so a block is bytes without a copy of its columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct ByteChunks(Vec<Buffer>);

impl ByteChunks {
    /// Appends these after it.
    pub fn append(&mut self, mut more: ByteChunks) {
        self.0.append(&mut more.0);
    }

    /// How many bytes these are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Buffer::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Buffer::as_slice)
    }

    /// All of them in one place.
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

/// The same bytes, however they are cut.
impl PartialEq for ByteChunks {
    fn eq(&self, other: &Self) -> bool {
        self.whole() == other.whole()
    }
}

impl Eq for ByteChunks {}

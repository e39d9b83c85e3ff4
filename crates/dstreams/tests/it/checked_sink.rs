//! A sink that checks rows, for tests of its errors.

use dstreams::arrow::array::RecordBatch;
use dstreams::{BatchTime, BoxError, Guarantee, Prepared, Sink, async_trait};

/// Fails to prepare rows when its function fails, and keeps nothing.
pub struct CheckedSink(pub fn(&[RecordBatch]) -> Result<(), BoxError>);

#[async_trait]
impl Sink for CheckedSink {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        (self.0)(rows).map(|()| Prepared::default())
    }

    async fn commit(&self, _: BatchTime, _: Vec<Prepared>) -> Result<(), BoxError> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

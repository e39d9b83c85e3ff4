//! An object store in memory that reports each request before it answers, to an observer that may act on it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use dstreams::datafusion::object_store::memory::InMemory;
use dstreams::datafusion::object_store::path::Path;
use dstreams::datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

/// A request to a store.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    List,
    Head(String),
    Get(String, Range<u64>),
    /// An object is stored; it may be reported as failed.
    Put(String),
}

/// The answer.
pub enum Answer {
    Give,
    Fail,
    /// No answer, ever.
    Never,
}

type Told = Box<dyn FnMut(&Asked, &InMemory) -> Answer + Send>;

/// An object store in memory with an observer of its requests.
pub struct Watched {
    pub objects: InMemory,
    /// Whether objects have entity tags.
    tags: bool,
    told: Mutex<Told>,
    asked: Mutex<Vec<Asked>>,
}

impl Watched {
    pub fn new(told: impl FnMut(&Asked, &InMemory) -> Answer + Send + 'static) -> Arc<Self> {
        Watched::with_tags(true, told)
    }

    pub fn with_tags(
        tags: bool,
        told: impl FnMut(&Asked, &InMemory) -> Answer + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Watched {
            objects: InMemory::new(),
            tags,
            told: Mutex::new(Box::new(told)),
            asked: Mutex::default(),
        })
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    async fn answer(&self, asked: Asked) -> Result<()> {
        self.asked.lock().unwrap().push(asked.clone());
        let answer = self.told.lock().unwrap()(&asked, &self.objects);
        match answer {
            Answer::Give => Ok(()),
            Answer::Fail => Err(Error::Generic {
                store: "watched",
                source: "it fails".into(),
            }),
            Answer::Never => std::future::pending().await,
        }
    }

    fn tagged(&self, meta: ObjectMeta) -> ObjectMeta {
        let e_tag = meta.e_tag.filter(|_| self.tags);
        ObjectMeta { e_tag, ..meta }
    }
}

/// Writes an object as a whole.
pub fn put(objects: &InMemory, name: &str, bytes: impl Into<Vec<u8>>) {
    let put = PutPayload::from(bytes.into());
    let done = objects.put(&Path::parse(name).unwrap(), put).now_or_never();
    done.unwrap().unwrap();
}

pub fn delete(objects: &InMemory, name: &str) {
    let done = objects.delete(&Path::parse(name).unwrap()).now_or_never();
    done.unwrap().unwrap();
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched")
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched")
    }
}

#[dstreams::async_trait]
impl ObjectStore for Watched {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let name = at.to_string();
        let asked = match (&options.range, options.head) {
            (None, true) => Asked::Head(name),
            (Some(GetRange::Bounded(range)), false) => Asked::Get(name, range.clone()),
            (None, false) => Asked::Get(name, 0..u64::MAX),
            other => panic!("{other:?}"),
        };
        self.answer(asked).await?;
        let found = self.objects.get_opts(at, options).await?;
        let meta = self.tagged(found.meta.clone());
        Ok(GetResult { meta, ..found })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        // Listings are answered at once.
        match self.answer(Asked::List).now_or_never() {
            Some(Ok(())) => self.objects.list(prefix),
            Some(Err(error)) => stream::iter([Err(error)]).boxed(),
            None => stream::pending().boxed(),
        }
    }

    async fn put_opts(&self, at: &Path, put: PutPayload, options: PutOptions) -> Result<PutResult> {
        let done = self.objects.put_opts(at, put, options).await?;
        self.answer(Asked::Put(at.to_string())).await?;
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("nobody does that")
    }

    fn delete_stream(
        &self,
        names: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(names)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answer(Asked::List).await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("nobody does that")
    }
}

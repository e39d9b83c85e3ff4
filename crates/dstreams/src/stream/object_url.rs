//! [`store_at`]: the place in an object store that a URL names.

use std::fmt;
use std::sync::Arc;

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectStore, parse_url_opts};

use crate::error::{Error, Result};

/// The store and the path in it, with what the environment says about it (keys, regions). Nothing is asked of the
/// store yet.
///
/// `file:` and `memory:` are always understood; `s3:`, `gs:`, `az:` and others where the program is built with the
/// feature of the crate `object_store` for it. `setting` is what the URL is for, in the error.
pub(crate) fn store_at(setting: &'static str, url: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let wrong = |error: &dyn fmt::Display| Error::Config {
        setting,
        message: format!("`{url}` names no place: {error}"),
    };
    let parsed = url::Url::parse(url).map_err(|error| wrong(&error))?;
    // A variable that is no text is none of a store.
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name.to_lowercase(), value.into_string().ok()?))
    });
    let (store, path) = parse_url_opts(&parsed, variables).map_err(|error| wrong(&error))?;
    Ok((Arc::from(store), path))
}

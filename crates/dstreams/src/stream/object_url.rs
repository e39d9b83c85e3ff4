//! [`store_at`]: the object store and path of a URL.

use std::fmt;
use std::sync::Arc;

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectStore, parse_url_opts};

use crate::error::{Error, Result};

/// The store, configured from the environment (keys, regions), and the path in it. Does not contact the store.
///
/// `file:` and `memory:` always work; `s3:`, `gs:`, `az:` and others need the matching feature of the crate
/// `object_store`. `setting` names the setting in errors.
pub(crate) fn store_at(setting: &'static str, url: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let wrong = |error: &dyn fmt::Display| Error::Config {
        setting,
        message: format!("`{url}` is not a valid location: {error}"),
    };
    let parsed = url::Url::parse(url).map_err(|error| wrong(&error))?;
    // Variables that are not UTF-8 do not configure a store.
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name.to_lowercase(), value.into_string().ok()?))
    });
    let (store, path) = parse_url_opts(&parsed, variables).map_err(|error| wrong(&error))?;
    Ok((Arc::from(store), path))
}

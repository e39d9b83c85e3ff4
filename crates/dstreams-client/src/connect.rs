//! One HTTP/2 connection to one address.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::options::Options;

/// Opens a connection, within [`Options::connect_timeout`].
pub(crate) async fn connect(address: &str, options: &Options) -> Result<Channel, Error> {
    let failed = |source| Error::Connect {
        address: address.to_string(),
        source: Arc::new(source),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.keep_alive)
        .keep_alive_while_idle(true);
    match timeout(options.connect_timeout, endpoint.connect()).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => {
            let after = options.connect_timeout;
            Err(Error::NoAnswer {
                address: address.to_string(),
                after,
            })
        }
    }
}

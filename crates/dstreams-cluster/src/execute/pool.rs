//! [`Pool`]: connections between executors, for data of exchanges.
//!
//! The engine provides no pool for an execution engine of our own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;

/// How long an idle connection stays open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most idle connections to one executor: about as many as tasks read from it at once.
const IDLE_PER_EXECUTOR: usize = 16;

type Idle = HashMap<(String, u16), Vec<(BallistaClient, Instant)>>;

/// Connections between executors, reused by exchanges.
#[derive(Default)]
pub struct Pool(Arc<Mutex<Idle>>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

fn evict(idle: &mut Idle) {
    idle.retain(|_, clients| {
        clients.retain(|(_, since)| since.elapsed() < IDLE_TIMEOUT);
        !clients.is_empty()
    });
}

#[async_trait]
impl BallistaClientPool for Pool {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        let key = (host.to_owned(), port);
        let idle = {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            evict(&mut idle);
            idle.get_mut(&key).and_then(Vec::pop)
        };
        let client = match idle {
            Some((client, _)) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let pool = Arc::clone(&self.0);
        let back = move |client| {
            let mut idle = pool.lock().unwrap_or_else(PoisonError::into_inner);
            let clients = idle.entry(key).or_default();
            if clients.len() < IDLE_PER_EXECUTOR {
                clients.push((client, Instant::now()));
            }
        };
        Ok(PooledClient::new(client, Box::new(back)))
    }

    async fn evict_idle(&self) {
        evict(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

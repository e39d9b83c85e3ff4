//! A producer's calls on a cluster, where each waits for its claim.

use super::*;

/// Never answers the first claim.
#[derive(Default)]
struct FirstNever(std::sync::atomic::AtomicU64);

#[async_trait]
impl Claims for FirstNever {
    async fn claim(&self, _: &str, _: &str) -> Result<u64, Status> {
        match self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => std::future::pending().await,
            _ => Ok(0),
        }
    }
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_its_producer_to_its_next_call() {
    let served = Served::lines().await;
    let claims = Arc::new(FirstNever::default());
    let _ = served
        .clients
        .shared
        .claims
        .set(Arc::clone(&claims) as Arc<dyn Claims>);
    let first = Hand::lines(&served, Some("p")).await;
    let claimed = || claims.0.load(std::sync::atomic::Ordering::SeqCst);
    until("the claim", || claimed() == 1).await;
    drop(first);
    let mut second = Hand::lines(&served, Some("p")).await;
    assert_eq!(second.next_ack().await, 0);
    second.send(line("once", Some(1))).await;
    second.acknowledged(1).await;
}

/// A push that waits for memory locks its producer, but not for a client that is gone.
#[tokio::test]
async fn a_client_that_is_gone_does_not_wait_for_memory() {
    let served = Served::start(&[("lines", String::schema())], 1).await;
    let mut first = Hand::lines(&served, Some("p")).await;
    first.send(line("fills the memory", Some(1))).await;
    first.acknowledged(1).await;
    first.send(line("finds no room", Some(2))).await;
    drop(first);
    let mut second = Hand::lines(&served, Some("p")).await;
    assert_eq!(second.next_ack().await, 1);
    assert_eq!(served.taken_lines(), ["fills the memory"]);
    second.send(line("finds room", Some(2))).await;
    second.acknowledged(2).await;
    assert_eq!(served.taken_lines(), ["finds room"]);
}

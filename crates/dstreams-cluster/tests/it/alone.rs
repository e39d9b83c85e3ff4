//! A worker without a peer acknowledges a record only once its master knows the block.

use std::time::Duration;

use dstreams::{Clients, StreamContext, agg::count};
use dstreams_client::{Client, Options};
use dstreams_cluster::{Master, MasterOptions};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::program::{block_on, soon};
use crate::workers::Workers;

fn program() -> StreamContext {
    let mut ctx = StreamContext::new(Duration::from_millis(100)).unwrap();
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    lines.keyed().agg(count()).unwrap().for_each_rdd(|_| ());
    ctx
}

/// Forwards connections to `to`, while `open`.
async fn proxy(to: String, open: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let (to, mut open) = (to.clone(), open.clone());
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let mut both = Box::pin(copy_bidirectional(&mut from, &mut to));
                loop {
                    let _ = open.wait_for(|open| *open).await;
                    tokio::select! {
                        _ = &mut both => return,
                        _ = open.wait_for(|open| !*open) => {}
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_lone_worker_acknowledges_nothing_while_its_master_is_silent() {
    block_on(async {
        let master = Master::listen(program(), MasterOptions::default()).await;
        let master = master.unwrap();
        let address = master.address().to_owned();
        let (gate, open) = watch::channel(true);
        let workers = Workers::start(&proxy(address.clone(), open).await, &[1], program);
        let cluster = soon("the worker", master.start()).await.unwrap();
        let client = Client::connect(address, Options::default()).await.unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        lines.send("heard").await.unwrap();
        soon("the first", lines.flush()).await.unwrap();

        gate.send(false).unwrap();
        lines.send("not heard").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(500), lines.flush()).await;
        assert!(early.is_err(), "it was acknowledged without the master");
        gate.send(true).unwrap();
        soon("the second", lines.flush()).await.unwrap();

        soon("the client", lines.finish()).await.unwrap();
        let summary = soon("the stop", cluster.running.stop()).await;
        assert_eq!(summary.unwrap().records, 2);
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        joined.await.unwrap();
    });
}

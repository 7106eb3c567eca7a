//! The Redis store in this process, over a real redis-server.

use std::time::Duration;

use roomcast::store::{
    Health, RetentionPolicy, Store,
    redis::{self, agreement::Agreement, node::LeaseSettings},
};

use super::{
    PATIENCE,
    redis::{Keeps, Redis},
    store::{Log, Node},
};

/// A lease that ends while a test waits for it.
pub const QUICK: LeaseSettings =
    LeaseSettings { lease: Duration::from_secs(1), beat: Duration::from_millis(300) };

/// One Redis, and any number of nodes on it.
pub struct Shared {
    pub redis: Redis,
    pub retention: RetentionPolicy,
    pub lease: LeaseSettings,
}

impl Log for Shared {
    async fn fresh(retention: RetentionPolicy) -> Self {
        let lease = LeaseSettings::default();
        Self { redis: Redis::start(Keeps::Nothing).await, retention, lease }
    }

    async fn node(&mut self) -> Node {
        self.node_with(1).await
    }
}

impl Shared {
    pub async fn quick(retention: RetentionPolicy) -> Self {
        Self { lease: QUICK, ..Self::fresh(retention).await }
    }

    pub async fn node_with(&self, partitions: u16) -> Node {
        open(&self.redis.url(), partitions, self.retention.clone(), self.lease).await
    }
}

/// A node that is ready.
pub async fn open(
    url: &str,
    partitions: u16,
    retention: RetentionPolicy,
    lease: LeaseSettings,
) -> Node {
    let node = open_with(url, partitions, (retention, lease), Agreement::default());
    ready(&node.store, PATIENCE).await;
    node
}

/// A node that may never be ready.
pub fn open_with(
    url: &str,
    partitions: u16,
    (retention, lease): (RetentionPolicy, LeaseSettings),
    agreement: Agreement,
) -> Node {
    let options = redis::RedisOptions {
        shown: url.to_owned(),
        url: url.to_owned(),
        prefix: "test".into(),
        partitions,
        retention,
        lease,
        agreement,
    };
    redis::open(options).expect("the options are right").into()
}

pub async fn ready(store: &Store, within: Duration) {
    let mut health = store.lifecycle.health();
    let ready = health.wait_for(|health| *health == Health::Ready);
    tokio::time::timeout(within, ready).await.expect("ready in time").expect("the store runs");
}

/// A node on a runtime of its own, which can freeze, or end as by kill -9: it releases nothing, and
/// announces nothing.
pub struct Mortal {
    pub node: Node,
    runtime: tokio::runtime::Runtime,
}

impl Mortal {
    pub async fn start(redis: &Redis, partitions: u16, retention: RetentionPolicy) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let url = redis.url();
        let node = runtime.spawn(async move { open(&url, partitions, retention, QUICK).await });
        Self { node: node.await.expect("it opens"), runtime }
    }

    /// As by SIGSTOP: none of its tasks runs for this time. Its reader goes on.
    pub fn freeze(&self, time: Duration) {
        self.runtime.spawn(async move { std::thread::sleep(time) });
    }

    pub fn die(self) {
        self.runtime.shutdown_background();
        drop(self.node);
    }
}

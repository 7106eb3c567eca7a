//! What the law promises while things break: nothing that was acked is lost, doubled, reordered or
//! made up, on any node. Real processes, seeded; `ROOMCAST_SEEDS=20` runs more of them, and
//! `ROOMCAST_REDIS_SERVER=PATH` runs every test that needs Redis on another server, as Valkey.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::harness::{
    PATIENCE, Random,
    checker::{History, JoinResult, Report},
    load::{Load, Talk},
    node::Node,
    proxy::{Network, Proxy},
    redis::{Keeps, Redis},
};

/// What the project promises after an outage of Redis; the proxy's delay comes on top.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Seeds to run, the same each time.
fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    let wanted = std::env::var_os("ROOMCAST_SEEDS").and_then(|text| text.into_string().ok());
    1..=wanted.map_or(default, |text| text.parse().expect("ROOMCAST_SEEDS is a number"))
}

/// One Redis, and two nodes; the second one reaches Redis over a link that can be broken.
struct Scene {
    redis: Redis,
    link: Proxy,
    nodes: [Node; 2],
}

impl Scene {
    async fn start(keeps: Keeps) -> Self {
        Self::start_on(Redis::start(keeps).await, true).await
    }

    async fn start_on(redis: Redis, has_link: bool) -> Self {
        let link = Proxy::start(redis.address).await;
        let over_link = if has_link { format!("redis://{}", link.address) } else { redis.url() };
        let nodes = [
            Node::start(&["--redis", &redis.url()]).await,
            Node::start(&["--redis", &over_link]).await,
        ];
        let scene = Self { redis, link, nodes };
        scene.ready().await;
        scene
    }

    async fn ready(&self) -> Duration {
        let started = Instant::now();
        for node in &self.nodes {
            node.wait_ready(PATIENCE).await;
        }
        started.elapsed()
    }

    async fn load(&self, talk: &Talk) -> Load {
        Load::start(&self.nodes.each_ref().map(|node| node.address), talk).await
    }

    async fn inflict(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::RedisKilled => {
                self.redis.kill();
                sleep(random.millis(0, 1_500)).await;
                self.redis.restart().await;
            }
            Fault::RedisFrozen(time) => {
                self.redis.freeze();
                sleep(time).await;
                self.redis.thaw();
            }
            Fault::SubscribersKilled => {
                for _ in 0..random.between(1, 5) {
                    self.redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
                    sleep(random.millis(0, 300)).await;
                }
            }
            Fault::LinkCut => {
                self.link.set(Network::Refusing);
                self.link.cut();
                sleep(random.millis(0, 1_500)).await;
                self.link.heal();
            }
            Fault::LinkSlow => {
                self.link.set(Network::Slow(random.millis(20, 200)));
                sleep(random.millis(500, 2_000)).await;
                self.link.heal();
            }
            Fault::LinkHalfOpen => {
                self.link.set(Network::HalfOpen);
                sleep(random.millis(500, 4_000)).await;
                // Half the time what was on its way arrives after all, very late.
                if random.between(0, 1) == 0 {
                    self.link.cut();
                }
                self.link.heal();
            }
            Fault::NodeKilled => {
                self.nodes[0].kill();
                sleep(random.millis(0, 500)).await;
                self.nodes[0].restart().await;
            }
            Fault::NodeFrozen => {
                self.nodes[1].signal(Signal::STOP);
                sleep(random.millis(500, 3_000)).await;
                self.nodes[1].signal(Signal::CONT);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    RedisKilled,
    RedisFrozen(Duration),
    SubscribersKilled,
    LinkCut,
    LinkSlow,
    LinkHalfOpen,
    NodeKilled,
    /// A subscriber that reads nothing for a while.
    NodeFrozen,
}

/// Says what was found, and with which seed to see it again.
fn assert_clean(report: &Report, what: &str, seed: u64) {
    assert!(report.is_clean(), "{what}, seed {seed}: {report}");
    assert_eq!(report.excused, 0, "{what}, seed {seed}: told of a hole: {report}");
    assert!(report.stored > 100, "{what}, seed {seed}: too quiet to prove anything: {report}");
}

/// Talk, the faults one after the other with quiet times between, then the verdict.
async fn prove(what: &str, faults: &[Fault], seed: u64) {
    let mut random = Random::new(seed);
    let mut scene = Scene::start(Keeps::Everything).await;
    let load = scene.load(&Talk::seeded(seed)).await;
    for fault in faults {
        sleep(random.millis(100, 700)).await;
        scene.inflict(*fault, &mut random).await;
        let took = scene.ready().await;
        assert!(took < READY_WITHIN, "ready {took:?} after {fault:?}, seed {seed}");
    }
    sleep(random.millis(100, 500)).await;
    let (report, _history) = load.judge().await;
    assert_clean(&report, what, seed);
}

async fn prove_each(what: &str, fault: Fault) {
    let _turn = crate::harness::serial().await;
    for seed in seeds(1) {
        prove(what, &[fault], seed).await;
    }
}

#[tokio::test]
async fn redis_killed_and_restarted() {
    prove_each("Redis killed", Fault::RedisKilled).await;
}

#[tokio::test]
async fn redis_frozen_for_5_s() {
    prove_each("Redis frozen", Fault::RedisFrozen(Duration::from_secs(5))).await;
}

#[tokio::test]
async fn subscriptions_killed() {
    prove_each("subscriptions killed", Fault::SubscribersKilled).await;
}

#[tokio::test]
async fn the_redis_connection_of_one_node_is_cut() {
    prove_each("link cut", Fault::LinkCut).await;
}

#[tokio::test]
async fn the_redis_connection_of_one_node_is_slow() {
    prove_each("link slow", Fault::LinkSlow).await;
}

#[tokio::test]
async fn the_redis_connection_of_one_node_is_half_open() {
    prove_each("link half-open", Fault::LinkHalfOpen).await;
}

#[tokio::test]
async fn a_node_killed() {
    prove_each("node killed", Fault::NodeKilled).await;
}

#[tokio::test]
async fn a_node_frozen() {
    prove_each("node frozen", Fault::NodeFrozen).await;
}

#[tokio::test]
async fn everything_in_any_order() {
    let _turn = crate::harness::serial().await;
    for seed in seeds(2) {
        let mut random = Random::new(seed.wrapping_mul(7_919));
        let mut faults = [
            Fault::RedisKilled,
            Fault::RedisFrozen(random.millis(200, 3_000)),
            Fault::SubscribersKilled,
            Fault::LinkCut,
            Fault::LinkSlow,
            Fault::LinkHalfOpen,
            Fault::NodeKilled,
            Fault::NodeFrozen,
        ];
        random.shuffle(&mut faults);
        prove(&format!("{faults:?}"), &faults, seed).await;
    }
}

/// Redis drops a subscriber that reads too slowly; what it missed comes from the log.
#[tokio::test]
async fn a_slow_subscriber_misses_nothing() {
    let _turn = crate::harness::serial().await;
    for seed in seeds(1) {
        // Without the link, which would hold much of what the node does not read.
        let scene = Scene::start_on(Redis::start(Keeps::Nothing).await, false).await;
        // Above what one batch can have, or a node in good health would be dropped as well.
        let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"];
        scene.redis.call(&limit).await;
        let load = scene.load(&Talk::seeded(seed)).await;
        sleep(Duration::from_millis(500)).await;
        scene.nodes[1].signal(Signal::STOP);
        // The talk alone would take long to fill what the kernel holds for a subscriber. This is too
        // long for a message, and ignored by who reads it.
        let filler = "x".repeat(256 << 10);
        crate::harness::eventually("Redis drops the subscriber", 3 * PATIENCE, async || {
            scene.redis.call(&["PUBLISH", "rc:{0}", &filler]).await;
            scene.redis.has_logged("output buffer limits").then_some(())
        })
        .await;
        scene.nodes[1].signal(Signal::CONT);
        scene.ready().await;
        sleep(Duration::from_millis(500)).await;
        let (report, _history) = load.judge().await;
        assert_clean(&report, "slow subscriber", seed);
    }
}

/// Every receiver was told of a new epoch, and heard messages of two.
fn assert_told(history: &History, what: &str, seed: u64) {
    for life in &history.lives {
        let told = life.heard.iter().filter(|heard| **heard == JoinResult::NewEpoch).count();
        assert_eq!(told, 1, "{what}, seed {seed}: {} was told {told} times", life.receiver);
        let mut epochs: Vec<&str> = Vec::new();
        for heard in &life.heard {
            let JoinResult::Message { position: Some(position), .. } = heard else { continue };
            if epochs.last() != Some(&position.epoch.as_str()) {
                epochs.push(&position.epoch);
            }
        }
        assert_eq!(epochs.len(), 2, "{what}, seed {seed}: {} heard {epochs:?}", life.receiver);
    }
}

#[tokio::test]
async fn a_flushed_log_is_told_and_never_mixed() {
    let _turn = crate::harness::serial().await;
    for seed in seeds(2) {
        let mut random = Random::new(seed);
        let scene = Scene::start(Keeps::Everything).await;
        let load = scene.load(&Talk::seeded(seed)).await;
        sleep(random.millis(300, 800)).await;
        scene.redis.call(&["FLUSHALL"]).await;
        sleep(random.millis(300, 800)).await;
        let (report, history) = load.judge().await;
        assert!(report.is_clean() && report.stored > 100, "flushed, seed {seed}: {report}");
        assert_told(&history, "flushed", seed);
    }
}

/// A failover to a replica that is behind takes acked messages back. That is not promised away,
/// but it is told, and the two histories are never mixed.
#[tokio::test]
async fn a_failover_that_rolls_back_is_told_and_never_mixed() {
    let _turn = crate::harness::serial().await;
    for seed in seeds(1) {
        let mut random = Random::new(seed);
        let primary = Redis::start(Keeps::Nothing).await;
        let replica = Redis::start(Keeps::Nothing).await;
        let link = Proxy::start(primary.address).await;
        let url = format!("redis://{}", link.address);
        let nodes = [Node::start(&["--redis", &url]).await, Node::start(&["--redis", &url]).await];
        for node in &nodes {
            node.wait_ready(PATIENCE).await;
        }
        replica.replicate(&primary).await;
        // A message whose answer was cut off may be of the history that is lost: sending it again
        // would rightly show it again.
        let talk = Talk { retries: false, ..Talk::seeded(seed) };
        let load = Load::start(&nodes.each_ref().map(|node| node.address), &talk).await;
        sleep(random.millis(300, 800)).await;
        replica.promote().await;
        sleep(random.millis(200, 600)).await;
        link.redirect(replica.address);
        link.cut();
        for node in &nodes {
            node.wait_ready(PATIENCE).await;
        }
        sleep(random.millis(300, 800)).await;
        let (report, history) = load.judge().await;
        assert!(report.is_clean() && report.stored > 100, "rolled back, seed {seed}: {report}");
        assert_told(&history, "rolled back", seed);
    }
}

//! What it costs that people come to a room and leave it: by how many are there, and by how often
//! it happens.
//!
//! `cargo bench --bench people [-- roomcast's flags]`. Starts a redis-server and a node on
//! loopback; needs 11 000 open files.
#![expect(clippy::print_stdout, reason = "a bench tells its result")]

mod crowd;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::crowd::{Client, node, raise_open_files, redis};

/// People who are there the whole time.
const MEMBERS: [usize; 3] = [100, 1_000, 10_000];
/// How many join or leave in a second.
const CHANGES_PER_SECOND: [usize; 3] = [10, 100, 400];
/// Who does that, by turns.
const MOVERS: usize = 50;
const LASTS: Duration = Duration::from_secs(10);
const ROOM: &str = "hall";

fn main() {
    raise_open_files();
    let flags: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        println!("members  changes  node ms  redis ms  events told to each member");
        for members in MEMBERS {
            measure(members, &flags).await;
        }
    });
}

/// What all members were told.
#[derive(Debug, Default)]
struct Told {
    events: AtomicUsize,
    joined: AtomicUsize,
}

async fn measure(members: usize, flags: &[String]) {
    let (redis_server, redis) = redis();
    let (node, address) = node(redis, flags).await;
    let told = Arc::new(Told::default());
    let connecting = Arc::new(Semaphore::new(100));
    let mut all = JoinSet::new();
    for _ in 0..members {
        all.spawn(member(address, Arc::clone(&told), Arc::clone(&connecting)));
    }
    while told.joined.load(Ordering::Relaxed) < members {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(3)).await;
    let (idle_node, idle_redis) = {
        let before = (node.cpu(), redis_server.cpu());
        sleep(LASTS).await;
        (node.cpu() - before.0, redis_server.cpu() - before.1)
    };
    for rate in CHANGES_PER_SECOND {
        let stop = Arc::new(AtomicBool::new(false));
        let mut movers = JoinSet::new();
        let every = Duration::from_secs(1) * u32::try_from(MOVERS).expect("a few")
            / u32::try_from(rate).expect("a few");
        for _ in 0..MOVERS {
            movers.spawn(mover(address, every, Arc::clone(&stop)));
        }
        // They connect and begin one after the other.
        sleep(Duration::from_secs(2)).await;
        let before = (node.cpu(), redis_server.cpu(), told.events.load(Ordering::Relaxed));
        sleep(LASTS).await;
        let after = (node.cpu(), redis_server.cpu(), told.events.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        movers.join_all().await;
        let changes = rate as f64 * LASTS.as_secs_f64();
        let each = |cpu: f64| cpu.max(0.0) * 1e3 / changes;
        println!(
            "{members:7}  {rate:5}/s  {:7.3}  {:8.3}  {:.1}/s",
            each(after.0 - before.0 - idle_node),
            each(after.1 - before.1 - idle_redis),
            (after.2 - before.2) as f64 / members as f64 / LASTS.as_secs_f64(),
        );
    }
}

async fn member(node: SocketAddr, told: Arc<Told>, connecting: Arc<Semaphore>) {
    let turn = connecting.acquire().await.expect("never closed");
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    client.ask("join", &json!({ "room": ROOM })).await.expect("an answer");
    drop(turn);
    told.joined.fetch_add(1, Ordering::Relaxed);
    loop {
        let event = client.next().await.expect("the node lives");
        let is_presence = event.starts_with("42[\"presence\"");
        told.events.fetch_add(usize::from(is_presence), Ordering::Relaxed);
    }
}

/// One change in each turn; it is outside in the end.
async fn mover(node: SocketAddr, every: Duration, stop: Arc<AtomicBool>) {
    let (mut client, _) = Client::connect(node, "").await.expect("the node takes it");
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let request = json!({ "room": ROOM });
    for change in ["join", "leave"].into_iter().cycle() {
        turns.tick().await;
        client.ask(change, &request).await.expect("an answer");
        if change == "leave" && stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

//! A flush to a large room and what overtakes it, on streams in memory whose writes take time.
//!
//! One thread and one flush task: what a client gets first depends on transport alone, and not on
//! how fast the machine is.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use roomcast::transport::settings::TransportSettings;
use tokio::task::yield_now;

use crate::harness::{PATIENCE, transport::TransportNode};

const LARGE: &str = "large";
const SMALL: &str = "small";
/// A flush to the large room takes at least as long as this many writes.
const CLIENTS: usize = 2_000;
const WRITE: Duration = Duration::from_micros(50);

/// The bytes that one client got, and for each write how many writes to all clients came before.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    at: Vec<usize>,
}

/// Where a client is.
#[derive(Debug, Clone, Copy)]
enum Rooms {
    Large,
    Small,
    Both,
}

struct Crowd {
    node: TransportNode,
    joined: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl Crowd {
    fn new() -> Self {
        let settings = TransportSettings { flush_tasks: 1, ..TransportSettings::default() };
        let joined = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&joined);
        let node = TransportNode::start(
            settings,
            |builder| builder,
            move |registry, socket| {
                let query = socket.req_parts().uri.query().unwrap_or_default();
                for room in [LARGE, SMALL] {
                    if query.contains(room) {
                        registry.join(socket.id, room.into());
                    }
                }
                counting.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            },
        );
        Self { node, joined, writes: Arc::default() }
    }

    /// A client that has joined, and whose lane is open.
    async fn client(&self, rooms: Rooms) -> Arc<Mutex<Received>> {
        let rooms = match rooms {
            Rooms::Large => LARGE.to_owned(),
            Rooms::Small => SMALL.to_owned(),
            Rooms::Both => format!("{LARGE}+{SMALL}"),
        };
        let heard = Arc::new(Mutex::new(Received::default()));
        let (hears, writes) = (Arc::clone(&heard), Arc::clone(&self.writes));
        let before = self.joined.load(Ordering::Relaxed);
        self.node.connect(&format!("rooms={rooms}"), WRITE, move |bytes| {
            let mut heard = hears.lock().expect("no write panics");
            heard.bytes.extend_from_slice(bytes);
            heard.at.push(writes.fetch_add(1, Ordering::Relaxed));
        });
        self.until(|| self.joined.load(Ordering::Relaxed) > before).await;
        heard
    }

    /// Without sleeping: the flush task has its next turn when this task has had its own.
    async fn until(&self, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + 4 * PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "not in time");
            yield_now().await;
        }
    }

    async fn emit(&self, room: &'static str, event: &str) {
        self.node.io.to(room).emit(event, "x").await.expect("a broadcast is queued");
    }
}

/// The names of the events that came, in order.
fn events(heard: &Mutex<Received>) -> Vec<String> {
    let heard = heard.lock().expect("no write panics");
    let text = String::from_utf8_lossy(&heard.bytes);
    let names = text.split("42[\"").skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_message_for_a_few_overtakes_a_flush_to_many_and_no_clients_order_changes() {
    let crowd = Crowd::new();
    let small = crowd.client(Rooms::Small).await;
    let mut both = Vec::new();
    for _ in 0..20 {
        both.push(crowd.client(Rooms::Both).await);
    }
    let mut large = Vec::new();
    for _ in 0..CLIENTS {
        large.push(crowd.client(Rooms::Large).await);
    }
    // Every lane is open when this has come.
    crowd.emit(LARGE, "ready").await;
    crowd.emit(SMALL, "ready").await;
    let ready = |client: &Arc<Mutex<Received>>| events(client).contains(&"ready".to_owned());
    crowd.until(|| ready(&small) && both.iter().chain(&large).all(ready)).await;

    let begun = crowd.writes.load(Ordering::Relaxed);
    crowd.emit(LARGE, "first").await;
    crowd.until(|| crowd.writes.load(Ordering::Relaxed) > begun).await;
    crowd.emit(SMALL, "second").await;
    crowd.emit(LARGE, "third").await;
    crowd.emit(SMALL, "fourth").await;
    crowd.until(|| events(&small).len() == 3 && large.iter().all(|c| events(c).len() == 3)).await;

    assert_eq!(events(&small), ["ready", "second", "fourth"]);
    for client in &both {
        assert_eq!(events(client), ["ready", "ready", "first", "second", "third", "fourth"]);
    }
    for client in &large {
        assert_eq!(events(client), ["ready", "first", "third"]);
    }
    let at = small.lock().expect("no write panics").at.clone();
    let second = at.into_iter().find(|at| *at >= begun).expect("a write") - begun;
    assert!(second < CLIENTS / 2, "held up by {second} writes of a flush to {CLIENTS}");
}

//! How long it takes to encode a frame and to broadcast over 1, 100 and 10 000 lanes, and how long
//! a broadcast to 10 000 holds up others.
//!
//! The lanes are real, and so is everything before them: the adapter, the queue, the flush, the
//! lookup of who is in the room. Only the streams are in memory and take everything, so this is
//! the server's own share; the rest of a delivery is the system's `send`. Where waiting is
//! measured, each write takes as long as a `send`.

#[expect(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/harness/transport.rs"]
mod transport;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use roomcast::transport::{frame, settings::TransportSettings};
use socketioxide_core::Value;
use tokio::{runtime::Runtime, task::yield_now};

use crate::transport::TransportNode;

const ROOM: &str = "room";
/// No client here answers a ping.
const NO_PING: Duration = Duration::from_secs(24 * 3_600);
const BODY_BYTES: usize = 128;
/// A room of one client, which is in no other room.
const OTHER_ROOM: &str = "other";
/// How long `send` takes on loopback.
const SEND: Duration = Duration::from_micros(6);

/// A room full of clients.
struct Crowd {
    runtime: Runtime,
    node: TransportNode,
    taken: Arc<AtomicUsize>,
    /// By the one in the other room.
    taken_there: Arc<AtomicUsize>,
    clients: usize,
}

impl Crowd {
    fn new(clients: usize, write: Duration) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (taken, taken_there) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let joined = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&joined);
        let node = runtime.block_on(async {
            let node = TransportNode::start(
                TransportSettings { flush_tasks: 1, ..TransportSettings::default() },
                |builder| builder.ping_interval(NO_PING),
                move |registry, socket| {
                    let query = socket.req_parts().uri.query().unwrap_or_default();
                    let room = if query.ends_with("other") { OTHER_ROOM } else { ROOM };
                    registry.join(socket.id, room.into());
                    counting.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(())
                },
            );
            let takes = |taken: &Arc<AtomicUsize>| {
                let taken = Arc::clone(taken);
                move |bytes: &[u8]| {
                    taken.fetch_add(bytes.len(), Ordering::Relaxed);
                }
            };
            for _ in 0..clients {
                node.connect("room=this", write, takes(&taken));
            }
            node.connect("room=other", write, takes(&taken_there));
            while joined.load(Ordering::Relaxed) <= clients {
                yield_now().await;
            }
            node
        });
        let crowd = Self { runtime, node, taken, taken_there, clients };
        crowd.settle();
        crowd
    }

    /// Waits until no client is sent anything any more: every marker has passed.
    fn settle(&self) {
        self.runtime.block_on(async {
            let mut quiet = 0;
            let mut before = 0;
            while quiet < 1_000 {
                yield_now().await;
                let now = self.taken.load(Ordering::Relaxed);
                quiet = if now == before { quiet + 1 } else { 0 };
                before = now;
            }
        });
    }

    /// How long the other room waits for a message that comes when a broadcast to this one has just
    /// begun, and how long a task waits for its turn meanwhile, at most. Accepts and pings are such
    /// tasks.
    fn hold_up(&self) -> (Duration, Duration) {
        let body = "x".repeat(BODY_BYTES);
        let text = format!("2[\"message\",\"{body}\"]");
        let size = frame::encode(&Value::Str(text.into(), None)).len();
        let begun = self.taken.load(Ordering::Relaxed);
        let there = self.taken_there.load(Ordering::Relaxed);
        let (mut waited, mut turn_max) = (None, Duration::ZERO);
        self.runtime.block_on(async {
            self.node.io.to(ROOM).emit("message", &body).await.expect("a broadcast is queued");
            while self.taken.load(Ordering::Relaxed) == begun {
                yield_now().await;
            }
            let start = Instant::now();
            self.node
                .io
                .to(OTHER_ROOM)
                .emit("message", &body)
                .await
                .expect("a broadcast is queued");
            while self.taken.load(Ordering::Relaxed) < begun + size * self.clients {
                let turn = Instant::now();
                yield_now().await;
                turn_max = turn_max.max(turn.elapsed());
                if waited.is_none() && self.taken_there.load(Ordering::Relaxed) > there {
                    waited = Some(start.elapsed());
                }
            }
            while self.taken_there.load(Ordering::Relaxed) == there {
                yield_now().await;
            }
            (waited.unwrap_or_else(|| start.elapsed()), turn_max)
        })
    }

    /// How long it takes until all clients have several messages that were emitted together.
    fn broadcast(&self, messages: usize) -> Duration {
        let body = "x".repeat(BODY_BYTES);
        let text = format!("2[\"message\",\"{body}\"]");
        let size = frame::encode(&Value::Str(text.into(), None)).len();
        let expected = self.taken.load(Ordering::Relaxed) + size * messages * self.clients;
        let start = Instant::now();
        self.runtime.block_on(async {
            for _ in 0..messages {
                self.node.io.to(ROOM).emit("message", &body).await.expect("a broadcast is queued");
            }
            while self.taken.load(Ordering::Relaxed) < expected {
                yield_now().await;
            }
        });
        start.elapsed()
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for bytes in [BODY_BYTES, 4_096] {
        let text = format!("2[\"message\",\"{}\"]", "x".repeat(bytes));
        let packet = Value::Str(text.into(), None);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| frame::encode(&packet));
        });
    }
    group.finish();
}

fn flush(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flush");
    group.sample_size(20);
    for clients in [1, 100, 10_000] {
        let crowd = Crowd::new(clients, Duration::ZERO);
        for messages in [1, 64] {
            group.throughput(Throughput::Elements((clients * messages) as u64));
            let name = BenchmarkId::new(format!("{clients} lanes"), format!("{messages} messages"));
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| crowd.broadcast(messages)).sum());
            });
        }
    }
    group.finish();
}

fn hold_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hold-up by a broadcast to 10 000");
    group.sample_size(20);
    let crowd = Crowd::new(10_000, SEND);
    group.bench_function("another room", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| crowd.hold_up().0).sum());
    });
    group.bench_function("a task's turn, the longest", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| crowd.hold_up().1).sum());
    });
    group.finish();
}

criterion_group!(benches, encode, flush, hold_up);
criterion_main!(benches);

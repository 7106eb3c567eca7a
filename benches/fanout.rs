//! What a frame costs to encode, what a broadcast costs over 1, 100 and 10 000 registry, and how long
//! a broadcast to 10 000 holds up others.
//!
//! The registry are real, and so is everything before them: the adapter, the queue, the pass, the
//! lookup of who is in the room. Only the streams are in memory and take everything, so this is
//! the server's own share; the rest of a delivery is the system's `send`. Where waiting is
//! measured, each write takes as long as that.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::routing::MethodRouter;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Uri;
use roomcast::{
    shutdown::Tasks,
    transport::{
        Io,
        accept::Acceptor,
        adapter::Adapter,
        frame,
        registry::{Registry, TransportSettings},
        stream::Stream,
    },
};
use socketioxide::{SocketIo, extract::SocketRef};
use socketioxide_core::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Runtime,
    task::yield_now,
};

const ROOM: &str = "room";
/// A masked text frame that joins the namespace.
const CONNECT: &[u8] = b"\x81\x82\x00\x00\x00\x0040";
/// No client here answers a ping.
const NO_PING: Duration = Duration::from_secs(24 * 3_600);
const BODY_BYTES: usize = 128;
/// A room that one client is in, who is in no other.
const OTHER_ROOM: &str = "other";
/// What `send` takes on loopback.
const SEND: Duration = Duration::from_micros(6);

/// A client that joins, and then takes whatever it is sent.
#[derive(Debug)]
struct Client {
    says: &'static [u8],
    taken: Arc<AtomicUsize>,
    write: Duration,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let says = std::mem::take(&mut self.says);
        if says.is_empty() {
            return Poll::Pending;
        }
        into.put_slice(says);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let start = Instant::now();
        while start.elapsed() < self.write {
            std::hint::spin_loop();
        }
        self.taken.fetch_add(bytes.len(), Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A room full of clients.
struct Crowd {
    runtime: Runtime,
    io: Io,
    taken: Arc<AtomicUsize>,
    /// By the one in the other room.
    taken_there: Arc<AtomicUsize>,
    clients: usize,
    tasks: Tasks,
}

impl Crowd {
    fn new(clients: usize, write: Duration) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = Tasks::default();
        let (taken, taken_there) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let io = runtime.block_on(async {
            let registry = Registry::new(
                TransportSettings { flush_tasks: 1, ..TransportSettings::default() },
                &tasks,
                &tasks,
            );
            let (service, io) = SocketIo::builder()
                .ping_interval(NO_PING)
                .with_adapter::<Adapter>(registry.clone())
                .build_with_inner_svc(MethodRouter::<(), Infallible>::new());
            let joined = Arc::new(AtomicUsize::new(0));
            let (its_lanes, its_joined) = (registry.clone(), Arc::clone(&joined));
            io.ns("/", async move |socket: SocketRef<Adapter>| {
                let is_other = socket.req_parts().uri.query().is_some_and(|q| q.ends_with("other"));
                its_lanes.join(socket.id, if is_other { OTHER_ROOM } else { ROOM }.into());
                its_joined.fetch_add(1, Ordering::Relaxed);
            });
            let acceptor = Acceptor::new(service, "/socket.io/", registry);
            let uri = Uri::from_static("/socket.io/?EIO=4&transport=websocket");
            for _ in 0..clients {
                let client = Client { says: CONNECT, taken: Arc::clone(&taken), write };
                let stream = Stream::Other(Box::pin(client));
                acceptor.clone().serve(stream, Bytes::new(), &uri, None);
            }
            let uri = Uri::from_static("/socket.io/?EIO=4&transport=websocket&room=other");
            let client = Client { says: CONNECT, taken: Arc::clone(&taken_there), write };
            acceptor.serve(Stream::Other(Box::pin(client)), Bytes::new(), &uri, None);
            while joined.load(Ordering::Relaxed) <= clients {
                yield_now().await;
            }
            io
        });
        let crowd = Self { runtime, io, taken, taken_there, clients, tasks };
        crowd.settle();
        crowd
    }

    /// Waits until nobody is sent anything any more: every marker has passed.
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
            self.io.to(ROOM).emit("message", &body).await.expect("a broadcast is queued");
            while self.taken.load(Ordering::Relaxed) == begun {
                yield_now().await;
            }
            let start = Instant::now();
            self.io.to(OTHER_ROOM).emit("message", &body).await.expect("a broadcast is queued");
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

    /// How long it takes until everybody has a number of messages that were emitted together.
    fn broadcast(&self, messages: usize) -> Duration {
        let body = "x".repeat(BODY_BYTES);
        let text = format!("2[\"message\",\"{body}\"]");
        let size = frame::encode(&Value::Str(text.into(), None)).len();
        let expected = self.taken.load(Ordering::Relaxed) + size * messages * self.clients;
        let start = Instant::now();
        self.runtime.block_on(async {
            for _ in 0..messages {
                self.io.to(ROOM).emit("message", &body).await.expect("a broadcast is queued");
            }
            while self.taken.load(Ordering::Relaxed) < expected {
                yield_now().await;
            }
        });
        start.elapsed()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.stop();
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

fn pass(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pass");
    group.sample_size(20);
    for clients in [1, 100, 10_000] {
        let crowd = Crowd::new(clients, Duration::ZERO);
        for messages in [1, 64] {
            group.throughput(Throughput::Elements((clients * messages) as u64));
            let name =
                BenchmarkId::new(format!("{clients} registry"), format!("{messages} messages"));
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

criterion_group!(benches, encode, pass, hold_up);
criterion_main!(benches);

//! A pass over a large room and what overtakes it, on streams in memory whose writes take time.
//!
//! One thread and one pass: what a client gets first depends on the registry alone, and not on how
//! fast the machine is.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::routing::MethodRouter;
use bytes::Bytes;
use http::Uri;
use roomcast::{
    shutdown::Tasks,
    transport::{
        Io,
        accept::Acceptor,
        adapter::Adapter,
        registry::{Registry, TransportSettings},
        stream::Stream,
    },
};
use socketioxide::{SocketIo, extract::SocketRef};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

use crate::harness::PATIENCE;

const LARGE: &str = "large";
const SMALL: &str = "small";
/// A pass over the large room takes at least as long as this many writes.
const CLIENTS: usize = 2_000;
const WRITE: Duration = Duration::from_micros(50);
/// A masked text frame that joins the namespace.
const CONNECT: &[u8] = b"\x81\x82\x00\x00\x00\x0040";

/// What one client was sent, and for each write how many to others came before.
#[derive(Debug, Default)]
struct JoinResult {
    bytes: Vec<u8>,
    at: Vec<usize>,
}

struct Client {
    says: &'static [u8],
    heard: Arc<Mutex<JoinResult>>,
    writes: Arc<AtomicUsize>,
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
        while start.elapsed() < WRITE {
            std::hint::spin_loop();
        }
        let mut heard = self.heard.lock().expect("no write panics");
        heard.bytes.extend_from_slice(bytes);
        heard.at.push(self.writes.fetch_add(1, Ordering::Relaxed));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where a client is.
#[derive(Debug, Clone, Copy)]
enum Rooms {
    Large,
    Small,
    Both,
}

struct Crowd {
    io: Io,
    acceptor: Acceptor<MethodRouter<(), Infallible>>,
    joined: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Crowd {
    fn new() -> Self {
        let tasks = Tasks::default();
        let registry = Registry::new(
            TransportSettings { flush_tasks: 1, ..TransportSettings::default() },
            &tasks,
            &tasks,
        );
        let (service, io) = SocketIo::builder()
            .with_adapter::<Adapter>(registry.clone())
            .build_with_inner_svc(MethodRouter::<(), Infallible>::new());
        let joined = Arc::new(AtomicUsize::new(0));
        let (its_lanes, its_joined) = (registry.clone(), Arc::clone(&joined));
        io.ns("/", async move |socket: SocketRef<Adapter>| {
            let query = socket.req_parts().uri.query().unwrap_or_default();
            for room in [LARGE, SMALL] {
                if query.contains(room) {
                    its_lanes.join(socket.id, room.into());
                }
            }
            its_joined.fetch_add(1, Ordering::Relaxed);
        });
        let acceptor = Acceptor::new(service, "/socket.io/", registry);
        Self { io, acceptor, joined, writes: Arc::default(), tasks }
    }

    /// A client that has joined, and whose lane is open.
    async fn client(&self, rooms: Rooms) -> Arc<Mutex<JoinResult>> {
        let rooms = match rooms {
            Rooms::Large => LARGE.to_owned(),
            Rooms::Small => SMALL.to_owned(),
            Rooms::Both => format!("{LARGE}+{SMALL}"),
        };
        let uri: Uri =
            format!("/socket.io/?EIO=4&transport=websocket&rooms={rooms}").parse().expect("a URI");
        let heard = Arc::new(Mutex::new(JoinResult::default()));
        let client =
            Client { says: CONNECT, heard: Arc::clone(&heard), writes: Arc::clone(&self.writes) };
        let before = self.joined.load(Ordering::Relaxed);
        self.acceptor.clone().serve(Stream::Other(Box::pin(client)), Bytes::new(), &uri, None);
        self.until(|| self.joined.load(Ordering::Relaxed) > before).await;
        heard
    }

    /// Without sleeping: the pass has its next turn when this one has had its own.
    async fn until(&self, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + 4 * PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "not in time");
            yield_now().await;
        }
    }

    async fn emit(&self, room: &'static str, event: &str) {
        self.io.to(room).emit(event, "x").await.expect("a broadcast is queued");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// The names of the events that came, in order.
fn events(heard: &Mutex<JoinResult>) -> Vec<String> {
    let heard = heard.lock().expect("no write panics");
    let text = String::from_utf8_lossy(&heard.bytes);
    let names = text.split("42[\"").skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_message_for_a_few_overtakes_a_pass_over_many_and_nobodys_order_changes() {
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
    // Everybody's lane is open when this has come.
    crowd.emit(LARGE, "ready").await;
    crowd.emit(SMALL, "ready").await;
    let ready = |client: &Arc<Mutex<JoinResult>>| events(client).contains(&"ready".to_owned());
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
    assert!(second < CLIENTS / 2, "held up by {second} writes of a pass of {CLIENTS}");
}

//! Lanes over real connections: order, bounds, and what must not be left behind.
//!
//! The server is transport alone, so that its bounds can be small and its counters seen.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, routing::any};
use bytes::Bytes;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use roomcast::transport::{
    adapter::Adapter, close::CloseReason, registry::Registry, request::wants_websocket,
    settings::TransportSettings,
};
use socketioxide::extract::SocketRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tower::Service as _;

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Transport},
    client_io::Closed,
    eventually,
    http::Http,
    serial,
    transport::TransportNode,
};

const ROOM: &str = "room";

/// The number that was emitted last; locked while a number is emitted or a client joins.
type Counter = Arc<Mutex<u64>>;

struct Bench {
    address: SocketAddr,
    node: TransportNode,
    counter: Counter,
}

impl Bench {
    /// One that gives its clients all the time that a loaded machine may need.
    async fn start(settings: TransportSettings) -> Self {
        Self::start_with(settings, 2 * PATIENCE).await
    }

    /// One that ends connections of clients that have not connected, or upgraded, by then.
    async fn start_with(settings: TransportSettings, connect_max: Duration) -> Self {
        let counter = Counter::default();
        let at_connect = Arc::clone(&counter);
        let node = TransportNode::start(
            settings,
            |builder| {
                let builder = builder.connect_timeout(connect_max).upgrade_timeout(connect_max);
                builder.max_buffer_size(4_096)
            },
            move |registry, socket| enter(registry, socket, Arc::clone(&at_connect)),
        );
        let (acceptor, service) = (node.acceptor.clone(), node.service.clone());
        let route = any(move |request: Request| {
            let (acceptor, mut service) = (acceptor.clone(), service.clone());
            async move {
                if wants_websocket(&request) {
                    return acceptor.accept(request, None).map(Body::from);
                }
                let Ok(answer) = service.call(request).await;
                axum::response::Response::map(answer, Body::new)
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let app = Router::new().route("/socket.io/", route);
        let serving = node.tasks.clone();
        node.tasks.spawn("accept", async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("accept").0,
                    () = serving.stopping() => return,
                };
                let service = TowerToHyperService::new(app.clone());
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                // The clients see how a connection ends.
                serving.spawn("connection", async move { drop(connection.await) });
            }
        });
        Self { address, node, counter }
    }

    /// A client that is in the room, which comes after its CONNECT reply; and the number of the
    /// last message that it was too late for.
    async fn welcomed(&self, transport: Transport) -> (Client, u64) {
        let client = Client::connected(self.address, Options::new(transport)).await;
        let last = client.next("welcome").await.arg(0).as_u64().expect("a number");
        (client, last)
    }

    async fn client(&self, transport: Transport) -> Client {
        self.welcomed(transport).await.0
    }

    async fn emit_next(&self) {
        let mut counter = self.counter.lock().await;
        *counter += 1;
        self.node.io.to(ROOM).emit("n", &*counter).await.expect("a broadcast is queued");
    }

    fn sessions(&self) -> usize {
        self.node.io.sockets().len()
    }

    async fn no_session_is_left(&self) {
        eventually("every session ended", PATIENCE, async || {
            (self.sessions() == 0 && self.node.registry.count() == 0).then_some(())
        })
        .await;
    }
}

/// Tells the client the number of the last message that it was too late for, and lets it in.
async fn enter(registry: Registry, socket: SocketRef<Adapter>, counter: Counter) {
    let closing = registry.clone();
    // This runs after the CONNECT reply, so a client may ask for it only when it is welcomed.
    socket.on("close", async move |socket: SocketRef<Adapter>| {
        closing.close(socket.id, CloseReason::TryAgainLater);
    });
    let counter = counter.lock().await;
    registry.emit(socket.id, "welcome", &*counter);
    registry.join(socket.id, ROOM.into());
}

/// Every message from the one after `last`, in order, once.
async fn follows_exactly(client: &Client, last: u64, count: usize) {
    let came = client.collect("n", count).await;
    let came: Vec<u64> = came.iter().map(|n| n.arg(0).as_u64().expect("a number")).collect();
    let expected: Vec<u64> = (last + 1..).take(count).collect();
    assert_eq!(came, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_while_clients_upgrade_in_a_stream_of_messages() {
    const CLIENTS: usize = 2_000;
    const AT_ONCE: usize = 20;
    let _turn = serial().await;
    let bench = Arc::new(Bench::start(TransportSettings::default()).await);
    let talking = Arc::clone(&bench);
    let mut talk = tokio::task::JoinSet::new();
    talk.spawn(async move {
        loop {
            for _ in 0..4 {
                talking.emit_next().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for _round in 0..CLIENTS / AT_ONCE {
        let mut clients = tokio::task::JoinSet::new();
        for index in 0..AT_ONCE {
            let bench = Arc::clone(&bench);
            let transport = if index % 10 == 9 { Transport::WebSocket } else { Transport::Upgrade };
            clients.spawn(async move {
                let (client, last) = bench.welcomed(transport).await;
                follows_exactly(&client, last, 60).await;
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("exact order");
        }
    }
    talk.shutdown().await;
    assert!(bench.node.registry.counters().opened.load(Ordering::Relaxed) >= CLIENTS as u64);
    bench.no_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_gets_every_message_once_and_in_order() {
    let bench = Bench::start(TransportSettings::default()).await;
    for transport in Transport::ALL {
        let (client, last) = bench.welcomed(transport).await;
        for _ in 0..500 {
            bench.emit_next().await;
        }
        follows_exactly(&client, last, 500).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn except_local_and_binary_mean_what_they_mean_elsewhere() {
    let bench = Bench::start(TransportSettings::default()).await;
    let (one, other) =
        (bench.client(Transport::WebSocket).await, bench.client(Transport::Upgrade).await);
    bench.node.registry.join(other.sid.parse().unwrap(), "quiet".into());
    bench.node.io.to(ROOM).except("quiet").emit("loud", "a").await.unwrap();
    bench.node.io.emit("all", "b").await.unwrap();
    bench.node.io.local().to(ROOM).emit("all", "c").await.unwrap();
    bench.node.io.to([ROOM, "quiet"]).emit("once", "d").await.unwrap();
    let socket = bench.node.io.get_socket(one.sid.parse().unwrap()).unwrap();
    socket.to(ROOM).emit("others", "g").await.unwrap();
    bench.node.io.to(ROOM).emit("bin", &("e", Bytes::from_static(b"\x00\xff"))).await.unwrap();
    bench.node.io.to(ROOM).emit("last", "f").await.unwrap();
    for client in [&one, &other] {
        client.next("last").await;
    }
    let names = |client: &Client| -> Vec<String> {
        client.drain().into_iter().map(|event| event.name).collect()
    };
    assert_eq!(names(&one), ["loud", "all", "all", "once"]);
    assert_eq!(names(&other), ["all", "all", "once", "others"]);
    for client in [&one, &other] {
        let [text, attachment] = &client.others()[..] else { panic!("{:?}", client.others()) };
        assert_eq!(text, r#"451-["bin","e",{"_placeholder":true,"num":0}]"#);
        assert!(attachment.starts_with("Binary"), "{attachment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_leaves_is_in_no_room_any_more() {
    let bench = Bench::start(TransportSettings::default()).await;
    for transport in Transport::ALL {
        let client = bench.client(transport).await;
        let sid = client.sid.parse().unwrap();
        assert_eq!(bench.node.registry.sockets_in(ROOM), 1, "{transport:?}");
        bench.node.registry.leave(sid, ROOM);
        assert_eq!(bench.node.registry.sockets_in(ROOM), 0, "{transport:?}");
        bench.node.registry.join(sid, ROOM.into());
        bench.node.registry.join(sid, "another".into());
        client.emit("close", &[]).await;
        client.closed(PATIENCE).await;
        eventually("every room is empty", PATIENCE, async || {
            let members = [ROOM, "another"].map(|room| bench.node.registry.sockets_in(room));
            (members == [0, 0]).then_some(())
        })
        .await;
        // It has left the rooms, and comes into none any more.
        bench.no_session_is_left().await;
        bench.node.registry.join(sid, ROOM.into());
        assert_eq!(bench.node.registry.sockets_in(ROOM), 0, "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_and_the_others_do_not_feel_it() {
    let _turn = serial().await;
    let settings = TransportSettings {
        backlog_bytes_max: 256 << 10,
        farewell_max: Duration::from_millis(500),
        ..TransportSettings::default()
    };
    let bench = Bench::start(settings).await;
    let reader = bench.client(Transport::WebSocket).await;
    let deaf =
        Client::connected(bench.address, Options::new(Transport::WebSocket).receive_buffer(4_096))
            .await;
    deaf.stop_reading();
    let text = "x".repeat(20_000);
    let mut sent = 0;
    while bench.node.registry.counters().cut_backlog.load(Ordering::Relaxed) == 0 {
        bench.node.io.to(ROOM).emit("big", &text).await.unwrap();
        reader.next("big").await;
        sent += 1;
        assert!(sent < 5_000, "100 MB did not fill what may wait");
    }
    eventually("the session is gone", PATIENCE, async || {
        (bench.sessions() == 1 && bench.node.registry.count() == 1).then_some(())
    })
    .await;
    bench.emit_next().await;
    reader.next("n").await;
    deaf.resume_reading();
    assert!(matches!(deaf.closed(PATIENCE).await, Closed::Lost(_) | Closed::Frame { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_too_slowly_is_told_1013_after_whole_frames() {
    let _turn = serial().await;
    let settings = TransportSettings {
        backlog_bytes_max: 256 << 10,
        // As long as this client may need for what is in the kernel's buffers.
        farewell_max: PATIENCE,
        ..TransportSettings::default()
    };
    let bench = Bench::start(settings).await;
    let slow =
        Client::connected(bench.address, Options::new(Transport::WebSocket).receive_buffer(4_096))
            .await;
    slow.next("welcome").await;
    slow.stop_reading();
    let text = "x".repeat(20_000);
    let mut sent = 0;
    while bench.node.registry.counters().cut_backlog.load(Ordering::Relaxed) == 0 {
        sent += 1;
        bench.node.io.to(ROOM).emit("big", &(sent, &text)).await.unwrap();
        bench.node.registry.delivered().await;
        assert!(sent < 5_000, "100 MB did not fill what may wait");
    }
    slow.resume_reading();
    let reason = "too slow: more is waiting than may wait".into();
    assert_eq!(slow.closed(PATIENCE).await, Closed::Frame { code: 1013, reason });
    let came = slow.drain();
    let numbers: Vec<u64> = came.iter().map(|big| big.arg(0).as_u64().expect("a number")).collect();
    let expected: Vec<u64> = (1..sent).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "what was begun is whole, and nothing is skipped");
    bench.no_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_client_is_cut_at_the_deadline() {
    let _turn = serial().await;
    let settings = TransportSettings {
        // So that only the deadline can end it.
        backlog_bytes_max: usize::MAX,
        stall_max: Duration::from_secs(1),
        ..TransportSettings::default()
    };
    let bench = Bench::start(settings).await;
    let deaf =
        Client::connected(bench.address, Options::new(Transport::WebSocket).receive_buffer(4_096))
            .await;
    deaf.stop_reading();
    let lane = bench.node.registry.lane(deaf.sid.parse().unwrap()).expect("a websocket has a lane");
    // Into the kernel's buffers as much as they take, and a little more.
    let text = "x".repeat(20_000);
    while !lane.is_blocked() {
        bench.node.io.to(ROOM).emit("big", &text).await.unwrap();
        tokio::task::yield_now().await;
    }
    bench.no_session_is_left().await;
    assert_eq!(bench.node.registry.counters().cut_stall.load(Ordering::Relaxed), 1);
    deaf.resume_reading();
    assert!(matches!(deaf.closed(PATIENCE).await, Closed::Lost(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_bound_ends_with_1009_and_a_reason() {
    let settings = TransportSettings { message_bytes_max: 1_000, ..TransportSettings::default() };
    let bench = Bench::start(settings).await;
    for transport in [Transport::WebSocket, Transport::Upgrade] {
        let client = bench.client(transport).await;
        client.send_raw(&format!("42[\"n\",\"{}\"]", "x".repeat(500_000))).await;
        let closed = client.closed(PATIENCE).await;
        let expected = Closed::Frame { code: 1009, reason: "message too big".into() };
        assert_eq!(closed, expected);
    }
    bench.no_session_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_closed_from_the_server_on_every_transport() {
    let bench = Bench::start(TransportSettings::default()).await;
    for transport in Transport::ALL {
        let client = bench.client(transport).await;
        client.emit("close", &[]).await;
        client.closed(PATIENCE).await;
        assert!(!client.is_disconnected(), "a DISCONNECT packet would keep it away");
        bench.no_session_is_left().await;
    }
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        clients.push(bench.client(transport).await);
    }
    bench.node.registry.close_all();
    for client in &clients {
        client.closed(PATIENCE).await;
        assert!(!client.is_disconnected(), "a DISCONNECT packet would keep it away");
    }
    bench.no_session_is_left().await;
    tokio::time::timeout(PATIENCE, bench.node.registry.emptied()).await.expect("all were told");
}

fn handshake(query: &str) -> String {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: x\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A masked text frame of an all-zero mask.
fn masked(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text") | 0x80;
    [&[0x81, length, 0, 0, 0, 0], text.as_bytes()].concat()
}

async fn polling_session(address: SocketAddr) -> (Http, String) {
    let mut http = Http::open(address).await.expect("loopback works");
    let open = http
        .request("GET", "/socket.io/?EIO=4&transport=polling", &[], b"")
        .await
        .expect("loopback works");
    let text = open.text();
    let open: serde_json::Value =
        serde_json::from_str(text.trim_start_matches('0')).expect("an open packet");
    (http, open["sid"].as_str().expect("a sid").to_owned())
}

/// Waits for whatever the server says next. `false`: it hung up, having waited long enough.
async fn hear(stream: &mut TcpStream) -> bool {
    let mut room = [0; 512];
    matches!(stream.read(&mut room).await, Ok(1..))
}

/// Connects in one of seven ways, and vanishes. `false`: the server was faster.
async fn vanish(address: SocketAddr, way: usize) -> bool {
    let mut heard = true;
    let mut stream = TcpStream::connect(address).await.expect("loopback works");
    match way {
        0 => stream.write_all(b"GET /socket.io/?EIO=4&tra").await.expect("loopback works"),
        1 => stream.write_all(handshake("").as_bytes()).await.expect("loopback works"),
        2 | 3 => {
            stream.write_all(handshake("").as_bytes()).await.expect("loopback works");
            heard = hear(&mut stream).await;
            if heard && way == 3 {
                heard = stream.write_all(&masked("40")).await.is_ok() && hear(&mut stream).await;
            }
        }
        _ => {
            let (mut http, sid) = polling_session(address).await;
            if way == 6 {
                let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
                http.request("POST", &path, &[], b"40").await.expect("loopback works");
            }
            stream
                .write_all(handshake(&format!("&sid={sid}")).as_bytes())
                .await
                .expect("loopback works");
            if way > 4 {
                heard = hear(&mut stream).await
                    && stream.write_all(&masked("2probe")).await.is_ok()
                    && hear(&mut stream).await;
            }
        }
    }
    if way.is_multiple_of(2) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("loopback works");
    }
    heard
}

/// Connections of the server that are neither closed nor waiting out their time.
fn connections(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("loopback works");
    let open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let is_local = fields.next().is_some_and(|local| local.ends_with(&port));
        // Listening, waiting out its time, closed.
        is_local && fields.nth(1).is_some_and(|state| !["0A", "06", "07"].contains(&state))
    };
    table.lines().filter(open).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_that_connect_and_vanish_leave_nothing() {
    const CLIENTS: usize = 10_000;
    let _turn = serial().await;
    let bench = Bench::start_with(TransportSettings::default(), Duration::from_secs(2)).await;
    let address = bench.address;
    let mut went_all_the_way = 0;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let tasks_before = tasks();
    for round in 0..CLIENTS / 50 {
        let mut clients = tokio::task::JoinSet::new();
        for index in 0..50 {
            clients.spawn(vanish(address, (round * 50 + index) % 7));
        }
        while let Some(done) = clients.join_next().await {
            went_all_the_way += usize::from(done.expect("it vanished"));
        }
    }
    assert!(went_all_the_way > CLIENTS / 2, "only {went_all_the_way} were answered");
    bench.no_session_is_left().await;
    // Every engine session has a heartbeat task, so that a forgotten one would show here.
    eventually("tasks and connections are where they were", PATIENCE, async || {
        (tasks() <= tasks_before && connections(address) == 0).then_some(())
    })
    .await;
}

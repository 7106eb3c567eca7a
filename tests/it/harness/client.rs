//! A Socket.IO client that does what the official one does, and what it never would.
//!
//! Two tasks belong to each client: one reads everything into the inbox and answers pings, one
//! writes.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest, http::HeaderName},
};

pub use super::client_io::Refusal;
use super::{
    PATIENCE,
    client_io::{
        self, Closed, Inbox, Incoming, Outgoing, PacketWriter, Polling, Posting, WebSocket,
    },
    http::{Http, Response},
    packet::{self, Event, Packet},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Polling,
    WebSocket,
    /// Polling first, then a websocket for the same session: what clients do by default.
    Upgrade,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Polling, Self::WebSocket, Self::Upgrade];
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    transport: Transport,
    query: String,
    auth: Option<Value>,
    headers: Vec<(String, String)>,
    receive_buffer: Option<u32>,
}

impl Options {
    pub fn new(transport: Transport) -> Self {
        let (query, headers) = (String::new(), Vec::new());
        Self { transport, query, auth: None, headers, receive_buffer: None }
    }

    /// Both must need no escaping in a URL.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push_str(&format!("&{name}={value}"));
        self
    }

    /// Adds to what was said before.
    pub fn auth(mut self, auth: Value) -> Self {
        match (&mut self.auth, auth) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (known, auth) => *known = Some(auth),
        }
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A small one makes a client that stops reading felt at once. Websocket only.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    pub fn path(&self, transport: &str, sid: Option<&str>) -> String {
        let sid = sid.map(|sid| format!("&sid={sid}")).unwrap_or_default();
        format!("/socket.io/?EIO=4&transport={transport}{sid}{}", self.query)
    }

    pub fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// The answer to an emit. An error means that the connection ended first.
pub type Answer = oneshot::Receiver<Vec<Value>>;

/// A connected client. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Client {
    /// The Engine.IO session.
    pub sid: String,
    inbox: Arc<watch::Sender<Inbox>>,
    outgoing: mpsc::Sender<Outgoing>,
    reading: watch::Sender<bool>,
    acks: AtomicU64,
    /// A second handle of the socket in use, to reset it.
    socket: StdStream,
    tasks: JoinSet<()>,
}

impl Client {
    /// Connects up to the point where the official client would say `connect`.
    pub async fn connect(server: SocketAddr, options: Options) -> Result<Self, Refusal> {
        let connecting = async {
            let mut client = match options.transport {
                Transport::WebSocket => Self::open_websocket(server, &options).await?,
                Transport::Polling | Transport::Upgrade => {
                    return Self::connect_polling(server, &options).await;
                }
            };
            client.join_namespace(&options).await?;
            Ok(client)
        };
        timeout(PATIENCE, Box::pin(connecting))
            .await
            .unwrap_or_else(|_late| Err(Refusal::Network("no answer in time".into())))
    }

    /// `connect` for a server that must take it.
    pub async fn connected(server: SocketAddr, options: Options) -> Self {
        let client = Self::connect(server, options).await;
        client.unwrap_or_else(|why| panic!("the server does not take the client: {why}"))
    }

    async fn connect_polling(server: SocketAddr, options: &Options) -> Result<Self, Refusal> {
        let (mut client, poll) = Self::open_polling(server, options).await?;
        client.join_namespace(options).await?;
        if options.transport == Transport::Upgrade {
            client.upgrade(server, options, poll).await?;
        }
        Ok(client)
    }

    async fn open_websocket(server: SocketAddr, options: &Options) -> Result<Self, Refusal> {
        let (websocket, socket) = websocket(server, options, None).await?;
        let (sink, mut stream) = websocket.split();
        let open = match stream.next().await {
            Some(Ok(Message::Text(text))) => packet::parse(text.as_str()),
            other => return Err(Refusal::Network(format!("{other:?}"))),
        };
        let Packet::Open(open) = open else {
            return Err(Refusal::Network(format!("no open packet: {open:?}")));
        };
        let writer = PacketWriter::WebSocket(Box::new(sink));
        let (mut client, incoming) = Self::assemble(&open, socket, writer);
        client.tasks.spawn(client_io::read_websocket(stream, incoming));
        Ok(client)
    }

    async fn open_polling(server: SocketAddr, options: &Options) -> Result<(Self, Poll), Refusal> {
        let mut getter = Http::open(server).await.map_err(network)?;
        let headers = options.headers();
        let path = options.path("polling", None);
        let response = getter.request("GET", &path, &headers, b"").await.map_err(network)?;
        let Packet::Open(open) = packet::parse(&response.text()) else {
            return Err(Refusal::Handshake(response));
        };
        let poster = Http::open(server).await.map_err(network)?;
        let socket = poster.duplicate().map_err(network)?;
        let path = options.path("polling", open["sid"].as_str());
        let payload_max = usize::try_from(open["maxPayload"].as_u64().unwrap_or(100_000))
            .expect("a payload fits in memory");
        let posting =
            Posting { http: poster, path: path.clone(), options: options.clone(), payload_max };
        let writer = PacketWriter::Polling(Box::new(posting));
        let (mut client, incoming) = Self::assemble(&open, socket, writer);
        let (stop, stopped) = watch::channel(false);
        let (ended, end) = oneshot::channel();
        let polling = Polling { http: getter, path, options: options.clone(), stopped };
        let again = incoming.clone();
        client.tasks.spawn(async move {
            polling.read(incoming).await;
            // Nobody waits for it unless the client upgrades.
            ended.send(()).ok();
        });
        Ok((client, Poll { stop, end, incoming: again }))
    }

    fn assemble(open: &Value, socket: StdStream, writer: PacketWriter) -> (Self, Incoming) {
        let inbox = Arc::new(watch::Sender::new(Inbox::default()));
        let (outgoing, packets) = mpsc::channel(1_024);
        let (reading, may_read) = watch::channel(true);
        let mut tasks = JoinSet::new();
        let incoming = Incoming { inbox: Arc::clone(&inbox), outgoing: outgoing.clone(), may_read };
        tasks.spawn(client_io::write(writer, packets, Arc::clone(&inbox)));
        let sid = open["sid"].as_str().expect("an open packet has a sid").to_owned();
        (Self { sid, inbox, outgoing, reading, acks: AtomicU64::new(0), socket, tasks }, incoming)
    }

    async fn join_namespace(&mut self, options: &Options) -> Result<(), Refusal> {
        let auth = options.auth.as_ref().map(Value::to_string).unwrap_or_default();
        self.send_raw(&format!("40{auth}")).await;
        let mut inbox = self.inbox.subscribe();
        let answered = inbox.wait_for(|inbox| inbox.connected.is_some() || inbox.closed.is_some());
        let answered = answered.await.map_err(network)?;
        match (&answered.connected, &answered.closed) {
            (Some(Ok(_)), _) => Ok(()),
            (Some(Err(refused)), _) => Err(Refusal::Namespace(refused.clone())),
            (None, closed) => Err(Refusal::Network(format!("closed: {closed:?}"))),
        }
    }

    /// Probe, wait until the poll under way is answered, switch: nothing may be read on both.
    async fn upgrade(
        &mut self,
        server: SocketAddr,
        options: &Options,
        poll: Poll,
    ) -> Result<(), Refusal> {
        let (websocket, socket) = websocket(server, options, Some(&self.sid)).await?;
        let (mut sink, mut stream) = websocket.split();
        sink.send(Message::text("2probe")).await.map_err(network)?;
        match stream.next().await {
            Some(Ok(Message::Text(text))) if text.as_str() == "3probe" => {}
            other => return Err(Refusal::Network(format!("no probe answer: {other:?}"))),
        }
        poll.stop.send_replace(true);
        poll.end.await.map_err(network)?;
        self.push(Outgoing::Upgraded(Box::new(sink))).await;
        self.socket = socket;
        self.tasks.spawn(client_io::read_websocket(stream, poll.incoming));
        Ok(())
    }

    async fn push(&self, outgoing: Outgoing) {
        // A closed connection takes nothing more; `closed` tells why.
        self.outgoing.send(outgoing).await.ok();
    }

    /// What the CONNECT reply said: `{sid, pid}`.
    pub fn connect_reply(&self) -> Value {
        let inbox = self.inbox.borrow();
        inbox.connected.clone().and_then(Result::ok).expect("a connected client was greeted")
    }

    /// The name that others know it by.
    pub fn public_id(&self) -> String {
        self.connect_reply()["sid"].as_str().expect("a public id").to_owned()
    }

    /// The secret by which it comes back.
    pub fn pid(&self) -> String {
        self.connect_reply()["pid"].as_str().expect("a pid").to_owned()
    }

    /// Leaves the namespace and connects again, on the same connection. `false`: that was ended.
    pub async fn connect_again(&self) -> bool {
        let before = self.public_id();
        self.burst(vec!["41".to_owned(), "40".to_owned()]).await;
        let answered = |inbox: &mut Inbox| {
            let reply = inbox.connected.as_ref()?.as_ref().ok()?;
            let is_greeted = reply["sid"] != before.as_str();
            (is_greeted || inbox.closed.is_some()).then_some(is_greeted)
        };
        self.take(PATIENCE, answered).await.unwrap_or_else(|| panic!("left alone: {self}"))
    }

    /// How many events came before the CONNECT reply.
    pub fn before_connected(&self) -> usize {
        self.inbox.borrow().before_connected
    }

    pub async fn emit(&self, name: &str, args: &[Value]) {
        self.send_raw(&packet::event(name, args, None)).await;
    }

    pub async fn emit_for_ack(&self, name: &str, args: &[Value]) -> Answer {
        let (id, answer) = self.expect_ack();
        self.send_raw(&packet::event(name, args, Some(id))).await;
        answer
    }

    /// Emits and waits for the one value that every ack of ours has.
    pub async fn request(&self, name: &str, args: &[Value]) -> Value {
        let answer = self.emit_for_ack(name, args).await;
        let args = timeout(PATIENCE, answer).await.expect("an ack in time").expect("an ack");
        assert_eq!(args.len(), 1, "an ack has one value: {args:?}");
        args.into_iter().next().expect("one value")
    }

    /// The number of an ack that a raw packet will ask for.
    pub fn expect_ack(&self) -> (u64, Answer) {
        let id = self.acks.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.inbox.send_if_modified(|inbox| {
            if inbox.closed.is_none() {
                inbox.acks.insert(id, sender);
            }
            false
        });
        (id, answer)
    }

    /// Many packets in one go: as few writes as their size allows.
    pub async fn burst(&self, packets: Vec<String>) {
        self.push(Outgoing::Packets(packets)).await;
    }

    /// One Engine.IO packet as it is.
    pub async fn send_raw(&self, packet: &str) {
        self.push(Outgoing::Packets(vec![packet.to_owned()])).await;
    }

    /// An attachment, after the packet that announced it. Websocket only.
    pub async fn send_binary(&self, bytes: Vec<u8>) {
        self.push(Outgoing::Binary(bytes)).await;
    }

    /// The next event of this name, or `None` when none came in time. Others are kept.
    pub async fn try_next(&self, name: &str, patience: Duration) -> Option<Event> {
        self.take(patience, |inbox| {
            let index = inbox.events.iter().position(|event| event.name == name)?;
            inbox.events.remove(index)
        })
        .await
    }

    /// The next event, whatever its name.
    pub async fn try_next_any(&self, patience: Duration) -> Option<Event> {
        self.take(patience, |inbox| inbox.events.pop_front()).await
    }

    pub async fn next(&self, name: &str) -> Event {
        self.try_next(name, PATIENCE).await.unwrap_or_else(|| panic!("no `{name}` came: {self}"))
    }

    /// Exactly `count` events of this name, and others dropped.
    pub async fn collect(&self, name: &str, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let Some(event) = self.try_next(name, PATIENCE).await else {
                panic!("{} of {count} `{name}` came: {self}", events.len());
            };
            events.push(event);
        }
        events
    }

    /// Every event that came and was not yet taken, once there are at least `count`. What the server
    /// had sent by then is among them.
    pub async fn drained(&self, count: usize) -> Vec<Event> {
        let waited = self.take(PATIENCE, |inbox| (inbox.events.len() >= count).then_some(())).await;
        assert!(waited.is_some(), "fewer than {count} events came: {self}");
        let page =
            self.request("history", &[serde_json::json!({ "room": "lobby", "limit": 1 })]).await;
        assert_eq!(page["ok"], Value::Bool(true), "{page}");
        self.drain()
    }

    /// Every event that came and was not yet taken, without waiting.
    pub fn drain(&self) -> Vec<Event> {
        let mut events = VecDeque::new();
        self.inbox.send_if_modified(|inbox| {
            std::mem::swap(&mut events, &mut inbox.events);
            false
        });
        events.into()
    }

    /// How the connection ended; waits for it.
    pub async fn closed(&self, patience: Duration) -> Closed {
        let closed = self.take(patience, |inbox| inbox.closed.clone()).await;
        closed.unwrap_or_else(|| panic!("still open after {patience:?}: {self}"))
    }

    pub fn is_closed(&self) -> bool {
        self.inbox.borrow().closed.is_some()
    }

    /// Whether the server sent a DISCONNECT packet, after which official clients stay away.
    pub fn is_disconnected(&self) -> bool {
        self.inbox.borrow().disconnected
    }

    /// What the server said that is no part of the protocol as Roomcast speaks it.
    pub fn others(&self) -> Vec<String> {
        self.inbox.borrow().others.clone()
    }

    /// How many pings came, and were answered.
    pub fn pings(&self) -> usize {
        self.inbox.borrow().pings
    }

    pub fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    pub fn resume_reading(&self) {
        self.reading.send_replace(true);
    }

    /// A TCP reset, as a phone leaving the network sends it, if it sends anything.
    pub async fn reset(mut self) {
        let zero = Some(Duration::ZERO);
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(zero).expect("an open socket takes options");
        self.tasks.shutdown().await;
    }

    async fn take<T>(
        &self,
        patience: Duration,
        mut take: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.inbox.subscribe();
        let taking = async {
            loop {
                changes.mark_unchanged();
                let mut taken = None;
                self.inbox.send_if_modified(|inbox| {
                    taken = take(inbox);
                    false
                });
                if taken.is_some() || changes.changed().await.is_err() {
                    return taken;
                }
            }
        };
        timeout(patience, taking).await.unwrap_or(None)
    }
}

/// For the message of a failed test: what the client knows.
impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inbox = self.inbox.borrow();
        let next = inbox.events.iter().take(3).map(|event| &event.raw).collect::<Vec<_>>();
        let waiting = inbox.events.len();
        write!(f, "{waiting} other events, first {next:?}; closed: {:?}", inbox.closed)
    }
}

/// What is left to do with the polling connection after an upgrade.
struct Poll {
    stop: watch::Sender<bool>,
    end: oneshot::Receiver<()>,
    incoming: Incoming,
}

/// Opens a websocket, for a new session or for the session `sid`. Also returns a second handle of
/// its socket.
pub async fn websocket(
    server: SocketAddr,
    options: &Options,
    sid: Option<&str>,
) -> Result<(WebSocket, StdStream), Refusal> {
    let socket = TcpSocket::new_v4().map_err(network)?;
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes).map_err(network)?;
    }
    let stream = socket.connect(server).await.map_err(network)?;
    stream.set_nodelay(true).map_err(network)?;
    let duplicate = socket2::SockRef::from(&stream).try_clone().map_err(network)?.into();
    let url = format!("ws://{server}{}", options.path("websocket", sid));
    let mut request = url.into_client_request().map_err(network)?;
    for (name, value) in &options.headers {
        let name: HeaderName = name.parse().map_err(network)?;
        request.headers_mut().append(name, value.parse().map_err(network)?);
    }
    match client_async(request, stream).await {
        Ok((websocket, _response)) => Ok((websocket, duplicate)),
        Err(WsError::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let status = response.status().as_u16();
            Err(Refusal::Handshake(Response { status, body, ..Response::default() }))
        }
        Err(error) => Err(network(error)),
    }
}

fn network(error: impl std::fmt::Display) -> Refusal {
    Refusal::Network(error.to_string())
}

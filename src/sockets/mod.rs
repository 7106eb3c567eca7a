//! Socket.IO and nothing but: who comes in, what he asks, what he is answered.
//!
//! socketioxide calls `Events::call` on the connection's reader, one event after the other.
//! Everything that decides happens there, before it returns; nothing is spawned, so what one
//! client sends keeps its order. The bus answers appends by calling back.

mod pending_requests;
mod queries;
pub mod upgrade;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use axum::routing::MethodRouter;
use serde::Serialize;
use sha2::{Digest, Sha256};
use socketioxide::{
    SocketIo, TransportType,
    extract::{SocketRef, TryData},
    handler::{ConnectHandler, DisconnectHandler, MessageHandler},
    service::SocketIoService,
    socket::{DisconnectReason, Socket},
};
use socketioxide_core::{Sid, Value, packet::Packet};

use crate::sockets::{
    pending_requests::PendingRequests,
    wire::{Auth, HistoryAck, JoinAck, LeaveAck, RejectAck, RejectEvent, SentAck},
};
use crate::{
    chat::{Arrival, Chat, JoinResult, Memberships},
    clock,
    config::{Config, Transport},
    delivery::replay::Entry,
    dialects::Dialect,
    domain::{
        message::{Draft, Epoch, Position},
        name::{MessageId, RoomName, UserId},
        page::Page,
        session::{Code, Command, Effect, Limits, Reject, Session},
    },
    random,
    shutdown::Tasks,
    store::{
        ReadError, Store,
        log::{History, Settle},
        sessions::SessionKey,
    },
    transport::{
        Io,
        adapter::Adapter,
        lane::{Busy, InFlight},
        registry::Registry,
    },
};

/// Bodies in one page of history: far below what may wait for a client.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// Messages that `join` answers; whoever missed more reads them with `history`.
const JOIN_MESSAGES_MAX: usize = 1_000;
/// Longest `auth.token`, in bytes.
const TOKEN_BYTES_MAX: usize = 256;
/// A client that has opened a session, or has said good-bye, must join the namespace within this
/// time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that is turned away may take to go.
const GOING_MAX: Duration = Duration::from_secs(5);
/// Packets that may wait for one client: a burst of 5 000 messages must pass.
const PACKETS_MAX: usize = 16_384;

/// Kept for each connection. Longer messages get room while they come in, and the lane reads more
/// at a time than this.
const READ_BUFFER_BYTES: usize = 128;

/// Socket.IO over HTTP, with axum's answer for what is neither.
pub type Service = SocketIoService<MethodRouter, Adapter>;

/// What every connection shares.
#[derive(Debug, Clone)]
pub struct Sockets {
    pub store: Store,
    pub tasks: Tasks,
    pub limits: Limits,
    pub registry: Registry,
    pub chat: Chat,
}

/// The service to mount at `/socket.io/`, and the handle that the relay emits through.
pub fn build(config: &Config, sockets: Sockets) -> (Service, Io) {
    let builder = SocketIo::builder()
        .ping_interval(config.ping_interval)
        .ping_timeout(config.ping_timeout)
        .connect_timeout(CONNECT_TIMEOUT)
        .max_buffer_size(PACKETS_MAX)
        .max_payload(config.transport_bytes_max as u64)
        .ws_max_message_size(config.transport_bytes_max)
        .ws_max_frame_size(config.transport_bytes_max)
        .ws_read_buffer_size(READ_BUFFER_BYTES)
        .with_adapter::<Adapter>(sockets.registry.clone());
    let offers = |transport| config.transports.contains(&transport);
    let builder = match (offers(Transport::Polling), offers(Transport::Websocket)) {
        (true, false) => builder.transports([TransportType::Polling]),
        (false, true) => builder.transports([TransportType::Websocket]),
        _ => builder.transports([TransportType::Polling, TransportType::Websocket]),
    };
    let enter = Enter(sockets.chat.clone());
    let (service, io) = builder.build_with_inner_svc(MethodRouter::new());
    let admit = async move |socket: SocketRef<Adapter>, auth: TryData<Auth>| {
        sockets.admit(&socket, auth).await
    };
    io.ns("/", enter.with(admit));
    (service, io)
}

/// Joins the rooms once the client has been told that it is connected.
#[derive(Debug, Clone)]
struct Enter(Chat);

impl ConnectHandler<Adapter, ()> for Enter {
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        self.0.enter(socket.id);
    }
}

/// Takes a socket out of the namespace while its reader waits: a CONNECT that comes next is then
/// not taken for a second one. A function that socketioxide is given would run later.
struct OnDisconnect(Weak<Connection>);

impl DisconnectHandler<Adapter, ()> for OnDisconnect {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        let sid = socket.id;
        remove(socket);
        if reason == DisconnectReason::ClientNSDisconnect
            && let Some(connection) = self.0.upgrade()
        {
            connection.disconnect(sid);
        }
    }
}

/// Why a client was not let in; it reads this as `connect_error`.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error("bad_request: auth is {{token?, pid?, offset?}}: {0}")]
    Auth(String),
    #[error("bad_request: auth.token has between 1 and {TOKEN_BYTES_MAX} bytes")]
    Token,
    #[error("bad_request: there is no dialect '{0}'; there are plain and native")]
    Dialect(String),
    #[error("unavailable: try again")]
    TurnedAway,
}

impl Sockets {
    /// Runs before the client hears that it is connected, so no event can come too early.
    async fn admit(
        &self,
        socket: &SocketRef<Adapter>,
        auth: TryData<Auth>,
    ) -> Result<(), NotAdmitted> {
        if self.tasks.is_stopping() {
            return Err(self.turn_away(socket.id, 1001, "going away").await);
        }
        let auth = auth.0.map_err(|why| NotAdmitted::Auth(why.to_string()))?;
        if let Some(token) = &auth.token
            && !(1..=TOKEN_BYTES_MAX).contains(&token.len())
        {
            return Err(NotAdmitted::Token);
        }
        let dialect = dialect(socket)?;
        // Without a token the session itself is the sender.
        let user = |key: &SessionKey| sender(auth.token.as_deref().unwrap_or(key.as_str()));
        let lobby = [RoomName::lobby()];
        // Of a client that polls nobody knows before a ping is due.
        let polls = socket.transport_type() == TransportType::Polling;
        let is_here = || polls || self.registry.lane(socket.id).is_some();
        let arrival = Arrival {
            is_here: &is_here,
            sid: socket.id,
            dialect,
            returning: auth.returning(),
            user: &user,
            rooms: match dialect {
                Dialect::Plain => &lobby,
                Dialect::Native => &[],
            },
        };
        let (memberships, key) = match self.chat.admit(arrival).await {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::debug!(%error, "a session cannot be read; its client must try again");
                return Err(self.turn_away(socket.id, 1013, "try again later").await);
            }
        };
        let session = Session::new(memberships.user().clone(), memberships.rooms(), self.limits);
        let connection = Arc::new(Connection {
            session: Mutex::new(session),
            pending: Mutex::default(),
            token: match dialect {
                // Nobody asks for it there.
                Dialect::Plain => "".into(),
                Dialect::Native => auth.token.as_deref().unwrap_or(key.as_str()).into(),
            },
            memberships,
            dialect,
            chat: self.chat.clone(),
            registry: self.registry.clone(),
            store: self.store.clone(),
            tasks: self.tasks.clone(),
        });
        socket.on_disconnect(OnDisconnect(Arc::downgrade(&connection)));
        socket.on_fallback(Events(connection));
        self.registry.entering(socket.id);
        Ok(())
    }

    /// Ends the transport. A refusal would keep the client away for good, and a CONNECT reply
    /// would begin a new session; a lost connection brings it back.
    async fn turn_away(&self, sid: Sid, code: u16, reason: &'static str) -> NotAdmitted {
        self.registry.close(sid, code, reason);
        tokio::time::sleep(GOING_MAX).await;
        NotAdmitted::TurnedAway
    }
}

/// From the query of the handshake.
fn dialect(socket: &SocketRef<Adapter>) -> Result<Dialect, NotAdmitted> {
    let query = socket.req_parts().uri.query().unwrap_or_default();
    match query.split('&').find_map(|pair| pair.strip_prefix("dialect=")) {
        None => Ok(Dialect::default()),
        Some(name) => Dialect::parse(name).ok_or_else(|| NotAdmitted::Dialect(name.to_owned())),
    }
}

/// A token is a secret, so others are shown its fingerprint.
fn sender(token: &str) -> UserId {
    let digest = Sha256::digest(token.as_bytes());
    let text: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    UserId::parse(&text).expect("24 hex digits are a user id")
}

fn fresh_id() -> MessageId {
    MessageId::parse(&random::hex::<16>()).expect("hex digits are a message id")
}

/// One client's end of the conversation.
#[derive(Debug)]
struct Connection {
    session: Mutex<Session>,
    pending: Mutex<PendingRequests>,
    memberships: Arc<Memberships>,
    dialect: Dialect,
    /// By which the client is the same user again.
    token: Box<str>,
    chat: Chat,
    registry: Registry,
    store: Store,
    tasks: Tasks,
}

/// The handler of every event of one connection.
struct Events(Arc<Connection>);

impl MessageHandler<Adapter, ()> for Events {
    fn call(&self, socket: Arc<Socket<Adapter>>, event: Value, ack_id: Option<i64>) {
        let (registry, sid) = (self.0.registry.clone(), socket.id);
        match registry.begin(sid) {
            Ok(in_flight) => self.0.handle(&event, Reply::new(registry, sid, ack_id, in_flight)),
            Err(Busy) => Reply::new(registry, sid, ack_id, None).reject(&too_much_in_flight()),
        }
    }
}

impl Connection {
    /// The client says good-bye. It may come in again on its connection, but not stay outside: the
    /// engine passes over a CONNECT that comes before it is quite done with the last, and the client
    /// would wait for ever.
    fn disconnect(&self, sid: Sid) {
        self.memberships.disconnect();
        let (registry, tasks) = (self.registry.clone(), self.tasks.clone());
        self.tasks.spawn("good-bye", async move {
            tokio::select! {
                () = tokio::time::sleep(CONNECT_TIMEOUT) => {}
                () = tasks.stopping() => return,
            }
            if !registry.is_connected(sid) {
                registry.close(sid, 1000, "not connected to a namespace");
            }
        });
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(self: &Arc<Self>, event: &Value, reply: Reply) {
        let request = match wire::decode(event, self.dialect, fresh_id) {
            Ok(request) => request,
            Err(reject) => return reply.reject(&reject),
        };
        if let Command::Join { room, .. } = &request.command
            && !self.memberships.has_begun(room)
        {
            // Before it is decided: what is refused must change nothing.
            return reply.reject(&Reject::new(Code::Unavailable, "the log is not known yet"));
        }
        let decided = self.session().step(request.command, clock::now());
        match decided {
            Ok(Effect::Append(draft)) => {
                let except = request.except_me.then(|| self.memberships.public_id().clone());
                self.append(Draft { except, ..draft }, request.epoch, reply);
            }
            Ok(Effect::ReadHistory { room, page, limit }) => {
                self.read_history(room, page, limit, request.epoch, reply);
            }
            Ok(Effect::Search(search)) => self.search(search, reply),
            Ok(Effect::Join { room, after }) => self.join(room, after, reply),
            Ok(Effect::ListRooms) => self.list_rooms(reply),
            Ok(Effect::Type { room, typing }) => self.says_typing(room, typing, reply),
            Ok(Effect::MarkRead { room, seq }) => self.mark_read(room, seq, reply),
            Ok(Effect::PatchProfile(patch)) => self.set_profile(patch, reply),
            Ok(Effect::Leave { room }) => {
                let name = room.clone();
                self.memberships.leave(&room, move || reply.send(&LeaveAck::new(&name)));
            }
            Err(reject) => reply.reject(&reject),
        }
    }

    fn submit(self: &Arc<Self>, draft: Draft, reply: Reply) {
        let (room, id) = (draft.room.clone(), draft.id.clone());
        // A connection that has ended is not kept: its session waits for its client.
        let connection = Arc::downgrade(self);
        let settle: Settle = Box::new(move |outcome| {
            if let Some(connection) = connection.upgrade() {
                connection.session().append_settled();
            }
            match outcome {
                Ok(stored) => reply.send(&SentAck::new(&room, &id, &stored)),
                Err(error) => reply.reject(&error.into()),
            }
        });
        self.store.log.append(draft, settle);
    }

    fn join(self: &Arc<Self>, room: RoomName, after: Option<Position>, reply: Reply) {
        let (connection, name) = (Arc::downgrade(self), room.clone());
        self.memberships.join(room, after, move |heard| {
            if let Some(connection) = connection.upgrade() {
                connection.session().read_settled();
            }
            joined(&name, &heard, reply);
        });
    }

    fn read_history(
        self: &Arc<Self>,
        room: RoomName,
        page: Page,
        limit: u32,
        epoch: Option<Epoch>,
        reply: Reply,
    ) {
        let connection = Arc::clone(self);
        self.tasks.spawn("history", async move {
            let outcome = connection.page(&room, page, limit, epoch).await;
            connection.session().read_settled();
            match outcome {
                Ok(history) => reply.send(&HistoryAck::new(&room, &history, connection.dialect)),
                Err(error) => {
                    tracing::debug!(%room, %error, "history could not be read");
                    reply.reject(&Reject::new(Code::Unavailable, "history cannot be read now"));
                }
            }
        });
    }

    /// A position of another epoch says nothing about this log: the newest page, and the truth
    /// that what lay between is gone.
    async fn page(
        &self,
        room: &RoomName,
        page: Page,
        limit: u32,
        epoch: Option<Epoch>,
    ) -> Result<History, ReadError> {
        let mut history = self.store.log.history(room.clone(), page, limit).await?;
        history.fit(page, PAGE_BYTES_MAX);
        if epoch.is_none_or(|epoch| epoch == history.top.epoch) {
            return Ok(history);
        }
        let mut newest = self.store.log.history(room.clone(), Page::Newest, limit).await?;
        newest.fit(Page::Newest, PAGE_BYTES_MAX);
        Ok(History { trimmed: true, ..newest })
    }
}

/// Where the answer to one event goes: the same way as every message of the room, and so in order
/// with them.
#[derive(Debug)]
struct Reply {
    registry: Registry,
    sid: Sid,
    ack_id: Option<i64>,
    /// Until the answer is given, this counts as under way.
    in_flight: Option<InFlight>,
}

impl Reply {
    fn new(registry: Registry, sid: Sid, ack_id: Option<i64>, in_flight: Option<InFlight>) -> Self {
        Self { registry, sid, ack_id, in_flight }
    }

    /// For a client that asked for no answer, success is the message coming back.
    fn send(self, answer: &impl Serialize) {
        if let Some(ack_id) = self.ack_id {
            self.registry.send(
                self.sid,
                Packet::ack("/", json(&(answer,)), ack_id),
                self.in_flight,
            );
        }
    }

    fn reject(self, reject: &Reject) {
        if self.ack_id.is_some() {
            return self.send(&RejectAck::new(reject));
        }
        let event = ("error", RejectEvent::new(reject));
        self.registry.send(self.sid, Packet::event("/", json(&event)), self.in_flight);
    }
}

fn joined(room: &RoomName, heard: &JoinResult, reply: Reply) {
    let fits = fits(&heard.missed);
    let missed = if fits { heard.missed.as_slice() } else { &[] };
    let missed = missed.iter().map(|entry| entry.message());
    let recovered = heard.recovered && fits;
    reply.send(&JoinAck::new(room, &heard.begin, recovered, missed, heard.people.as_ref()));
}

fn fits(entries: &[Arc<Entry>]) -> bool {
    let bytes = |entry: &Arc<Entry>| entry.message().body.as_json().len();
    entries.len() <= JOIN_MESSAGES_MAX && entries.iter().map(bytes).sum::<usize>() <= PAGE_BYTES_MAX
}

fn too_much_in_flight() -> Reject {
    Reject::new(Code::Busy, "too much is under way on this connection; wait for answers")
}

fn json(arguments: &impl Serialize) -> Value {
    let text = serde_json::to_string(arguments).expect("an answer is JSON");
    Value::Str(text.into(), None)
}

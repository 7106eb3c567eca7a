//! One event of one client: decoded, handed to `chat`, and its result encoded.

use std::sync::Arc;

use serde_json::value::RawValue;
use socketioxide::{handler::MessageHandler, socket::Socket};
use socketioxide_core::Value;

use super::{
    Sockets,
    answers::{
        DoneAck, HistoryAck, JoinAck, LeaveAck, ProfileAck, ReadAck, RoomsAck, SearchAck, SentAck,
    },
    reply::Reply,
};
use crate::{
    chat::{Connection, EventResult, JoinResult, Sent},
    delivery::replay::tail::ReplayEntry,
    dialects::{DialectId, dialect::Asker, native::requests::NAMES, text::quoted},
    domain::{
        name::MessageId,
        record::Body,
        reject::{Code, Reject},
        request::Request,
        room::RoomName,
    },
    random,
    transport::{adapter::Adapter, lane::Busy},
};

/// Messages, and their bytes, in the answer to `join`. A client that missed more reads them with
/// `history`.
const JOIN_MESSAGES_MAX: usize = 1_000;
const JOIN_BYTES_MAX: usize = 256 << 10;

/// The handler of every event of one connection.
pub struct Events {
    sockets: Arc<Sockets>,
    connection: Arc<Connection>,
    dialect: DialectId,
    /// The secret that makes the client the same user again.
    token: Box<str>,
}

impl MessageHandler<Adapter, ()> for Events {
    fn call(&self, socket: Arc<Socket<Adapter>>, event: Value, ack_id: Option<i64>) {
        let (registry, sid) = (self.sockets.registry.clone(), socket.id);
        match registry.begin(sid) {
            Ok(in_flight) => self.handle(&event, Reply::new(registry, sid, ack_id, in_flight)),
            Err(Busy) => Reply::new(registry, sid, ack_id, None).reject(&too_much_in_flight()),
        }
    }
}

impl Events {
    pub fn new(
        sockets: Arc<Sockets>,
        connection: Arc<Connection>,
        dialect: DialectId,
        token: Box<str>,
    ) -> Self {
        Self { sockets, connection, dialect, token }
    }

    fn handle(&self, event: &Value, reply: Reply) {
        let request = match self.decode(event, reply.is_wanted()) {
            Ok(request) => request,
            Err(reject) => return reply.reject(&reject),
        };
        let (chat, actor) = (&self.sockets.chat, self.connection.actor());
        match request {
            Request::Send(message) => chat.send(actor, message, |sent| answer_sent(sent, reply)),
            Request::Change(change) => chat.change(actor, change, |sent| answer_sent(sent, reply)),
            Request::Event(event) => {
                let ack = event.ack.clone();
                chat.event(&self.connection, event, fresh_id, move |result| {
                    answer_event(result, ack.as_ref(), reply);
                });
            }
            Request::Join { room, after } => {
                let name = room.clone();
                self.connection.join(room, after, reply.is_wanted(), move |joined| match joined {
                    Ok(result) => answer_join(&name, &result, reply),
                    Err(reject) => reply.reject(&reject),
                });
            }
            Request::Leave { room } => {
                let name = room.clone();
                self.connection.leave(room, move |left| match left {
                    Ok(()) => reply.send(&LeaveAck::new(&name)),
                    Err(reject) => reply.reject(&reject),
                });
            }
            Request::Typing { room, typing } => match chat.typing(actor, room, typing) {
                Ok(()) => reply.send(&DoneAck::new()),
                Err(reject) => reply.reject(&reject),
            },
            Request::History(page) => {
                let (room, dialect) = (page.room.clone(), self.dialect);
                self.answer("history", chat.history(actor, page), reply, move |history, reply| {
                    reply.send(&HistoryAck::new(&room, &history, dialect));
                });
            }
            Request::Search(search) => {
                let (room, dialect) = (search.room.clone(), self.dialect);
                self.answer("search", chat.search(actor, search), reply, move |found, reply| {
                    reply.send(&SearchAck::new(&room, &found, dialect));
                });
            }
            Request::Rooms => {
                self.answer("rooms", chat.rooms(actor), reply, |listed, reply| {
                    reply.send(&RoomsAck::new(&listed.rooms, &listed.marks));
                });
            }
            Request::MarkRead { room, seq } => {
                let marking = chat.mark_read(actor, room.clone(), seq);
                self.answer("read", marking, reply, move |seq, reply| {
                    reply.send(&ReadAck::new(&room, seq));
                });
            }
            Request::SetProfile { name, picture } => {
                let (setting, token) = (chat.set_profile(actor, name, picture), self.token.clone());
                self.answer("profile", setting, reply, move |user, reply| {
                    reply.send(&ProfileAck::new(&user, &token));
                });
            }
        }
    }

    fn decode(&self, event: &Value, wants_ack: bool) -> Result<Request, Reject> {
        let bad = |why: String| Reject::new(Code::BadRequest, why);
        let Value::Str(text, None) = event else {
            return Err(bad("binary arguments are not accepted here".to_owned()));
        };
        let parts: Vec<&RawValue> = serde_json::from_str(text.as_str())
            .map_err(|why| bad(format!("no JSON array: {why}")))?;
        let Some((name, args)) = parts.split_first() else {
            return Err(bad("an event has a name".to_owned()));
        };
        let name: String = serde_json::from_str(name.get())
            .map_err(|_not_a_string| bad("the event name is text".to_owned()))?;
        let me = self.connection.me();
        let asker = Asker {
            user: self.connection.user(),
            public_id: self.connection.public_id(),
            me: me.as_ref(),
            wants_ack,
            message_bytes_max: self.sockets.chat.limits().message_bytes_max,
            fresh_id,
        };
        match self.dialect.decode(&name, args, &asker) {
            Some(request) => request,
            None => Err(self.no_such_event(&name)),
        }
    }

    /// Tells the client's developer and the operator what to do.
    fn no_such_event(&self, event: &str) -> Reject {
        let dialect = self.dialect.name();
        if self.sockets.warned.is_first(&format!("{dialect} {event}")) {
            let name = quoted(event);
            tracing::warn!(
                event,
                dialect,
                "a client sent an event that has no row: if it says something to others, add a \
                 row for it to the table of --events, such as: {name} = {{ out = [{name}, \
                 \"$*\"] }}"
            );
        }
        let why = match (dialect, NAMES.contains(&event)) {
            ("native", _) => "docs/protocol.md lists the events of the native dialect",
            (_, true) => "it is for clients that connect with ?dialect=native",
            (_, false) => "the server's operator can add a row for it to the table of --events",
        };
        Reject::new(Code::BadRequest, format!("there is no event '{event}' here: {why}"))
    }

    /// Waits for a result in a task, and sends it.
    fn answer<T: Send + 'static>(
        &self,
        name: &'static str,
        result: impl Future<Output = Result<T, Reject>> + Send + 'static,
        reply: Reply,
        send: impl FnOnce(T, Reply) + Send + 'static,
    ) {
        self.sockets.tasks.spawn(name, async move {
            match result.await {
                Ok(answer) => send(answer, reply),
                Err(reject) => reply.reject(&reject),
            }
        });
    }
}

fn answer_sent(sent: Result<Sent, Reject>, reply: Reply) {
    match sent {
        Ok(sent) => reply.send(&SentAck::new(&sent)),
        Err(reject) => reply.reject(&reject),
    }
}

fn answer_event(result: Result<EventResult, Reject>, ack: Option<&Body>, reply: Reply) {
    match (result, ack) {
        (Err(reject), _) => reply.reject(&reject),
        (Ok(_), Some(ack)) => reply.send_json(ack),
        (Ok(EventResult::Sent(sent)), None) => reply.send(&SentAck::new(&sent)),
        (Ok(EventResult::Joined(room, result)), None) => answer_join(&room, &result, reply),
        (Ok(EventResult::Left(room)), None) => reply.send(&LeaveAck::new(&room)),
        (Ok(EventResult::Done), None) => reply.send(&DoneAck::new()),
    }
}

fn answer_join(room: &RoomName, result: &JoinResult, reply: Reply) {
    let fits = fits(&result.missed);
    let missed = if fits { result.missed.as_slice() } else { &[] };
    let missed = missed.iter().map(|entry| entry.record());
    let recovered = result.recovered && fits;
    reply.send(&JoinAck::new(room, &result.live_after, recovered, missed, result.members.as_ref()));
}

fn fits(entries: &[Arc<ReplayEntry>]) -> bool {
    let bytes = |entry: &Arc<ReplayEntry>| entry.record().bytes();
    entries.len() <= JOIN_MESSAGES_MAX && entries.iter().map(bytes).sum::<usize>() <= JOIN_BYTES_MAX
}

fn too_much_in_flight() -> Reject {
    Reject::new(Code::Busy, "too many requests are in flight on this connection; wait for answers")
}

fn fresh_id() -> MessageId {
    MessageId::parse(&random::hex::<16>()).expect("hex digits are a message id")
}

//! What travels over Socket.IO, exactly as docs/protocol.md says.
//!
//! These shapes belong to the wire alone: they are converted by hand, so that neither the log
//! nor the domain changes when a client's format does.

mod acks;
mod changes;

use serde::Deserialize;
use serde_json::value::RawValue;
use socketioxide_core::Value;

pub use crate::sockets::wire::acks::{
    DoneAck, HistoryAck, JoinAck, LeaveAck, ProfileAck, ReadAck, RejectAck, RejectEvent, RoomsAck,
    SearchAck, SentAck,
};
use crate::{
    chat::Returning,
    dialects::{Dialect, offset::Offset},
    domain::{
        name::{MessageId, NameError, PublicId, UserId, UserName},
        page::Page,
        position::{Epoch, Position},
        record::Body,
        reject::{Code, Reject},
        request::{Destination, NewMessage, PageRequest, Request},
        room::RoomName,
        search::{Query, Search},
        user::Picture,
    },
    store::sessions::SessionKey,
};

/// Messages in one page of history or of what was found, at most and by default.
const HISTORY_LIMIT_MAX: u32 = 200;
const HISTORY_LIMIT_DEFAULT: u32 = 50;

/// What a client may say when it connects. Everything is optional.
#[derive(Debug, Default, Deserialize)]
pub struct Auth {
    /// A secret the client made up and keeps: it is the same sender wherever it comes back.
    pub token: Option<String>,
    /// What the last CONNECT reply said: the session to take up again. A client that does not keep
    /// it as it was begins a new one.
    pub pid: Option<serde_json::Value>,
    /// The last argument of the last event, if that was a text.
    pub offset: Option<serde_json::Value>,
}

impl Auth {
    /// Frontends may have fields of these names and another meaning, which makes them new here.
    pub fn returning(&self) -> Option<Returning> {
        let key = SessionKey::parse(self.pid.as_ref()?.as_str()?).ok()?;
        let offset = match &self.offset {
            Some(offset) => Some(Offset::parse(offset.as_str()?)?),
            None => None,
        };
        Some(Returning { key, offset })
    }
}

#[derive(Deserialize)]
struct HistoryRequest {
    room: String,
    before: Option<At>,
    after: Option<At>,
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct SearchRequest {
    room: String,
    text: String,
    before: Option<u64>,
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct SendRequest {
    room: Option<String>,
    to: Option<String>,
    socket: Option<String>,
    text: String,
    id: Option<String>,
    except: Option<Except>,
}

/// Who is not told a message.
#[derive(Deserialize)]
enum Except {
    /// The connection that sends it.
    #[serde(rename = "me")]
    Me,
}

#[derive(Deserialize)]
struct JoinRequest {
    room: String,
    after: Option<At>,
}

#[derive(Deserialize)]
struct LeaveRequest {
    room: String,
}

#[derive(Deserialize)]
struct TypingRequest {
    room: String,
    typing: bool,
}

#[derive(Deserialize)]
struct ReadRequest {
    room: String,
    seq: u64,
}

#[derive(Deserialize)]
struct ProfileRequest {
    name: Option<String>,
    picture: Option<String>,
}

#[derive(Deserialize)]
struct At {
    epoch: String,
    seq: u64,
}

/// Reads an event. `fresh_id` is used where the client gave its message no id.
pub fn decode(
    event: &Value,
    dialect: Dialect,
    fresh_id: impl FnOnce() -> MessageId,
) -> Result<Request, Reject> {
    let Value::Str(text, None) = event else {
        return Err(bad("binary arguments are not accepted here"));
    };
    let parts: Vec<&RawValue> =
        serde_json::from_str(text.as_str()).map_err(|why| bad(format!("no JSON array: {why}")))?;
    let Some((name, args)) = parts.split_first() else {
        return Err(bad("an event has a name"));
    };
    let name: String =
        serde_json::from_str(name.get()).map_err(|_not_a_string| bad("the event name is text"))?;
    match (dialect, name.as_str()) {
        (Dialect::Plain, "user-message") => user_message(args, fresh_id),
        (Dialect::Native, "send") => send(args, fresh_id),
        (Dialect::Native, "edit") => changes::edit(args, fresh_id),
        (Dialect::Native, "delete") => changes::delete(args, fresh_id),
        (Dialect::Native, "react") => changes::react(args, fresh_id),
        (Dialect::Native, "join") => join(args),
        (Dialect::Native, "leave") => leave(args),
        (Dialect::Native, "rooms") => Ok(Request::Rooms),
        (Dialect::Native, "typing") => typing(args),
        (Dialect::Native, "read") => read(args),
        (Dialect::Native, "profile") => profile(args),
        (Dialect::Native, "search") => search(args),
        (_, "history") => history(args),
        (
            Dialect::Plain,
            "send" | "edit" | "delete" | "react" | "join" | "leave" | "rooms" | "typing" | "read"
            | "profile" | "search",
        ) => Err(bad(format!("'{name}' is for clients that connect with ?dialect=native"))),
        _ => Err(bad(format!("there is no event '{name}'; docs/protocol.md lists them"))),
    }
}

/// The one object that a request of the native dialect takes.
fn object<'a, T: Deserialize<'a>>(args: &[&'a RawValue], shape: &str) -> Result<T, Reject> {
    let argument = args.first().ok_or_else(|| bad(shape))?;
    serde_json::from_str(argument.get()).map_err(|why| bad(format!("{shape}: {why}")))
}

fn send(args: &[&RawValue], fresh_id: impl FnOnce() -> MessageId) -> Result<Request, Reject> {
    let shape = "send takes {room | to | socket, text, id?, except?: \"me\"}";
    let asked: SendRequest = object(args, shape)?;
    let repeatable = asked.id.is_some();
    let id = match asked.id {
        Some(id) => MessageId::parse(&id).map_err(bad_name)?,
        None => fresh_id(),
    };
    let text = serde_json::to_string(&asked.text).expect("a text is JSON");
    let body = Body::from_json(&text);
    let to = match (asked.room, asked.to, asked.socket) {
        (Some(room), None, None) => Destination::Room(RoomName::parse(&room).map_err(bad_name)?),
        (None, Some(user), None) => Destination::User(UserId::parse(&user).map_err(bad_name)?),
        (None, None, Some(id)) => Destination::Connection(PublicId::parse(&id).map_err(bad_name)?),
        _ => return Err(bad(format!("{shape}: a room, a user or a socket"))),
    };
    let except_me = matches!(asked.except, Some(Except::Me));
    Ok(Request::Send(NewMessage { to, id, repeatable, body, except_me }))
}

fn join(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: JoinRequest = object(args, "join takes {room, after?: {epoch, seq}}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let position = |at: At| Position { epoch: Epoch::new(&at.epoch), seq: at.seq };
    let after = asked.after.map(position);
    Ok(Request::Join { room, after })
}

fn typing(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: TypingRequest = object(args, "typing takes {room, typing}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::Typing { room, typing: asked.typing })
}

fn read(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: ReadRequest = object(args, "read takes {room, seq}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::MarkRead { room, seq: asked.seq })
}

fn profile(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: ProfileRequest = object(args, "profile takes {name?, picture?}")?;
    let name = asked.name.map(|name| UserName::parse(&name)).transpose().map_err(bad_name)?;
    let picture = asked.picture.map(|picture| Picture::parse(&picture)).transpose();
    let picture = picture.map_err(|why| bad(why.to_string()))?;
    Ok(Request::SetProfile { name, picture })
}

fn leave(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: LeaveRequest = object(args, "leave takes {room}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::Leave { room })
}

fn user_message(
    args: &[&RawValue],
    fresh_id: impl FnOnce() -> MessageId,
) -> Result<Request, Reject> {
    let Some(body) = args.first() else {
        return Err(bad("user-message takes the message as its argument"));
    };
    let id = match args.get(1) {
        None => fresh_id(),
        Some(id) => {
            let id: String = serde_json::from_str(id.get())
                .map_err(|_not_a_string| bad("the second argument, the message id, is text"))?;
            MessageId::parse(&id).map_err(bad_name)?
        }
    };
    let body = Body::from_json(body.get());
    let (to, repeatable) = (Destination::Room(RoomName::lobby()), args.len() > 1);
    Ok(Request::Send(NewMessage { to, id, repeatable, body, except_me: false }))
}

fn history(args: &[&RawValue]) -> Result<Request, Reject> {
    let shape = "history takes {room, before?: {epoch, seq} | after?: {epoch, seq}, limit?}";
    let asked: HistoryRequest = object(args, shape)?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let (page, epoch) = match (asked.before, asked.after) {
        (None, None) => (Page::Newest, None),
        (Some(at), None) => (Page::Before(at.seq), Some(Epoch::new(&at.epoch))),
        (None, Some(at)) => (Page::After(at.seq), Some(Epoch::new(&at.epoch))),
        (Some(_), Some(_)) => return Err(bad("history takes before or after, not both")),
    };
    let limit = page_limit(asked.limit)?;
    Ok(Request::History(PageRequest { room, page, limit, epoch }))
}

fn search(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: SearchRequest = object(args, "search takes {room, text, before?: seq, limit?}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let query = Query::parse(&asked.text).map_err(|why| bad(why.to_string()))?;
    let limit = page_limit(asked.limit)?;
    Ok(Request::Search(Search { room, query, before: asked.before, limit }))
}

fn page_limit(asked: Option<u32>) -> Result<u32, Reject> {
    let limit = asked.unwrap_or(HISTORY_LIMIT_DEFAULT);
    if !(1..=HISTORY_LIMIT_MAX).contains(&limit) {
        return Err(bad(format!("limit is between 1 and {HISTORY_LIMIT_MAX}")));
    }
    Ok(limit)
}

fn bad(message: impl Into<String>) -> Reject {
    Reject::new(Code::BadRequest, message)
}

fn bad_name(why: NameError) -> Reject {
    bad(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Emoji, record::Change, request::NewChange};

    fn decoded(text: &str) -> Result<Request, Reject> {
        decoded_in(Dialect::Plain, text)
    }

    fn decoded_in(dialect: Dialect, text: &str) -> Result<Request, Reject> {
        let event = Value::Str(text.to_owned().into(), None);
        decode(&event, dialect, || MessageId::parse("fresh").unwrap())
    }

    fn message(text: &str) -> String {
        decoded(text).unwrap_err().message
    }

    #[test]
    fn any_json_is_a_message_and_stays_as_it_is() {
        for body in ["\"hi\"", "1e400", "12345678901234567890", "{\"b\":1, \"a\":[null]}", "null"] {
            let request = decoded(&format!("[\"user-message\",{body}]")).unwrap();
            let Request::Send(message) = request else { panic!("a send") };
            assert_eq!((message.id.as_str(), message.body.as_json()), ("fresh", body));
        }
    }

    #[test]
    fn a_second_argument_is_the_clients_id() {
        let request = decoded(r#"["user-message","x","mine"]"#).unwrap();
        assert!(matches!(request, Request::Send(message) if message.id.as_str() == "mine"));
        assert!(message(r#"["user-message","x",7]"#).contains("message id"));
        assert!(message(r#"["user-message","x",""]"#).contains("id is empty"));
    }

    #[test]
    fn wrong_input_says_what_is_wrong() {
        assert!(message(r#"["user-message"]"#).contains("takes the message"));
        assert!(message(r#"["dance",1]"#).contains("'dance'"));
        assert!(message(r#"["history"]"#).contains("{room"));
        assert!(message(r#"["history",{"room":"lobby","limit":0}]"#).contains("between 1 and 200"));
        let both = r#"["history",{"room":"a","before":{"epoch":"e","seq":1},"after":{"epoch":"e","seq":1}}]"#;
        assert!(message(both).contains("not both"));
    }

    #[test]
    fn requests_of_the_native_dialect_are_objects() {
        let native = |text| decoded_in(Dialect::Native, text);
        let request = native(r#"["send",{"room":"attic","text":"a\"b"}]"#).unwrap();
        let Request::Send(sent) = request else { panic!("send") };
        assert_eq!(sent.to, Destination::Room(RoomName::parse("attic").unwrap()));
        assert_eq!((sent.repeatable, sent.body.as_json()), (false, r#""a\"b""#));
        let request = native(r#"["send",{"to":" bob ","text":"hi","id":"m"}]"#).unwrap();
        let Request::Send(sent) = request else { panic!("send") };
        let bob = Destination::User(UserId::parse("bob").unwrap());
        assert_eq!((sent.to, sent.repeatable), (bob, true));
        for unclear in [r#"["send",{"text":"a"}]"#, r#"["send",{"to":"a","room":"b","text":"c"}]"#]
        {
            assert!(native(unclear).unwrap_err().message.contains("a room, a user or a socket"));
        }
        let request = native(r#"["send",{"socket":"0a","text":"hi","except":"me"}]"#).unwrap();
        let Request::Send(sent) = request else { panic!("send") };
        let connection = Destination::Connection(PublicId::parse("0a").unwrap());
        assert_eq!((sent.to, sent.except_me), (connection, true));
        for strange in [r#""you""#, "true", "[]"] {
            let send = format!(r#"["send",{{"room":"a","text":"hi","except":{strange}}}]"#);
            assert!(
                decoded_in(Dialect::Native, &send).unwrap_err().message.contains("except?"),
                "{strange}"
            );
        }
        let request = native(r#"["join",{"room":"attic","after":{"epoch":"e","seq":3}}]"#).unwrap();
        let Request::Join { after, .. } = request else { panic!("a join") };
        assert_eq!(after, Some(Position { epoch: Epoch::new("e"), seq: 3 }));
        assert!(native(r#"["leave","attic"]"#).unwrap_err().message.contains("takes {room}"));
        assert!(message(r#"["join",{"room":"attic"}]"#).contains("?dialect=native"));
        assert!(native(r#"["user-message",1]"#).unwrap_err().message.contains("no event"));
    }

    #[test]
    fn what_is_said_of_a_message_names_its_position() {
        let native = |text: &str| decoded_in(Dialect::Native, text);
        let at = r#""room":"attic","epoch":"e","of":7"#;
        let emoji = Emoji::parse("+").unwrap();
        let react = |on| Change::React { emoji: emoji.clone(), on };
        for (name, rest, change) in [
            ("edit", r#","text":"a","id":"c""#, Change::Edit(Body::from_json(r#""a""#))),
            ("delete", r#","id":"c""#, Change::Delete),
            ("react", r#","emoji":" + ","on":true,"id":"c""#, react(true)),
            ("react", r#","emoji":"+","on":false,"id":"c""#, react(false)),
        ] {
            let request = native(&format!(r#"["{name}",{{{at}{rest}}}]"#)).unwrap();
            let change = NewChange {
                room: RoomName::parse("attic").unwrap(),
                epoch: Epoch::new("e"),
                target_seq: 7,
                change,
                id: MessageId::parse("c").unwrap(),
                repeatable: true,
            };
            assert_eq!(request, Request::Change(change));
            let plain = message(&format!(r#"["{name}",{{{at}{rest}}}]"#));
            assert!(plain.contains("?dialect=native"));
        }
        for wrong in ["edit", "react"] {
            let message = native(&format!(r#"["{wrong}",{{{at}}}]"#)).unwrap_err().message;
            assert!(message.contains(&format!("{wrong} takes {{room, epoch, of")), "{message}");
        }
        let long = format!(r#"["react",{{{at},"emoji":"{}","on":true}}]"#, "x".repeat(33));
        assert!(native(&long).unwrap_err().message.contains("longer than 32"));
    }

    #[test]
    fn what_a_returning_client_says_is_read_whole_or_not_at_all() {
        let auth = |pid: &str, offset: Option<&str>| Auth {
            pid: Some(pid.into()),
            offset: offset.map(Into::into),
            ..Auth::default()
        };
        let returning = auth("k", Some("e-7")).returning().unwrap();
        let position = Position { epoch: Epoch::new("e"), seq: 7 };
        assert_eq!(returning.offset, Some(Offset::Position(position)));
        assert_eq!(auth("k", None).returning().unwrap().offset, None);
        assert!(auth("k", Some("hello")).returning().is_none());
        assert!(auth("no key!", Some("e-7")).returning().is_none());
        let odd = r#"{"pid":"k","offset":7}"#;
        assert!(serde_json::from_str::<Auth>(odd).unwrap().returning().is_none());
    }

    #[test]
    fn a_page_may_name_its_epoch() {
        let request =
            decoded(r#"["history",{"room":"lobby","after":{"epoch":"e1","seq":7}}]"#).unwrap();
        let Request::History(request) = request else { panic!("a read") };
        assert_eq!(request.epoch.as_ref().map(Epoch::as_str), Some("e1"));
        assert_eq!((request.page, request.limit), (Page::After(7), HISTORY_LIMIT_DEFAULT));
    }
}

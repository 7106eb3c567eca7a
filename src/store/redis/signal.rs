//! Signals in Redis: their format, one line of JSON each, and how they are sent.
//!
//! They are not stored, so a node misses signals while it is disconnected. Its reader knows when.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, PubsubInterface},
    types::Value,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::timeout};

use crate::store::redis::{calls::Caller, keys::Keys, link::COMMAND_TIMEOUT};
use crate::{
    domain::{
        name::{MessageId, NameError, PublicId, UserId, UserName},
        position::Timestamp,
        record::{Body, PassedEvent, SourceEvent},
        room::RoomName,
        user::{Picture, User},
    },
    shutdown::Tasks,
    store::{NodeEvent, error::ReadError, presence::Signal},
};

/// Signals of this node that may wait to be sent; those beyond are dropped.
const WAITING_MAX: usize = 8_192;
/// Signals sent together.
const BATCH_MAX: usize = 256;
/// How long a stopping node still sends.
const STOP_SEND_MAX: Duration = Duration::from_millis(200);

/// A user as one JSON object.
#[derive(Debug, Serialize, Deserialize)]
struct UserLine {
    id: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
}

/// An event that is passed on.
#[derive(Debug, Serialize, Deserialize)]
struct EventLine {
    room: String,
    from: String,
    id: String,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    except: Option<String>,
    profile: String,
    event: String,
    args: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    me: Option<Box<RawValue>>,
}

/// `{"typing": {..}}` and so on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Typing { room: String, user: UserLine, typing: bool },
    Read { user: String, room: String, seq: u64 },
    Profile { user: UserLine },
    Event(EventLine),
    Presence { room: String, version: u64, joined: Vec<UserLine>, left: Vec<String>, count: u32 },
}

/// A user as others see them, on one line.
pub fn user_line(user: &User) -> String {
    json(&line_of_user(user))
}

pub fn user(line: &str) -> Result<User, ReadError> {
    let corrupt = |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("a user: {why}"));
    let line: UserLine = serde_json::from_str(line).map_err(|why| corrupt(&why))?;
    user_of(line).map_err(|why| corrupt(&why))
}

pub fn line(signal: Signal) -> String {
    json(&match signal {
        Signal::Typing { room, user, typing } => {
            Line::Typing { room: room.to_string(), user: line_of_user(&user), typing }
        }
        Signal::Read { user, room, seq } => {
            Line::Read { user: user.to_string(), room: room.to_string(), seq }
        }
        Signal::Profile { user } => Line::Profile { user: line_of_user(&user) },
        Signal::Event(passed) => Line::Event(line_of_event(&passed)),
        Signal::Presence { room, version, joined, left, count } => Line::Presence {
            room: room.to_string(),
            version,
            joined: joined.iter().map(line_of_user).collect(),
            left: left.iter().map(UserId::to_string).collect(),
            count,
        },
    })
}

/// Decodes a message of the signal channel, line by line.
pub fn heard(said: &str, out: &mut Vec<NodeEvent>) {
    for line in said.lines() {
        match signal(line) {
            Ok(signal) => out.push(NodeEvent::Signal(signal)),
            Err(error) => tracing::warn!(%error, "ignored a signal that cannot be read"),
        }
    }
}

fn signal(line: &str) -> Result<Signal, String> {
    let text = |why: &dyn std::fmt::Display| why.to_string();
    let room = |name: String| RoomName::parse(&name).map_err(|why| text(&why));
    let id = |id: String| UserId::parse(&id).map_err(|why| text(&why));
    Ok(match serde_json::from_str(line).map_err(|why| text(&why))? {
        Line::Typing { room: name, user, typing } => {
            Signal::Typing { room: room(name)?, user: user_of(user)?, typing }
        }
        Line::Read { user, room: name, seq } => {
            Signal::Read { user: id(user)?, room: room(name)?, seq }
        }
        Line::Profile { user } => Signal::Profile { user: user_of(user)? },
        Line::Event(line) => Signal::Event(Box::new(event_of(line)?)),
        Line::Presence { room: name, version, joined, left, count } => Signal::Presence {
            room: room(name)?,
            version,
            joined: joined.into_iter().map(user_of).collect::<Result<_, _>>()?,
            left: left.into_iter().map(id).collect::<Result<_, _>>()?,
            count,
        },
    })
}

fn line_of_event(passed: &PassedEvent) -> EventLine {
    let raw = |body: &Body| {
        RawValue::from_string(body.as_json().to_owned()).expect("a body is one JSON value")
    };
    let source = &passed.source;
    EventLine {
        room: passed.room.to_string(),
        from: passed.from.to_string(),
        id: passed.id.to_string(),
        at: passed.at.0,
        except: passed.except.as_ref().map(PublicId::to_string),
        profile: source.profile.to_string(),
        event: source.event.to_string(),
        args: raw(&source.arguments),
        me: source.me.as_ref().map(raw),
    }
}

fn event_of(line: EventLine) -> Result<PassedEvent, String> {
    let bad = |why: NameError| why.to_string();
    let source = SourceEvent {
        profile: line.profile.into(),
        event: line.event.into(),
        arguments: Body::from_json(line.args.get()),
        me: line.me.map(|me| Body::from_json(me.get())),
    };
    Ok(PassedEvent {
        room: RoomName::parse(&line.room).map_err(bad)?,
        from: UserId::parse(&line.from).map_err(bad)?,
        id: MessageId::parse(&line.id).map_err(bad)?,
        at: Timestamp(line.at),
        except: line.except.map(|id| PublicId::parse(&id)).transpose().map_err(bad)?,
        source: Arc::new(source),
    })
}

fn line_of_user(user: &User) -> UserLine {
    UserLine {
        id: user.id.to_string(),
        name: user.name.to_string(),
        picture: user.picture.as_ref().map(Picture::to_string),
    }
}

fn user_of(line: UserLine) -> Result<User, String> {
    Ok(User {
        id: UserId::parse(&line.id).map_err(|why| why.to_string())?,
        name: UserName::parse(&line.name).map_err(|why| why.to_string())?,
        picture: line
            .picture
            .map(|text| Picture::parse(&text).map_err(|why| why.to_string()))
            .transpose()?,
    })
}

fn json(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("text and numbers are JSON")
}

/// The sending end.
#[derive(Debug)]
pub struct Signals {
    waiting: mpsc::Sender<(u16, String)>,
}

impl Signals {
    pub fn new() -> (Self, mpsc::Receiver<(u16, String)>) {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        (Self { waiting }, receiver)
    }

    pub fn send(&self, partition: u16, signal: Signal) {
        if self.waiting.try_send((partition, line(signal))).is_err() {
            tracing::debug!("dropped a signal: too many wait, or the node stops");
        }
    }
}

/// Sends queued signals, in order within each partition, until the node stops.
pub async fn send_all(
    mut waiting: mpsc::Receiver<(u16, String)>,
    caller: Caller,
    keys: Vec<Keys>,
    tasks: Tasks,
) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            biased;
            count = waiting.recv_many(&mut batch, BATCH_MAX) => count,
            () = tasks.stopping() => return,
        };
        if count == 0 {
            return;
        }
        let mut texts: BTreeMap<u16, String> = BTreeMap::new();
        for (partition, line) in batch.drain(..) {
            let text = texts.entry(partition).or_default();
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line);
        }
        if !caller.is_up() {
            continue;
        }
        let sending = texts.into_iter().filter_map(|(partition, text)| {
            let channel = keys.get(usize::from(partition))?.signals();
            Some(publish(&caller.client, channel, text))
        });
        let limit = if tasks.is_stopping() { STOP_SEND_MAX } else { COMMAND_TIMEOUT };
        match timeout(limit, futures_util::future::try_join_all(sending)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "signals were not sent"),
            Err(_elapsed) => tracing::debug!("signals were not sent in time"),
        }
    }
}

async fn publish(client: &Client, channel: String, text: String) -> Result<(), Error> {
    if client.is_clustered() {
        client.spublish::<Value, _, _>(channel, text).await.map(drop)
    } else {
        client.publish::<Value, _, _>(channel, text).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> User {
        let picture = Some(Picture::parse("https://example.org/ann.png").unwrap());
        let name = UserName::parse("Ann \"é\"").unwrap();
        User { id: UserId::parse("u/1").unwrap(), name, picture }
    }

    #[test]
    fn every_signal_is_readable_and_reads_back() {
        let room = RoomName::parse("köln: \"x\"").unwrap();
        let bob = User { picture: None, ..ann() };
        for signal in [
            Signal::Typing { room: room.clone(), user: bob.clone(), typing: true },
            Signal::Read { user: bob.id.clone(), room: room.clone(), seq: 1 << 50 },
            Signal::Profile { user: ann() },
            Signal::Presence {
                room,
                version: 7,
                joined: vec![ann(), bob.clone()],
                left: vec![bob.id],
                count: 2,
            },
        ] {
            let line = line(signal.clone());
            assert!(!line.contains('\n'), "{line}");
            let mut out = Vec::new();
            heard(&format!("{line}\n{line}"), &mut out);
            assert_eq!(out, [NodeEvent::Signal(signal.clone()), NodeEvent::Signal(signal)]);
        }
    }

    #[test]
    fn what_is_no_signal_hides_none() {
        let good = line(Signal::Profile { user: ann() });
        let mut out = Vec::new();
        heard(&format!("hello\n{{\"typing\":{{}}}}\n{good}"), &mut out);
        assert_eq!(out, [NodeEvent::Signal(Signal::Profile { user: ann() })]);
    }
}

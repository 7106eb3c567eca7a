//! What an event does by a row of the rule table: its steps one after the other, and one answer.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::{
    Actor, Chat, Connection, JoinResult, Sent,
    messages::{Preceding, room_of},
};
use crate::{
    clock,
    domain::{
        name::{MessageId, PublicId},
        record::{Body, PassedEvent, SourceEvent},
        reject::{Code, Reject},
        request::{Delivery, Destination, EventRequest},
        room::RoomName,
    },
    store::presence::Signal,
};

/// The result of the last step.
#[derive(Debug)]
pub enum EventResult {
    Sent(Sent),
    Joined(RoomName, JoinResult),
    Left(RoomName),
    Done,
}

type Answered<T> = oneshot::Receiver<Result<T, Reject>>;

impl Chat {
    /// Does what a row says: remembers `$me`, joins and leaves rooms, and delivers when both are
    /// stored. If one of them is refused, nothing is delivered, and the others stay done. `fresh_id`
    /// names an event that is passed on.
    pub fn event(
        &self,
        connection: &Arc<Connection>,
        request: EventRequest,
        fresh_id: fn() -> MessageId,
        done: impl FnOnce(Result<EventResult, Reject>) + Send + 'static,
    ) {
        let EventRequest { me, join, leave, delivery, ack: _ } = request;
        if let Some(me) = me {
            connection.remember(me);
        }
        let joined = join.map(|to| begin_join(connection, to));
        let left = leave.map(|room| begin_leave(connection, room));
        let actor = connection.actor();
        let delivery = match delivery {
            Some(Delivery::Store(message)) => {
                let must_wait = joined.is_some() || left.is_some();
                let after = must_wait.then(|| both(joined, left));
                let sent = move |sent: Result<Sent, Reject>| done(sent.map(EventResult::Sent));
                return self.send_after(actor, message, after, sent);
            }
            Some(Delivery::PassOn { to, source, except_me }) => {
                let passed = passed_event(actor, to, source, except_me, fresh_id());
                match passed {
                    Ok(passed) => Some(passed),
                    Err(reject) => return done(Err(reject)),
                }
            }
            None => None,
        };
        if joined.is_none() && left.is_none() {
            self.pass_on(delivery);
            return done(Ok(EventResult::Done));
        }
        let chat = self.clone();
        connection.spawn("event", async move {
            let mut result = Ok(EventResult::Done);
            if let Some(joined) = joined {
                result = answer(joined).await.map(|(room, result)| match result {
                    Some(result) => EventResult::Joined(room, result),
                    None => EventResult::Done,
                });
            }
            if let (Ok(_), Some(left)) = (&result, left) {
                result = answer(left).await.map(EventResult::Left);
            }
            if result.is_ok() && delivery.is_some() {
                chat.pass_on(delivery);
                result = Ok(EventResult::Done);
            }
            done(result);
        });
    }

    /// Tells every node.
    fn pass_on(&self, passed: Option<PassedEvent>) {
        if let Some(passed) = passed {
            self.0.store.presence.publish(Signal::Event(Box::new(passed)));
        }
    }
}

impl Connection {
    /// The session is stored with it soon, so that it is there after a recovery.
    fn remember(self: &Arc<Self>, me: Body) {
        let is_new = self.me.lock().replace(me.clone()).as_ref() != Some(&me);
        if is_new {
            self.save_again();
        }
    }
}

/// Joins a room. A client is in the room of its own connection from the start.
fn begin_join(
    connection: &Arc<Connection>,
    to: Destination,
) -> Answered<(RoomName, Option<JoinResult>)> {
    let (answer, joined) = oneshot::channel();
    match to {
        Destination::Room(room) => {
            let name = room.clone();
            connection.join(room, None, false, move |result| {
                settle(answer, result.map(|result| (name, Some(result))));
            });
        }
        Destination::Connection(id) => settle(answer, own_room(connection, &id)),
        Destination::User(_) => settle(answer, Err(not_joinable())),
    }
    joined
}

fn own_room(
    connection: &Connection,
    id: &PublicId,
) -> Result<(RoomName, Option<JoinResult>), Reject> {
    let room = RoomName::socket(id).filter(|_| id == connection.public_id());
    room.map(|room| (room, None)).ok_or_else(not_joinable)
}

fn begin_leave(connection: &Arc<Connection>, room: RoomName) -> Answered<RoomName> {
    let (answer, left) = oneshot::channel();
    let name = room.clone();
    connection.leave(room, move |result| settle(answer, result.map(|()| name)));
    left
}

fn both(
    joined: Option<Answered<(RoomName, Option<JoinResult>)>>,
    left: Option<Answered<RoomName>>,
) -> Preceding {
    async move {
        if let Some(joined) = joined {
            answer(joined).await?;
        }
        if let Some(left) = left {
            answer(left).await?;
        }
        Ok(())
    }
    .boxed()
}

fn passed_event(
    actor: Actor<'_>,
    to: Destination,
    source: Arc<SourceEvent>,
    except_me: bool,
    id: MessageId,
) -> Result<PassedEvent, Reject> {
    let except = actor.connection.filter(|_| except_me).map(|one| one.public_id().clone());
    let room = room_of(actor, to, false)?;
    let (from, at) = (actor.user.clone(), clock::now());
    Ok(PassedEvent { room, from, id, at, except, source })
}

async fn answer<T>(answered: Answered<T>) -> Result<T, Reject> {
    let ended = |_closed| Reject::new(Code::Unavailable, "the connection has ended");
    answered.await.map_err(ended)?
}

/// The task that waits ends with its connection, and then nobody needs the answer.
fn settle<T>(answer: oneshot::Sender<Result<T, Reject>>, result: Result<T, Reject>) {
    if answer.send(result).is_err() {
        tracing::trace!("a connection ended before its event was answered");
    }
}

fn not_joinable() -> Reject {
    Reject::new(Code::Forbidden, "the room of another connection or user cannot be joined")
}

//! Messages of one connection that cannot be stored yet.
//!
//! Before something is said in a room of two people, or to one session, the log is asked whether
//! the other one is known. What the client sends meanwhile, wherever to, waits behind it, so its
//! order stays. The session bounds how much that is.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{Connection, Reply};
use crate::{
    domain::{
        message::Draft,
        session::{Code, Reject},
    },
    fanout::dialect::Dialect,
};

#[derive(Debug, Default)]
pub struct Line {
    waiting: VecDeque<(Draft, Reply)>,
    /// Whether a task takes from its front.
    moves: bool,
}

impl Connection {
    pub(super) fn append(self: &Arc<Self>, mut draft: Draft, reply: Reply) {
        if self.dialect == Dialect::Native {
            draft.name = self.hub.name(&draft.from);
        }
        let mut line = self.line();
        if !draft.room.is_reserved() && !line.moves {
            drop(line);
            return self.submit(draft, reply);
        }
        line.waiting.push_back((draft, reply));
        if !std::mem::replace(&mut line.moves, true) {
            let connection = Arc::clone(self);
            self.tasks.spawn("line", async move { connection.advance().await });
        }
    }

    async fn advance(self: &Arc<Self>) {
        let mut opened = None;
        while let Some((draft, reply)) = self.next() {
            if draft.room.is_reserved() && opened.as_ref() != Some(&draft.room) {
                let (asked, nobody) = match draft.room.session() {
                    Some(session) => {
                        (self.hub.is_reached(session).await, "there is no such session")
                    }
                    None => (
                        self.hub.open_direct(&draft.room, &draft.from).await,
                        "there is no such user",
                    ),
                };
                let refused = match asked {
                    Ok(true) => None,
                    Ok(false) => Some(Reject::new(Code::NotFound, nobody)),
                    Err(error) => {
                        tracing::debug!(%error, "nobody knows whether anybody hears a message");
                        Some(Reject::new(Code::Unavailable, "the log cannot be reached"))
                    }
                };
                if let Some(reject) = refused {
                    self.session().append_settled();
                    reply.reject(&reject);
                    continue;
                }
                opened = Some(draft.room.clone());
            }
            self.submit(draft, reply);
        }
    }

    /// The line stands still once this answers nothing: all that was in it is submitted.
    fn next(&self) -> Option<(Draft, Reply)> {
        let mut line = self.line();
        let next = line.waiting.pop_front();
        line.moves = next.is_some();
        next
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

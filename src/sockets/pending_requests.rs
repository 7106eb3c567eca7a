//! What one connection wants stored and the log must be asked about first.
//!
//! Before something is said in a room of two people, or to one session, the log is asked whether the
//! other one is known; before something is said of an earlier message, whether that is there, and
//! whose it is. What the client sends meanwhile, wherever to, waits behind it, so its order stays.
//! The session bounds how much that is.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
};

use crate::sockets::{Connection, Reply};
use crate::{
    dialects::Dialect,
    domain::{
        changes::About,
        message::{Draft, Epoch},
        name::RoomName,
        page::Page,
        session::{Code, Reject},
    },
    store::ReadError,
};

#[derive(Debug, Default)]
pub struct PendingRequests {
    waiting: VecDeque<PendingRequest>,
    /// Whether a task takes from its front.
    moves: bool,
}

#[derive(Debug)]
struct PendingRequest {
    draft: Draft,
    /// Of the message that it is about.
    epoch: Option<Epoch>,
    reply: Reply,
}

impl Connection {
    pub(super) fn append(self: &Arc<Self>, mut draft: Draft, epoch: Option<Epoch>, reply: Reply) {
        if self.dialect == Dialect::Native {
            draft.name = self.chat.name(&draft.from);
        }
        let must_ask = draft.about.is_some() || draft.room.is_reserved();
        let mut pending = self.pending();
        if !must_ask && !pending.moves {
            drop(pending);
            return self.submit(draft, reply);
        }
        pending.waiting.push_back(PendingRequest { draft, epoch, reply });
        if !std::mem::replace(&mut pending.moves, true) {
            let connection = Arc::clone(self);
            self.tasks.spawn("pending", async move { connection.advance().await });
        }
    }

    async fn advance(self: &Arc<Self>) {
        let mut opened = None;
        while let Some(PendingRequest { draft, epoch, reply }) = self.next() {
            let allowed = match draft.about {
                Some(about) => self.check_target(&draft, about, epoch).await,
                None => self.open(&draft, &mut opened).await,
            };
            match allowed {
                Ok(()) => self.submit(draft, reply),
                Err(reject) => {
                    self.session().append_settled();
                    reply.reject(&reject);
                }
            }
        }
    }

    /// `opened` is the room that was asked about last.
    async fn open(&self, draft: &Draft, opened: &mut Option<RoomName>) -> Result<(), Reject> {
        if !draft.room.is_reserved() || opened.as_ref() == Some(&draft.room) {
            return Ok(());
        }
        let (asked, nobody) = match draft.room.session() {
            Some(session) => (self.chat.is_reached(session).await, "there is no such session"),
            None => {
                (self.chat.open_direct(&draft.room, &draft.from).await, "there is no such user")
            }
        };
        if !asked.map_err(unavailable)? {
            return Err(Reject::new(Code::NotFound, nobody));
        }
        *opened = Some(draft.room.clone());
        Ok(())
    }

    async fn check_target(
        &self,
        draft: &Draft,
        about: About,
        epoch: Option<Epoch>,
    ) -> Result<(), Reject> {
        let page = Page::Before(about.seq.saturating_add(1));
        let history =
            self.store.log.history(draft.room.clone(), page, 1).await.map_err(unavailable)?;
        let target = history.messages.last().filter(|message| {
            message.position.seq == about.seq
                && epoch.is_none_or(|epoch| epoch == history.top.epoch)
        });
        draft.check_target(target)
    }

    /// The pending stands still once this answers nothing: all that was in it is submitted.
    fn next(&self) -> Option<PendingRequest> {
        let mut pending = self.pending();
        let next = pending.waiting.pop_front();
        pending.moves = next.is_some();
        next
    }

    fn pending(&self) -> MutexGuard<'_, PendingRequests> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(error: ReadError) -> Reject {
    tracing::debug!(%error, "a request waited for an answer of the log that did not come");
    Reject::new(Code::Unavailable, "the log cannot be reached")
}

//! The one task that looks after the registry that are not well: deadlines, farewells, and the
//! sessions that must be ended from outside.
//!
//! A healthy lane is never seen here.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use socketioxide_core::Sid;
use tokio::{
    io::ReadBuf,
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::shutdown::Tasks;
use crate::transport::{frame::Inspector, lane::Lane, registry::Registry, stream::Stream};

/// Connections that are told good-bye at the same time; above it they are only reset.
const FAREWELLS_MAX: usize = 4_096;

/// How long a client that has been told everything may take to go.
const GOING_MAX: Duration = Duration::from_millis(500);

/// Ends a polling session from outside, as its own client would.
pub type EndPolling = Box<dyn Fn(Sid) -> BoxFuture<'static, ()> + Send + Sync>;

/// What waits for the supervisor.
#[derive(Debug, Default)]
pub struct Supervisor {
    waiting: Mutex<SupervisorInbox>,
    called: Notify,
}

#[derive(Debug, Default)]
struct SupervisorInbox {
    registry: Vec<Arc<Lane>>,
    farewells: Vec<Farewell>,
    /// Farewells that the task has taken and not finished.
    leaving: usize,
    sessions: Vec<Sid>,
}

impl Supervisor {
    pub fn watch(&self, lane: Arc<Lane>) {
        self.tell(|waiting| waiting.registry.push(lane));
    }

    pub fn farewell(&self, farewell: Farewell) {
        self.tell(|waiting| {
            if waiting.farewells.len() + waiting.leaving < FAREWELLS_MAX {
                waiting.farewells.push(farewell);
            } else {
                farewell.stream.reset();
            }
        });
    }

    pub fn end_session(&self, sid: Sid) {
        self.tell(|waiting| waiting.sessions.push(sid));
    }

    /// Whether somebody is still being told good-bye.
    pub fn is_busy(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.leaving > 0 || !waiting.farewells.is_empty() || !waiting.sessions.is_empty()
    }

    fn tell(&self, what: impl FnOnce(&mut SupervisorInbox)) {
        what(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.called.notify_one();
    }

    fn take(&self) -> (Vec<Arc<Lane>>, Vec<Farewell>, Vec<Sid>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.leaving += waiting.farewells.len() + waiting.sessions.len();
        (
            std::mem::take(&mut waiting.registry),
            std::mem::take(&mut waiting.farewells),
            std::mem::take(&mut waiting.sessions),
        )
    }

    fn left(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).leaving -= 1;
    }

    pub async fn run(registry: Registry, tasks: Tasks) {
        let settings = registry.settings();
        let supervisor = registry.supervisor();
        let shortest = settings.stall_max.min(settings.read_pause_max);
        let mut tick = interval((shortest / 16).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watched: Vec<Arc<Lane>> = Vec::new();
        let mut leaving: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = tasks.stopping() => return,
                () = supervisor.called.notified() => {
                    let (lanes_now, farewells, sessions) = supervisor.take();
                    watched.extend(lanes_now);
                    for farewell in farewells {
                        leaving.push(Box::pin(farewell.say(settings.farewell_max)));
                    }
                    for sid in sessions {
                        leaving.push(registry.end_polling(sid));
                    }
                }
                _ = tick.tick(), if !watched.is_empty() => {
                    let now = Instant::now();
                    watched.retain(|lane| lane.tend(now));
                }
                Some(()) = leaving.next(), if !leaving.is_empty() => {
                    supervisor.left();
                    registry.somebody_left();
                }
            }
        }
    }
}

/// The last bytes of a connection whose session is over.
#[derive(Debug)]
pub struct Farewell {
    stream: Stream,
    last: VecDeque<Bytes>,
    inspector: Inspector,
}

impl Farewell {
    /// `inspector` has followed what the client sent so far.
    pub fn new(stream: Stream, last: Vec<Bytes>, inspector: Inspector) -> Self {
        Self { stream, last: last.into(), inspector }
    }

    /// Writes what is left, or resets a client that does not take it; then waits a moment for the
    /// client to go.
    async fn say(mut self, limit: Duration) {
        let said = timeout(limit, poll_fn(|cx| self.poll_say(cx))).await;
        if !matches!(said, Ok(Ok(()))) {
            return self.stream.reset();
        }
        // Everything is in the kernel's hands, so whoever stays silent is only closed.
        let gone = timeout(limit.min(GOING_MAX), poll_fn(|cx| self.poll_gone(cx))).await;
        if !matches!(gone, Ok(Ok(()))) {
            tracing::trace!("a client was told good-bye and did not go");
        }
    }

    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some(front) = self.last.front_mut() {
            if front.is_empty() {
                self.last.pop_front();
                continue;
            }
            let written = ready!(self.stream.poll_write(cx, &[IoSlice::new(front)]))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            front.advance(written);
        }
        ready!(self.stream.poll_flush(cx))?;
        self.stream.poll_shutdown(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // What the client still sends is read and dropped: closing with unread bytes would reset
        // the connection, and the client would lose the close frame. His own close frame is the
        // last thing he sends.
        while !self.inspector.saw_close() {
            let mut room = [0; 4_096];
            let mut room = ReadBuf::new(&mut room);
            ready!(self.stream.poll_read(cx, &mut room))?;
            if room.filled().is_empty() || self.inspector.inspect(room.filled(), u64::MAX).is_err()
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

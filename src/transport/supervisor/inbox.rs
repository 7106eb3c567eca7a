//! Lanes, last bytes and sessions that wait for the supervisor.

use std::sync::Arc;

use parking_lot::Mutex;
use socketioxide_core::Sid;
use tokio::sync::Notify;

use crate::transport::{farewell::Farewell, lane::Lane};

/// Connections whose last bytes are written at the same time; above it they are only reset.
const FAREWELLS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct SupervisorQueue {
    work: Mutex<Work>,
    filled: Notify,
}

/// Bounded by the connections there are: a lane or a session is in here once.
#[derive(Debug, Default)]
pub struct Work {
    /// Lanes whose deadlines must be watched.
    pub lanes: Vec<Arc<Lane>>,
    pub farewells: Vec<Farewell>,
    /// Polling sessions that must end.
    pub sessions: Vec<Sid>,
    /// Farewells and sessions that the supervisor has taken and not finished.
    unfinished: usize,
}

impl SupervisorQueue {
    pub fn watch(&self, lane: Arc<Lane>) {
        self.add(|work| work.lanes.push(lane));
    }

    pub fn farewell(&self, farewell: Farewell) {
        self.add(|work| {
            if work.farewells.len() + work.unfinished < FAREWELLS_MAX {
                work.farewells.push(farewell);
            } else {
                farewell.reset();
            }
        });
    }

    pub fn end_session(&self, sid: Sid) {
        self.add(|work| work.sessions.push(sid));
    }

    /// Whether a connection or session is still being ended.
    pub fn is_busy(&self) -> bool {
        let work = self.work.lock();
        work.unfinished > 0 || !work.farewells.is_empty() || !work.sessions.is_empty()
    }

    /// Waits for work.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    pub fn take(&self) -> Work {
        let mut work = self.work.lock();
        let unfinished = work.unfinished + work.farewells.len() + work.sessions.len();
        std::mem::replace(&mut work, Work { unfinished, ..Work::default() })
    }

    /// One of the farewells and sessions that were taken is finished.
    pub fn finish_one(&self) {
        self.work.lock().unfinished -= 1;
    }

    fn add(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.work.lock());
        self.filled.notify_one();
    }
}

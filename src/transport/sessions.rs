//! How many sessions there are, and which of them began by polling.
//!
//! The engine does not say which sessions it has. It keeps the request of a handshake for as long
//! as the session, and drops both together. So a handshake carries a token in its extensions.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use socketioxide_core::Sid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct EngineSessions {
    polling: Arc<Mutex<HashSet<Sid>>>,
    permits: Arc<Semaphore>,
}

/// One of the sessions that may be at a time. Held until the session has ended.
#[derive(Debug)]
pub struct SessionPermit(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// Belongs into the extensions of one handshake. The session has ended when it is dropped.
#[derive(Debug, Clone)]
pub struct SessionToken(Arc<Token>);

#[derive(Debug)]
struct Token {
    sessions: EngineSessions,
    sid: OnceLock<Sid>,
    _permit: SessionPermit,
}

impl EngineSessions {
    pub fn new(sessions_max: usize) -> Self {
        let permits = Semaphore::new(sessions_max.min(Semaphore::MAX_PERMITS));
        Self { polling: Arc::default(), permits: Arc::new(permits) }
    }

    /// `None`: there are as many sessions as there may be.
    pub fn permit(&self) -> Option<SessionPermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok().map(SessionPermit)
    }

    pub fn token(&self, permit: SessionPermit) -> SessionToken {
        let sessions = self.clone();
        SessionToken(Arc::new(Token { sessions, sid: OnceLock::new(), _permit: permit }))
    }

    pub fn polls(&self, sid: Sid) -> bool {
        self.polling.lock().contains(&sid)
    }
}

impl SessionToken {
    /// The engine has answered the handshake with this session.
    pub fn opened(&self, sid: Sid) {
        if self.0.sid.set(sid).is_ok() {
            self.0.sessions.polling.lock().insert(sid);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(sid) = self.sid.get() {
            let mut sessions = self.sessions.polling.lock();
            sessions.remove(sid);
            let capacity = sessions.capacity();
            if capacity > 64 && sessions.len() < capacity / 8 {
                sessions.shrink_to_fit();
            }
        }
    }
}

/// The session id in Engine.IO's first packet.
pub fn opened_session(packet: &[u8]) -> Option<Sid> {
    let rest = packet.strip_prefix(b"0{\"sid\":\"")?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

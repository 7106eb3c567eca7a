//! The sessions that began by polling, from their handshake to their end.
//!
//! The engine does not say which sessions it has. It keeps the request of a handshake for as long
//! as the session, and drops both together. So a handshake carries a token in its extensions.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use socketioxide_core::Sid;

/// A clonable handle.
#[derive(Debug, Clone, Default)]
pub struct PollingSessions(Arc<Mutex<HashSet<Sid>>>);

/// Belongs into the extensions of one handshake. The session has ended when it is dropped.
#[derive(Debug, Clone)]
pub struct SessionToken(Arc<Token>);

#[derive(Debug)]
struct Token {
    sessions: PollingSessions,
    sid: OnceLock<Sid>,
}

impl PollingSessions {
    pub fn token(&self) -> SessionToken {
        SessionToken(Arc::new(Token { sessions: self.clone(), sid: OnceLock::new() }))
    }

    pub fn has(&self, sid: Sid) -> bool {
        self.0.lock().contains(&sid)
    }
}

impl SessionToken {
    /// The engine has answered the handshake with this session.
    pub fn opened(&self, sid: Sid) {
        if self.0.sid.set(sid).is_ok() {
            self.0.sessions.0.lock().insert(sid);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(sid) = self.sid.get() {
            let mut sessions = self.sessions.0.lock();
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

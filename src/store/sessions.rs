//! The port of sessions: what a store keeps of a session, so that a client that lost its connection
//! can go on.
//!
//! A session outlives its connection and its node. Its key is a secret that lets a client take the
//! session over, so it is never logged, and `Debug` does not reveal it. A store knows a session by
//! its public id, the key's fingerprint: nothing in the store is enough to take a session over.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::error::ReadError;
use crate::{
    domain::{
        name::{NameError, PublicId, UserId},
        position::{Epoch, Position},
        record::Body,
        room::RoomName,
        visibility::JoinedRoom,
    },
    random,
};

pub trait SessionStore: Send + Sync + fmt::Debug + 'static {
    /// Stores a session, or its changes, for as long as its connection lives and `recovery_window`
    /// beyond. `false`: another holder has claimed it and nothing was written; there may be no
    /// other notice of the takeover. After an error the session is not stored yet; a store that
    /// many nodes share retries on its own. A holder must not save after its `release`.
    fn save(
        &self,
        session: PublicId,
        holder: Holder,
        record: SessionRecord,
    ) -> BoxFuture<'_, Result<bool, ReadError>>;

    /// Takes a session over: from now on `holder` holds it, and the former holder's node is told
    /// (`NodeEvent::SessionTaken`). `None`: the session is unknown, expired, or another user's, and
    /// nothing has changed. The new holder can lose it again at any time, even before this returns.
    /// After an error it is unknown whether it was claimed; a retry with the same holder is safe.
    fn claim(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>>;

    /// The holder's connection has ended: the session can be claimed for `recovery_window` from
    /// now. Never waits. Best effort: when a release is lost, the session expires a while later.
    fn release(&self, session: PublicId, holder: Holder);

    /// The last saved state of a session that lives or can be claimed, without claiming it.
    fn read(&self, session: PublicId) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>>;
}

/// Longest key, in characters.
const KEY_CHARS_MAX: usize = 64;

/// The secret name of a session, by which its client recovers it. It needs no escaping in a URL, a
/// Redis log or a SQL statement.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Arc<str>);

/// The text is not a valid session key. The error does not repeat the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session's key is 1 to 64 letters, digits, '-' and '_'")]
pub struct SessionKeyError;

impl SessionKey {
    pub fn parse(text: &str) -> Result<Self, SessionKeyError> {
        let fits = (1..=KEY_CHARS_MAX).contains(&text.len());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if fits && text.bytes().all(plain) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(SessionKeyError)
        }
    }

    /// A new key that cannot be guessed.
    pub fn random() -> Self {
        Self(Arc::from(random::hex::<16>().as_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id by which others know the session: the key's fingerprint. It differs from the id of a
    /// user whose token is the same text.
    pub fn public_id(&self) -> PublicId {
        let digest = Sha256::new().chain_update("session\n").chain_update(self.as_str()).finalize();
        PublicId::parse(&random::to_hex(&digest[..16])).expect("32 hex digits are a public id")
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// One connection's hold on a session. The connection that claimed the session last holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(u64);

impl Holder {
    /// A new holder, different from all others.
    pub fn random() -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        Self(u64::from_be_bytes(random))
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }
}

/// The state that a client gets back when it recovers its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    pub user: UserId,
    pub rooms: Vec<JoinedRoom>,
    /// The profile whose clients the session belongs to. `None` also in records of older releases.
    pub profile: Option<Arc<str>>,
    /// The JSON value that the session remembers as `$me`.
    pub me: Option<Body>,
}

/// A `JoinedRoom` as it is stored: its name, and epoch and seq of `since`.
pub type JoinedLine = (String, Option<(String, u64)>);

pub fn joined_line(joined: &JoinedRoom) -> JoinedLine {
    let since = joined.since.as_ref().map(|at| (at.epoch.to_string(), at.seq));
    (joined.room.to_string(), since)
}

pub fn parse_joined_line((room, since): &JoinedLine) -> Result<JoinedRoom, NameError> {
    let position = |(epoch, seq): &(String, u64)| Position { epoch: Epoch::new(epoch), seq: *seq };
    Ok(JoinedRoom { room: RoomName::parse(room)?, since: since.as_ref().map(position) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_plain_text_and_never_shown() {
        for good in ["a", "Zz09-_", &"k".repeat(64)] {
            assert_eq!(SessionKey::parse(good).map(|key| key.as_str().to_owned()), Ok(good.into()));
        }
        for bad in ["", "a b", "a:b", "a{b}", "ö", "a\n", &"k".repeat(65)] {
            assert_eq!(SessionKey::parse(bad), Err(SessionKeyError), "{bad:?}");
        }
        let shown = format!("{:?}", SessionKey::parse("s3cret").unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_public_id_is_one_keys() {
        let id = |key: &str| SessionKey::parse(key).unwrap().public_id();
        assert_eq!(id("s3cret").as_str(), "100132582a7b6a8381b66eb98ba12573");
        assert_ne!(id("s3cret"), id("s3cre"));
    }
}

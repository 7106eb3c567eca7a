//! The `auth` object that a client sends when it connects.

use serde::Deserialize;

use crate::{chat::Returning, dialects::offset::ClientOffset, store::sessions::SessionKey};

/// The client's `auth` object. Every field is optional.
#[derive(Debug, Default, Deserialize)]
pub struct Auth {
    /// A secret that the client has chosen and keeps: with it the client is the same user
    /// everywhere.
    pub token: Option<String>,
    /// The session to recover: `pid` of the last CONNECT reply. A client that does not send it back
    /// unchanged begins a new session.
    pub pid: Option<serde_json::Value>,
    /// The last argument of the last event, if that was a string.
    pub offset: Option<serde_json::Value>,
}

impl Auth {
    /// A frontend may use these field names for something else; such a client gets a new session.
    pub fn returning(&self) -> Option<Returning> {
        let key = SessionKey::parse(self.pid.as_ref()?.as_str()?).ok()?;
        let offset = match &self.offset {
            Some(offset) => Some(ClientOffset::parse(offset.as_str()?)?),
            None => None,
        };
        Some(Returning { key, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dialects::offset::Offset,
        domain::position::{Epoch, Position},
    };

    #[test]
    fn what_a_returning_client_says_is_read_whole_or_not_at_all() {
        let auth = |pid: &str, offset: Option<&str>| Auth {
            pid: Some(pid.into()),
            offset: offset.map(Into::into),
            ..Auth::default()
        };
        let returning = auth("k", Some("e-7")).returning().unwrap();
        let position = Position { epoch: Epoch::new("e"), seq: 7 };
        let offset = ClientOffset { offset: Offset::Position(position), shown: None };
        assert_eq!(returning.offset, Some(offset));
        assert_eq!(auth("k", None).returning().unwrap().offset, None);
        assert!(auth("k", Some("hello")).returning().is_none());
        assert!(auth("no key!", Some("e-7")).returning().is_none());
        let odd = r#"{"pid":"k","offset":7}"#;
        assert!(serde_json::from_str::<Auth>(odd).unwrap().returning().is_none());
    }
}

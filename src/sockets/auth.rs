//! What a client says when it connects.

use serde::Deserialize;

use crate::{chat::Returning, dialects::offset::Offset, store::sessions::SessionKey};

/// What a client may say when it connects. Everything is optional.
#[derive(Debug, Default, Deserialize)]
pub struct Auth {
    /// A secret the client made up and keeps: it is the same sender wherever it comes back.
    pub token: Option<String>,
    /// What the last CONNECT reply said: the session to take up again. A client that does not keep
    /// it as it was begins a new one.
    pub pid: Option<serde_json::Value>,
    /// The last argument of the last event, if that was a text.
    pub offset: Option<serde_json::Value>,
}

impl Auth {
    /// Frontends may have fields of these names and another meaning, which makes them new here.
    pub fn returning(&self) -> Option<Returning> {
        let key = SessionKey::parse(self.pid.as_ref()?.as_str()?).ok()?;
        let offset = match &self.offset {
            Some(offset) => Some(Offset::parse(offset.as_str()?)?),
            None => None,
        };
        Some(Returning { key, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::position::{Epoch, Position};

    #[test]
    fn what_a_returning_client_says_is_read_whole_or_not_at_all() {
        let auth = |pid: &str, offset: Option<&str>| Auth {
            pid: Some(pid.into()),
            offset: offset.map(Into::into),
            ..Auth::default()
        };
        let returning = auth("k", Some("e-7")).returning().unwrap();
        let position = Position { epoch: Epoch::new("e"), seq: 7 };
        assert_eq!(returning.offset, Some(Offset::Position(position)));
        assert_eq!(auth("k", None).returning().unwrap().offset, None);
        assert!(auth("k", Some("hello")).returning().is_none());
        assert!(auth("no key!", Some("e-7")).returning().is_none());
        let odd = r#"{"pid":"k","offset":7}"#;
        assert!(serde_json::from_str::<Auth>(odd).unwrap().returning().is_none());
    }
}

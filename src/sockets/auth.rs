//! The `auth` object that a client sends when it connects.

use serde::Deserialize;

use crate::{chat::Returning, dialects::offset::ClientOffset, store::sessions::SessionKey};

/// Longest `auth.token`, in bytes: as much as HTTP servers allow for all headers of a request, and
/// far more than any JWT has.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The client's `auth` object. Every field is optional.
#[derive(Debug, Default, Deserialize)]
pub struct Auth {
    /// A secret that the client has chosen and keeps: with it the client is the same user
    /// everywhere. Kept as it came, so that the error can say what is wrong with it.
    token: Option<serde_json::Value>,
    /// The session to recover: `pid` of the last CONNECT reply. A client that does not send it back
    /// unchanged begins a new session.
    pub pid: Option<serde_json::Value>,
    /// The last argument of the last event, if that was a string.
    pub offset: Option<serde_json::Value>,
}

/// What is wrong with `auth.token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("auth.token is text, and not a {0}: send it as a string")]
    NoText(&'static str),
    #[error("auth.token has at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
}

impl Auth {
    /// The client's token. Empty text is none: frontends send it before their user has logged in.
    pub fn token(&self) -> Result<Option<&str>, BadToken> {
        use serde_json::Value;
        match &self.token {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(token)) if token.len() > TOKEN_BYTES_MAX => Err(BadToken::TooLong),
            Some(Value::String(token)) => {
                Ok(Some(token.as_str()).filter(|token| !token.is_empty()))
            }
            Some(Value::Number(_)) => Err(BadToken::NoText("number")),
            Some(Value::Bool(_)) => Err(BadToken::NoText("boolean")),
            Some(Value::Array(_)) => Err(BadToken::NoText("list")),
            Some(Value::Object(_)) => Err(BadToken::NoText("object")),
        }
    }

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
    fn a_token_is_text_of_any_length_and_empty_text_is_none() {
        let token = |json: &str| {
            let auth = serde_json::from_str::<Auth>(&format!("{{\"token\":{json}}}")).unwrap();
            auth.token().map(|token| token.map(str::len))
        };
        assert_eq!(serde_json::from_str::<Auth>("{}").unwrap().token(), Ok(None));
        assert_eq!((token("null"), token("\"\"")), (Ok(None), Ok(None)));
        for length in [1, 256, 257, 440, 4_096, TOKEN_BYTES_MAX] {
            assert_eq!(token(&format!("\"{}\"", "t".repeat(length))), Ok(Some(length)));
        }
        let long = format!("\"{}\"", "t".repeat(TOKEN_BYTES_MAX + 1));
        assert_eq!(token(&long), Err(BadToken::TooLong));
        for (json, kind) in [
            ("7", "number"),
            ("1.5", "number"),
            ("true", "boolean"),
            ("[]", "list"),
            ("{}", "object"),
        ] {
            assert_eq!(token(json), Err(BadToken::NoText(kind)), "{json}");
        }
    }

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

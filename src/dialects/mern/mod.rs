//! The dialect of frontends with accounts: `getOnlineUsers` and `newMessage`.
//!
//! Its clients send nothing over the socket: they sign up, log in and send by REST. A socket that
//! does not prove its account only learns who is online.

pub mod message;

use http::{HeaderMap, header};
use serde_json::value::RawValue;

use self::message::AccountMessage;
use super::{
    dialect::{Asker, Dialect, Features, LiveEvent},
    event::{Arguments, Event},
    offset::RecordOffset,
    page::PageMessage,
};
use crate::domain::{
    message::Message,
    name::UserId,
    record::{Entry, Record},
    reject::Reject,
    request::Request,
};

/// The cookie with the token of an account.
pub const COOKIE: &str = "jwt";

#[derive(Debug)]
pub struct Mern {
    /// Whether the clients have proved which account they are.
    pub is_proven: bool,
}

impl Dialect for Mern {
    fn name(&self) -> &str {
        if self.is_proven { "mern" } else { "mern-unproven" }
    }

    fn features(&self) -> Features {
        Features {
            presence: self.is_proven,
            joins_lobby: false,
            joins_accounts: true,
            own_direct: false,
            changes: false,
            join_has_missed: false,
        }
    }

    fn decode(
        &self,
        _event: &str,
        _args: &[&RawValue],
        _asker: &Asker<'_>,
    ) -> Option<Result<Request, Reject>> {
        None
    }

    fn record<'a>(&'a self, record: &'a Record, offset: &RecordOffset) -> Vec<Event<'a>> {
        let Record { room, from, id, at, entry, .. } = record;
        let Entry::Message(body) = entry else { return Vec::new() };
        let message = AccountMessage::new(room, from, id.as_str(), body, (*at, *at));
        let message = message.filter(|_| self.is_proven);
        let event =
            |message| Event::new("newMessage", Arguments::AccountMessage(message, offset.last()));
        message.into_iter().map(event).collect()
    }

    fn live<'a>(&'a self, event: &LiveEvent<'a>) -> Vec<Event<'a>> {
        match *event {
            LiveEvent::OnlineAccounts(ids) => {
                let ids = ids.iter().map(UserId::as_str).collect();
                vec![Event::new("getOnlineUsers", Arguments::OnlineAccounts((ids,)))]
            }
            LiveEvent::External(_)
            | LiveEvent::Gap { .. }
            | LiveEvent::NewEpoch(_)
            | LiveEvent::Presence { .. }
            | LiveEvent::Typing { .. }
            | LiveEvent::Read { .. }
            | LiveEvent::Profile(_)
            | LiveEvent::PassedOn(_)
            | LiveEvent::Hello
            | LiveEvent::Tick(_) => Vec::new(),
        }
    }

    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a> {
        PageMessage::plain(message)
    }
}

/// The token in a request's cookie, or in its header `Authorization`.
pub fn token_in(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';'));
    let named = pairs.filter_map(|pair| pair.trim().split_once('='));
    let mut cookie = named.filter(|(name, value)| *name == COOKIE && !value.is_empty());
    cookie.next().map(|(_, token)| token).or_else(|| bearer(headers))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    #[test]
    fn the_token_comes_in_the_cookie_or_the_header() {
        let found = |name: header::HeaderName, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            token_in(&headers).map(str::to_owned)
        };
        for value in ["jwt=a.b", "x=1; jwt=a.b; y=2", "jwt=; jwt=a.b", "xjwt=c;jwt=a.b"] {
            assert_eq!(found(header::COOKIE, value).as_deref(), Some("a.b"), "{value}");
        }
        for value in ["", "jwt=", "jwt", "x=jwt=a"] {
            assert_eq!(found(header::COOKIE, value), None, "{value}");
        }
        assert_eq!(found(header::AUTHORIZATION, "bearer a.b").as_deref(), Some("a.b"));
        assert_eq!(found(header::AUTHORIZATION, "Basic a.b"), None);
    }
}

//! An Engine.IO request, checked as Node's server checks it, in its order, before anything is
//! answered.
//!
//! A websocket request that is wrong must be refused before the 101: after it the client waits for
//! its whole timeout and does not try its other transport.

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use socketioxide_core::Sid;

/// The protocol version that is spoken here, as `EIO` says it.
const PROTOCOL: &str = "4";

/// The transports that clients may use.
#[derive(Debug, Clone, Copy)]
pub struct Offers {
    pub polling: bool,
    pub websocket: bool,
}

/// A request that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineRequest {
    /// A new session that polls.
    Open,
    Poll(Sid),
    Post(Sid),
    /// A websocket: a new session, or the upgrade of a session that polls.
    Websocket(Option<Sid>),
}

/// Why a request is refused. Codes and words are those of Node's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineError {
    TransportUnknown,
    SessionUnknown,
    BadHandshakeMethod,
    BadRequest,
    ProtocolUnsupported,
}

impl EngineError {
    fn code(self) -> u8 {
        match self {
            Self::TransportUnknown => 0,
            Self::SessionUnknown => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::ProtocolUnsupported => 5,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::ProtocolUnsupported => "Unsupported protocol version",
        }
    }

    /// The answer: 400 with `{"code": number, "message": text}`.
    pub fn response<B: From<String>>(self) -> Response<B> {
        let body = format!(r#"{{"code":{},"message":"{}"}}"#, self.code(), self.message());
        let mut response = Response::new(B::from(body));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

impl EngineRequest {
    /// `knows` says whether a session has not ended.
    pub fn read<B>(
        request: &Request<B>,
        offers: Offers,
        knows: impl FnOnce(Sid) -> bool,
    ) -> Result<Self, EngineError> {
        let (uri, method) = (request.uri(), request.method());
        let upgrades = wants_websocket(request);
        let is_websocket = match parameter(uri, "transport") {
            Some("polling") if offers.polling => false,
            Some("websocket") if offers.websocket => true,
            _ => return Err(EngineError::TransportUnknown),
        };
        let speaks = parameter(uri, "EIO") == Some(PROTOCOL);
        let sid = match parameter(uri, "sid").map(str::parse) {
            None if method != Method::GET => return Err(EngineError::BadHandshakeMethod),
            None => None,
            Some(Ok(sid)) if knows(sid) => Some(sid),
            Some(_) => return Err(EngineError::SessionUnknown),
        };
        // A websocket request without its `Upgrade` header came through a proxy that dropped it.
        if is_websocket != upgrades || (sid.is_some() && !speaks) {
            return Err(EngineError::BadRequest);
        }
        match (is_websocket, sid, method) {
            _ if !speaks => Err(EngineError::ProtocolUnsupported),
            (true, sid, &Method::GET) => Ok(Self::Websocket(sid)),
            (false, None, _) => Ok(Self::Open),
            (false, Some(sid), &Method::GET) => Ok(Self::Poll(sid)),
            (false, Some(sid), &Method::POST) => Ok(Self::Post(sid)),
            _ => Err(EngineError::BadRequest),
        }
    }
}

/// Whether a request asks for a websocket.
pub fn wants_websocket<B>(request: &Request<B>) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// A parameter of the query, read as the engine reads it: the first of this name, as it is.
pub fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offers = Offers { polling: true, websocket: true };
    const KNOWN: &str = "AAAAAAAAAAAAAAHs";
    const UNKNOWN: &str = "AAAAAAAAAAAAAAHt";

    fn read(method: &str, query: &str, upgrade: bool, offers: Offers) -> Result<String, u8> {
        let mut request = Request::builder().method(method).uri(format!("/socket.io/?{query}"));
        if upgrade {
            request = request.header("Upgrade", "WebSocket");
        }
        let known: Sid = KNOWN.parse().unwrap();
        let request = request.body(()).unwrap();
        let asked = EngineRequest::read(&request, offers, |sid| sid == known);
        asked.map(|asked| format!("{asked:?}")).map_err(EngineError::code)
    }

    #[test]
    fn a_right_request_is_understood() {
        for (method, query, upgrade, expected) in [
            ("GET", "EIO=4&transport=polling", false, "Open"),
            ("GET", "t=1&transport=polling&EIO=4&x", false, "Open"),
            ("GET", "EIO=4&transport=polling&sid=S", false, "Poll(S)"),
            ("POST", "EIO=4&transport=polling&sid=S", false, "Post(S)"),
            ("GET", "EIO=4&transport=websocket", true, "Websocket(None)"),
            ("GET", "EIO=4&transport=websocket&sid=S", true, "Websocket(Some(S))"),
        ] {
            let query = query.replace("=S", &format!("={KNOWN}"));
            let asked = read(method, &query, upgrade, ALL).map(|asked| asked.replace(KNOWN, "S"));
            assert_eq!(asked, Ok(expected.to_owned()), "{method} {query}");
        }
    }

    #[test]
    fn a_wrong_request_gets_the_code_that_node_gives() {
        let polling = Offers { websocket: false, ..ALL };
        let websocket = Offers { polling: false, ..ALL };
        for (method, query, upgrade, offers, code) in [
            ("GET", "", false, ALL, 0),
            ("GET", "EIO=4", false, ALL, 0),
            ("GET", "EIO=4&transport=pigeon", false, ALL, 0),
            ("GET", "EIO=4&transport=webtransport", false, ALL, 0),
            ("GET", "EIO=4&transport=websocket", true, polling, 0),
            ("GET", "EIO=4&transport=polling", false, websocket, 0),
            // The transport is looked at first, the protocol last.
            ("POST", "transport=pigeon&sid=U", false, ALL, 0),
            ("GET", "EIO=4&transport=polling&sid=U", false, ALL, 1),
            ("POST", "EIO=4&transport=polling&sid=no-session", false, ALL, 1),
            ("GET", "EIO=4&transport=polling&sid=", false, ALL, 1),
            ("GET", "EIO=4&transport=websocket&sid=U", true, ALL, 1),
            ("GET", "EIO=3&transport=websocket&sid=U", true, ALL, 1),
            ("POST", "EIO=4&transport=polling", false, ALL, 2),
            ("PUT", "EIO=3&transport=polling", false, ALL, 2),
            ("HEAD", "EIO=4&transport=polling", false, ALL, 2),
            ("POST", "EIO=4&transport=websocket", true, ALL, 2),
            ("GET", "EIO=4&transport=websocket", false, ALL, 3),
            ("GET", "EIO=3&transport=websocket", false, ALL, 3),
            ("GET", "EIO=4&transport=websocket&sid=S", false, ALL, 3),
            ("GET", "EIO=4&transport=polling", true, ALL, 3),
            ("GET", "EIO=4&transport=polling&sid=S", true, ALL, 3),
            ("GET", "EIO=3&transport=polling&sid=S", false, ALL, 3),
            ("PUT", "EIO=4&transport=polling&sid=S", false, ALL, 3),
            ("GET", "EIO=3&transport=polling", false, ALL, 5),
            ("GET", "transport=polling", false, ALL, 5),
            ("GET", "EIO=44&transport=polling", false, ALL, 5),
            ("GET", "EIO=abc&transport=websocket", true, ALL, 5),
            ("GET", "transport=websocket", true, ALL, 5),
        ] {
            let named = query.replace("=S", &format!("={KNOWN}"));
            let named = named.replace("=U", &format!("={UNKNOWN}"));
            let asked = read(method, &named, upgrade, offers);
            assert_eq!(asked, Err(code), "{method} {query}, upgrade {upgrade}, {offers:?}");
        }
    }
}

//! Which dialect a client speaks, decided once, with the request that begins its session.
//!
//! `?dialect=` wins. With `--accounts on`, `?userId=` comes next: such a client has an account, and the
//! token that proves it is in the cookie of this request. Then come the profile of the listener (`--listen ADDR=NAME`), `?profile=`, the
//! profile of the page's origin, and `--profile`. The answer is written into the request's query,
//! because the engine keeps nothing else of a request for as long as the session.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Uri, header, uri::PathAndQuery};

use crate::{
    dialects::{Dialects, mern::token_in},
    transport::request::parameter,
};

/// The account that a client says it has, and the token that proves it.
pub const USER_ID: &str = "userId";
pub const TOKEN: &str = "jwt";

/// The profile of the listener that accepted a connection, in the extensions of its requests.
#[derive(Debug, Clone)]
pub struct ListenerProfile(pub Option<Arc<str>>);

/// Adds the dialect to the query of a request that begins a session.
pub async fn choose(
    State(dialects): State<Dialects>,
    mut request: Request,
    next: Next,
) -> Response {
    let uri =
        addition(dialects, &request).and_then(|(name, value)| with(request.uri(), name, &value));
    if let Some(uri) = uri {
        *request.uri_mut() = uri;
    }
    next.run(request).await
}

/// The name and the value of what is added to the query.
fn addition(dialects: Dialects, request: &Request) -> Option<(&'static str, Arc<str>)> {
    let has = |name| parameter(request.uri(), name).is_some();
    if has("sid") || has("dialect") {
        return None;
    }
    if dialects.has_accounts() && has(USER_ID) {
        let token = token_in(request.headers()).filter(|token| is_plain(token))?;
        return Some((TOKEN, token.into()));
    }
    let listener = request.extensions().get::<ListenerProfile>();
    let listener = listener.and_then(|listener| listener.0.clone());
    let origin = request.headers().get(header::ORIGIN).map(HeaderValue::to_str);
    let of_origin = || dialects.of_origin(origin?.ok()?).map(|dialect| dialect.name().into());
    let asked = || {
        let asked = parameter(request.uri(), "profile").filter(|name| !name.is_empty());
        asked.map(Arc::from)
    };
    let name = listener.or_else(asked).or_else(of_origin)?;
    Some(("dialect", name))
}

/// Whether a text can stand in a query as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// `None`: the query would be too long.
fn with(uri: &Uri, name: &str, value: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let query = uri.query().map(|query| format!("{query}&")).unwrap_or_default();
    let path = PathAndQuery::try_from(format!("{}?{query}{name}={value}", uri.path()));
    parts.path_and_query = Some(path.ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_is_added_to_any_query() {
        for (uri, expected) in [
            ("/socket.io/?EIO=4", "/socket.io/?EIO=4&dialect=turbo"),
            ("/socket.io/", "/socket.io/?dialect=turbo"),
        ] {
            let uri = with(&Uri::from_static(uri), "dialect", "turbo").unwrap();
            assert_eq!(uri.to_string(), expected);
        }
    }
}

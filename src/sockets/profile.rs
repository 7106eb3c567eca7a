//! Which dialect a client speaks, decided once, with the request that begins its session.
//!
//! `?dialect=` wins. Then come the profile of the listener (`--listen ADDR=NAME`), `?profile=`, the
//! profile of the page's origin, and `--profile`. The answer is written into the request's query,
//! because the engine keeps nothing else of a request for as long as the session.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Uri, header, uri::PathAndQuery};

use crate::{dialects::Dialects, transport::request::parameter};

/// The profile of the listener that accepted a connection, in the extensions of its requests.
#[derive(Debug, Clone)]
pub struct ListenerProfile(pub Option<Arc<str>>);

/// Adds the dialect to the query of a request that begins a session.
pub async fn choose(
    State(dialects): State<Dialects>,
    mut request: Request,
    next: Next,
) -> Response {
    if parameter(request.uri(), "sid").is_none() && parameter(request.uri(), "dialect").is_none() {
        let listener = request.extensions().get::<ListenerProfile>();
        let listener = listener.and_then(|listener| listener.0.clone());
        let origin = request.headers().get(header::ORIGIN).map(HeaderValue::to_str);
        let of_origin = || dialects.of_origin(origin?.ok()?).map(|dialect| dialect.name().into());
        let asked = || {
            let asked = parameter(request.uri(), "profile").filter(|name| !name.is_empty());
            asked.map(Arc::from)
        };
        let name = listener.or_else(asked).or_else(of_origin);
        if let Some(uri) = name.and_then(|name| with_dialect(request.uri(), &name)) {
            *request.uri_mut() = uri;
        }
    }
    next.run(request).await
}

/// `None`: the query would be too long.
fn with_dialect(uri: &Uri, name: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let query = uri.query().map(|query| format!("{query}&")).unwrap_or_default();
    let path = PathAndQuery::try_from(format!("{}?{query}dialect={name}", uri.path()));
    parts.path_and_query = Some(path.ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_is_added_to_any_query() {
        for (uri, with) in [
            ("/socket.io/?EIO=4", "/socket.io/?EIO=4&dialect=turbo"),
            ("/socket.io/", "/socket.io/?dialect=turbo"),
        ] {
            let uri = with_dialect(&Uri::from_static(uri), "turbo").unwrap();
            assert_eq!(uri.to_string(), with);
        }
    }
}

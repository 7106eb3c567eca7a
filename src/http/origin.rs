//! Which web pages may connect: CORS for the browser, and a plain refusal on the socket path.
//!
//! A browser does not apply CORS to websockets, so the origin is checked here as well.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::telemetry::WarnOnce;

/// The answer to a page of another origin, as Node's server words it.
const FORBIDDEN: &str = r#"{"code":4,"message":"Forbidden","hint":"this origin is not allowed; the operator can add it with --cors-origin"}"#;

/// The origins an operator allows; empty means same origin and localhost.
#[derive(Debug, Clone)]
pub struct Origins {
    allowed: Arc<[String]>,
    warned: Arc<WarnOnce>,
}

impl Origins {
    pub fn new(allowed: impl Into<Arc<[String]>>) -> Self {
        Self { allowed: allowed.into(), warned: Arc::default() }
    }

    /// Tells the operator: in the browser's console this is an error of CORS without a reason.
    fn warn(&self, origin: &HeaderValue, headers: &HeaderMap) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        if self.warned.is_first(&origin) {
            let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
            let host = String::from_utf8_lossy(host);
            tracing::warn!(
                %origin,
                %host,
                "refused an origin: if this page may connect, start with --cors-origin and its \
                 origin; if it is this server's own page, let the proxy in front pass the \
                 browser's Host on"
            );
        }
    }

    fn allow(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let origin = origin.to_ascii_lowercase();
        if !self.allowed.is_empty() {
            return self.allowed.iter().any(|allowed| allowed == "*" || *allowed == origin);
        }
        let Some((_scheme, host)) = origin.split_once("://") else { return false };
        let same = headers.get(header::HOST).and_then(|own| own.to_str().ok());
        same.is_some_and(|own| own.eq_ignore_ascii_case(host)) || is_local(host)
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// As in Express's examples, with credentials; PATCH is for `/api/v1`, PUT for accounts.
pub fn cors(origins: Origins) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, request| {
            origins.allow(origin, &request.headers)
        }))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .allow_credentials(true)
}

/// Answers 403 to a page of another origin. Programs that are not browsers send no origin.
pub async fn guard(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    match request.headers().get(header::ORIGIN) {
        Some(origin) if !origins.allow(origin, request.headers()) => {
            origins.warn(origin, request.headers());
            let json = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::FORBIDDEN, json, FORBIDDEN).into_response()
        }
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &[&str], origin: &str, host: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        let origins = Origins::new(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        origins.allow(&HeaderValue::from_str(origin).unwrap(), &headers)
    }

    #[test]
    fn by_default_the_same_origin_and_localhost_may_connect() {
        assert!(allowed(&[], "https://chat.example.org", "chat.example.org"));
        assert!(allowed(&[], "http://localhost:5173", "chat.example.org"));
        assert!(allowed(&[], "http://[::1]:3000", "chat.example.org"));
        assert!(!allowed(&[], "https://evil.example", "chat.example.org"));
        assert!(!allowed(&[], "https://localhost.evil.example", "chat.example.org"));
        assert!(!allowed(&[], "null", "chat.example.org"));
    }

    #[test]
    fn a_list_replaces_the_default() {
        assert!(allowed(&["https://a.example"], "https://A.example", "b.example"));
        assert!(!allowed(&["https://a.example"], "http://localhost:1", "b.example"));
        assert!(allowed(&["*"], "https://any.example", "b.example"));
    }
}

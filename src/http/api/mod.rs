//! The REST face, `/api/v1`: a request becomes one call of `chat`, and its result an answer.
//!
//! Shapes of requests and answers are in the files of their handlers, and are converted by hand.
//! Every refusal is a problem (RFC 9457), also those of the router. docs/protocol.md has an example
//! for each route.
//!
//! These bounds hold for what HTTP clients cause:
//! - A TCP connection has one request at a time, so `--connections-max` bounds the requests.
//! - A body has at most `--transport-bytes-max` bytes and must arrive within 10 s.
//! - One user has at most 8 reads and `--in-flight-max` messages in flight (`chat::Actor`).
//! - All users together have 64 reads in flight on a node; other reads wait for their turn.

mod context;
mod extract;
pub mod keys;
mod me;
mod messages;
mod openapi;
mod pages;
mod problem;
mod requester;
mod rooms;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, OriginalUri},
    routing::{MethodRouter, any, get},
};
use http::{HeaderValue, StatusCode, header};
use tower_http::set_header::SetResponseHeaderLayer;

use self::{context::Context, keys::ApiKeys, problem::Problem};
use crate::chat::{Chat, accounts::Accounts};

/// Where the API is mounted.
const ROOT: &str = "/api/v1";

/// The paths below `ROOT`, as the OpenAPI document names them.
fn table() -> [(&'static str, MethodRouter<Context>); 7] {
    [
        ("/rooms", get(rooms::list_rooms)),
        ("/rooms/{room}/messages", get(messages::list_messages).post(messages::post_message)),
        ("/rooms/{room}/members", get(rooms::list_members)),
        ("/direct/{user}/messages", get(messages::list_direct).post(messages::post_direct)),
        ("/search", get(messages::search)),
        ("/me", get(me::show).patch(me::change)),
        ("/openapi.json", get(async || Json(openapi::document()))),
    ]
}

/// `body_bytes_max` bounds the body of one request.
pub fn routes(
    chat: Chat,
    keys: ApiKeys,
    accounts: Option<Accounts>,
    body_bytes_max: usize,
) -> Router {
    let router = table()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    // Answers are one user's own, and change at any time.
    let uncached = SetResponseHeaderLayer::overriding(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    let router = router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(uncached)
        .with_state(Context::new(chat, keys, accounts));
    // `nest` does not take the root with a slash.
    Router::new().nest(ROOT, router).route(&format!("{ROOT}/"), any(no_such_path))
}

async fn no_such_path(OriginalUri(uri): OriginalUri) -> Problem {
    let detail = format!("there is no path '{}'; {ROOT}/openapi.json lists them", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

async fn no_such_method(method: http::Method) -> Problem {
    let detail = format!("this path does not take {method}; the header Allow lists what it takes");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_paths_of_the_router() {
        let document = serde_json::to_value(openapi::document()).unwrap();
        let mut listed: Vec<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        listed.push("/openapi.json");
        listed.sort_unstable();
        let mut routed = table().map(|(path, _)| path);
        routed.sort_unstable();
        assert_eq!(listed, routed);
        assert_eq!(document["servers"][0]["url"], ROOT);
    }
}

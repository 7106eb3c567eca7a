//! The REST face of accounts: a request is one call of `chat::accounts`, in the shapes that the
//! frontends with accounts know. docs/protocol.md has an example for each route.
//!
//! These bounds hold for what HTTP clients cause, beside those of the API (`http/api/mod.rs`):
//! - A body has at most 64 KiB; one of an account at most 2 MiB, and a node reads 16 bodies of more
//!   than 64 KiB at a time.
//! - A node hashes a few passwords at a time (`chat::accounts`).

mod answer;
mod auth;
mod context;
mod cookie;
mod extract;
mod messages;
mod pictures;

use axum::{
    Router,
    routing::{get, post, put},
};
use http::{HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;

use self::context::AccountsContext;
use crate::chat::accounts::Accounts;

pub fn routes(accounts: Accounts) -> Router {
    // Answers are one user's own, and change at any time.
    let uncached = SetResponseHeaderLayer::overriding(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    Router::new()
        .route("/api/auth/signup", post(auth::sign_up))
        .route("/api/auth/login", post(auth::log_in))
        .route("/api/auth/logout", post(auth::log_out))
        .route("/api/auth/check", get(auth::check))
        .route("/api/auth/update-profile", put(auth::update_profile))
        .route("/api/messages/users", get(messages::users))
        .route("/api/messages/{id}", get(messages::list))
        .route("/api/messages/send/{id}", post(messages::send))
        .layer(uncached)
        .route("/api/pictures/{name}", get(pictures::show))
        .with_state(AccountsContext::new(accounts))
}

//! Sign up, log in and out, and the own account.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Serialize;

use super::{
    answer::{AccountAnswer, Refused},
    context::AccountsContext,
    cookie,
    extract::{Fields, LoggedInAs, SmallFields},
};
use crate::chat::accounts::{LoggedIn, NewAccount};

pub async fn sign_up(
    State(state): State<AccountsContext>,
    uri: Uri,
    headers: HeaderMap,
    SmallFields(fields): SmallFields,
) -> Result<Response, Refused> {
    let all = (fields.text("fullName")?, fields.text("email")?, fields.text("password")?);
    let (Some(full_name), Some(email), Some(password)) = all else {
        return Err(Refused::bad("All fields are required"));
    };
    let new = NewAccount { full_name, email, password };
    let logged_in = state.accounts.sign_up(new).await?;
    Ok(answer(StatusCode::CREATED, &logged_in, cookie::is_https(&uri, &headers)))
}

pub async fn log_in(
    State(state): State<AccountsContext>,
    uri: Uri,
    headers: HeaderMap,
    SmallFields(fields): SmallFields,
) -> Result<Response, Refused> {
    let (email, password) = (fields.text("email")?, fields.text("password")?);
    let (Some(email), Some(password)) = (email, password) else {
        return Err(Refused::bad("Email and password are required"));
    };
    let logged_in = state.accounts.log_in(email, password).await?;
    Ok(answer(StatusCode::OK, &logged_in, cookie::is_https(&uri, &headers)))
}

fn answer(status: StatusCode, logged_in: &LoggedIn, is_https: bool) -> Response {
    let LoggedIn { account, token } = logged_in;
    let mut response = (status, Json(AccountAnswer::own(account))).into_response();
    let cookie = cookie::set(Some(token), is_https);
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    response
}

/// The token stays valid until it ends; only this browser forgets it.
pub async fn log_out(uri: Uri, headers: HeaderMap) -> Response {
    #[derive(Serialize)]
    struct LoggedOut {
        message: &'static str,
    }
    let mut response = Json(LoggedOut { message: "Logged out successfully" }).into_response();
    let cookie = cookie::set(None, cookie::is_https(&uri, &headers));
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    response
}

pub async fn check(LoggedInAs(account): LoggedInAs) -> Response {
    Json(AccountAnswer::own(&account)).into_response()
}

pub async fn update_profile(
    State(state): State<AccountsContext>,
    LoggedInAs(account): LoggedInAs,
    fields: Fields,
) -> Result<Response, Refused> {
    let picture = fields.text("profilePic")?;
    let picture = picture.ok_or_else(|| Refused::bad("Profile pic is required"))?;
    let account = state.accounts.set_picture(&account.id, picture).await?;
    Ok(Json(AccountAnswer::own(&account)).into_response())
}

//! The answers, in the shapes that frontends know. A refusal has its text twice, because some read
//! `message` and others `error`.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{
    dialects::mern::message::{iso, url},
    domain::{
        account::Account,
        reject::{Code, Reject},
    },
};

/// Seconds after which a request that the node could not take may be repeated.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An account as itself, or another one, sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountAnswer<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    full_name: &'a str,
    /// Left out for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    /// Empty: none.
    profile_pic: String,
    created_at: String,
    updated_at: String,
}

impl<'a> AccountAnswer<'a> {
    pub fn own(account: &'a Account) -> Self {
        Self { email: Some(account.email.as_str()), ..Self::other(account) }
    }

    pub fn other(account: &'a Account) -> Self {
        Self {
            id: account.id.as_str(),
            full_name: account.full_name.as_str(),
            email: None,
            profile_pic: account.picture.as_ref().map(url).unwrap_or_default(),
            created_at: iso(account.created_at),
            updated_at: iso(account.updated_at),
        }
    }
}

/// Why a request was not served.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct RefusedBody<'a> {
    message: &'a str,
    error: &'a str,
}

impl Refused {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

/// As the frontends expect it: what a person can correct is 400.
fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::Taken => StatusCode::BAD_REQUEST,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::NotJoined | Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::TooMany | Code::Conflict => StatusCode::CONFLICT,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unconfirmed => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self::new(status(reject.code), reject.message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = RefusedBody { message: &self.message, error: &self.message };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

//! Refusals as problem details (RFC 9457), and the one table from codes to HTTP statuses.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::domain::{
    name::NameError,
    reject::{Code, Reject},
};

pub const CONTENT_TYPE: &str = "application/problem+json";
/// Seconds after which a request that the node could not take may be repeated.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request was not served.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

/// Why a request was not served (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
struct ProblemBody<'a> {
    /// Always `about:blank`: `title` is the meaning of the status.
    r#type: &'static str,
    title: &'static str,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what to do, for a person.
    detail: &'a str,
    /// A stable word for programs.
    code: &'static str,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub fn bad(detail: impl Into<String>) -> Self {
        Reject::new(Code::BadRequest, detail).into()
    }

    pub fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// The OpenAPI schema, which is the same for every route.
    pub fn schema() -> (String, RefOr<Schema>) {
        (ProblemBody::name().into_owned(), ProblemBody::schema())
    }

    /// A header that says what the client can do next.
    fn advice(&self) -> Option<(HeaderName, HeaderValue)> {
        match self.status {
            StatusCode::UNAUTHORIZED => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, RETRY_AFTER))
            }
            _ => None,
        }
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::NotJoined | Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::TooMany | Code::Taken | Code::Conflict => StatusCode::CONFLICT,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unconfirmed => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl From<Reject> for Problem {
    fn from(reject: Reject) -> Self {
        Self::new(status(reject.code), reject.code.as_str(), reject.message)
    }
}

impl From<NameError> for Problem {
    fn from(why: NameError) -> Self {
        Self::bad(why.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let body = ProblemBody {
            r#type: "about:blank",
            title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
        };
        let text = serde_json::to_string(&body).expect("a problem is JSON");
        let mut response =
            (self.status, [(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response();
        response.headers_mut().extend(self.advice());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_status_and_says_when_a_retry_helps() {
        for (code, status, retry_after) in [
            (Code::BadRequest, 400, None),
            (Code::TooLarge, 413, None),
            (Code::Forbidden, 403, None),
            (Code::NotFound, 404, None),
            (Code::Taken, 409, None),
            (Code::Conflict, 409, None),
            (Code::Busy, 429, Some("1")),
            (Code::Unavailable, 503, Some("1")),
            (Code::Unconfirmed, 504, None),
        ] {
            let response = Problem::from(Reject::new(code, "why")).into_response();
            assert_eq!(response.status().as_u16(), status, "{code:?}");
            assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), CONTENT_TYPE);
            let advice = response.headers().get(header::RETRY_AFTER);
            assert_eq!(advice.map(|value| value.to_str().unwrap()), retry_after, "{code:?}");
        }
    }
}

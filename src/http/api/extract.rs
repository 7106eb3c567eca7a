//! Paths, queries, bodies and headers of a request, whose faults are problems as well.

use std::time::Duration;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
};
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::problem::Problem;
use crate::domain::{
    name::MessageId,
    page::{PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX},
    position::Position,
    reject::Code,
};

/// Time in which the body of a request must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The one parameter of a path.
pub struct InPath(pub String);

/// The fields of a query.
pub struct InQuery<T>(pub T);

/// The JSON object in a body.
pub struct InBody<T>(pub T);

/// The header `Idempotency-Key`: the client's own id of a message.
pub struct IdempotencyKey(pub Option<MessageId>);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|why| Problem::bad(why.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|why| Problem::bad(why.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for InBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match timeout(BODY_TIMEOUT, Json::<Box<RawValue>>::from_request(request, state)).await {
            Ok(Ok(Json(body))) => object(body.get()).map(Self),
            Ok(Err(why)) => Err(no_json(&why)),
            Err(_elapsed) => {
                let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
            }
        }
    }
}

/// serde would also take an array, with the fields by their order.
fn object<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    if !json.starts_with('{') {
        return Err(Problem::bad("the body is a JSON object"));
    }
    serde_json::from_str(json).map_err(|why| Problem::bad(format!("in the body: {why}")))
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(key) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = str::from_utf8(key.as_bytes()).ok().and_then(|key| MessageId::parse(key).ok());
        let wrong = "Idempotency-Key has 1 to 64 characters and no control characters";
        key.map(|key| Self(Some(key))).ok_or_else(|| Problem::bad(wrong))
    }
}

fn no_json(why: &JsonRejection) -> Problem {
    match why.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            let detail = "the body is JSON, and the header Content-Type is application/json";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            let code = Code::TooLarge.as_str();
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, "the body is too large")
        }
        _ => Problem::bad(why.body_text()),
    }
}

/// A position in a query.
pub fn position(name: &str, text: &str) -> Result<Position, Problem> {
    let wrong = || Problem::bad(format!("{name} is a position, <epoch>-<seq>, as in an answer"));
    Position::parse(text).ok_or_else(wrong)
}

pub fn page_limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(PAGE_LIMIT_DEFAULT);
    if (1..=PAGE_LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad(format!("limit is between 1 and {PAGE_LIMIT_MAX}")))
}

//! Who asks, and the body of a request, whose faults are refusals in the same shape.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    answer::Refused,
    context::{AccountsContext, BODY_BYTES_MAX, SMALL_BODY_BYTES_MAX},
};
use crate::{
    dialects::mern::token_in,
    domain::{account::Account, name::UserId},
};

/// Time in which the body of a request must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many times its bound of a body is read before the connection is closed.
const DISCARDED_TIMES: usize = 16;

/// The account that a request comes from.
pub struct LoggedInAs(pub Account);

/// The id of a user in the path.
pub struct OtherUser(pub UserId);

/// The fields of the JSON object in a body.
pub struct Fields(Map<String, Value>);

/// The same, where the route takes small bodies only.
pub struct SmallFields(pub Fields);

impl FromRequestParts<AccountsContext> for LoggedInAs {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AccountsContext,
    ) -> Result<Self, Refused> {
        let refused = |why: &str| Refused::new(StatusCode::UNAUTHORIZED, why);
        let token = token_in(&parts.headers);
        let token = token.ok_or_else(|| refused("Unauthorized - No Token Provided"))?;
        let user = state.accounts.user_of(token).await?;
        let user = user.ok_or_else(|| refused("Unauthorized - Invalid Token"))?;
        let account = state.accounts.account(&user).await?;
        account.map(Self).ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "User not found"))
    }
}

impl FromRequestParts<AccountsContext> for OtherUser {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AccountsContext,
    ) -> Result<Self, Refused> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        let id = id.ok().and_then(|Path(id)| UserId::parse(&id).ok());
        id.map(Self).ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "User not found"))
    }
}

impl FromRequest<AccountsContext> for Fields {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &AccountsContext) -> Result<Self, Refused> {
        let is_small = length(request.headers()).is_some_and(|it| it <= SMALL_BODY_BYTES_MAX);
        let permit = if is_small { None } else { Some(state.large_bodies.try_acquire()) };
        if let Some(Err(_full)) = permit {
            let why = "too many pictures are sent at this moment; try again";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        fields(request, BODY_BYTES_MAX).await
    }
}

impl FromRequest<AccountsContext> for SmallFields {
    type Rejection = Refused;

    async fn from_request(request: Request, _state: &AccountsContext) -> Result<Self, Refused> {
        fields(request, SMALL_BODY_BYTES_MAX).await.map(Self)
    }
}

/// The JSON object in a body of at most `bytes_max` bytes.
async fn fields(request: Request, bytes_max: usize) -> Result<Fields, Refused> {
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return Err(Refused::bad("the header Content-Type is application/json"));
    }
    let body = match timeout(BODY_TIMEOUT, read(request.into_body(), bytes_max)).await {
        Ok(body) => body?,
        Err(_elapsed) => {
            let why = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, why));
        }
    };
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        Ok(_) => Err(Refused::bad("the body is a JSON object")),
        Err(why) => Err(Refused::bad(format!("in the body: {why}"))),
    }
}

/// What is too much is still read, up to a bound: a browser that cannot send its body to the end
/// does not see the answer.
async fn read(body: Body, bytes_max: usize) -> Result<Vec<u8>, Refused> {
    let (mut kept, mut count) = (Vec::new(), 0);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_broken| Refused::bad("the body cannot be read"))?;
        count += chunk.len();
        if count <= bytes_max {
            kept.extend_from_slice(&chunk);
        } else {
            kept = Vec::new();
        }
        if count > bytes_max * DISCARDED_TIMES {
            break;
        }
    }
    if count <= bytes_max {
        return Ok(kept);
    }
    let why = format!("the body has more than {bytes_max} bytes: a picture has at most 1 MiB");
    Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why))
}

impl Fields {
    /// The text of a field. Empty text, `null` and no field are the same to frontends.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(Refused::bad(format!("{name} is text"))),
        }
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

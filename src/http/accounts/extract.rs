//! Who asks, and the body of a request, whose faults are refusals in the same shape.

use std::time::Duration;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::JsonRejection},
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    answer::Refused,
    context::{AccountsContext, SMALL_BODY_BYTES_MAX},
};
use crate::{
    dialects::mern::token_in,
    domain::{account::Account, name::UserId},
};

/// Time in which the body of a request must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

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
        fields(request, state).await
    }
}

impl FromRequest<AccountsContext> for SmallFields {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &AccountsContext) -> Result<Self, Refused> {
        fields(request, state).await.map(Self)
    }
}

async fn fields(request: Request, state: &AccountsContext) -> Result<Fields, Refused> {
    match timeout(BODY_TIMEOUT, Json::<Value>::from_request(request, state)).await {
        Ok(Ok(Json(Value::Object(fields)))) => Ok(Fields(fields)),
        Ok(Ok(_)) => Err(Refused::bad("the body is a JSON object")),
        Ok(Err(why)) => Err(no_json(&why)),
        Err(_elapsed) => {
            let why = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
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

fn no_json(why: &JsonRejection) -> Refused {
    match why.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let why = "the body is too large: a picture has at most 1 MiB";
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why)
        }
        _ => Refused::bad(why.body_text()),
    }
}

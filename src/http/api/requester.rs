//! Who asks: a user by its token, an account by its own, or a backend by its API key.

use axum::extract::FromRequestParts;
use http::{header, request::Parts};

use super::{context::Context, problem::Problem};
use crate::{
    chat::{Actor, user_of_token},
    domain::name::UserId,
};

/// The user that a request comes from.
#[derive(Debug)]
pub struct Requester(UserId);

impl Requester {
    pub fn actor(&self) -> Actor<'_> {
        Actor::user(&self.0)
    }

    pub fn user(&self) -> &UserId {
        &self.0
    }
}

impl FromRequestParts<Context> for Requester {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Problem> {
        let given = parts.headers.get(header::AUTHORIZATION);
        let given = given.map(|value| str::from_utf8(value.as_bytes()).unwrap_or_default());
        match given.map(bearer) {
            Some(Some(secret)) => Ok(Self(user_of(api, secret).await?)),
            Some(None) => {
                Err(Problem::unauthorized("the header Authorization is not 'Bearer <token>'"))
            }
            None => Err(Problem::unauthorized(
                "the header 'Authorization: Bearer <token>' is missing; the token is a user's own \
                 (auth.token of its sockets), or an API key",
            )),
        }
    }
}

async fn user_of(api: &Context, secret: &str) -> Result<UserId, Problem> {
    if let Some(backend) = api.keys.user(secret) {
        return Ok(backend);
    }
    let account = match &api.accounts {
        Some(accounts) => accounts.user_of(secret).await?,
        None => None,
    };
    Ok(account.unwrap_or_else(|| user_of_token(secret)))
}

/// The secret of a bearer token. The name of the scheme may have any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, secret) = value.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}

//! What others see of the user that asks.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{context::Context, extract::InBody, problem::Problem, requester::Requester};
use crate::domain::{
    name::UserName,
    user::{Picture, User},
};

/// A field that is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MePatch)]
pub struct MePatch {
    #[schema(min_length = 1, max_length = 40)]
    name: Option<String>,
    /// An `https:` or `data:image/` URL of at most 8 KiB.
    #[schema(max_length = 8192)]
    picture: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Me)]
struct MeAnswer<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    picture: Option<&'a str>,
}

/// Show the caller as others see it.
#[utoipa::path(
    get, path = "/me", operation_id = "get_me",
    responses((status = 200, description = "The user.", body = MeAnswer)),
)]
pub async fn show(State(api): State<Context>, requester: Requester) -> Result<Response, Problem> {
    patch(&api, &requester, None, None).await
}

/// Change the caller's name or picture.
#[utoipa::path(
    patch, path = "/me", operation_id = "patch_me",
    request_body = MePatch,
    responses((status = 200, description = "The user.", body = MeAnswer)),
)]
pub async fn change(
    State(api): State<Context>,
    requester: Requester,
    InBody(asked): InBody<MePatch>,
) -> Result<Response, Problem> {
    let name = asked.name.as_deref().map(UserName::parse).transpose()?;
    let picture = asked.picture.as_deref().map(Picture::parse).transpose();
    let picture = picture.map_err(|why| Problem::bad(why.to_string()))?;
    patch(&api, &requester, name, picture).await
}

async fn patch(
    api: &Context,
    requester: &Requester,
    name: Option<UserName>,
    picture: Option<Picture>,
) -> Result<Response, Problem> {
    let _turn = api.turn_to_read().await;
    let User { id, name, picture } = api.chat.set_profile(requester.actor(), name, picture).await?;
    let picture = picture.as_ref().map(Picture::as_str);
    let answer = MeAnswer { id: id.as_str(), name: name.as_str(), picture };
    Ok(Json(answer).into_response())
}

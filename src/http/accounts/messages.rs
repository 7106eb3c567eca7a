//! The other accounts, and the messages between two accounts.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;

use super::{
    answer::{AccountAnswer, Refused},
    context::AccountsContext,
    extract::{Fields, LoggedInAs, OtherUser},
};
use crate::{
    chat::accounts::SentMessage,
    dialects::mern::message::{AccountMessage, iso, url},
};

pub async fn users(
    State(state): State<AccountsContext>,
    LoggedInAs(own): LoggedInAs,
) -> Result<Response, Refused> {
    let others = state.accounts.others(&own.id).await?;
    let others: Vec<_> = others.iter().map(AccountAnswer::other).collect();
    Ok(Json(others).into_response())
}

pub async fn list(
    State(state): State<AccountsContext>,
    LoggedInAs(own): LoggedInAs,
    OtherUser(other): OtherUser,
) -> Result<Response, Refused> {
    let messages = state.accounts.messages(&own.id, &other).await?;
    let messages: Vec<_> = messages.iter().filter_map(AccountMessage::of).collect();
    Ok(Json(messages).into_response())
}

pub async fn send(
    State(state): State<AccountsContext>,
    LoggedInAs(own): LoggedInAs,
    OtherUser(to): OtherUser,
    fields: Fields,
) -> Result<Response, Refused> {
    let (text, image) = (fields.text("text")?, fields.text("image")?);
    if text.is_none() && image.is_none() {
        return Err(Refused::bad("a message has text or an image"));
    }
    let SentMessage { id, at, image } = state.accounts.send(&own, &to, text, image).await?;
    let message = AccountMessage {
        id: id.as_str(),
        sender_id: own.id.as_str(),
        receiver_id: to.as_str(),
        text: text.unwrap_or_default().to_owned(),
        image: image.as_ref().map(url),
        created_at: iso(at),
        updated_at: iso(at),
    };
    Ok((StatusCode::CREATED, Json(message)).into_response())
}

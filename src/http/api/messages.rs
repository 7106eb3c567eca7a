//! Messages: posted, read page by page, and searched.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::{
    context::Context,
    extract::{IdempotencyKey, InBody, InPath, InQuery, page_limit, position},
    pages::{FoundAnswer, MessagesAnswer, StoredAnswer},
    problem::Problem,
    requester::Requester,
};
use crate::{
    domain::{
        name::{MessageId, UserId},
        page::Page,
        position::Position,
        record::Body,
        reject::{Code, Reject},
        request::{Destination, NewMessage, PageRequest},
        room::RoomName,
        search::{Query, Search},
    },
    random,
};

/// A message to store.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewMessage)]
pub struct PostedMessage {
    text: String,
    /// The client's own id of the message; the same as the header `Idempotency-Key`.
    #[schema(min_length = 1, max_length = 64)]
    id: Option<String>,
}

/// At most one of `before`, `after` and `around`; with none of them, the newest messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The newest messages before this position.
    #[param(nullable = false, pattern = "^.+-[0-9]+$", example = "c5d8-12")]
    before: Option<String>,
    /// The oldest messages after this position.
    #[param(nullable = false, pattern = "^.+-[0-9]+$")]
    after: Option<String>,
    /// The message at this position, and as many on both sides of it.
    #[param(nullable = false, pattern = "^.+-[0-9]+$")]
    around: Option<String>,
    /// Messages at most; 50 if left out.
    #[param(nullable = false, minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    #[param(min_length = 1, max_length = 64)]
    room: String,
    /// Words that must all be in a message: 1 to 100 characters, 20 different words at most.
    #[param(min_length = 1, max_length = 100)]
    text: String,
    /// Only messages before this position.
    #[param(nullable = false, pattern = "^.+-[0-9]+$")]
    before: Option<String>,
    /// Messages at most; 50 if left out.
    #[param(nullable = false, minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// Post a message to a room.
#[utoipa::path(
    post, path = "/rooms/{room}/messages",
    params(
        ("room" = String, Path, min_length = 1, max_length = 64),
        ("Idempotency-Key" = Option<String>, Header, nullable = false, min_length = 1, max_length = 64,
         description = "The client's own id of the message: a retry with the same key is stored once."),
    ),
    request_body = PostedMessage,
    responses((status = 201, description = "It is stored.", body = StoredAnswer)),
)]
pub async fn post_message(
    State(api): State<Context>,
    requester: Requester,
    InPath(room): InPath,
    key: IdempotencyKey,
    InBody(posted): InBody<PostedMessage>,
) -> Result<Response, Problem> {
    let room = RoomName::parse(&room)?;
    post(&api, &requester, Destination::Room(room), key, posted).await
}

/// Post a message to a user.
#[utoipa::path(
    post, path = "/direct/{user}/messages",
    params(
        ("user" = String, Path, min_length = 1, max_length = 64, description = "The id of the user."),
        ("Idempotency-Key" = Option<String>, Header, nullable = false, min_length = 1, max_length = 64,
         description = "The client's own id of the message: a retry with the same key is stored once."),
    ),
    request_body = PostedMessage,
    responses((status = 201, description = "It is stored.", body = StoredAnswer)),
)]
pub async fn post_direct(
    State(api): State<Context>,
    requester: Requester,
    InPath(user): InPath,
    key: IdempotencyKey,
    InBody(posted): InBody<PostedMessage>,
) -> Result<Response, Problem> {
    let user = UserId::parse(&user)?;
    post(&api, &requester, Destination::User(user), key, posted).await
}

async fn post(
    api: &Context,
    requester: &Requester,
    to: Destination,
    IdempotencyKey(key): IdempotencyKey,
    posted: PostedMessage,
) -> Result<Response, Problem> {
    let id = posted.id.as_deref().map(MessageId::parse).transpose()?;
    if key.is_some() && id.is_some() && key != id {
        return Err(Problem::bad("Idempotency-Key and id differ; one of them is enough"));
    }
    // A fresh id can be repeated as well: the answer names it when the log has not confirmed.
    let (id, repeatable) = (key.or(id).unwrap_or_else(fresh_id), true);
    let text = serde_json::to_string(&posted.text).expect("a text is JSON");
    let body = Body::from_json(&text);
    let message = NewMessage { repeatable, ..NewMessage::new(to, id.clone(), body) };
    let (sent, settled) = oneshot::channel();
    // A client that has gone needs no answer.
    api.chat.send(requester.actor(), message, |outcome| drop(sent.send(outcome)));
    match settled.await {
        Ok(Ok(sent)) => Ok((StatusCode::CREATED, Json(StoredAnswer::new(&sent))).into_response()),
        Ok(Err(Reject { code: Code::Unconfirmed, message })) => {
            let advice = format!("{message}: repeat the request with 'Idempotency-Key: {id}'");
            Err(Reject::new(Code::Unconfirmed, advice).into())
        }
        Ok(Err(reject)) => Err(reject.into()),
        Err(_dropped) => Err(Reject::new(Code::Unconfirmed, "the node stops").into()),
    }
}

/// Read a room page by page.
#[utoipa::path(
    get, path = "/rooms/{room}/messages",
    params(("room" = String, Path, min_length = 1, max_length = 64), PageQuery),
    responses((status = 200, description = "A page.", body = MessagesAnswer)),
)]
pub async fn list_messages(
    State(api): State<Context>,
    requester: Requester,
    InPath(room): InPath,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    list(&api, &requester, RoomName::parse(&room)?, query).await
}

/// Read the messages between the caller and a user.
#[utoipa::path(
    get, path = "/direct/{user}/messages",
    params(
        ("user" = String, Path, min_length = 1, max_length = 64, description = "The id of the user."),
        PageQuery,
    ),
    responses((status = 200, description = "A page.", body = MessagesAnswer)),
)]
pub async fn list_direct(
    State(api): State<Context>,
    requester: Requester,
    InPath(user): InPath,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    let room = RoomName::direct(requester.user(), &UserId::parse(&user)?);
    let room = room.ok_or_else(|| Reject::new(Code::NotFound, "there is no such user"))?;
    list(&api, &requester, room, query).await
}

async fn list(
    api: &Context,
    requester: &Requester,
    room: RoomName,
    query: PageQuery,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let page = match (&query.before, &query.after, &query.around) {
        (None, None, None) => (Page::Newest, None),
        (Some(text), None, None) => {
            let Position { epoch, seq } = position("before", text)?;
            (Page::Before(seq), Some(epoch))
        }
        (None, Some(text), None) => {
            let Position { epoch, seq } = position("after", text)?;
            (Page::After(seq), Some(epoch))
        }
        (None, None, Some(text)) => {
            let position = position("around", text)?;
            let _turn = api.turn_to_read().await;
            let found = api.chat.around(requester.actor(), room.clone(), position, limit).await?;
            return Ok(Json(MessagesAnswer::around(&room, &found)).into_response());
        }
        _ => return Err(Problem::bad("a page is before, after or around one position")),
    };
    let (page, epoch) = page;
    let request = PageRequest { room: room.clone(), page, limit, epoch: epoch.clone() };
    let _turn = api.turn_to_read().await;
    let history = api.chat.history(requester.actor(), request).await?;
    // Then the answer is the newest page.
    let is_other_log = epoch.is_some_and(|epoch| epoch != history.top.epoch);
    let page = if is_other_log { Page::Newest } else { page };
    Ok(Json(MessagesAnswer::page(&room, page, &history)).into_response())
}

/// Find messages of a room by their words.
#[utoipa::path(
    get, path = "/search",
    params(SearchQuery),
    responses((status = 200, description = "The newest messages found.", body = FoundAnswer)),
)]
pub async fn search(
    State(api): State<Context>,
    requester: Requester,
    InQuery(asked): InQuery<SearchQuery>,
) -> Result<Response, Problem> {
    let room = RoomName::parse(&asked.room)?;
    let query = Query::parse(&asked.text).map_err(|why| Problem::bad(why.to_string()))?;
    let before = asked.before.as_deref().map(|text| position("before", text)).transpose()?;
    let limit = page_limit(asked.limit)?;
    let seq = before.as_ref().map(|before| before.seq);
    let _turn = api.turn_to_read().await;
    let search = Search { room: room.clone(), query, before: seq, limit };
    let found = api.chat.search(requester.actor(), search).await?;
    if before.is_some_and(|before| before.epoch != found.epoch) {
        let why = "before is a position of an earlier log; search again without it";
        return Err(Reject::new(Code::NotFound, why).into());
    }
    Ok(Json(FoundAnswer::new(&room, &found)).into_response())
}

fn fresh_id() -> MessageId {
    MessageId::parse(&random::hex::<16>()).expect("hex digits are a message id")
}

//! Pictures that accounts have sent, as files. The name of a file cannot be guessed, and what it
//! names never changes.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use super::{answer::Refused, context::AccountsContext};
use crate::domain::account::PictureName;

pub async fn show(
    State(state): State<AccountsContext>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let none = || Refused::new(StatusCode::NOT_FOUND, "there is no such picture");
    let name = PictureName::parse(&name).ok_or_else(none)?;
    let content_type = name.kind().content_type();
    let file = state.accounts.picture(name).await?.ok_or_else(none)?;
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    Ok((headers, file).into_response())
}

//! A message between two accounts, as REST and `newMessage` show it, and the body that holds it.

use serde::Serialize;

use crate::{
    dialects::text::{as_text, as_value, member, text_of},
    domain::{
        account::PictureName,
        message::{Message, MessageStatus},
        name::UserId,
        position::Timestamp,
        record::Body,
        room::{RoomKind, RoomName},
    },
};

/// Where picture files are served.
pub const PICTURES: &str = "/api/pictures/";

/// A message between two accounts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountMessage<'a> {
    #[serde(rename = "_id")]
    pub id: &'a str,
    pub sender_id: &'a str,
    pub receiver_id: &'a str,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// The body of a message. Other clients read its text; of a message without one, the picture's URL.
pub fn body(text: &str, image: Option<&PictureName>) -> Body {
    #[derive(Serialize)]
    struct WithImage<'a> {
        text: &'a str,
        image: &'a str,
    }
    let json = match image.map(url) {
        None => serde_json::to_string(text),
        Some(image) => {
            let text = if text.is_empty() { &image } else { text };
            serde_json::to_string(&WithImage { text, image: &image })
        }
    };
    Body::from_json(&json.expect("texts are JSON"))
}

pub fn url(picture: &PictureName) -> String {
    format!("{PICTURES}{}", picture.as_str())
}

/// The text of a body, and the URL of its picture if that is served here.
fn parts(body: &Body) -> (String, Option<String>) {
    let text = text_of(body.as_json()).into_owned();
    let image = as_value(body.as_json()).and_then(|body| as_text(member(body, "image")?.get()));
    let is_ours = |url: &str| url.strip_prefix(PICTURES).and_then(PictureName::parse).is_some();
    match image.filter(|image| is_ours(image)) {
        Some(image) if image == text => (String::new(), Some(image.into_owned())),
        Some(image) => (text, Some(image.into_owned())),
        None => (text, None),
    }
}

impl<'a> AccountMessage<'a> {
    /// `None`: it is no message between two users.
    pub fn new(
        room: &'a RoomName,
        from: &'a UserId,
        id: &'a str,
        body: &Body,
        (created_at, updated_at): (Timestamp, Timestamp),
    ) -> Option<Self> {
        let RoomKind::Direct { first, second } = room.kind() else { return None };
        let receiver_id = if first == from.as_str() { second } else { first };
        let (text, image) = parts(body);
        let (created_at, updated_at) = (iso(created_at), iso(updated_at));
        let sender_id = from.as_str();
        Some(Self { id, sender_id, receiver_id, text, image, created_at, updated_at })
    }

    /// A message of history, as it is now.
    pub fn of(message: &'a Message) -> Option<Self> {
        let Message { room, from, id, at, body, state, .. } = message;
        let updated_at = match state.status {
            MessageStatus::Original => *at,
            MessageStatus::Edited { at, .. } | MessageStatus::Deleted { at } => at,
        };
        Self::new(room, from, id.as_str(), body, (*at, updated_at))
    }
}

/// A time as `Date.prototype.toISOString` writes it.
pub fn iso(at: Timestamp) -> String {
    let (days, millis) = (at.0 / 86_400_000, at.0 % 86_400_000);
    // Years begin on 1 March here, so that a leap day is the last day of its year, and eras of 400
    // years on 1 March 0000.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, millis) = (millis / 1_000 % 60, millis % 1_000);
    format!("{year:04}-{month:02}-{date:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::PictureKind;

    #[test]
    fn times_are_written_as_javascript_writes_them() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_732_800_001_042, "2024-11-28T13:20:01.042Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(iso(Timestamp(at)), text);
        }
    }

    #[test]
    fn a_body_has_text_and_picture_and_every_client_reads_it() {
        let picture = PictureName::new(&"ab".repeat(16), PictureKind::Png).unwrap();
        let url = url(&picture);
        assert_eq!(body("hi", None).as_json(), "\"hi\"");
        for (text, image, read) in
            [("hi", None, "hi"), ("hi", Some(&picture), "hi"), ("", Some(&picture), url.as_str())]
        {
            let body = body(text, image);
            assert_eq!(text_of(body.as_json()), read);
            assert_eq!(parts(&body), (text.to_owned(), image.map(|_| url.clone())));
        }
        for (json, text) in [
            (r#"{"text":"a","image":"https://elsewhere.example/a.png"}"#, "a"),
            (r#"{"text":"a","image":7}"#, "a"),
            ("7", "7"),
        ] {
            assert_eq!(parts(&Body::from_json(json)), (text.to_owned(), None), "{json}");
        }
    }
}

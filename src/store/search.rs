//! The result of a search, and a scan for stores without an index: page by page, a bounded part of
//! the history at a time.

use futures_util::future::BoxFuture;

use super::{
    error::ReadError,
    log::{History, MessageLog, size},
};
use crate::domain::{
    message::Message,
    page::Page,
    position::Epoch,
    record::Body,
    search::{Search, words},
};

/// Messages, and their bytes, that one search scans at most.
const MESSAGES_MAX: usize = 2_000;
const BYTES_MAX: usize = 1 << 20;
/// Messages per read.
const PAGE_MESSAGES: u32 = 100;

pub trait SearchIndex: Send + Sync + std::fmt::Debug + 'static {
    /// The newest messages of a room that contain the words, as far as history shows them. One call
    /// does a bounded amount of work, so it may find fewer messages than there are: then
    /// `Found::next` says where the next call goes on. Calls wait for each other, so that few run
    /// at a time.
    fn search(&self, search: Search) -> BoxFuture<'_, Result<Found, ReadError>>;
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub epoch: Epoch,
    /// Oldest first, as in a page of history.
    pub messages: Vec<Message>,
    /// Messages before this `seq` were not searched. `None`: the whole history was.
    pub next: Option<u64>,
}

impl Found {
    /// Leaves out the oldest messages until the rest have at most `bytes_max`. At least one stays.
    pub fn fit(&mut self, bytes_max: usize) {
        let sizes = self.messages.iter().rev().map(size);
        let mut bytes = 0;
        let fitting = sizes.take_while(|size| {
            bytes += size;
            bytes <= bytes_max
        });
        let left_out = self.messages.len().saturating_sub(fitting.count().max(1));
        if left_out > 0 {
            self.messages.drain(..left_out);
            self.next = self.messages.first().map(|oldest| oldest.position.seq);
        }
    }
}

/// Scans the history after `floor`, newest first, within the bounds of one search.
pub async fn scan(log: &dyn MessageLog, search: &Search, floor: u64) -> Result<Found, ReadError> {
    let limit = search.limit as usize;
    let mut page = search.before.map_or(Page::Newest, Page::Before);
    let mut epoch = None;
    let mut found = Vec::new();
    let (mut looked_at, mut bytes) = (0, 0);
    let next = loop {
        let history = log.history(search.room.clone(), page, PAGE_MESSAGES).await?;
        let History { top, messages, more, trimmed: _ } = history;
        if *epoch.get_or_insert_with(|| top.epoch.clone()) != top.epoch {
            return Err(ReadError::Unavailable("the log was lost just now".to_owned()));
        }
        looked_at += messages.len();
        bytes += messages.iter().map(size).sum::<usize>();
        let oldest = messages.first().map(|oldest| oldest.position.seq);
        found.extend(sift(messages, search.clone(), floor).await?);
        if found.len() > limit {
            found.truncate(limit);
            break found.last().map(|oldest: &Message| oldest.position.seq);
        }
        let Some(oldest) = oldest.filter(|oldest| more && *oldest > floor) else { break None };
        if found.len() == limit || looked_at >= MESSAGES_MAX || bytes >= BYTES_MAX {
            break Some(oldest);
        }
        page = Page::Before(oldest);
    };
    found.reverse();
    let epoch = epoch.expect("a page was read");
    Ok(Found { epoch, messages: found, next })
}

/// The matching messages, newest first. It runs on a blocking thread: folding a page of long
/// messages takes a while and would delay other tasks.
async fn sift(
    messages: Vec<Message>,
    search: Search,
    floor: u64,
) -> Result<Vec<Message>, ReadError> {
    let is_wanted = move |message: &Message| {
        message.position.seq > floor && search.query.is_in(&words_of(&message.body))
    };
    tokio::task::spawn_blocking(move || messages.into_iter().rev().filter(is_wanted).collect())
        .await
        .map_err(|cause| ReadError::Unavailable(cause.to_string()))
}

/// The words of all texts in a body. Names of object fields do not count.
pub fn words_of(body: &Body) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = body.as_json();
    while let Some(begin) = rest.find('"') {
        let (_, literal) = rest.split_at(begin);
        let (literal, after) = literal.split_at(literal_bytes(literal));
        rest = after;
        if after.trim_start().starts_with(':') {
            continue;
        }
        // JSON allows half a surrogate pair, which is not text.
        if let Ok(text) = serde_json::from_str::<String>(literal) {
            found.extend(words(&text));
        }
    }
    found
}

/// Length of the string literal at the beginning of `json`.
fn literal_bytes(json: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::domain::{
        name::{MessageId, UserId},
        position::{Position, Timestamp},
        record::Draft,
        room::RoomName,
    };

    fn found(json: &str) -> Vec<String> {
        words_of(&Body::from_json(json))
    }

    #[test]
    fn texts_are_looked_through_and_names_are_not() {
        assert_eq!(found(r#""a \"b\" \\""#), ["a", "b"]);
        assert_eq!(found(r#"{"n":"one","m" : {"o":["two",3,"n"]},"p":null}"#), ["one", "two", "n"]);
        assert_eq!(found(r#"["\u00e9t\u00e9","\ud800","\ud83d\ude00x",1e400]"#), ["été", "x"]);
        assert_eq!(found("17"), [""; 0]);
        assert_eq!(found(r#"["",""]"#), [""; 0]);
    }

    #[test]
    fn what_does_not_fit_is_still_to_be_looked_at() {
        let (from, id) = (UserId::parse("u").unwrap(), MessageId::parse("m").unwrap());
        let body = Body::from_json("\"12345678\"");
        let draft = Draft::new(RoomName::lobby(), from, id, Timestamp(1), body);
        let record = |seq| draft.clone().into_record(Position { epoch: Epoch::new("e"), seq });
        let message = |seq| Message::original(record(seq)).unwrap();
        for (bytes_max, kept, next) in
            [(30, 3, None), (29, 2, Some(2)), (10, 1, Some(3)), (1, 1, Some(3))]
        {
            let messages = (1..=3).map(message).collect();
            let mut found = Found { epoch: Epoch::new("e"), messages, next: None };
            found.fit(bytes_max);
            assert_eq!((found.messages.len(), found.next), (kept, next), "{bytes_max}");
            assert_eq!(found.messages.last().unwrap().position.seq, 3);
        }
    }

    proptest! {
        /// Holds for every text, wherever it stands in a body.
        #[test]
        fn a_body_has_the_words_of_its_texts(text in any::<String>(), name in any::<String>()) {
            let body = serde_json::json!({ (name): [text, 1] }).to_string();
            prop_assert_eq!(found(&body), words(&text));
        }
    }
}

//! A frame, the form of a batch in Redis: a header line, then one line of JSON per record.
//!
//! Only the store in Redis uses these shapes. `SUBSCRIBE` in redis-cli shows them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    domain::{
        message::Message,
        name::{MessageId, NameError, PublicId, UserId, UserName},
        position::{Epoch, Position, Timestamp},
        record::{Draft, Record},
        room::RoomName,
    },
    store::{
        layout::{self, EntryColumns},
        log,
    },
};

/// How much of a frame distinguishes it from any other: its header and its first message's id.
const ANCHOR_BYTES: usize = 160;

/// One message as one line.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    room: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    from: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    name: Option<std::borrow::Cow<'a, str>>,
    at: u64,
    #[serde(borrow)]
    except: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    change: Option<std::borrow::Cow<'a, str>>,
    of: Option<u64>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// `<first seq>:<epoch>:<count>`, the header of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub first: u64,
    pub epoch: Epoch,
    pub count: u64,
}

impl Header {
    pub fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// Splits a frame. `None`: it is no frame, so another program or a person published it.
pub fn split(frame: &str) -> Option<(Header, &str)> {
    let (header, lines) = frame.split_once('\n')?;
    let mut parts = header.splitn(3, ':');
    let first: u64 = parts.next()?.parse().ok().filter(|first| *first > 0)?;
    let epoch = Epoch::new(parts.next()?);
    let count: u64 = parts.next()?.parse().ok().filter(|count| *count > 0)?;
    first.checked_add(count)?;
    Some((Header { first, epoch, count }, lines))
}

/// The beginning of a frame, by which the frame is recognised later.
pub fn anchor(frame: &str) -> &str {
    let mut end = ANCHOR_BYTES.min(frame.len());
    while !frame.is_char_boundary(end) {
        end -= 1;
    }
    frame.get(..end).unwrap_or(frame)
}

/// The fields before the source and the body in a line.
#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    room: &'a str,
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
}

/// Writes a draft's line.
pub fn push_line(lines: &mut Vec<u8>, draft: &Draft) {
    let EntryColumns { change, target_seq, body } = EntryColumns::new(&draft.entry);
    let envelope = Envelope {
        id: draft.id.as_str(),
        room: draft.room.as_str(),
        from: draft.from.as_str(),
        name: draft.name.as_ref().map(UserName::as_str),
        at: draft.at.0,
        except: draft.except.as_ref().map(PublicId::as_str),
        change,
        of: target_seq,
    };
    serde_json::to_writer(&mut *lines, &envelope).expect("text and numbers are JSON");
    // The source and the body are JSON on one line already: they take the place of the closing
    // brace.
    lines.pop();
    if let Some(source) = &draft.source {
        lines.extend_from_slice(b",\"source\":");
        lines.extend_from_slice(layout::source_to_json(source).as_bytes());
    }
    lines.extend_from_slice(b",\"body\":");
    lines.extend_from_slice(body.as_json().as_bytes());
    lines.push(b'}');
}

/// Reads a line. The error says what is wrong with the line.
pub fn record(line: &str, position: Position) -> Result<Record, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|why| why.to_string())?;
    let bad_name = |why: NameError| why.to_string();
    let entry = layout::parse_entry(line.change.as_deref(), line.of, line.body.get());
    let source = line
        .source
        .map(|json| layout::parse_source(json.get()).ok_or("its source event cannot be read"));
    Ok(Record {
        position,
        room: RoomName::parse(&line.room).map_err(bad_name)?,
        from: UserId::parse(&line.from).map_err(bad_name)?,
        name: line.name.map(|name| UserName::parse(&name)).transpose().map_err(bad_name)?,
        id: MessageId::parse(&line.id).map_err(bad_name)?,
        at: Timestamp(line.at),
        except: line.except.map(|id| PublicId::parse(&id)).transpose().map_err(bad_name)?,
        source: source.transpose()?,
        entry: entry.ok_or("its change cannot be read")?,
    })
}

/// `<seq> <at>`, as the ids remember a message.
pub fn mark(text: &str) -> Option<(u64, Timestamp)> {
    let (seq, at) = text.split_once(' ')?;
    Some((seq.parse().ok()?, Timestamp(at.parse().ok()?)))
}

/// The messages of a room in one frame, from the two items of its list that append.lua describes.
/// A message that cannot be read is passed over.
pub fn in_room(header: &str, lines: &str, epoch: &Epoch) -> Result<Vec<Message>, String> {
    let mut header = header.split(' ');
    let number = |text: Option<&str>| text?.parse::<u64>().ok();
    let first = number(header.next()).ok_or("it has no first seq")?;
    let places = header.nth(3).ok_or("it has no places")?;
    let read = |(seq, line)| match record(line, Position { epoch: epoch.clone(), seq }) {
        Ok(record) => Message::original(record),
        Err(why) => {
            log::passed_over(seq, &why);
            None
        }
    };
    if places.is_empty() {
        let (_, lines) = lines.split_once('\n').ok_or("the frame has no lines")?;
        return Ok((first..).zip(lines.split('\n')).filter_map(read).collect());
    }
    let places: Option<Vec<u64>> = places.split(',').map(|place| number(Some(place))).collect();
    let places = places.ok_or("its places are no numbers")?;
    let start = first - places.first().copied().unwrap_or(first).min(first);
    let seqs = places.into_iter().map(|place| start + place);
    Ok(seqs.zip(lines.split('\n')).filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::record::{Body, Change, Entry, SourceEvent};

    fn draft(body: &str) -> Draft {
        let from = UserId::parse("ada \"l\"").unwrap();
        let id = MessageId::parse("m1").unwrap();
        Draft::new(RoomName::lobby(), from, id, Timestamp(7), Body::from_json(body))
    }

    fn line(draft: &Draft) -> String {
        let mut line = Vec::new();
        push_line(&mut line, draft);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_is_readable_and_reads_back() {
        let draft = draft("{\"n\":1e400}");
        let line = line(&draft);
        assert_eq!(
            line,
            r#"{"id":"m1","room":"lobby","from":"ada \"l\"","at":7,"body":{"n":1e400}}"#
        );
        let position = Position { epoch: Epoch::new("e"), seq: 3 };
        let read = record(&line, position.clone()).unwrap();
        assert_eq!(read, draft.into_record(position));
    }

    #[test]
    fn what_is_rare_stands_in_a_line_only_where_it_is_so() {
        let mut draft = draft("1");
        draft.name = Some(UserName::parse("Ada").unwrap());
        draft.except = Some(PublicId::parse("p1").unwrap());
        draft.entry =
            Entry::Change { target_seq: 2, change: Change::Edit(Body::from_json("\"new\"")) };
        draft.source = Some(Arc::new(SourceEvent {
            profile: "chat".into(),
            event: "say".into(),
            arguments: Body::from_json("[1]"),
            me: None,
        }));
        let line = line(&draft);
        assert_eq!(
            line,
            r#"{"id":"m1","room":"lobby","from":"ada \"l\"","name":"Ada","at":7,"except":"p1","change":"edit","of":2,"source":{"profile":"chat","event":"say","arguments":[1]},"body":"new"}"#
        );
        let damaged = line.replace("[1]", "1");
        let read = record(&damaged, Position { epoch: Epoch::new("e"), seq: 3 });
        assert_eq!(read.map(|_| ()), Err("its source event cannot be read".to_owned()));
        let position = Position { epoch: Epoch::new("e"), seq: 3 };
        assert_eq!(record(&line, position.clone()).unwrap(), draft.into_record(position));
    }

    #[test]
    fn a_frame_has_its_rooms_messages_and_their_numbers() {
        let (one, two) = (line(&draft("1")), line(&draft("2")));
        let seqs = |header: &str, lines: &str| -> Vec<u64> {
            let messages = in_room(header, lines, &Epoch::new("e")).unwrap();
            messages.iter().map(|message| message.position.seq).collect()
        };
        assert_eq!(seqs("11 12 2 99 ", &format!("11:e:2\n{one}\n{two}")), [11, 12]);
        assert_eq!(seqs("12 15 2 99 2,5", &format!("{one}\n{two}")), [12, 15]);
        assert_eq!(
            seqs("12 15 2 99 2,5", &format!("{{\n{two}")),
            [15],
            "a damaged one is passed over"
        );
        assert!(in_room("12 15 2 99 2,x", "{}", &Epoch::new("e")).is_err());
    }

    #[test]
    fn what_is_no_frame_was_published_by_hand() {
        let (header, lines) = split("5:e1:2\na\nb").unwrap();
        assert_eq!((header.first, header.last(), lines), (5, 6, "a\nb"));
        for text in ["hello", "hello\nworld", "{\"a\":\n1}", "0:e:1\nx", "1:e:0\nx", "x:e:1\ny"] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn an_anchor_ends_at_a_character() {
        let frame = format!("{}{}", "a".repeat(ANCHOR_BYTES - 1), "ö");
        assert_eq!(anchor(&frame).len(), ANCHOR_BYTES - 1);
    }
}

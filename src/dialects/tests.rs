//! Requests of each dialect: what is understood, and what the client is told otherwise.

use serde_json::value::RawValue;

use super::{Dialects, dialect::Asker};
use crate::domain::{
    name::{Emoji, MessageId, PublicId, UserId},
    page::Page,
    position::{Epoch, Position},
    record::{Body, Change},
    reject::Reject,
    request::{Delivery, Destination, NewChange, NewMessage, Request},
    room::RoomName,
};

/// `None`: the dialect has no such event.
fn read_in(dialect: &str, text: &str) -> Option<Result<Request, Reject>> {
    let parts: Vec<&RawValue> = serde_json::from_str(text).unwrap();
    let (name, args) = parts.split_first().unwrap();
    let name: String = serde_json::from_str(name.get()).unwrap();
    let dialect = Dialects::builtin().named(dialect).unwrap();
    let asker = Asker {
        user: &UserId::parse("ann").unwrap(),
        public_id: &PublicId::parse("0a").unwrap(),
        me: None,
        wants_ack: true,
        message_bytes_max: 32 << 10,
        fresh_id: || MessageId::parse("fresh").unwrap(),
    };
    dialect.decode(&name, args, &asker)
}

fn decoded_in(dialect: &str, text: &str) -> Result<Request, Reject> {
    read_in(dialect, text).expect("it has this event")
}

fn decoded(text: &str) -> Result<Request, Reject> {
    decoded_in("plain", text)
}

fn message(text: &str) -> String {
    decoded(text).unwrap_err().message
}

/// The message that a row of the rule table stores.
fn stored(text: &str) -> NewMessage {
    let Request::Event(event) = decoded(text).unwrap() else { panic!("an event") };
    let Some(Delivery::Store(message)) = event.delivery else { panic!("a message") };
    message
}

#[test]
fn any_json_is_a_message_and_stays_as_it_is() {
    for body in ["\"hi\"", "1e400", "12345678901234567890", "{\"b\":1, \"a\":[null]}", "null"] {
        let message = stored(&format!("[\"user-message\",{body}]"));
        assert_eq!((message.id.as_str(), message.body.as_json()), ("fresh", body));
    }
}

#[test]
fn wrong_input_says_what_is_wrong() {
    assert!(read_in("plain", r#"["dance",1]"#).is_none());
    assert!(message(r#"["history"]"#).contains("{room"));
    assert!(message(r#"["history",{"room":"lobby","limit":0}]"#).contains("between 1 and 200"));
    let both =
        r#"["history",{"room":"a","before":{"epoch":"e","seq":1},"after":{"epoch":"e","seq":1}}]"#;
    assert!(message(both).contains("not both"));
}

#[test]
fn requests_of_the_native_dialect_are_objects() {
    let native = |text| decoded_in("native", text);
    let request = native(r#"["send",{"room":"attic","text":"a\"b"}]"#).unwrap();
    let Request::Send(sent) = request else { panic!("send") };
    assert_eq!(sent.to, Destination::Room(RoomName::parse("attic").unwrap()));
    assert_eq!((sent.repeatable, sent.body.as_json()), (false, r#""a\"b""#));
    let request = native(r#"["send",{"to":" bob ","text":"hi","id":"m"}]"#).unwrap();
    let Request::Send(sent) = request else { panic!("send") };
    let bob = Destination::User(UserId::parse("bob").unwrap());
    assert_eq!((sent.to, sent.repeatable), (bob, true));
    for unclear in [r#"["send",{"text":"a"}]"#, r#"["send",{"to":"a","room":"b","text":"c"}]"#] {
        assert!(native(unclear).unwrap_err().message.contains("a room, a user or a socket"));
    }
    let request = native(r#"["send",{"socket":"0a","text":"hi","except":"me"}]"#).unwrap();
    let Request::Send(sent) = request else { panic!("send") };
    let connection = Destination::Connection(PublicId::parse("0a").unwrap());
    assert_eq!((sent.to, sent.except_me), (connection, true));
    for strange in [r#""you""#, "true", "[]"] {
        let send = format!(r#"["send",{{"room":"a","text":"hi","except":{strange}}}]"#);
        assert!(decoded_in("native", &send).unwrap_err().message.contains("except?"), "{strange}");
    }
    let request = native(r#"["join",{"room":"attic","after":{"epoch":"e","seq":3}}]"#).unwrap();
    let Request::Join { after, .. } = request else { panic!("a join") };
    assert_eq!(after, Some(Position { epoch: Epoch::new("e"), seq: 3 }));
    assert!(native(r#"["leave","attic"]"#).unwrap_err().message.contains("takes {room}"));
    assert!(read_in("native", r#"["user-message",1]"#).is_none());
}

#[test]
fn what_is_said_of_a_message_names_its_position() {
    let native = |text: &str| decoded_in("native", text);
    let at = r#""room":"attic","epoch":"e","of":7"#;
    let emoji = Emoji::parse("+").unwrap();
    let react = |on| Change::React { emoji: emoji.clone(), on };
    for (name, rest, change) in [
        ("edit", r#","text":"a","id":"c""#, Change::Edit(Body::from_json(r#""a""#))),
        ("delete", r#","id":"c""#, Change::Delete),
        ("react", r#","emoji":" + ","on":true,"id":"c""#, react(true)),
        ("react", r#","emoji":"+","on":false,"id":"c""#, react(false)),
    ] {
        let request = native(&format!(r#"["{name}",{{{at}{rest}}}]"#)).unwrap();
        let change = NewChange {
            room: RoomName::parse("attic").unwrap(),
            epoch: Epoch::new("e"),
            target_seq: 7,
            change,
            id: MessageId::parse("c").unwrap(),
            repeatable: true,
        };
        assert_eq!(request, Request::Change(change));
        assert!(read_in("plain", &format!(r#"["{name}",{{{at}{rest}}}]"#)).is_none());
    }
    for wrong in ["edit", "react"] {
        let message = native(&format!(r#"["{wrong}",{{{at}}}]"#)).unwrap_err().message;
        assert!(message.contains(&format!("{wrong} takes {{room, epoch, of")), "{message}");
    }
    let long = format!(r#"["react",{{{at},"emoji":"{}","on":true}}]"#, "x".repeat(33));
    assert!(native(&long).unwrap_err().message.contains("longer than 32"));
}

#[test]
fn a_page_may_name_its_epoch() {
    let request =
        decoded(r#"["history",{"room":"lobby","after":{"epoch":"e1","seq":7}}]"#).unwrap();
    let Request::History(request) = request else { panic!("a read") };
    assert_eq!(request.epoch.as_ref().map(Epoch::as_str), Some("e1"));
    assert_eq!((request.page, request.limit), (Page::After(7), 50));
}

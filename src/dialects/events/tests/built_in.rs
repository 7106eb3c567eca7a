//! Every row of the built-in table: what an event leads to, and what clients hear.

use super::{
    super::table::Table, SOCKET, UUID, decided, decided_by, heard, in_words, profile, told,
};
use crate::domain::{
    reject::Code,
    request::{Delivery, NewMessage},
};

/// The event, what the session remembers, what is decided, and what others on the profile hear.
type Case = (&'static str, &'static str, Option<&'static str>, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("plain", r#"["user-message",{"a":[1,null]}]"#, None,
        r#"store in lobby: {"a":[1,null]}"#, r#"["message",{"a":[1,null]}]"#),
    ("plain", r#"["user-message","hi","general"]"#, None,
        r#"store in lobby: "hi""#, r#"["message","hi"]"#),
    ("plain", r#"["event:message",{"user":"ann","text":"hi"}]"#, None,
        r#"store in lobby: "hi""#, r#"["message","{\"user\":\"ann\",\"text\":\"hi\"}"]"#),
    ("plain", r#"["event:message","hi"]"#, None,
        r#"store in lobby: "hi""#, r#"["message","\"hi\""]"#),
    ("plain", r#"["chat message","hi","Zx_9-aaaaaaaaaaaaaaa-17"]"#, None,
        r#"store in lobby: "hi""#, r#"["chat message","hi"]"#),
    ("plain", r#"["join-room","attic"]"#, None, r#"join attic; ack "Joined attic""#, ""),
    ("plain", r#"["join-room",7]"#, None, r#"join 7; ack "Joined 7""#, ""),
    ("plain", r#"["join-room",{"roomId":"attic"}]"#, None, "join attic", ""),
    ("plain", r#"["join-room",{"room":"attic","name":"ann"}]"#, None, "join attic", ""),
    ("plain", r#"["send-message","hi","attic"]"#, None,
        r#"store in attic for others: "hi""#, r#"["receive-message","hi"]"#),
    ("plain", r#"["send-message","hi",""]"#, None,
        r#"store in lobby for others: "hi""#, r#"["receive-message","hi"]"#),
    ("plain", r#"["send-message",{"roomId":"attic","message":"hi"}]"#, None,
        r#"store in attic for others: "hi""#,
        r#"["receive-message",{"roomId":"attic","message":"hi"}]"#),
    ("plain", r#"["send-message",{"room":7,"text":"hi"}]"#, None,
        r#"store in 7 for others: "hi""#, r#"["receive-message",{"room":7,"text":"hi"}]"#),
    ("plain", r#"["join_room","attic"]"#, None, "join attic", ""),
    ("plain", r#"["join_room",{"roomid":"attic"}]"#, None, "join attic", ""),
    ("plain", r#"["join_room",{"roomId":0}]"#, None, "join 0", ""),
    ("plain", r#"["join_room",{"room":"attic","username":"ann"}]"#, None, "join attic", ""),
    ("plain", r#"["leave_room","attic"]"#, None, "leave attic", ""),
    ("plain", r#"["leave_room",{"roomid":"attic"}]"#, None, "leave attic", ""),
    ("plain", r#"["leave_room",{"roomId":"attic"}]"#, None, "leave attic", ""),
    ("plain", r#"["leave_room",{"room":"attic"}]"#, None, "leave attic", ""),
    ("plain", r#"["send_message",{"room":"attic","author":"ann","message":"hi"}]"#, None,
        r#"store in attic for others: "hi""#,
        r#"["receive_message",{"room":"attic","author":"ann","message":"hi"}]"#),
    ("plain", r#"["send_message",{"room":"a","username":"u","message":"hi","__createdtime__":1}]"#,
        None, r#"store in a: "hi""#,
        r#"["receive_message",{"room":"a","username":"u","message":"hi","__createdtime__":1}]"#),
    ("plain", r#"["send_message",{"roomId":"attic","content":"hi"}]"#, None,
        r#"store in attic for others: "hi""#,
        r#"["receive_message",{"roomId":"attic","content":"hi"}]"#),
    ("plain", r#"["msg_send",{"roomid":"attic","msg":"hi"}]"#, None,
        r#"store in attic: "hi""#, r#"["msg_rcvd",{"roomid":"attic","msg":"hi"}]"#),
    ("plain", r#"["msg_send",{"msg":"hi"}]"#, None,
        r#"store in lobby: "hi""#, r#"["msg_rcvd",{"msg":"hi"}]"#),
    ("plain", r#"["typing",{"roomid":"attic"}]"#, None,
        "pass on in attic for others", r#"["someone_typing"]"#),
    ("plain", r#"["typing",{"roomId":"attic","isTyping":true}]"#, None,
        "pass on in attic for others", r#"["typing",{"roomId":"attic","isTyping":true}]"#),
    ("plain", r#"["typing",{"room":"attic"}]"#, None,
        "pass on in attic for others", r#"["typing",{"room":"attic"}]"#),
    ("plain", r#"["typing","ann",true]"#, None,
        "pass on in lobby for others", r#"["typing","ann",true]"#),
    ("plain", r#"["message",{"room":"attic","message":"hi"}]"#, None, r#"store in attic: "hi""#,
        r#"["receive-message","hi"] ["received-message","hi"]"#),
    ("plain", r#"["message",{"room":"3f29b05d640dc64c6fb5ed7089238fb7","message":"hi"}]"#, None,
        r#"store in connection 3f29b05d640dc64c6fb5ed7089238fb7: "hi""#,
        r#"["receive-message","hi"] ["received-message","hi"]"#),
    ("plain", r#"["message","hi"]"#, None, r#"store in lobby: "hi""#, r#"["message","hi"]"#),
    ("plain", r#"["private message",{"content":"hi","to":"3f29b05d640dc64c6fb5ed7089238fb7"}]"#,
        None, r#"store in connection 3f29b05d640dc64c6fb5ed7089238fb7 for others: "hi""#,
        r#"["private message",{"content":"hi","to":"3f29b05d640dc64c6fb5ed7089238fb7"}]"#),
    ("plain", r#"["private-message",{"to":"bob","message":"hi"}]"#, None,
        r#"store in user bob: "hi""#, r#"["private-message",{"to":"bob","message":"hi"}]"#),
    ("plain", r#"["joinRoom",{"username":"ann","room":"attic"}]"#, None,
        r#"me {"username":"ann","room":"attic"}; join attic"#, ""),
    ("plain", r#"["joinRoom",{"roomId":"attic"}]"#, None, r#"me {"roomId":"attic"}; join attic"#, ""),
    ("plain", r#"["joinRoom","attic"]"#, None, "join attic", ""),
    ("plain", r#"["leaveRoom",{"room":"attic"}]"#, None, "leave attic", ""),
    ("plain", r#"["leaveRoom",{"roomId":"attic"}]"#, None, "leave attic", ""),
    ("plain", r#"["leaveRoom","attic"]"#, None, "leave attic", ""),
    ("plain", r#"["chatMessage","hi"]"#, Some(r#"{"username":"ann","room":"attic"}"#),
        r#"store in attic: "hi""#, r#"["message",{"text":"hi","time":1795,"username":"ann"}]"#),
    ("plain", r#"["chatMessage",{"roomId":"attic","message":"hi"}]"#, None,
        r#"store in attic: "hi""#, r#"["chatMessage",{"roomId":"attic","message":"hi"}]"#),
    ("plain", r#"["new-user","ann"]"#, None,
        r#"me {"name":"ann"}; pass on in lobby for others"#, r#"["user-connected","ann"]"#),
    ("plain", r#"["new-user","attic","ann"]"#, None,
        r#"me {"name":"ann"}; join attic; pass on in attic for others"#,
        r#"["user-connected","ann"]"#),
    ("plain", r#"["send-chat-message","hi"]"#, Some(r#"{"name":"ann"}"#),
        r#"store in lobby for others: "hi""#, r#"["chat-message",{"message":"hi","name":"ann"}]"#),
    ("plain", r#"["send-chat-message","attic","hi"]"#, Some(r#"{"name":"ann"}"#),
        r#"store in attic for others: "hi""#, r#"["chat-message",{"message":"hi","name":"ann"}]"#),
    ("turbo", r#"["event:message",{"message":"hi"}]"#, None,
        r#"store in lobby: "hi""#, r#"["message","{\"message\":\"hi\"}"]"#),
    ("basics", r#"["fromClient"]"#, None, "", ""),
];

#[test]
fn every_row_does_what_its_frontend_expects() {
    for (name, packet, me, decided, told) in CASES {
        let profile = profile("", name);
        let request = decided_by(&profile, packet, *me).expect(packet).expect(packet);
        assert_eq!(in_words(&request), *decided, "{packet}");
        assert_eq!(heard(&profile, &profile, packet, *me), *told, "{packet}");
    }
}

#[test]
fn every_row_has_a_case() {
    for profile in Table::builtin().profiles() {
        for (event, rows) in &profile.on {
            let start = format!("[\"{event}\"");
            let cases = CASES
                .iter()
                .filter(|(name, packet, ..)| *name == profile.name() && packet.starts_with(&start));
            assert!(cases.count() >= rows.len().min(3), "{} {event}", profile.name());
        }
    }
}

#[test]
fn a_private_message_never_becomes_public() {
    let plain = profile("", "plain");
    for packet in [
        r#"["message",{"room":"","message":"hi"}]"#,
        r#"["message",{"room":null,"message":"hi"}]"#,
        r#"["send_message",{"message":"hi"}]"#,
        r#"["send_message",{"room":" ","message":"hi"}]"#,
        r#"["send_message",{"room":{},"message":"hi"}]"#,
        r#"["private message",{"content":"hi"}]"#,
        r#"["private-message","hi","bob"]"#,
        r#"["chatMessage","hi"]"#,
        r#"["join_room",{"name":"ann"}]"#,
        r#"["join-room"]"#,
        r#"["leave_room",true]"#,
        r#"["join_room","a\u0000b"]"#,
    ] {
        let reject = decided_by(&plain, packet, None).unwrap().unwrap_err();
        assert_eq!(reject.code, Code::BadRequest, "{packet}: {}", reject.message);
    }
    let reject = decided_by(&plain, r#"["typing"]"#, None).unwrap().unwrap_err();
    assert!(reject.message.contains("$1.roomid or $1.roomId"), "{}", reject.message);
    assert!(decided_by(&plain, r#"["dance"]"#, None).is_none());
}

#[test]
fn an_id_counts_if_it_cannot_be_anything_else_and_the_client_waits_for_an_ack() {
    let plain = profile("", "plain");
    let stored = |packet: &str, wants_ack| match decided(&plain, packet, None, wants_ack)
        .unwrap()
        .unwrap()
        .delivery
    {
        Some(Delivery::Store(message)) => message,
        other => panic!("{other:?}"),
    };
    for event in ["user-message", "chat message"] {
        for id in [UUID, SOCKET, &format!("{SOCKET}-3")] {
            let packet = format!(r#"["{event}","hi","{id}"]"#);
            let message = stored(&packet, true);
            assert_eq!((message.id.as_str(), message.repeatable), (id, true));
            let message = stored(&packet, false);
            assert_eq!((message.id.as_str(), message.repeatable), ("fresh", false));
        }
        for argument in [r#""general""#, r#""""#, "7", "null", r#"{"id":1}"#, "1e400"] {
            let message = stored(&format!(r#"["{event}","hi",{argument}]"#), true);
            assert_eq!((message.id.as_str(), message.repeatable), ("fresh", false), "{argument}");
        }
    }
}

#[test]
fn a_classic_message_is_its_body_and_nothing_more() {
    let plain = profile("", "plain");
    for body in [r#""hi""#, "null", "1e400", r#"{"b":1,"a":"x"}"#] {
        let packet = format!(r#"["user-message",{body},"{UUID}",7]"#);
        let request = decided_by(&plain, &packet, Some(r#"{"name":"ann"}"#)).unwrap().unwrap();
        let Some(Delivery::Store(NewMessage { body: stored, source, members_only, .. })) =
            request.delivery
        else {
            panic!("a message")
        };
        assert_eq!((stored.as_json(), source, members_only), (body, None, false));
        assert_eq!(told(&plain, body, None), format!(r#"["message",{body}]"#));
    }
    let turbo = profile("", "turbo");
    assert_eq!(told(&turbo, r#"{"text":"a"}"#, None), r#"["message","{\"message\":\"a\"}"]"#);
}

#[test]
fn other_profiles_hear_a_message_as_their_say_says() {
    let (plain, turbo) = (profile("", "plain"), profile("", "turbo"));
    let sent = r#"["send_message",{"room":"attic","message":"hi"}]"#;
    assert_eq!(heard(&plain, &turbo, sent, None), r#"["message","{\"message\":\"hi\"}"]"#);
    let sent = r#"["event:message",{"message":"hi"}]"#;
    assert_eq!(heard(&turbo, &plain, sent, None), r#"["message","hi"]"#);
    let typing = r#"["typing",{"roomid":"attic"}]"#;
    assert_eq!(heard(&plain, &turbo, typing, None), "", "what is passed on stays in its profile");
}

#[test]
fn the_built_in_profiles_greet_and_tick() {
    let basics = profile("", "basics");
    assert_eq!(super::as_json(&basics.hello()), r#"["welcome","Welcome to the server"]"#);
    let every: Vec<_> = basics.every().collect();
    assert_eq!(every.len(), 1);
    assert_eq!(every[0].0.as_millis(), 2_000);
    assert_eq!(super::as_json(&[every[0].1.clone()]), r#"["fromServer"]"#);
    let table = Table::builtin();
    let names: Vec<_> = table.profiles().map(|profile| profile.name().to_owned()).collect();
    assert_eq!(names, ["plain", "basics", "turbo"]);
    assert_eq!(table.namespaces(), ["/user"]);
}

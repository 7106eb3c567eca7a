//! Engine.IO 4: handshake, packets over both transports, close and upgrade.

use serde_json::{Value, json};

use super::{PING_INTERVAL, PING_TIMEOUT, Poller, Raw, node, path};
use crate::harness::http;

const BAD_REQUEST: &str = r#"{"code":3,"message":"Bad request"}"#;
const UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

fn assert_handshake(handshake: &Value, upgrades: &Value) {
    let mut keys: Vec<&str> =
        handshake.as_object().expect("an object").keys().map(|key| &**key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]);
    assert!(handshake["sid"].as_str().is_some_and(|sid| sid.len() >= 16), "{handshake}");
    assert_eq!(&handshake["upgrades"], upgrades);
    let millis = |time: std::time::Duration| {
        Value::from(u64::try_from(time.as_millis()).expect("milliseconds"))
    };
    assert_eq!(handshake["pingInterval"], millis(PING_INTERVAL));
    assert_eq!(handshake["pingTimeout"], millis(PING_TIMEOUT));
    assert_eq!(handshake["maxPayload"], json!(1_000_000));
}

#[tokio::test]
async fn a_polling_handshake_has_the_fields_of_the_protocol() {
    let node = node().await;
    assert_handshake(&Poller::open(&node).await.handshake, &json!(["websocket"]));
}

#[tokio::test]
async fn a_websocket_handshake_has_the_fields_of_the_protocol() {
    let node = node().await;
    let open = Raw::open(&node, None).await.next().await;
    let open = open.strip_prefix('0').expect("an open packet");
    assert_handshake(&serde_json::from_str(open).expect("JSON"), &json!([]));
}

/// The bodies of the messages in some packets, in their order.
fn bodies(packets: &str) -> Vec<Value> {
    let arrays = packets.split('\x1e').filter_map(|packet| packet.strip_prefix("42"));
    let events = arrays.map(|array| serde_json::from_str::<Value>(array).expect("an event"));
    events.filter(|event| event[0] == "message").map(|event| event[1].clone()).collect()
}

/// What the polls of a session bring, until there are so many messages.
async fn poll_messages(poller: &Poller, count: usize) -> Vec<Value> {
    let mut came = Vec::new();
    while came.len() < count {
        let answer = poller.poll().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        if answer.text() == "2" {
            poller.post("3").await;
        }
        came.extend(bodies(&answer.text()));
    }
    came
}

#[tokio::test]
async fn a_packet_in_a_post_is_taken_and_its_answer_is_in_a_poll() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    poller.post("40").await;
    assert!(poller.poll().await.text().starts_with("40{"), "it is in the namespace");
    let answer = poller.post(r#"42["user-message","one"]"#).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(poll_messages(&poller, 1).await, [json!("one")]);
}

#[tokio::test]
async fn several_packets_in_a_post_are_taken_in_their_order() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    poller.post("40").await;
    assert!(poller.poll().await.text().starts_with("40{"), "it is in the namespace");
    let packets = [1, 2, 3].map(|n| format!(r#"42["user-message",{n}]"#)).join("\x1e");
    let answer = poller.post(&packets).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(poll_messages(&poller, 3).await, [json!(1), json!(2), json!(3)]);
}

#[tokio::test]
async fn a_post_that_is_no_packet_ends_the_session() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let answer = poller.post("abc").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, BAD_REQUEST));
    let answer = poller.poll().await;
    assert_eq!((answer.status, answer.text().as_str()), (400, UNKNOWN));
}

#[tokio::test]
async fn a_second_poll_at_once_ends_the_session() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let second = async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        poller.poll().await
    };
    let (first, second) = tokio::join!(poller.poll(), second);
    assert_eq!((first.status, first.text().as_str()), (200, "1"));
    assert_eq!((second.status, second.text().as_str()), (400, BAD_REQUEST));
    assert_eq!(poller.poll().await.text(), UNKNOWN);
}

#[tokio::test]
async fn a_packet_on_a_websocket_is_taken_and_answered() {
    let node = node().await;
    let mut raw = Raw::connected(&node).await;
    raw.send(r#"42["user-message","hello"]"#).await;
    assert_eq!(bodies(&raw.next_but_pings().await), [json!("hello")]);
}

#[tokio::test]
async fn text_that_is_no_packet_ends_the_websocket() {
    let node = node().await;
    for packet in ["abc", "", "7"] {
        let mut raw = Raw::opened(&node).await;
        raw.send(packet).await;
        let came = raw.until_closed().await;
        assert!(came.iter().all(|packet| packet == "1"), "{packet}: {came:?}");
    }
}

#[tokio::test]
async fn a_close_packet_ends_the_session_and_the_poll_that_waits() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let (polled, _posted) = tokio::join!(poller.poll(), async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        poller.post("1").await
    });
    assert_eq!((polled.status, polled.text().as_str()), (200, "6"));
    assert_eq!(poller.poll().await.text(), UNKNOWN);
}

#[tokio::test]
async fn a_close_packet_ends_the_websocket() {
    let node = node().await;
    let mut raw = Raw::opened(&node).await;
    raw.send("1").await;
    assert_eq!(raw.until_closed().await, Vec::<String>::new());
}

/// A websocket to which the session has moved.
async fn upgraded(node: &crate::harness::node::Node, poller: &Poller) -> Raw {
    let mut raw = Raw::open(node, Some(&poller.sid)).await;
    raw.send("2probe").await;
    assert_eq!(raw.next().await, "3probe");
    raw.send("5").await;
    raw.send("40").await;
    let reply = raw.next_but_pings().await;
    assert!(reply.starts_with("40{"), "{reply}");
    raw
}

async fn assert_serves(raw: &mut Raw) {
    raw.send(r#"42["user-message","still"]"#).await;
    assert_eq!(bodies(&raw.next_but_pings().await), [json!("still")]);
}

#[tokio::test]
async fn a_session_moves_to_a_websocket_and_its_poll_ends_with_a_noop() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let mut raw = Raw::open(&node, Some(&poller.sid)).await;
    raw.send("2probe").await;
    assert_eq!(raw.next().await, "3probe");
    let polled = poller.poll().await;
    assert_eq!((polled.status, polled.text().as_str()), (200, "6"));
    raw.send("5").await;
    raw.send("40").await;
    assert!(raw.next_but_pings().await.starts_with("40{"));
    assert_serves(&mut raw).await;
}

#[tokio::test]
async fn a_poll_after_the_upgrade_is_refused_and_the_websocket_lives() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let mut raw = upgraded(&node, &poller).await;
    let polled = http::get(node.address, &path(Some(&poller.sid)), &[]).await;
    assert_eq!((polled.status, polled.text().as_str()), (400, BAD_REQUEST));
    assert_serves(&mut raw).await;
}

#[tokio::test]
async fn a_second_websocket_of_a_session_ends_and_the_first_lives() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let mut raw = upgraded(&node, &poller).await;
    let mut second = Raw::open(&node, Some(&poller.sid)).await;
    assert_eq!(second.until_closed().await, Vec::<String>::new());
    assert_serves(&mut raw).await;
}

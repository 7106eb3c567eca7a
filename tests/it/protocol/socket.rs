//! Socket.IO 5: the main namespace, events and acks.

use serde_json::{Value, json};

use super::{Raw, node};

#[tokio::test]
async fn the_main_namespace_answers_with_a_public_id_whatever_the_payload() {
    let node = node().await;
    for connect in ["40", "40{}", r#"40{"token":"123"}"#, r#"40{"mine":[1]}"#] {
        let mut raw = Raw::opened(&node).await;
        raw.send(connect).await;
        let reply = raw.next().await;
        let reply = reply.strip_prefix("40").unwrap_or_else(|| panic!("{connect}: {reply}"));
        let reply: Value = serde_json::from_str(reply).expect("JSON");
        assert!(reply["sid"].is_string(), "{connect}: {reply}");
    }
}

#[tokio::test]
async fn a_client_that_never_connects_is_closed() {
    let node = node().await;
    let mut raw = Raw::opened(&node).await;
    while let Some(packet) = raw.next_or_end().await {
        match packet.as_str() {
            "2" => raw.send("3").await,
            other => assert_eq!(other, "1"),
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_the_namespace_keeps_its_connection() {
    let node = node().await;
    let mut raw = Raw::connected(&node).await;
    raw.send("41").await;
    assert_eq!(raw.next().await, "2");
    raw.send("3").await;
    raw.send("40").await;
    assert!(raw.next_but_pings().await.starts_with("40{"), "it may connect again");
}

#[tokio::test]
async fn an_event_comes_back_with_its_argument_as_it_was() {
    let node = node().await;
    let mut raw = Raw::connected(&node).await;
    raw.send(r#"42["user-message",{"3":[true],"z":"2"}]"#).await;
    let event = raw.next_but_pings().await;
    assert!(event.starts_with(r#"42["message",{"3":[true],"z":"2"},""#), "{event}");
}

#[tokio::test]
async fn an_event_with_an_ack_number_is_acked_with_that_number() {
    let node = node().await;
    let mut raw = Raw::connected(&node).await;
    raw.send(r#"42456["user-message","x"]"#).await;
    let mut packets = [raw.next_but_pings().await, raw.next_but_pings().await];
    packets.sort();
    assert!(packets[0].starts_with(r#"42["message","x","#), "{packets:?}");
    let ack = packets[1].strip_prefix("43456").expect("an ack of this number");
    let ack: Value = serde_json::from_str(ack).expect("JSON");
    assert_eq!(ack[0]["ok"], json!(true), "{ack}");
}

#[tokio::test]
async fn a_packet_that_is_no_connect_ends_a_fresh_connection() {
    let node = node().await;
    for packet in ["4abc", "4", "49"] {
        let mut raw = Raw::opened(&node).await;
        raw.send(packet).await;
        assert!(raw.until_closed().await.len() <= 1, "{packet}");
    }
}

#[tokio::test]
async fn a_malformed_packet_ends_the_connection() {
    let node = node().await;
    for packet in ["4abc", "42{}", r#"42abc["user-message",1]"#, "42[]x", "4"] {
        let mut raw = Raw::connected(&node).await;
        raw.send(packet).await;
        let came = raw.until_closed().await;
        assert!(came.iter().all(|packet| packet == "1"), "{packet}: {came:?}");
    }
}

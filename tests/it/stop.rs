//! The command line and the end: what a wrong flag says, and how a node stops.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Transport},
    client_io::Closed,
    eventually,
    http::{self, Http},
    node::Node,
    packet,
};

const VERSION: &str = concat!("roomcast ", env!("CARGO_PKG_VERSION"));

#[tokio::test]
async fn a_wrong_value_is_one_line_and_exit_64() {
    for (args, said) in [
        (&["--listen", "nonsense"][..], &["--listen", "nonsense"][..]),
        (&["--ping-interval", "soon"], &["--ping-interval", "soon", "25s"]),
        (&["--message-bytes-max", "much"], &["--message-bytes-max", "much", "32KiB"]),
        (&["--log-format", "xml"], &["--log-format", "xml", "json"]),
        (&["--transports", "pigeon"], &["--transports", "pigeon", "polling", "websocket"]),
        (&["--partitions", "0"], &["--partitions", "0", "64"]),
        (&["--cors-origin", "here"], &["--cors-origin", "here", "https://"]),
        (&["--redis", "http://user:s3cret@db"], &["--redis", "redis://"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        let (code, lines) = Node::run(args, &[]).await;
        assert_eq!((code, lines.len()), (64, 1), "{args:?}: {lines:?}");
        for word in said {
            assert!(lines[0].contains(word), "{args:?}: no {word} in {}", lines[0]);
        }
        assert!(!lines[0].contains("s3cret"), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_wrong_variable_is_one_line_and_exit_64() {
    let (code, lines) = Node::run(&[], &[("ROOMCAST_HISTORY_MAX", "zero")]).await;
    assert_eq!((code, lines.len()), (64, 1), "{lines:?}");
    assert!(lines[0].contains("--history-max") && lines[0].contains("zero"), "{}", lines[0]);
}

#[tokio::test]
async fn the_rule_table_is_printed_and_a_file_with_rules_is_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let fine = file("fine.toml", "[on]\nshout = { out = [\"shout\", \"$1!\"] }\n");
    let wrong =
        file("wrong.toml", "[on]\na = { otu = [\"a\"] }\nb = { out = [\"b\", \"$mee\"] }\n");

    let (code, lines) = Node::run(&["events"], &[]).await;
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("\"user-message\" = ")), "{lines:?}");
    let (code, lines) = Node::run(&["events"], &[("ROOMCAST_EVENTS", &fine)]).await;
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines.contains(&"\"shout\" = { out = [\"shout\", \"$1!\"] }".to_owned()), "{lines:?}");
    let printed = file("printed.toml", &lines.join("\n"));
    let (code, again) = Node::run(&["events", "--events", &printed], &[]).await;
    assert_eq!((code, again), (0, lines));

    let (code, lines) = Node::run(&["events", "check", &fine], &[]).await;
    assert_eq!((code, lines.len()), (0, 1), "{lines:?}");
    assert!(
        lines[0].starts_with(&format!("{fine}: ")) && lines[0].ends_with(": fine"),
        "{lines:?}"
    );
    let (code, lines) = Node::run(&["events", "check", &wrong], &[]).await;
    let starts = [format!("{wrong}:2: "), format!("{wrong}:3: ")];
    assert_eq!((code, lines.len()), (1, 2), "{lines:?}");
    assert!(lines.iter().zip(&starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
    assert!(lines[0].ends_with("did you mean `out`?"), "{lines:?}");
    for args in [&["events", "--events", &wrong][..], &["--profile", "trubo", "events"]] {
        let (code, lines) = Node::run(args, &[]).await;
        assert_eq!(code, 64, "{args:?}: {lines:?}");
    }
    let (code, lines) = Node::run(&["events", "check", "absent.toml"], &[]).await;
    assert_eq!((code, lines.len()), (1, 1), "{lines:?}");
}

#[tokio::test]
async fn an_address_in_use_is_one_line_and_exit_1() {
    let node = Node::memory().await;
    let address = node.address.to_string();
    let (code, lines) = Node::run(&["--listen", &address, "--data", "memory"], &[]).await;
    assert_eq!(code, 1, "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains(&address)), "{lines:?}");
}

#[tokio::test]
async fn help_and_version_are_told() {
    for flag in ["--version", "-V"] {
        assert_eq!(Node::run(&[flag], &[]).await, (0, vec![VERSION.to_owned()]));
    }
    let (code, lines) = Node::run(&["--help"], &[]).await;
    assert_eq!(code, 0);
    let help = lines.join("\n");
    for word in [
        "Serving",
        "Storage",
        "Limits",
        "Logging",
        "--listen",
        "--redis",
        "--data",
        "--cors-origin",
        "--log",
        "--log-format",
        "--ping-interval",
        "--ping-timeout",
        "--transports",
        "--message-bytes-max",
        "--redis-prefix",
        "ROOMCAST_REDIS",
        "REDIS_URL",
        "0.0.0.0:9000",
    ] {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
    let widest = lines.iter().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?} columns");
}

/// Told once to stop, a node is not ready and takes no one, whether it still answers or not.
async fn assert_closing(node: &Node) {
    eventually("the node is not ready", PATIENCE, async || {
        match http::request(node.address, "GET", "/readyz", &[]).await {
            Ok(answer) => (answer.status == 503).then_some(()),
            Err(_refused) => Some(()),
        }
    })
    .await;
    for transport in Transport::ALL {
        let answer = Client::connect(node.address, Options::new(transport)).await;
        assert!(answer.is_err(), "a stopping node took a client on {transport:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_closes_transports_and_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Node::memory().await;
        let mut clients = Vec::new();
        for transport in Transport::ALL {
            clients.push(Client::connected(node.address, Options::new(transport)).await);
        }
        node.signal(signal);
        assert_closing(&node).await;
        for client in &clients {
            client.closed(PATIENCE).await;
            // After a DISCONNECT packet an official client would not come back by itself.
            assert!(!client.is_disconnected(), "the namespace was taken away");
        }
        let (code, took) = node.exit_code(PATIENCE).await;
        assert_eq!(code, 0, "{signal:?}");
        assert!(took < Duration::from_secs(5), "nothing was under way, but it took {took:?}");
    }
}

#[tokio::test]
async fn a_node_that_stops_acks_stored_messages_before_it_closes() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("a path of text");
    let mut node = Node::start(&["--data", data]).await;
    let client = Client::connected(node.address, Options::new(Transport::WebSocket)).await;
    let (mut packets, mut answers) = (Vec::new(), Vec::new());
    for n in 0..3_000 {
        let (id, answer) = client.expect_ack();
        packets.push(packet::event("user-message", &[n.into()], Some(id)));
        answers.push(answer);
    }
    client.burst(packets).await;
    client.next("message").await;
    node.signal(Signal::TERM);
    let mut acked = 0_u64;
    for answer in answers {
        acked += u64::from(answer.await.is_ok_and(|args| args[0]["ok"] == true));
    }
    assert_eq!(node.exit_code(PATIENCE).await.0, 0);
    node.restart().await;
    let client = Client::connected(node.address, Options::new(Transport::WebSocket)).await;
    let log = client.request("history", &[json!({ "room": "lobby", "limit": 1 })]).await;
    assert_eq!(log["seq"], json!(acked), "every stored message was acked");
}

/// A request whose body never comes: the node waits for it as long as it may.
async fn endless_request(node: &Node) -> (Client, Http) {
    let client = Client::connected(node.address, Options::new(Transport::Polling)).await;
    let mut http = Http::open(node.address).await.expect("the node accepts");
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", client.sid);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n42[");
    http.write(head.as_bytes()).await.expect("the node reads");
    // The node has taken it when a later request on another connection is answered.
    client.request("user-message", &["taken".into()]).await;
    (client, http)
}

#[tokio::test]
async fn a_stop_ends_at_the_deadline() {
    let mut node = Node::start(&["--data", "memory", "--stop-deadline", "1s"]).await;
    let (client, _endless) = endless_request(&node).await;
    node.signal(Signal::TERM);
    let (code, took) = node.exit_code(PATIENCE).await;
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(4), "{took:?} with a deadline of 1 s");
    assert!(matches!(
        client.closed(PATIENCE).await,
        Closed::Status(_) | Closed::Lost(_) | Closed::Packet
    ));
}

#[tokio::test]
async fn a_second_signal_exits_at_once() {
    let mut node = Node::start(&["--data", "memory", "--stop-deadline", "60s"]).await;
    let (_client, _endless) = endless_request(&node).await;
    node.signal(Signal::TERM);
    assert_closing(&node).await;
    node.signal(Signal::TERM);
    let (_code, took) = node.exit_code(PATIENCE).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

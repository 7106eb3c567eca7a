//! A node that has as many sessions, or connections, as it may have.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Transport},
    eventually,
    http::{self, Http, Response},
    node::Node,
};

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";
const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

async fn node(sessions_max: &str) -> Node {
    let node = Node::start(&["--data", "memory", "--connections-max", sessions_max]).await;
    node.wait_ready(PATIENCE).await;
    node
}

async fn client(node: &Node, transport: Transport) -> Client {
    Client::connected(node.address, Options::new(transport)).await
}

fn assert_full(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    let seconds = answer.header("retry-after").and_then(|after| after.parse().ok());
    assert!(seconds.is_some_and(|seconds: u64| (1..=60).contains(&seconds)), "{answer:?}");
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let message = body["message"].as_str().expect("a message");
    assert!(message.contains("--connections-max"), "{message}");
}

async fn assert_full_for_all(node: &Node) {
    assert_full(&http::get(node.address, POLLING, &[]).await);
    assert_full(&http::get(node.address, WEBSOCKET, &UPGRADE).await);
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(node.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_full_node_refuses_sessions_with_503_and_its_health_still_answers() {
    let node = node("3").await;
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        clients.push(client(&node, transport).await);
    }
    for _ in 0..3 {
        assert_full_for_all(&node).await;
    }
    // The clients that are there are served.
    for client in &clients {
        let ack = client.request("user-message", &[json!("x")]).await;
        assert_eq!(ack["ok"], json!(true));
    }
    // Each of them gives its place back, whatever its transport.
    for transport in Transport::ALL {
        let leaving = clients.remove(0);
        leaving.send_raw("1").await;
        leaving.closed(PATIENCE).await;
        let options = || Options::new(transport);
        let what = format!("a place is free, {transport:?}");
        let next = eventually(&what, PATIENCE, async || {
            Client::connect(node.address, options()).await.ok()
        });
        clients.push(next.await);
        assert_full_for_all(&node).await;
    }
    let told = eventually("the operator is told", PATIENCE, async || {
        Some(node.logs("refused clients")).filter(|told| !told.is_empty())
    });
    assert_eq!(told.await.len(), 1, "once a minute");
}

#[tokio::test]
async fn an_upgrade_is_no_other_session() {
    let node = node("1").await;
    let upgraded = client(&node, Transport::Upgrade).await;
    assert_full_for_all(&node).await;
    let ack = upgraded.request("user-message", &[json!("x")]).await;
    assert_eq!(ack["ok"], json!(true));
}

#[tokio::test]
async fn a_handshake_that_is_wrong_takes_no_place() {
    let node = node("1").await;
    for _ in 0..3 {
        let refused = http::get(node.address, "/socket.io/?EIO=3&transport=polling", &[]).await;
        assert_eq!(refused.status, 400);
        let half = http::get(node.address, WEBSOCKET, &UPGRADE[..2]).await;
        assert_eq!(half.status, 400);
    }
    client(&node, Transport::WebSocket).await;
}

#[tokio::test]
async fn above_the_bound_of_connections_health_and_a_refusal_are_served() {
    let node = node("2").await;
    let mut idle = Vec::new();
    for _ in 0..2 * 3 {
        let mut http = Http::open(node.address).await.expect("the node accepts");
        http.request("GET", "/healthz", &[], b"").await.expect("it is served");
        idle.push(http);
    }
    assert_full(&http::get(node.address, POLLING, &[]).await);
    assert_full(&http::get(node.address, "/", &[]).await);
    for _ in 0..3 {
        assert_eq!(node.get("/healthz").await.status, 200);
        assert_eq!(node.get("/readyz").await.status, 200);
    }
    // Of these there are 256, and then connections are only closed.
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(TcpStream::connect(node.address).await.expect("the kernel accepts"));
    }
    let closed = http::request(node.address, "GET", "/healthz", &[]).await;
    assert!(closed.is_err(), "{closed:?}");
    // They may not stay silent for long.
    let served = async || http::request(node.address, "GET", "/healthz", &[]).await.ok();
    eventually("places are free again", Duration::from_secs(20), served).await;
    drop((idle, silent));
    let served = async || {
        let answer = http::request(node.address, "GET", POLLING, &[]).await;
        answer.ok().filter(|answer| answer.status == 200)
    };
    eventually("all is served again", PATIENCE, served).await;
}

//! The protocols of Engine.IO 4 and Socket.IO 5, as their official test suites have them, in raw
//! packets. `tests/protocol-suite.toml` says which test stands for which official case.

mod engine;
mod heartbeat;
mod listed;
mod namespaces;
mod poll;
mod socket;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    PATIENCE,
    client::{self, Options, Refusal, Transport},
    client_io::WebSocket,
    http::{self, Http, Response},
    node::Node,
};

const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(200);

/// A node with the timings that the official suites ask for.
async fn node() -> Node {
    let pings = ["--ping-interval", "300ms", "--ping-timeout", "200ms"];
    Node::start(&[&["--data", "memory", "--transport-bytes-max", "1000000"], &pings[..]].concat())
        .await
}

/// A session that polls, request by request.
struct Poller {
    node: std::net::SocketAddr,
    sid: String,
    handshake: Value,
}

impl Poller {
    async fn open(node: &Node) -> Self {
        let open = http::get(node.address, &path(None), &[]).await.text();
        let handshake: Value =
            serde_json::from_str(open.strip_prefix('0').expect("an open packet"))
                .expect("a handshake is JSON");
        let sid = handshake["sid"].as_str().expect("a sid").to_owned();
        Self { node: node.address, sid, handshake }
    }

    async fn poll(&self) -> Response {
        let path = path(Some(&self.sid));
        let polled = http::get(self.node, &path, &[]);
        timeout(PATIENCE, polled).await.expect("a poll is answered in time")
    }

    async fn post(&self, body: &str) -> Response {
        let mut http = Http::open(self.node).await.expect("the node accepts");
        let posted = http.request("POST", &path(Some(&self.sid)), &[], body.as_bytes()).await;
        posted.expect("a POST is answered")
    }
}

fn path(sid: Option<&str>) -> String {
    Options::new(Transport::Polling).path("polling", sid)
}

/// A websocket whose packets the test reads and answers itself.
struct Raw(WebSocket);

impl Raw {
    async fn open(node: &Node, sid: Option<&str>) -> Self {
        Self::try_open(node, sid).await.expect("the node takes a websocket")
    }

    async fn try_open(node: &Node, sid: Option<&str>) -> Result<Self, Refusal> {
        let options = Options::new(Transport::WebSocket);
        client::websocket(node.address, &options, sid).await.map(|(websocket, _)| Self(websocket))
    }

    /// Has its handshake behind it.
    async fn opened(node: &Node) -> Self {
        let mut raw = Self::open(node, None).await;
        assert!(raw.next().await.starts_with("0{"), "an open packet comes first");
        raw
    }

    /// Is in the main namespace.
    async fn connected(node: &Node) -> Self {
        let mut raw = Self::opened(node).await;
        raw.send("40").await;
        let reply = raw.next().await;
        assert!(reply.starts_with(r#"40{"sid":""#), "{reply}");
        raw
    }

    async fn send(&mut self, packet: &str) {
        self.0.send(Message::text(packet)).await.expect("the connection is open");
    }

    /// The next packet; panics when the connection ends instead.
    async fn next(&mut self) -> String {
        self.next_or_end().await.expect("the connection is open")
    }

    /// The next packet that is no ping.
    async fn next_but_pings(&mut self) -> String {
        for _ in 0..20 {
            match self.next().await {
                ping if ping == "2" => self.send("3").await,
                packet => return packet,
            }
        }
        panic!("nothing but pings came");
    }

    /// `None`: the connection has ended.
    async fn next_or_end(&mut self) -> Option<String> {
        let next = timeout(PATIENCE, self.0.next()).await.expect("something in time");
        match next {
            Some(Ok(Message::Text(text))) => Some(text.as_str().to_owned()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => None,
            Some(Ok(other)) => panic!("no text: {other:?}"),
        }
    }

    /// Waits until the connection has ended; answers what came until then.
    async fn until_closed(&mut self) -> Vec<String> {
        let mut packets = Vec::new();
        while let Some(packet) = self.next_or_end().await {
            packets.push(packet);
        }
        packets
    }
}

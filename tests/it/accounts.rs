//! Accounts over the wire: REST as the frontends with accounts use it, and their sockets.

mod rest;
mod sockets;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    chat::two_nodes,
    client::{Client, Options, Transport},
    eventually,
    http::{Http, Response},
    node::Node,
    packet::Event,
    redis::{Keeps, Redis},
};

const ON: [&str; 2] = ["--accounts", "on"];
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00 a picture";

/// One node that keeps nothing, and two that share a Redis.
struct Worlds {
    all: Vec<Vec<Node>>,
    _redis: Redis,
}

impl Worlds {
    async fn start() -> Self {
        let redis = Redis::start(Keeps::Nothing).await;
        let two = two_nodes(&redis, &ON).await.into();
        let one = vec![Node::start(&["--data", "memory", "--accounts", "on"]).await];
        Self { all: vec![one, two], _redis: redis }
    }
}

/// A browser of one account.
struct Browser {
    id: String,
    cookie: String,
}

impl Browser {
    async fn sign_up(node: &Node, name: &str) -> Self {
        let body = json!({
            "fullName": name,
            "email": format!("{name}@example.org"),
            "password": "secret1",
        });
        let answer = call(node, None, "POST", "/api/auth/signup", Some(&body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        Self {
            id: read(&answer)["_id"].as_str().expect("an id").to_owned(),
            cookie: cookie(&answer),
        }
    }

    async fn get(&self, node: &Node, path: &str) -> (u16, Value) {
        let answer = call(node, Some(&self.cookie), "GET", path, None).await;
        (answer.status, read(&answer))
    }

    async fn send(&self, node: &Node, to: &str, body: &Value) -> (u16, Value) {
        let path = format!("/api/messages/send/{to}");
        let answer = call(node, Some(&self.cookie), "POST", &path, Some(body)).await;
        (answer.status, read(&answer))
    }

    /// A socket that proves its account.
    async fn socket(&self, node: &Node) -> Client {
        self.socket_over(node, Transport::WebSocket).await
    }

    async fn socket_over(&self, node: &Node, transport: Transport) -> Client {
        let options = Options::new(transport).query("userId", &self.id);
        Client::connected(node.address, options.header("Cookie", &self.cookie)).await
    }
}

async fn call(
    node: &Node,
    cookie: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Response {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(cookie.map(|cookie| ("Cookie", cookie)));
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut http = Http::open(node.address).await.expect("loopback works");
    http.request(method, path, &headers, body.as_bytes()).await.expect("the server answers")
}

fn read(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

/// The cookie that an answer sets, as a browser sends it back.
fn cookie(answer: &Response) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    set.split(';').next().expect("a pair").to_owned()
}

fn data_url(kind: &str, file: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", STANDARD.encode(file))
}

/// Waits until a socket is told that exactly these accounts are online.
async fn online(socket: &Client, expected: &[&Browser]) {
    let mut expected: Vec<&str> = expected.iter().map(|one| one.id.as_str()).collect();
    expected.sort_unstable();
    loop {
        let event = socket.next("getOnlineUsers").await;
        let listed: Vec<&str> =
            event.arg(0).as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        if sorted == expected {
            return;
        }
    }
}

async fn hears_no_message(socket: &Client) {
    let heard = socket.try_next("newMessage", Duration::from_millis(300)).await;
    assert!(heard.is_none(), "{heard:?}");
}

fn first(event: &Event) -> Value {
    event.arg(0).clone()
}

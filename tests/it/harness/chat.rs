//! What a client of the chat does over the wire, and the nodes that it does this on.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    PATIENCE,
    client::{Client, Options, Transport},
    node::Node,
    packet::Event,
    redis::{Keeps, Redis},
};

pub fn native(transport: Transport) -> Options {
    Options::new(transport).query("dialect", "native")
}

pub fn with_token(token: &str) -> Options {
    native(Transport::WebSocket).auth(json!({ "token": token }))
}

pub async fn two_nodes(redis: &Redis, args: &[&str]) -> [Node; 2] {
    let url = redis.url();
    let args = [&["--redis", &url], args].concat();
    let nodes = [Node::start(&args).await, Node::start(&args).await];
    for node in &nodes {
        node.wait_ready(PATIENCE).await;
    }
    nodes
}

/// The nodes of a test: one, or two that share a Redis. Clients connect to them by turns.
pub struct World {
    pub nodes: Vec<Node>,
    _redis: Option<Redis>,
}

impl World {
    pub async fn both() -> [Self; 2] {
        let redis = Redis::start(Keeps::Nothing).await;
        let two = two_nodes(&redis, &[]).await.into();
        let one = vec![Node::memory().await];
        [Self { nodes: one, _redis: None }, Self { nodes: two, _redis: Some(redis) }]
    }

    /// Connects with this token to the node of this turn.
    pub async fn connect(&self, turn: usize, token: &str) -> Client {
        let node = &self.nodes[turn % self.nodes.len()];
        Client::connected(node.address, with_token(token)).await
    }
}

pub async fn plain(node: &Node, transport: Transport) -> Client {
    Client::connected(node.address, Options::new(transport)).await
}

pub async fn say(client: &Client, text: &str) -> Value {
    let ack = client.request("user-message", &[json!(text)]).await;
    assert_eq!(ack["ok"], json!(true), "{ack}");
    ack
}

/// Joins with what may be asked for.
pub async fn join(client: &Client, room: &str, after: Option<Value>) -> Value {
    let mut request = json!({ "room": room });
    if let Some(after) = after {
        request["after"] = after;
    }
    client.request("join", &[request]).await
}

pub async fn send(client: &Client, room: &str, text: &str) -> Value {
    client.request("send", &[json!({ "room": room, "text": text })]).await
}

pub async fn error_code(client: &Client, name: &str, request: Value) -> String {
    let answer = client.request(name, &[request]).await;
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{name}: {answer}")).to_owned()
}

/// The string at the end of an event.
pub fn offset(event: &Event) -> String {
    event.args.last().and_then(Value::as_str).expect("a stored event ends in its offset").to_owned()
}

pub async fn own_id(client: &Client) -> String {
    let answer = client.request("profile", &[json!({})]).await;
    user_id(&answer["user"])
}

pub fn user_id(user: &Value) -> String {
    user["id"].as_str().expect("an id").to_owned()
}

/// The users of a room, as a client shows them after the answer to its join and the events since.
#[derive(Debug, Clone, Default)]
pub struct ShownRoster {
    pub ids: BTreeSet<String>,
    pub count: u64,
}

impl ShownRoster {
    pub fn answered(answer: &Value) -> Self {
        let members = answer["members"].as_array().expect("a list of members");
        let ids = members.iter().map(user_id).collect();
        Self { ids, count: answer["count"].as_u64().expect("a count") }
    }

    /// Applies an event, and holds that nothing is told twice.
    pub fn hears(&mut self, event: &Event) {
        assert_eq!(event.name, "presence");
        for user in event.arg(0)["joined"].as_array().expect("a list") {
            assert!(self.ids.insert(user_id(user)), "{user} came twice");
        }
        for user in event.arg(0)["left"].as_array().expect("a list") {
            assert!(self.ids.remove(&user_id(user)), "{user} left and was not there");
        }
        self.count = event.arg(0)["count"].as_u64().expect("a count");
    }

    /// Reads events until `count` users are listed; returns how long that took.
    pub async fn until(&mut self, client: &Client, count: usize, patience: Duration) -> Duration {
        let began = Instant::now();
        while self.ids.len() != count {
            let left = patience.saturating_sub(began.elapsed());
            let event = client.try_next("presence", left).await;
            let event = event.unwrap_or_else(|| panic!("{} are there: {client}", self.ids.len()));
            self.hears(&event);
        }
        assert_eq!(self.count, count as u64);
        began.elapsed()
    }
}

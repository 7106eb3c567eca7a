//! A client that has lost its connection and connects again.

use serde_json::{Value, json};

use super::{
    PATIENCE,
    chat::offset,
    client::{Client, Options, Refusal},
    eventually,
    node::Node,
    packet::Event,
};

/// What a client keeps that has lost its connection.
#[derive(Debug, Clone)]
pub struct Away {
    pub pid: String,
    pub public_id: String,
    pub offset: Option<String>,
}

impl Away {
    /// Loses the connection as a phone does. `last` is the last event that it has.
    pub async fn of(client: Client, last: Option<&Event>) -> Self {
        let (pid, public_id) = (client.pid(), client.public_id());
        client.reset().await;
        Self { pid, public_id, offset: last.map(offset) }
    }

    pub fn auth(&self) -> Value {
        let mut auth = json!({ "pid": self.pid });
        if let Some(offset) = &self.offset {
            auth["offset"] = json!(offset);
        }
        auth
    }

    /// Comes back, as the same session or as a new one; again and again where it is turned away,
    /// as official clients do.
    pub async fn back(&self, node: &Node, options: Options) -> Client {
        let options = options.auth(self.auth());
        eventually("it is let in", PATIENCE, async || {
            match Client::connect(node.address, options.clone()).await {
                Ok(client) => Some(client),
                Err(Refusal::Network(_)) => None,
                Err(refusal) => panic!("the server does not take the client: {refusal}"),
            }
        })
        .await
    }

    /// Comes back and must be the same session.
    pub async fn recovered(&self, node: &Node, options: Options) -> Client {
        let client = self.back(node, options).await;
        let own = json!({ "sid": self.public_id, "pid": self.pid });
        assert_eq!(client.connect_reply(), own, "not recovered");
        assert_eq!(client.before_connected(), 0, "the official client would hear it twice");
        client
    }

    /// Comes back and must have become another one.
    pub async fn begins_anew(&self, node: &Node, options: Options) -> Client {
        let client = self.back(node, options).await;
        assert_ne!(client.pid(), self.pid);
        assert_ne!(client.public_id(), self.public_id);
        assert_eq!(client.before_connected(), 0, "a new session was told something");
        client
    }
}

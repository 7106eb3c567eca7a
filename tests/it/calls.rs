//! What an operation costs Redis: script calls, counted by Redis itself.
//!
//! A call more for each message or each join shows here before it shows in a benchmark.

use serde_json::json;

use crate::harness::{
    PATIENCE,
    chat::{join, native, own_id, send},
    client::{Client, Transport},
    node::Node,
    redis::{Keeps, Redis},
};

/// Calls of scripts since the server started.
async fn script_calls(redis: &Redis) -> u64 {
    redis.calls(&["evalsha", "eval"]).await
}

/// Calls for each of `COUNT` operations, rounded: a node's beat adds a few in between.
async fn calls_each(redis: &Redis, mut operation: impl AsyncFnMut(usize)) -> u64 {
    const COUNT: usize = 40;
    let before = script_calls(redis).await;
    for n in 0..COUNT {
        operation(n).await;
    }
    let calls = script_calls(redis).await - before;
    (calls + COUNT as u64 / 2) / COUNT as u64
}

#[tokio::test]
async fn each_operation_costs_a_known_number_of_script_calls() {
    let redis = Redis::start(Keeps::Nothing).await;
    let node = Node::start(&["--redis", &redis.url()]).await;
    node.wait_ready(PATIENCE).await;
    let ann = Client::connected(node.address, native(Transport::WebSocket)).await;
    let bob = Client::connected(node.address, native(Transport::WebSocket)).await;
    join(&ann, "attic", None).await;
    let mut position = send(&ann, "attic", "first").await;

    let sends = calls_each(&redis, async |n| {
        position = send(&ann, "attic", &n.to_string()).await;
        assert_eq!(position["ok"], json!(true));
    });
    assert_eq!(sends.await, 1, "send");

    let to = own_id(&bob).await;
    let direct = json!({ "to": to, "text": "x" });
    assert_eq!(ann.request("send", std::slice::from_ref(&direct)).await["ok"], json!(true));
    let directs = calls_each(&redis, async |_| {
        assert_eq!(ann.request("send", std::slice::from_ref(&direct)).await["ok"], json!(true));
    });
    assert_eq!(directs.await, 1, "a direct message, after the first");

    let (epoch, of) = (&position["epoch"], &position["seq"]);
    let edits = calls_each(&redis, async |n| {
        let edit = json!({ "room": "attic", "epoch": epoch, "of": of, "text": n.to_string() });
        assert_eq!(ann.request("edit", &[edit]).await["ok"], json!(true));
    });
    assert!(edits.await <= 2, "edit");

    // Saving the session, telling the roster, and reading it.
    let joins = calls_each(&redis, async |n| {
        assert_eq!(join(&ann, &format!("room {n}"), None).await["ok"], json!(true));
    });
    assert!(joins.await <= 3, "join");

    // Saving the session, and telling the roster.
    let leaves = calls_each(&redis, async |n| {
        let room = json!({ "room": format!("room {n}") });
        assert_eq!(ann.request("leave", &[room]).await["ok"], json!(true));
    });
    assert!(leaves.await <= 2, "leave");
}

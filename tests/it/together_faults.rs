//! Rooms and people as clients see them while Redis is away.

use serde_json::json;

use crate::{
    harness::{
        PATIENCE,
        client::{Client, Transport},
        eventually,
        node::Node,
        proxy::{Network, Proxy},
        redis::{Keeps, Redis},
    },
    recovery::{join, native, send},
    together::{Shown, of, own_id},
};

/// The first event then has all that the answer lacked.
#[tokio::test]
async fn who_is_answered_without_members_hears_who_is_there() {
    let redis = Redis::start(Keeps::Nothing).await;
    let near = Node::start(&["--redis", &redis.url()]).await;
    near.wait_ready(PATIENCE).await;
    let ann = Client::connected(near.address, of("ann")).await;
    let mut anns = Shown::answered(&join(&ann, "attic", None).await);
    anns.until(&ann, 1, PATIENCE).await;
    // It did not hear her come, and has to ask.
    let road = Proxy::start(redis.address).await;
    let far = Node::start(&["--redis", &format!("redis://{}", road.address)]).await;
    far.wait_ready(PATIENCE).await;
    let bob = Client::connected(far.address, of("bob")).await;
    road.set(Network::Refusing);
    road.cut();
    far.wait_unready(PATIENCE).await;
    let answer = join(&bob, "attic", None).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    assert!(answer.get("members").is_none() && answer.get("count").is_none(), "{answer}");
    road.heal();
    let mut bobs = Shown::default();
    bobs.until(&bob, 2, 2 * PATIENCE).await;
    anns.until(&ann, 2, PATIENCE).await;
    assert_eq!(bobs.ids, anns.ids);
}

#[tokio::test]
async fn a_join_that_is_refused_is_none() {
    let redis = Redis::start(Keeps::Nothing).await;
    let road = Proxy::start(redis.address).await;
    road.set(Network::Refusing);
    let node = Node::start(&["--redis", &format!("redis://{}", road.address)]).await;
    let ann = Client::connected(node.address, native(Transport::WebSocket)).await;
    let answer = join(&ann, "attic", None).await;
    assert_eq!(answer["error"]["code"], json!("unavailable"), "{answer}");
    let answer = send(&ann, "attic", "x").await;
    assert_eq!(answer["error"]["code"], json!("not_joined"), "{answer}");
    road.heal();
    node.wait_ready(2 * PATIENCE).await;
    let rooms = ann.request("rooms", &[json!({})]).await["rooms"].clone();
    assert_eq!(rooms, json!([]), "nobody is anywhere");
    let answer = join(&ann, "attic", None).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    assert_eq!(send(&ann, "attic", "x").await["ok"], json!(true));
    let own = own_id(&ann).await;
    eventually("she is listed", PATIENCE, async || {
        let answer = join(&ann, "attic", None).await;
        let members = answer["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|user| user["id"] == own.as_str()).then_some(())
    })
    .await;
}

/// His first connection polls no more, and nobody says so: the second one ends it.
#[tokio::test]
async fn who_comes_back_over_polling_and_leaves_is_gone() {
    let node = Node::memory().await;
    let ann = Client::connected(node.address, of("ann")).await;
    let mut anns = Shown::answered(&join(&ann, "attic", None).await);
    anns.until(&ann, 1, PATIENCE).await;
    let options = || native(Transport::Polling);
    let auth = json!({ "token": "bob" });
    let bob = Client::connected(node.address, options().auth(auth)).await;
    join(&bob, "attic", None).await;
    anns.until(&ann, 2, PATIENCE).await;
    let pid = bob.pid();
    bob.reset().await;
    let auth = json!({ "token": "bob", "pid": pid });
    let bob = Client::connected(node.address, options().auth(auth)).await;
    assert_eq!(bob.pid(), pid);
    assert_eq!(bob.request("leave", &[json!({"room": "attic"})]).await["ok"], json!(true));
    anns.until(&ann, 1, 2 * PATIENCE).await;
}

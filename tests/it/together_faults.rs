//! Rooms and users as clients see them while Redis is away.

use serde_json::json;

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{ShownRoster, error_code, join, native, own_id, send, with_token},
    client::{Client, Transport},
    eventually,
    node::Node,
    proxy::{Network, Proxy},
    redis::{Keeps, Redis},
};

/// Neither while the node lives nor after it is killed.
#[tokio::test]
async fn a_join_or_leave_that_is_not_stored_changes_nothing() {
    let redis = Redis::start(Keeps::Nothing).await;
    let near = Node::start(&["--redis", &redis.url()]).await;
    let link = Proxy::start(redis.address).await;
    let mut far = Node::start(&["--redis", &format!("redis://{}", link.address)]).await;
    near.wait_ready(PATIENCE).await;
    far.wait_ready(PATIENCE).await;
    let ann = Client::connected(near.address, with_token("ann")).await;
    for room in ["attic", "cellar"] {
        join(&ann, room, None).await;
    }
    let bob = Client::connected(far.address, native(Transport::WebSocket)).await;
    assert_eq!(join(&bob, "attic", None).await["ok"], json!(true));
    send(&ann, "attic", "before").await;
    let last = bob.next("message").await;
    link.set(Network::Refusing);
    link.cut();
    far.wait_unready(PATIENCE).await;
    assert_eq!(error_code(&bob, "join", json!({ "room": "cellar" })).await, "unavailable");
    assert_eq!(error_code(&bob, "leave", json!({ "room": "attic" })).await, "unavailable");
    let send_to = |room: &str| json!({ "room": room, "text": "x" });
    assert_eq!(error_code(&bob, "send", send_to("cellar")).await, "not_joined");
    assert_eq!(error_code(&bob, "send", send_to("attic")).await, "unavailable", "still inside");
    let away = Away::of(bob, Some(&last)).await;
    far.kill();
    send(&ann, "cellar", "not for bob").await;
    send(&ann, "attic", "for bob").await;
    let bob = away.recovered(&near, native(Transport::WebSocket)).await;
    assert_eq!(bob.next("message").await.arg(0)["text"], json!("for bob"));
    assert_eq!(error_code(&bob, "send", send_to("cellar")).await, "not_joined");
    assert_eq!(send(&bob, "attic", "x").await["ok"], json!(true));
}

/// The requests of one client are done in its order, also where they undo each other.
#[tokio::test]
async fn a_room_that_is_left_and_joined_again_at_once_is_joined() {
    let node = Node::memory().await;
    let (ann, bob) = (
        Client::connected(node.address, with_token("ann")).await,
        Client::connected(node.address, with_token("bob")).await,
    );
    join(&ann, "attic", None).await;
    join(&bob, "attic", None).await;
    let room = json!({ "room": "attic" });
    for _ in 0..20 {
        let answers = [
            bob.emit_for_ack("leave", std::slice::from_ref(&room)).await,
            bob.emit_for_ack("join", std::slice::from_ref(&room)).await,
            bob.emit_for_ack("leave", std::slice::from_ref(&room)).await,
            bob.emit_for_ack("join", std::slice::from_ref(&room)).await,
        ];
        send(&ann, "attic", "once").await;
        for answer in answers {
            assert_eq!(answer.await.expect("an answer")[0]["ok"], json!(true));
        }
        send(&ann, "attic", "then").await;
        let mut texts: Vec<String> = Vec::new();
        while texts.last().is_none_or(|text| text != "then") {
            texts.push(bob.next("message").await.arg(0)["text"].as_str().expect("a text").into());
        }
        assert!(texts.iter().filter(|text| *text == "once").count() <= 1, "{texts:?}");
    }
}

#[tokio::test]
async fn a_refused_join_joins_nothing() {
    let redis = Redis::start(Keeps::Nothing).await;
    let link = Proxy::start(redis.address).await;
    link.set(Network::Refusing);
    let node = Node::start(&["--redis", &format!("redis://{}", link.address)]).await;
    let ann = Client::connected(node.address, native(Transport::WebSocket)).await;
    let answer = join(&ann, "attic", None).await;
    assert_eq!(answer["error"]["code"], json!("unavailable"), "{answer}");
    let answer = send(&ann, "attic", "x").await;
    assert_eq!(answer["error"]["code"], json!("not_joined"), "{answer}");
    link.heal();
    node.wait_ready(2 * PATIENCE).await;
    let rooms = ann.request("rooms", &[json!({})]).await["rooms"].clone();
    assert_eq!(rooms, json!([]), "no room has a user");
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

/// The first connection stops polling without a word: the second one ends it.
#[tokio::test]
async fn a_client_that_comes_back_over_polling_and_leaves_is_removed() {
    let node = Node::memory().await;
    let ann = Client::connected(node.address, with_token("ann")).await;
    let mut anns = ShownRoster::answered(&join(&ann, "attic", None).await);
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

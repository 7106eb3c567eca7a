//! What the native dialect knows of a message beside its text, on one node and on two.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    harness::{
        client::{Client, Options, Transport},
        packet::Event,
        redis::{Keeps, Redis, Reply},
    },
    recovery::{Away, join, native, plain, say, send, two_nodes},
    together::{World, own_id},
};

async fn is_called(client: &Client, name: &str) {
    let answer = client.request("profile", &[json!({ "name": name })]).await;
    assert_eq!(answer["user"]["name"], json!(name), "{answer}");
}

/// The name beside each text.
fn lines<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Vec<(String, String)> {
    let line = |message: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
        (text(&message["from"]["name"]), text(&message["text"]))
    };
    messages.into_iter().map(line).collect()
}

fn heard(events: &[Event]) -> Vec<(String, String)> {
    lines(events.iter().map(|event| event.arg(0)))
}

fn listed(answer: &Value) -> Vec<(String, String)> {
    lines(answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}")))
}

#[tokio::test]
async fn a_message_keeps_the_name_that_its_sender_had() {
    for world in World::both().await {
        let (ann, bob) = (world.comes(0, "ann").await, world.comes(1, "bob").await);
        for client in [&ann, &bob] {
            join(client, "lobby", None).await;
        }
        let guest = format!("guest {}", &own_id(&ann).await[..6]);
        let first = send(&ann, "lobby", "word one").await;
        is_called(&ann, "Ann").await;
        send(&ann, "lobby", "word two").await;
        // Known by her name wherever she is.
        let tab = world.comes(1, "ann").await;
        join(&tab, "lobby", None).await;
        send(&tab, "lobby", "word three").await;
        is_called(&tab, "Anna").await;
        let told = async |client: &Client| client.next("profile").await;
        while told(&ann).await.arg(0)["user"]["name"] != json!("Anna") {}
        send(&ann, "lobby", "word four").await;
        let talker = plain(&world.nodes[0], Transport::WebSocket).await;
        say(&talker, "word five").await;
        let events = bob.collect("message", 5).await;
        let stranger = events[4].arg(0)["from"]["id"].as_str().expect("an id");
        let stranger = format!("guest {}", &stranger[..6]);
        let names = [guest.as_str(), "Ann", "Ann", "Anna", &stranger];
        let texts = ["word one", "word two", "word three", "word four", "word five"];
        let said: Vec<(String, String)> =
            names.into_iter().zip(texts).map(|(n, t)| (n.to_owned(), t.to_owned())).collect();
        assert_eq!(heard(&events), said);
        let page = bob.request("history", &[json!({ "room": "lobby" })]).await;
        assert_eq!(listed(&page), said);
        let found = bob.request("search", &[json!({ "room": "lobby", "text": "word" })]).await;
        assert_eq!(listed(&found), said);
        let before = json!({ "epoch": first["epoch"], "seq": 0 });
        let eve = world.comes(0, "eve").await;
        assert_eq!(listed(&join(&eve, "lobby", Some(before)).await), said);
        let page = talker.request("history", &[json!({ "room": "lobby" })]).await;
        assert!(page["messages"][1]["from"].is_string(), "plain answers are as they were: {page}");
    }
}

/// Everything that Redis has, as text.
async fn dump(redis: &Redis) -> String {
    let mut dump = String::new();
    let Reply::Many(keys) = redis.call(&["KEYS", "*"]).await else { panic!("no list of keys") };
    for key in keys.into_iter().map(Reply::into_text) {
        let kind = redis.call(&["TYPE", &key]).await.into_text();
        let read: &[&str] = match kind.as_str() {
            "string" => &["GET", &key],
            "hash" => &["HGETALL", &key],
            "list" => &["LRANGE", &key, "0", "-1"],
            "zset" => &["ZRANGE", &key, "0", "-1"],
            "stream" => &["XRANGE", &key, "-", "+"],
            other => panic!("{key} is a {other}"),
        };
        writeln!(dump, "{key}: {:?}", redis.call(read).await).expect("it is written");
    }
    dump
}

#[tokio::test]
async fn nothing_in_redis_lets_anybody_into_a_session() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let ann = Client::connected(nodes[0].address, native(Transport::WebSocket)).await;
    let talker = plain(&nodes[1], Transport::WebSocket).await;
    join(&ann, "lobby", None).await;
    is_called(&ann, "Ann").await;
    send(&ann, "lobby", "hello").await;
    say(&talker, "hello").await;
    ann.collect("message", 2).await;
    let away = Away::of(talker, None).await;
    let talker = away.recovered(&nodes[0], Options::new(Transport::WebSocket)).await;
    let dump = dump(&redis).await;
    for client in [&ann, &talker] {
        assert!(dump.contains(&format!("rc:session:{}", client.public_id())), "{dump}");
        assert!(!dump.contains(&client.pid()), "{dump}");
    }
}

//! What the native dialect knows of a message beside its text, on one node and on two.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{World, join, native, own_id, plain, say, send, two_nodes, with_token},
    client::{Client, Options, Transport},
    eventually,
    node::Node,
    packet::Event,
    redis::{Keeps, Redis, Reply},
};

async fn is_called(client: &Client, name: &str) {
    let answer = client.request("profile", &[json!({ "name": name })]).await;
    assert_eq!(answer["user"]["name"], json!(name), "{answer}");
}

/// The name of a user that never set one.
fn guest(id: &str) -> String {
    format!("guest {}", id.get(..6).expect("a long id"))
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
        let (ann, bob) = (world.connect(0, "ann").await, world.connect(1, "bob").await);
        for client in [&ann, &bob] {
            join(client, "lobby", None).await;
        }
        let unnamed = guest(&own_id(&ann).await);
        let first = send(&ann, "lobby", "word one").await;
        is_called(&ann, "Ann").await;
        send(&ann, "lobby", "word two").await;
        // A user is addressed by id on every node.
        let tab = world.connect(1, "ann").await;
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
        let stranger = guest(stranger);
        let names = [unnamed.as_str(), "Ann", "Ann", "Anna", &stranger];
        let texts = ["word one", "word two", "word three", "word four", "word five"];
        let said: Vec<(String, String)> =
            names.into_iter().zip(texts).map(|(n, t)| (n.to_owned(), t.to_owned())).collect();
        assert_eq!(heard(&events), said);
        let page = bob.request("history", &[json!({ "room": "lobby" })]).await;
        assert_eq!(listed(&page), said);
        let found = bob.request("search", &[json!({ "room": "lobby", "text": "word" })]).await;
        assert_eq!(listed(&found), said);
        let before = json!({ "epoch": first["epoch"], "seq": 0 });
        let eve = world.connect(0, "eve").await;
        assert_eq!(listed(&join(&eve, "lobby", Some(before)).await), said);
        let page = talker.request("history", &[json!({ "room": "lobby" })]).await;
        assert!(page["messages"][1]["from"].is_string(), "plain answers are as they were: {page}");
    }
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.arg(0)["text"].as_str().expect("a text")).collect()
}

async fn says(client: &Client, mut request: Value, text: &str) -> Value {
    request["text"] = json!(text);
    let answer = client.request("send", &[request]).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    answer
}

async fn code(client: &Client, name: &str, request: Value) -> String {
    let answer = client.request(name, &[request]).await;
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{name}: {answer}")).to_owned()
}

#[tokio::test]
async fn a_broadcast_reaches_all_but_the_connection_that_sends_it() {
    for world in World::both().await {
        let [ann, tab] = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        let bob = world.connect(0, "bob").await;
        let talker = plain(&world.nodes[0], Transport::WebSocket).await;
        for client in [&ann, &tab, &bob] {
            join(client, "lobby", None).await;
        }
        let to_bob = own_id(&bob).await;
        let but_me = json!({ "room": "lobby", "except": "me" });
        let first = says(&ann, but_me.clone(), "but me").await;
        says(&ann, json!({ "to": to_bob, "except": "me" }), "to bob but me").await;
        says(&ann, json!({ "room": "lobby" }), "all").await;
        for client in [&tab, &bob] {
            let events = client.collect("message", 3).await;
            assert_eq!(texts(&events), ["but me", "to bob but me", "all"]);
        }
        let heard: Vec<Value> =
            talker.collect("message", 2).await.iter().map(|event| event.arg(0).clone()).collect();
        assert_eq!(heard, ["but me", "all"]);
        let last = ann.next("message").await;
        assert_eq!(last.arg(0)["text"], json!("all"), "nothing before it");
        let page = ann.request("history", &[json!({ "room": "lobby" })]).await;
        assert_eq!(page["messages"][0]["text"], json!("but me"), "{page}");
        for strange in [json!("bob"), json!(["me"]), json!(true), json!("")] {
            let request = json!({ "room": "lobby", "text": "x", "except": strange });
            assert_eq!(code(&ann, "send", request).await, "bad_request");
        }

        says(&ann, but_me.clone(), "but me again").await;
        let away = Away::of(ann, Some(&last)).await;
        says(&bob, json!({ "room": "lobby" }), "missed").await;
        let ann = away.recovered(&world.nodes[1 % world.nodes.len()], with_token("ann")).await;
        says(&ann, but_me, "and here").await;
        says(&bob, json!({ "room": "lobby" }), "live").await;
        assert_eq!(texts(&ann.collect("message", 2).await), ["missed", "live"]);
        let rest = ["but me again", "missed", "and here", "live"];
        assert_eq!(texts(&tab.collect("message", 4).await), rest);
        // Nor does the answer to a join tell it.
        ann.request("leave", &[json!({ "room": "lobby" })]).await;
        let before = json!({ "epoch": first["epoch"], "seq": 0 });
        let joined = join(&ann, "lobby", Some(before.clone())).await;
        let told: Vec<String> = listed(&joined).into_iter().map(|(_, text)| text).collect();
        assert_eq!(told, ["all", "missed", "live"]);
        let eve = world.connect(0, "eve").await;
        assert_eq!(listed(&join(&eve, "lobby", Some(before)).await).len(), 6);
    }
}

#[tokio::test]
async fn a_message_to_one_connection_reaches_only_it() {
    for world in World::both().await {
        let [ann, tab] = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        let bob = world.connect(1, "bob").await;
        for client in [&ann, &tab, &bob] {
            join(client, "attic", None).await;
        }
        let anns = ann.public_id();
        let to_ann = json!({ "socket": anns });
        let room = json!(format!("socket:{anns}"));
        let once = says(&bob, json!({ "socket": anns, "id": "once" }), "one").await;
        assert_eq!(once["room"], room);
        let again = says(&bob, json!({ "socket": anns, "id": "once" }), "one").await;
        assert_eq!(again["seq"], once["seq"]);
        says(&bob, json!({ "room": "attic" }), "two").await;
        says(&bob, to_ann.clone(), "three").await;
        says(&tab, json!({ "socket": tab.public_id() }), "to myself").await;
        says(&bob, json!({ "room": "attic" }), "end").await;
        let events = ann.collect("message", 4).await;
        assert_eq!(texts(&events), ["one", "two", "three", "end"], "in order, once");
        assert_eq!(events[0].arg(0)["room"], room);
        assert_eq!(texts(&tab.collect("message", 3).await), ["two", "to myself", "end"]);
        assert_eq!(texts(&bob.collect("message", 2).await), ["two", "end"]);

        let mut away = Away::of(ann, events.last()).await;
        for turn in 0..4 {
            says(&bob, to_ann.clone(), "missed").await;
            let ann = away
                .recovered(&world.nodes[(turn + 1) % world.nodes.len()], with_token("ann"))
                .await;
            says(&bob, to_ann.clone(), "live").await;
            let events = ann.collect("message", 2).await;
            assert_eq!(texts(&events), ["missed", "live"]);
            away = Away::of(ann, events.last()).await;
        }
        let ann = away.recovered(&world.nodes[0], with_token("ann")).await;
        assert_eq!(says(&bob, to_ann, "last").await["room"], room);
        assert_eq!(ann.next("message").await.arg(0)["text"], json!("last"));

        for client in [&ann, &tab, &bob] {
            for (name, request) in [
                ("history", json!({ "room": room })),
                ("search", json!({ "room": room, "text": "one" })),
                ("join", json!({ "room": room })),
                ("leave", json!({ "room": room })),
                ("typing", json!({ "room": room, "typing": true })),
                ("read", json!({ "room": room, "seq": 1 })),
                ("send", json!({ "room": room, "text": "me too" })),
            ] {
                assert_eq!(code(client, name, request).await, "forbidden", "{name}");
            }
            let rooms = client.request("rooms", &[json!({})]).await;
            assert!(!rooms.to_string().contains("socket:"), "{rooms}");
        }
    }
}

#[tokio::test]
async fn an_unknown_connection_is_not_found() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        for unknown in [&"0".repeat(32), &ann.pid(), &"x".repeat(64)] {
            let request = json!({ "socket": unknown, "text": "a" });
            assert_eq!(code(&ann, "send", request).await, "not_found", "{unknown}");
        }
        let both = json!({ "socket": ann.public_id(), "room": "attic", "text": "a" });
        assert_eq!(code(&ann, "send", both).await, "bad_request");
        says(&ann, json!({ "socket": ann.public_id() }), "and on").await;
    }
}

#[tokio::test]
async fn a_session_that_has_ended_is_not_found() {
    let redis = Redis::start(Keeps::Nothing).await;
    let short = ["--recovery-window", "1s", "--ping-interval", "1s", "--ping-timeout", "2s"];
    let two = two_nodes(&redis, &short).await;
    let one = Node::start(&[&["--data", "memory"], short.as_slice()].concat()).await;
    for [here, there] in [[&two[0], &two[1]], [&one, &one]] {
        let ann = Client::connected(here.address, native(Transport::WebSocket)).await;
        let bob = Client::connected(there.address, native(Transport::WebSocket)).await;
        let to_bob = json!({ "socket": bob.public_id(), "text": "a" });
        says(&ann, to_bob.clone(), "a").await;
        bob.reset().await;
        eventually("the session has ended", PATIENCE, async || {
            let answer = ann.request("send", std::slice::from_ref(&to_bob)).await;
            (answer["error"]["code"] == json!("not_found")).then_some(())
        })
        .await;
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
            "set" => &["SMEMBERS", &key],
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
        assert!(dump.contains(&format!("rc:{{0}}:session:{}", client.public_id())), "{dump}");
        assert!(!dump.contains(&client.pid()), "{dump}");
    }
}

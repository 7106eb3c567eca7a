//! What becomes of messages: who may edit, delete and react, who is told, and what is left to read.

mod shown;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{World, error_code, join, offset, own_id, plain, say, send, two_nodes, with_token},
    client::{Client, Options, Transport},
    eventually,
    packet::Event,
    redis::{Keeps, Redis},
};

/// A request about a message, which may be as an answer or an event has it.
fn about(message: &Value, more: Value) -> Value {
    let mut request = json!({
        "room": message["room"], "epoch": message["epoch"], "of": message["seq"],
    });
    let more = more.as_object().expect("an object");
    request.as_object_mut().expect("an object").extend(more.clone());
    request
}

async fn edit(client: &Client, message: &Value, text: &str) -> Value {
    client.request("edit", &[about(message, json!({ "text": text }))]).await
}

async fn delete(client: &Client, message: &Value) -> Value {
    client.request("delete", &[about(message, json!({}))]).await
}

async fn react(client: &Client, message: &Value, emoji: &str, on: bool) -> Value {
    client.request("react", &[about(message, json!({ "emoji": emoji, "on": on }))]).await
}

fn is_stored(event: &Event) -> bool {
    matches!(event.name.as_str(), "message" | "edit" | "delete" | "react")
}

/// What comes next of the log, whatever it is.
async fn told(client: &Client, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let event = client.try_next_any(PATIENCE).await;
        let event = event.unwrap_or_else(|| panic!("{} of {count} came: {client}", events.len()));
        if is_stored(&event) {
            events.push(event);
        }
    }
    events
}

/// Each event in a few words.
fn lines(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match (event.name.as_str(), event.arg(0)) {
        ("react", record) => format!("react {} {}", word(&record["emoji"]), record["on"]),
        ("delete", _) => "delete".to_owned(),
        (name, record) => format!("{name} {}", word(&record["text"])),
    };
    events.iter().map(line).collect()
}

fn word(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// That it is the record an answer spoke of, from this user, and what else it says.
fn assert_told(event: &Event, answer: &Value, from: &str, of: &Value, what: &Value) {
    assert_eq!(answer["ok"], json!(true), "{answer}");
    let mut record = event.arg(0).as_object().expect("an object").clone();
    let sender = record.remove("from").expect("a sender");
    assert_eq!(sender["id"], json!(from));
    let mut expected = answer.as_object().expect("an object").clone();
    expected.remove("ok");
    expected.extend(what.as_object().expect("an object").clone());
    expected.insert("of".to_owned(), of["seq"].clone());
    assert_eq!(record, expected);
    assert_eq!(offset(event), format!("{}-{}", word(&answer["epoch"]), answer["seq"]));
}

async fn all_join(clients: &[Client], room: &str) {
    for client in clients {
        assert_eq!(join(client, room, None).await["ok"], json!(true));
    }
}

#[tokio::test]
async fn a_change_reaches_every_tab_in_the_room() {
    for world in World::both().await {
        let clients = [
            world.connect(0, "ann").await,
            world.connect(1, "ann").await,
            world.connect(1, "bob").await,
        ];
        all_join(&clients, "attic").await;
        let (ann, bob) = (own_id(&clients[0]).await, own_id(&clients[2]).await);
        let outside = world.connect(1, "eve").await;
        let said = send(&clients[0], "attic", "one").await;
        let reacted = react(&clients[2], &said, "👍", true).await;
        let edited = edit(&clients[1], &said, "two").await;
        let back = react(&clients[2], &said, "👍", false).await;
        let deleted = delete(&clients[0], &said).await;
        for client in &clients {
            let events = told(client, 5).await;
            assert_eq!(events[0].arg(0)["seq"], said["seq"]);
            let names = ["message", "react", "edit", "react", "delete"];
            assert_eq!(events.iter().map(|event| &event.name).collect::<Vec<_>>(), names);
            let emoji = |on: bool| json!({ "emoji": "👍", "on": on });
            assert_told(&events[1], &reacted, &bob, &said, &emoji(true));
            assert_told(&events[2], &edited, &ann, &said, &json!({ "text": "two" }));
            assert_told(&events[3], &back, &bob, &said, &emoji(false));
            assert_told(&events[4], &deleted, &ann, &said, &json!({}));
        }
        assert!(!outside.drain().iter().any(is_stored));
    }
}

#[tokio::test]
async fn changes_in_a_direct_room_reach_both_users_only() {
    for world in World::both().await {
        let anns = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        let bobs = [world.connect(0, "bob").await, world.connect(1, "bob").await];
        let eve = world.connect(1, "eve").await;
        let to = json!({ "to": own_id(&bobs[0]).await, "text": "one" });
        let said = anns[0].request("send", &[to]).await;
        let answers = [
            react(&bobs[1], &said, ":heart:", true).await,
            edit(&anns[1], &said, "two").await,
            delete(&anns[0], &said).await,
        ];
        for answer in answers {
            assert_eq!((&answer["ok"], &answer["room"]), (&json!(true), &said["room"]));
        }
        for client in anns.iter().chain(&bobs) {
            let events = told(client, 4).await;
            let expected = ["message one", "react :heart: true", "edit two", "delete"];
            assert_eq!(lines(&events), expected);
        }
        for (name, more) in [
            ("edit", json!({ "text": "mine" })),
            ("delete", json!({})),
            ("react", json!({ "emoji": "+", "on": true })),
        ] {
            assert_eq!(error_code(&eve, name, about(&said, more)).await, "forbidden");
        }
        assert!(!eve.drain().iter().any(is_stored));
    }
}

#[tokio::test]
async fn forbidden_changes_are_refused_and_change_nothing() {
    for world in World::both().await {
        let clients = [world.connect(0, "ann").await, world.connect(1, "bob").await];
        all_join(&clients, "attic").await;
        let [ann, bob] = &clients;
        let said = send(ann, "attic", "one").await;
        let other = send(bob, "attic", "two").await;
        let edited = edit(ann, &said, "three").await;
        let gone = send(ann, "attic", "four").await;
        assert_eq!(delete(ann, &gone).await["ok"], json!(true));
        let with = |key: &str, value: Value| {
            let mut target = said.clone();
            target[key] = value;
            target
        };
        let requests = |target: &Value| {
            [
                ("edit", about(target, json!({ "text": "x" }))),
                ("delete", about(target, json!({}))),
                ("react", about(target, json!({ "emoji": "+", "on": true }))),
                ("react", about(target, json!({ "emoji": "+", "on": false }))),
            ]
        };
        for (why, target) in [
            ("never written", with("seq", json!(1_000_000))),
            ("no position", with("seq", json!(0))),
            ("the last there is", with("seq", json!(u64::MAX))),
            ("another epoch", with("epoch", json!("0"))),
            ("a record", edited),
            ("deleted", gone),
        ] {
            for (name, request) in requests(&target) {
                assert_eq!(error_code(ann, name, request).await, "not_found", "{name}: {why}");
            }
        }
        for (name, request) in &requests(&other)[..2] {
            assert_eq!(error_code(ann, name, request.clone()).await, "forbidden", "{name}");
        }
        let eve = world.connect(1, "eve").await;
        for (name, request) in requests(&said) {
            assert_eq!(error_code(&eve, name, request).await, "not_joined", "{name}");
        }
        let large = about(&said, json!({ "text": "x".repeat(33 << 10) }));
        assert_eq!(error_code(ann, "edit", large).await, "too_large");
        for (name, wrong) in [
            ("edit", about(&said, json!({}))),
            ("edit", about(&said, json!({ "text": 7 }))),
            ("edit", about(&with("epoch", json!(7)), json!({ "text": "x" }))),
            ("delete", about(&with("seq", json!(-1)), json!({}))),
            ("delete", about(&with("seq", json!("1")), json!({}))),
            ("delete", about(&with("room", json!("")), json!({}))),
            ("delete", about(&said, json!({ "id": "" }))),
            ("react", about(&said, json!({ "emoji": "+" }))),
            ("react", about(&said, json!({ "emoji": " ", "on": true }))),
            ("react", about(&said, json!({ "emoji": "x".repeat(33), "on": true }))),
            ("react", about(&said, json!({ "emoji": "a\nb", "on": true }))),
        ] {
            assert_eq!(error_code(ann, name, wrong.clone()).await, "bad_request", "{name} {wrong}");
        }
        let lobby = plain(&world.nodes[0], Transport::WebSocket).await;
        for (name, request) in requests(&said) {
            assert_eq!(error_code(&lobby, name, request).await, "bad_request", "{name}");
        }
        send(bob, "attic", "end").await;
        let expected =
            ["message one", "message two", "edit three", "message four", "delete", "message end"];
        for client in &clients {
            assert_eq!(lines(&told(client, 6).await), expected, "nothing else was stored");
        }
    }
}

#[tokio::test]
async fn a_message_has_room_for_twenty_emoji() {
    for world in World::both().await {
        let clients = [world.connect(0, "ann").await, world.connect(1, "bob").await];
        all_join(&clients, "attic").await;
        let [ann, bob] = &clients;
        let said = send(ann, "attic", "one").await;
        for n in 0..20 {
            assert_eq!(react(ann, &said, &n.to_string(), true).await["ok"], json!(true));
        }
        let one_more = about(&said, json!({ "emoji": "+", "on": true }));
        for client in &clients {
            assert_eq!(error_code(client, "react", one_more.clone()).await, "too_many");
        }
        for (emoji, on) in [("0", true), ("+", false)] {
            assert_eq!(react(bob, &said, emoji, on).await["ok"], json!(true));
            assert_eq!(react(bob, &said, emoji, on).await["ok"], json!(true), "again");
        }
        assert_eq!(react(ann, &said, "1", false).await["ok"], json!(true));
        assert_eq!(react(bob, &said, "+", true).await["ok"], json!(true));
    }
}

#[tokio::test]
async fn a_retry_is_told_once() {
    for world in World::both().await {
        let clients = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        all_join(&clients, "attic").await;
        let said = send(&clients[0], "attic", "one").await;
        for (name, more) in [
            ("react", json!({ "emoji": "+", "on": true, "id": "r" })),
            ("edit", json!({ "text": "two", "id": "e" })),
            ("delete", json!({ "id": "d" })),
        ] {
            let first = clients[0].request(name, &[about(&said, more.clone())]).await;
            assert_eq!((&first["ok"], &first["id"]), (&json!(true), &more["id"]), "{first}");
            for client in &clients {
                let again = client.request(name, &[about(&said, more.clone())]).await;
                assert_eq!(again, first, "{name}");
            }
        }
        send(&clients[0], "attic", "end").await;
        let expected = ["message one", "react + true", "edit two", "delete", "message end"];
        for client in &clients {
            assert_eq!(lines(&told(client, 5).await), expected);
        }
    }
}

#[tokio::test]
async fn messages_and_changes_of_one_client_keep_their_order() {
    for world in World::both().await {
        let clients = [world.connect(0, "ann").await, world.connect(1, "bob").await];
        all_join(&clients, "attic").await;
        let ann = &clients[0];
        let mut expected = Vec::new();
        let mut answers = Vec::new();
        for n in 0..20 {
            let text = n.to_string();
            let said = send(ann, "attic", &text).await;
            let (edited, next) = (format!("edited {n}"), format!("next {n}"));
            for (name, request) in [
                ("edit", about(&said, json!({ "text": edited }))),
                ("react", about(&said, json!({ "emoji": "+", "on": true }))),
                ("delete", about(&said, json!({}))),
                ("send", json!({ "room": "attic", "text": next })),
            ] {
                answers.push(ann.emit_for_ack(name, &[request]).await);
            }
            expected.extend([
                format!("message {text}"),
                format!("edit {edited}"),
                "react + true".to_owned(),
                "delete".to_owned(),
                format!("message {next}"),
            ]);
            // What is said next must not come before what waits.
            answers.pop().expect("the send").await.expect("an answer");
        }
        let mut seqs = Vec::new();
        for answer in answers {
            let answer = answer.await.expect("an answer");
            seqs.push(answer[0]["seq"].as_u64().unwrap_or_else(|| panic!("{answer:?}")));
        }
        assert!(seqs.is_sorted(), "{seqs:?}");
        for client in &clients {
            assert_eq!(lines(&told(client, expected.len()).await), expected);
        }
    }
}

#[tokio::test]
async fn a_client_that_comes_back_gets_the_missed_changes_in_order() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = world.connect(0, "bob").await;
        for client in [&ann, &bob] {
            join(client, "attic", None).await;
        }
        let said = send(&ann, "attic", "one").await;
        let heard = told(&bob, 1).await;
        let away = Away::of(bob, heard.last()).await;
        react(&ann, &said, "+", true).await;
        edit(&ann, &said, "two").await;
        let second = send(&ann, "attic", "three").await;
        react(&ann, &said, "+", false).await;
        delete(&ann, &second).await;
        let bob = away.recovered(world.nodes.last().expect("a node"), with_token("bob")).await;
        edit(&ann, &said, "live").await;
        let events = told(&bob, 6).await;
        let expected =
            ["react + true", "edit two", "message three", "react + false", "delete", "edit live"];
        assert_eq!(lines(&events), expected);
        // Also when a record is the last that it has.
        let away = Away::of(bob, events.last()).await;
        edit(&ann, &said, "last").await;
        let bob = away.recovered(&world.nodes[0], with_token("bob")).await;
        assert_eq!(lines(&told(&bob, 1).await), ["edit last"]);
    }
}

#[tokio::test]
async fn the_answer_to_a_join_has_messages_and_their_changes() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        join(&ann, "attic", None).await;
        let said = send(&ann, "attic", "one").await;
        let bob = world.connect(1, "bob").await;
        let after = json!({ "epoch": said["epoch"], "seq": said["seq"] });
        let nothing = join(&bob, "attic", Some(after.clone())).await;
        assert_eq!((&nothing["messages"], nothing.get("changes")), (&json!([]), None));
        let edited = edit(&ann, &said, "two").await;
        let second = send(&ann, "attic", "three").await;
        let reacted = react(&ann, &second, "+", true).await;
        let deleted = delete(&ann, &second).await;
        let events = told(&bob, 4).await;
        let eve = world.connect(1, "eve").await;
        let answer = join(&eve, "attic", Some(after)).await;
        assert_eq!(answer["recovered"], json!(true), "{answer}");
        assert_eq!(answer["messages"], json!([events[1].arg(0)]));
        let mut records = Vec::new();
        for event in [&events[0], &events[2], &events[3]] {
            let mut record = event.arg(0).clone();
            record["type"] = json!(event.name);
            records.push(record);
        }
        assert_eq!(answer["changes"], json!(records));
        let seqs: Vec<_> = records.iter().map(|record| &record["seq"]).collect();
        assert_eq!(seqs, [&edited["seq"], &reacted["seq"], &deleted["seq"]]);
    }
}

#[tokio::test]
async fn plain_clients_get_no_changes_and_read_the_current_text() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    for transport in Transport::ALL {
        let ann = Client::connected(nodes[0].address, with_token("ann")).await;
        join(&ann, "lobby", None).await;
        let client = plain(&nodes[1], transport).await;
        let said = send(&ann, "lobby", "one").await;
        let gone = send(&ann, "lobby", "two").await;
        let heard = told(&client, 2).await;
        edit(&ann, &said, "edited").await;
        react(&ann, &said, "+", true).await;
        delete(&ann, &gone).await;
        say(&client, "three").await;
        let last = told(&client, 1).await;
        assert_eq!(last[0].arg(0), &json!("three"), "nothing before it");
        let after =
            json!({ "epoch": said["epoch"], "seq": said["seq"].as_u64().expect("one") - 1 });
        let page = client.request("history", &[json!({ "room": "lobby", "after": after })]).await;
        let left: Vec<_> = page["messages"].as_array().expect("a list").iter().collect();
        let bodies: Vec<_> = left.iter().map(|message| &message["body"]).collect();
        assert_eq!(bodies, [&json!("edited"), &Value::Null, &json!("three")]);
        assert!(left[0]["edited"].is_u64() && left[1]["deleted"].is_u64(), "{page}");
        let reactions = json!([{ "emoji": "+", "users": [own_id(&ann).await] }]);
        assert_eq!(left[0]["reactions"], reactions);
        let away = Away::of(client, heard.last()).await;
        react(&ann, &said, "+", false).await;
        send(&ann, "lobby", "four").await;
        edit(&ann, &said, "again").await;
        let client = away.recovered(&nodes[0], Options::new(transport)).await;
        let missed = told(&client, 2).await;
        assert_eq!((missed[0].arg(0), missed[1].arg(0)), (&json!("three"), &json!("four")));
        // Where only such was missed, it is nothing.
        let away = Away::of(client, missed.last()).await;
        delete(&ann, &said).await;
        let client = away.recovered(&nodes[1], Options::new(transport)).await;
        send(&ann, "lobby", "five").await;
        assert_eq!(told(&client, 1).await[0].arg(0), &json!("five"));
    }
}

#[tokio::test]
async fn changes_are_refused_while_the_log_is_away_and_accepted_later() {
    let mut redis = Redis::start(Keeps::Everything).await;
    let [node, _] = two_nodes(&redis, &[]).await;
    let ann = Client::connected(node.address, with_token("ann")).await;
    join(&ann, "attic", None).await;
    let said = send(&ann, "attic", "one").await;
    redis.kill();
    let mut answers = Vec::new();
    for _ in 0..4 {
        let request = about(&said, json!({ "text": "two" }));
        answers.push(ann.emit_for_ack("edit", &[request]).await);
    }
    for answer in answers {
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
        assert_eq!(answer[0]["error"]["code"], json!("unavailable"), "{answer:?}");
    }
    redis.restart().await;
    eventually("it is edited", PATIENCE, async || {
        (edit(&ann, &said, "three").await["ok"] == json!(true)).then_some(())
    })
    .await;
    assert_eq!(lines(&told(&ann, 2).await), ["message one", "edit three"]);
}

//! What the rule table promises beside the events themselves: joins while others speak, ids,
//! profiles, deleted messages, and events without a row.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use roomcast::dialects::events::table::Table;
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{join, native, offset, plain, say, send, two_nodes, with_token},
    client::{Client, Options, Refusal, Transport},
    eventually,
    node::Node,
    packet::Event,
    proxy::{Network, Proxy},
    redis::{Keeps, Redis},
};

const DELAY: Duration = Duration::from_millis(100);

fn profile(name: &str) -> Options {
    Options::new(Transport::WebSocket).query("profile", name)
}

fn events(events: &[Event]) -> Vec<(&str, &Value)> {
    events.iter().map(|event| (event.name.as_str(), event.arg(0))).collect()
}

/// Messages of one speaker.
#[derive(Default)]
struct Spoken {
    /// Numbers from 0, each told by two events in the attic and by one in the lobby.
    count: u64,
    /// What the messages in the attic say, and their positions.
    attic: Vec<(Value, u64)>,
}

/// Speaks without a pause until it is told to stop. With an editor, most records are changes, which
/// clients of the table are not told of; without one, most are in the lobby.
async fn speak(talker: &Client, editor: Option<&Client>, stop: &AtomicBool) -> Spoken {
    let mut spoken = Spoken::default();
    while !stop.load(Ordering::Acquire) {
        let number = json!(spoken.count);
        let to_attic = json!({ "room": "attic", "message": number });
        let said = talker.request("message", &[to_attic]).await;
        spoken.attic.push((number.clone(), said["seq"].as_u64().expect("stored")));
        say_value(talker, &number).await;
        match editor {
            Some(editor) => {
                let text = format!("text {number}");
                let said = send(editor, "attic", &text).await;
                spoken.attic.push((json!(text), said["seq"].as_u64().expect("stored")));
                for _ in 0..3 {
                    let edit = json!({ "room": "attic", "epoch": said["epoch"], "of": said["seq"], "text": "new" });
                    assert_eq!(editor.request("edit", &[edit]).await["ok"], json!(true));
                }
            }
            None => {
                for _ in 0..3 {
                    say(talker, "between").await;
                }
            }
        }
        spoken.count += 1;
    }
    spoken
}

async fn say_value(client: &Client, value: &Value) {
    let ack = client.request("user-message", std::slice::from_ref(value)).await;
    assert_eq!(ack["ok"], json!(true), "{ack}");
}

/// The numbers that events of this name say.
fn numbers(events: &[Event], name: &str) -> Vec<u64> {
    let here = events.iter().filter(|event| event.name == name);
    here.filter_map(|event| event.arg(0).as_u64()).collect()
}

/// From some number on, each comes once and in order.
fn assert_whole(events: &[Event], count: u64, what: &str) {
    for name in ["receive-message", "received-message", "message"] {
        let heard = numbers(events, name);
        let first = *heard.first().unwrap_or_else(|| panic!("{what}: no {name}"));
        assert!(heard.iter().copied().eq(first..count), "{what}: {name}: {heard:?}");
    }
}

async fn join_among_messages(partitions: &str) {
    let redis = Redis::start(Keeps::Nothing).await;
    let road = Proxy::start(redis.address).await;
    let near = Node::start(&["--redis", &redis.url(), "--partitions", partitions]).await;
    let over_road = format!("redis://{}", road.address);
    let far = Node::start(&["--redis", &over_road, "--partitions", partitions]).await;
    for node in [&near, &far] {
        node.wait_ready(PATIENCE).await;
    }
    let talker = plain(&near, Transport::WebSocket).await;
    let editor = Client::connected(near.address, native(Transport::WebSocket)).await;
    join(&editor, "attic", None).await;
    let mut cuts = 0;
    for turn in 0..6 {
        let client = plain(&far, Transport::WebSocket).await;
        say(&talker, "it listens").await;
        client.next("message").await;
        road.set(Network::Slow(DELAY));
        let stop = AtomicBool::new(false);
        let listening = async {
            let first = client.next("message").await;
            let joined = client.request("join_room", &[json!("attic")]).await;
            tokio::time::sleep(DELAY).await;
            stop.store(true, Ordering::Release);
            (first, joined)
        };
        let editor = Some(&editor).filter(|_| turn % 2 == 1);
        let (spoken, (first, joined)) = tokio::join!(speak(&talker, editor, &stop), listening);
        road.heal();
        assert_eq!(joined["messages"], json!([]), "they come as events: {joined}");
        say(&talker, "the end").await;
        let mut heard = vec![first];
        while heard.last().is_none_or(|event: &Event| event.arg(0) != "the end") {
            let event = client.try_next_any(PATIENCE).await;
            heard.push(event.unwrap_or_else(|| panic!("no end: {heard:?}")));
        }
        heard.pop();
        assert_whole(&heard, spoken.count, "live");
        // What was said while the join was stored ends in one offset, with the last of its events.
        let until = joined["seq"].as_u64().expect("a position");
        let is_meanwhile = |event: &&Event| {
            let is_in_attic = event.name != "message" || event.arg(0).is_string();
            let said = spoken.attic.iter().find(|(said, _)| said == event.arg(0));
            is_in_attic && said.is_some_and(|(_, seq)| *seq <= until)
        };
        let last = heard.iter().rposition(|event| is_meanwhile(&event));
        // On a loaded machine a join may be stored before anything is delivered.
        let Some(last) = last else { continue };
        cuts += 1;
        let meanwhile: Vec<&Event> = heard.iter().filter(is_meanwhile).collect();
        let (end, before) = meanwhile.split_last().expect("one");
        assert!(!offset(end).contains('.'), "{end:?}");
        let keeps_offset = |event: &&Event| !event.args.last().is_some_and(Value::is_string);
        assert!(before.iter().all(keeps_offset), "{before:?}");
        let (had, rest) = heard.split_at(last + 1 + turn / 2);
        let away = Away::of(client, had.last()).await;
        let again = away.recovered(&near, Options::new(Transport::WebSocket)).await;
        let mut all = [had.to_vec(), again.drained(rest.len() + 1).await].concat();
        assert_eq!(all.pop().map(|end| end.arg(0).clone()), Some(json!("the end")), "{all:?}");
        assert_whole(&all, spoken.count, "after a cut");
        assert_eq!(all.len(), heard.len());
    }
    assert!(cuts >= 3, "{cuts}");
}

#[tokio::test]
async fn what_is_said_while_a_join_is_stored_is_told_once() {
    join_among_messages("1").await;
}

#[tokio::test]
async fn with_partitions_what_is_said_while_a_join_is_stored_is_told_once() {
    join_among_messages("4").await;
}

/// As a page does that opens all rooms of its user at once.
#[tokio::test]
async fn many_rooms_are_joined_at_once() {
    const ROOMS: usize = 40;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let client = plain(&nodes[0], Transport::WebSocket).await;
    let mut acks = Vec::new();
    for room in 0..ROOMS {
        acks.push(client.emit_for_ack("join-room", &[json!(format!("room {room}"))]).await);
    }
    for (room, ack) in acks.into_iter().enumerate() {
        assert_eq!(ack.await.expect("an ack"), [json!(format!("Joined room {room}"))]);
    }
    let talker = plain(&nodes[1], Transport::WebSocket).await;
    for room in 0..ROOMS {
        let args = [json!(room), json!(format!("room {room}"))];
        assert_eq!(talker.request("send-message", &args).await["ok"], json!(true));
    }
    for (room, event) in client.collect("receive-message", ROOMS).await.iter().enumerate() {
        assert_eq!(event.arg(0), &json!(room));
    }
}

#[tokio::test]
async fn an_id_counts_by_its_form_and_only_with_an_ack() {
    let node = Node::memory().await;
    let client = plain(&node, Transport::WebSocket).await;
    for (id, counts) in [
        (json!("550e8400-e29b-41d4-a716-446655440000"), true),
        (json!("550E8400-E29B-41D4-A716-446655440000"), true),
        (json!("0123456789abcdef"), true),
        (json!(format!("{}-7", client.public_id())), true),
        (json!("Zx_9-aaaaaaaaaaaaaaa-17"), true),
        (json!("general"), false),
        (json!("m1"), false),
        (json!("0123456789abcde"), false),
        (json!("a room with a name-12"), false),
        (json!(1_234_567_890_123_456_u64), false),
        (json!({ "id": "0123456789abcdef" }), false),
        (json!(""), false),
        (json!(null), false),
    ] {
        for event in ["user-message", "chat message"] {
            // Each event has its own ids here, as the sender of a message is the same.
            let id = match (event, &id) {
                ("chat message", Value::String(id)) if counts => {
                    json!(id.replace('7', "6").replace("abcdef", "abcdee").replace("0000", "0001"))
                }
                _ => id.clone(),
            };
            let asked = async |text: &str| client.request(event, &[json!(text), id.clone()]).await;
            let (first, again) = (asked("one").await, asked("one").await);
            assert_eq!(first["ok"], json!(true), "{id}: {first}");
            assert_eq!(first["seq"] == again["seq"], counts, "{event} {id}");
            assert_eq!(first["id"] == id, counts, "{event} {id}: {first}");
            let other = asked("two").await;
            let conflict = if counts { json!("conflict") } else { Value::Null };
            assert_eq!(other["error"]["code"], conflict, "{event} {id}: {other}");
            let told = if counts { vec!["one"] } else { vec!["one", "one", "two"] };
            let heard = client.drained(told.len()).await;
            let expected: Vec<Value> = told.into_iter().map(|text| json!(text)).collect();
            let expected: Vec<(&str, &Value)> = expected
                .iter()
                .map(|text| (if event == "user-message" { "message" } else { event }, text))
                .collect();
            assert_eq!(self::events(&heard), expected, "{event} {id}");
        }
    }
    let id = json!("fedcba9876543210");
    for _ in 0..3 {
        client.emit("user-message", &[json!("no ack"), id.clone()]).await;
    }
    assert_eq!(client.drained(3).await.len(), 3);
}

#[tokio::test]
async fn a_client_that_returns_with_another_profile_begins_a_new_session() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let first = plain(&nodes[0], Transport::WebSocket).await;
    let said = say(&first, "one").await;
    assert_eq!(said["ok"], json!(true));
    let last = first.next("message").await;
    let away = Away::of(first, Some(&last)).await;
    for other in [profile("turbo"), profile("basics"), native(Transport::WebSocket)] {
        away.begins_anew(&nodes[1], other).await;
    }
    for same in [profile("plain"), Options::new(Transport::WebSocket)] {
        away.recovered(&nodes[1], same).await;
    }
}

#[tokio::test]
async fn a_profile_of_its_own_is_told_the_same_after_a_cut() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[1], Transport::WebSocket).await;
    let turbo = Client::connected(nodes[0].address, profile("turbo")).await;
    say(&talker, "first").await;
    let last = turbo.next("message").await;
    let away = Away::of(turbo, Some(&last)).await;
    let other = Client::connected(nodes[0].address, profile("turbo")).await;
    say(&talker, "hello").await;
    let object = json!({ "room": "lobby", "message": "as one text" });
    talker.request("message", &[object]).await;
    other.request("event:message", &[json!({ "message": "own", "n": 1 })]).await;
    let told =
        [r#"{"message":"hello"}"#, r#"{"message":"as one text"}"#, r#"{"message":"own","n":1}"#];
    let live = other.drained(told.len()).await;
    let expected: Vec<Value> = told.iter().map(|text| json!(text)).collect();
    let expected: Vec<(&str, &Value)> = expected.iter().map(|text| ("message", text)).collect();
    assert_eq!(events(&live), expected);
    let again = away.recovered(&nodes[1], profile("turbo")).await;
    let replayed = again.drained(told.len()).await;
    assert_eq!(events(&replayed), expected);
    assert!(live.iter().map(offset).eq(replayed.iter().map(offset)));
}

#[tokio::test]
async fn what_is_remembered_survives_the_death_of_its_node() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = two_nodes(&redis, &[]).await;
    let ann = plain(&nodes[0], Transport::WebSocket).await;
    // Remembered with a join, and changed without one.
    ann.request("joinRoom", &[json!({ "username": "Ann", "room": "attic" })]).await;
    let said = ann.request("chatMessage", &[json!("one")]).await;
    assert_eq!(said["ok"], json!(true), "{said}");
    let last = ann.next("message").await;
    assert_eq!(last.arg(0)["username"], json!("Ann"));
    let bob = plain(&nodes[0], Transport::WebSocket).await;
    assert_eq!(bob.request("new-user", &[json!("Bob")]).await, json!({ "ok": true }));
    let aways = [Away::of(ann, Some(&last)).await, Away::of(bob, None).await];
    nodes[0].kill();
    let ann = aways[0].recovered(&nodes[1], Options::new(Transport::WebSocket)).await;
    let said = ann.request("chatMessage", &[json!("two")]).await;
    assert_eq!(said["ok"], json!(true), "{said}");
    let told = ann.next("message").await;
    assert_eq!((&told.arg(0)["username"], &told.arg(0)["text"]), (&json!("Ann"), &json!("two")));
    let bob = aways[1].recovered(&nodes[1], Options::new(Transport::WebSocket)).await;
    bob.request("send-chat-message", &[json!("three")]).await;
    let told = ann.next("chat-message").await;
    assert_eq!(told.arg(0), &json!({ "message": "three", "name": "Bob" }));
}

#[tokio::test]
async fn a_replay_leaves_out_what_was_deleted() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let ann = Client::connected(nodes[1].address, with_token("ann")).await;
    join(&ann, "lobby", None).await;
    let listener = plain(&nodes[0], Transport::WebSocket).await;
    send(&ann, "lobby", "heard").await;
    let last = listener.next("message").await;
    let away = Away::of(listener, Some(&last)).await;
    let mut said = Vec::new();
    for text in ["one", "two", "three"] {
        said.push(send(&ann, "lobby", text).await);
    }
    let about = json!({ "room": "lobby", "epoch": said[1]["epoch"], "of": said[1]["seq"] });
    assert_eq!(ann.request("delete", &[about]).await["ok"], json!(true));
    for node in &nodes {
        for options in [Options::new(Transport::WebSocket), Options::new(Transport::Polling)] {
            let again = away.recovered(node, options).await;
            let heard = again.drained(2).await;
            assert_eq!(events(&heard), [("message", &json!("one")), ("message", &json!("three"))]);
        }
    }
    let page = ann.request("history", &[json!({ "room": "lobby" })]).await;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(4), "{page}");
}

#[tokio::test]
async fn an_event_without_a_row_is_warned_of_once() {
    let node = Node::memory().await;
    let client = plain(&node, Transport::WebSocket).await;
    let names = ["new message", "it's new", "ключ \u{1f680}", "zero\u{200b}width"];
    for name in names {
        for _ in 0..3 {
            let ack = client.request(name, &[json!("x")]).await;
            assert_eq!(ack["error"]["code"], json!("bad_request"), "{ack}");
        }
        client.emit(name, &[]).await;
        let error = client.next("error").await;
        assert!(
            error.arg(0)["message"].as_str().is_some_and(|why| why.contains(name)),
            "{error:?}"
        );
    }
    let warned = eventually("all are warned of", PATIENCE, async || {
        let lines = node.logs("has no row");
        (lines.len() >= names.len()).then_some(lines)
    })
    .await;
    assert_eq!(warned.len(), names.len(), "{warned:?}");
    for line in warned {
        let message = line["fields"]["message"].as_str().expect("a message");
        let (_, row) = message.split_once("such as: ").expect("a row to write");
        let table = Table::parse(&format!("[on]\n{row}\n"), "the warning");
        assert!(table.is_ok_and(|table| table.rows() == Table::builtin().rows() + 1), "{row}");
    }
    for number in 0..1_000 {
        client.emit(&format!("unknown {number}"), &[]).await;
    }
    client.request("unknown", &[]).await;
    assert!(node.logs("has no row").len() < 300, "{}", node.logs("has no row").len());
}

#[tokio::test]
async fn a_room_can_be_a_number_or_the_clients_own_id_and_no_other_id() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let ann = plain(&nodes[0], Transport::WebSocket).await;
    let bob = plain(&nodes[1], Transport::WebSocket).await;
    assert_eq!(bob.request("join_room", &[json!({ "room": 7 })]).await["room"], json!("7"));
    let own = json!(bob.public_id());
    assert_eq!(bob.request("join_room", std::slice::from_ref(&own)).await, json!({ "ok": true }));
    for other in
        [json!(ann.public_id()), json!("0".repeat(32)), json!("user:ann"), json!("dm:ann:bob")]
    {
        let answer = bob.request("join_room", std::slice::from_ref(&other)).await;
        assert_eq!(answer["error"]["code"], json!("forbidden"), "{other}: {answer}");
    }
    let mut expected = Vec::new();
    for room in [json!(7), json!("7"), json!(" 7 "), own.clone()] {
        let message = json!({ "room": room, "message": "x" });
        let said = ann.request("send_message", std::slice::from_ref(&message)).await;
        assert_eq!(said["ok"], json!(true), "{said}");
        expected.push(message);
    }
    let heard = bob.drained(expected.len()).await;
    let heard: Vec<&Value> = heard.iter().map(|event| event.arg(0)).collect();
    assert_eq!(heard, expected.iter().collect::<Vec<_>>());
    // What is not stored reaches one connection, too, and no other.
    let typing = json!({ "room": own, "name": "Ann" });
    assert_eq!(ann.request("typing", std::slice::from_ref(&typing)).await, json!({ "ok": true }));
    assert_eq!(bob.next("typing").await.arg(0), &typing);
    assert!(ann.drained(0).await.is_empty());
}

#[tokio::test]
async fn an_unknown_profile_is_refused_with_the_known_ones_and_an_empty_one_is_none() {
    let node = Node::memory().await;
    for unknown in [profile("turbos"), Options::new(Transport::WebSocket).query("dialect", "x")] {
        let refused = Client::connect(node.address, unknown).await;
        let Err(Refusal::Namespace(why)) = refused else { panic!("{refused:?}") };
        assert!(why.to_string().contains("plain, basics, turbo, native"), "{why}");
    }
    for none in [profile(""), Options::new(Transport::WebSocket).query("dialect", "")] {
        let client = Client::connected(node.address, none).await;
        assert_eq!(say(&client, "one").await["ok"], json!(true));
    }
}

//! Connection state recovery over the wire: which client gets its session back, and with what.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{join, native, offset, plain, say, send, two_nodes},
    client::{Client, Options, Refusal, Transport},
    eventually,
    http::Http,
    node::Node,
    packet::{Event, own_id},
    redis::{Keeps, Redis, Reply},
};

/// The first message like this; those before it are dropped.
async fn until(client: &Client, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = client.next("message").await;
        if wanted(&event) {
            return event;
        }
    }
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.arg(0).as_str().expect("text")).collect()
}

#[tokio::test]
async fn missed_messages_come_right_after_the_connect_reply() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let witnesses =
        [plain(&nodes[0], Transport::WebSocket).await, plain(&nodes[1], Transport::Polling).await];
    for transport in Transport::ALL {
        for target in &nodes {
            let options = || Options::new(transport);
            let client = plain(&nodes[0], transport).await;
            say(&client, "mine").await;
            let last = client.next("message").await;
            let away = Away::of(client, Some(&last)).await;
            for text in ["one", "two", "three"] {
                say(&witnesses[1], text).await;
            }
            for witness in &witnesses {
                let heard = witness.collect("message", 4).await;
                assert_eq!(texts(&heard), ["mine", "one", "two", "three"]);
            }
            let client = away.recovered(target, options()).await;
            let missed = client.collect("message", 3).await;
            assert_eq!(texts(&missed), ["one", "two", "three"]);
            say(&client, "back").await;
            let last = client.next("message").await;
            assert_eq!(last.arg(0), &json!("back"));
            let page = client.request("history", &[json!({ "room": "lobby", "limit": 5 })]).await;
            assert_eq!(page["messages"][0]["from"], page["messages"][4]["from"], "another user");
            for witness in &witnesses {
                witness.collect("message", 1).await;
            }

            // Nothing was missed, and then nothing is told.
            let client = Away::of(client, Some(&last)).await.recovered(target, options()).await;
            assert_eq!(client.drain(), []);
        }
    }
}

#[tokio::test]
async fn a_client_without_an_offset_gets_everything_since_its_session_began() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[1], Transport::WebSocket).await;
    let witness = plain(&nodes[0], Transport::WebSocket).await;
    for (transport, target) in Transport::ALL.into_iter().zip(nodes.iter().cycle()) {
        let [early, one, two] = ["early", "one", "two"].map(|word| format!("{word} {transport:?}"));
        say(&talker, &early).await;
        // What was said before it came may reach its node later than it.
        until(&witness, |event| event.arg(0) == &json!(early)).await;
        let client = plain(&nodes[0], transport).await;
        let away = Away::of(client, None).await;
        let here = plain(target, Transport::WebSocket).await;
        for text in [&one, &two] {
            say(&talker, text).await;
        }
        until(&here, |event| event.arg(0) == &json!(two)).await;
        let client = away.recovered(target, Options::new(transport)).await;
        assert_eq!(texts(&client.collect("message", 2).await), [one, two]);
    }
}

#[tokio::test]
async fn native_rooms_are_restored_each_from_where_it_was_joined() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = Client::connected(nodes[1].address, native(Transport::WebSocket)).await;
    for room in ["attic", "cellar"] {
        assert_eq!(join(&talker, room, None).await["ok"], json!(true));
    }
    for (transport, target) in Transport::ALL.into_iter().zip(nodes.iter().cycle()) {
        let client = Client::connected(nodes[0].address, native(transport)).await;
        // It has an offset, and joins a room where older ones are.
        assert_eq!(join(&client, "attic", None).await["recovered"], json!(false));
        let first = json!(format!("first {transport:?}"));
        client.request("send", &[json!({ "room": "attic", "text": first })]).await;
        let last = until(&client, |event| event.arg(0)["text"] == first).await;
        let before = send(&talker, "cellar", "before it joined").await;
        let witness = Client::connected(target.address, native(transport)).await;
        join(&witness, "cellar", None).await;
        let after = json!({ "epoch": before["epoch"], "seq": before["seq"] });
        let ack = join(&client, "cellar", Some(after)).await;
        assert_eq!(ack["recovered"], json!(true), "{ack}");
        let told = ack["messages"].as_array().expect("a list").len();
        let away = Away::of(client, Some(&last)).await;
        for (room, text) in [("cellar", "c"), ("attic", "a"), ("cellar", "d")] {
            send(&talker, room, text).await;
        }
        while witness.next("message").await.arg(0)["text"] != json!("d") {}
        let client = away.recovered(target, native(transport)).await;
        let missed = client.collect("message", 3).await;
        let missed: Vec<_> = missed.iter().map(|event| event.arg(0)["text"].clone()).collect();
        assert_eq!((missed, told), (vec![json!("c"), json!("a"), json!("d")], 0));
        assert_eq!(send(&client, "attic", "in").await["ok"], json!(true));
        let refused = send(&client, "elsewhere", "out").await;
        assert_eq!(refused["error"]["code"], json!("not_joined"));
        client.next("message").await;
        assert_eq!(client.drain(), []);
    }
}

#[tokio::test]
async fn an_unknown_pid_or_a_malformed_offset_begins_a_new_session() {
    let node = Node::memory().await;
    let talker = plain(&node, Transport::WebSocket).await;
    let ack = say(&talker, "x").await;
    let epoch = ack["epoch"].as_str().expect("an epoch");
    let transports = || Transport::ALL.into_iter().cycle();
    let unknown = ["0123456789abcdef0123456789abcdef", "no key!", ""];
    for (pid, transport) in unknown.into_iter().zip(transports()) {
        let away = Away { pid: pid.into(), public_id: "p".into(), offset: None };
        away.begins_anew(&node, Options::new(transport)).await;
    }
    let beyond = format!("{epoch}-99999999999");
    let top = format!("{epoch}-{}", u64::MAX);
    let strange = ["hello", "", "other-1", "-", &beyond, &top, &format!("{epoch}-x")];
    for (offset, transport) in strange.into_iter().zip(transports()) {
        let mut away = Away::of(plain(&node, transport).await, None).await;
        away.offset = Some(offset.to_owned());
        let client = away.begins_anew(&node, Options::new(transport)).await;
        say(&client, "live").await;
        assert_eq!(client.next("message").await.arg(0), &json!("live"), "{offset}");
    }
    for odd in [json!({ "pid": 7 }), json!({ "pid": [], "offset": {} })] {
        let options = Options::new(Transport::WebSocket).auth(odd);
        assert!(!Client::connected(node.address, options).await.pid().is_empty());
    }
}

#[tokio::test]
async fn an_expired_session_begins_anew() {
    let redis = Redis::start(Keeps::Nothing).await;
    let short = ["--recovery-window", "1s", "--ping-interval", "1s", "--ping-timeout", "2s"];
    let nodes = two_nodes(&redis, &short).await;
    for transport in Transport::ALL {
        let client = plain(&nodes[0], transport).await;
        let away = Away::of(client, None).await;
        let name = format!("rc:{{0}}:session:{}", away.public_id);
        eventually("the session has ended", PATIENCE, async || {
            (redis.call(&["EXISTS", &name]).await == Reply::Number(0)).then_some(())
        })
        .await;
        away.begins_anew(&nodes[1], Options::new(transport)).await;
    }
}

#[tokio::test]
async fn a_session_of_another_token_is_neither_given_nor_disturbed() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    for (transport, node) in Transport::ALL.into_iter().zip(nodes.iter().cycle()) {
        let options = Options::new(transport).auth(json!({ "token": "the owner's" }));
        let owner = Client::connected(nodes[0].address, options).await;
        for auth in [json!({}), json!({ "token": "the thief's" })] {
            let mut auth = auth;
            auth["pid"] = json!(owner.pid());
            let thief = Client::connected(node.address, Options::new(transport).auth(auth)).await;
            assert_ne!(thief.pid(), owner.pid());
            assert_ne!(thief.public_id(), owner.public_id());
            say(&thief, "hello").await;
            thief.next("message").await;
        }
        owner.collect("message", 2).await;
        say(&owner, "still here").await;
        assert!(!owner.is_disconnected() && !owner.is_closed());
        let back = json!({ "token": "the owner's", "pid": owner.pid() });
        let (pid, options) = (owner.pid(), Options::new(transport).auth(back));
        owner.reset().await;
        assert_eq!(Client::connected(nodes[1].address, options).await.pid(), pid);
    }
}

/// Takes the session over again and again; each older connection is told to go.
async fn newest_wins(nodes: &[Node]) {
    let mut older = plain(&nodes[0], Transport::WebSocket).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    for round in 1..13 {
        let (transport, node) = (Transport::ALL[round % 3], &nodes[round % nodes.len()]);
        let away = Away { pid: older.pid(), public_id: older.public_id(), offset: None };
        let newer = away.recovered(node, Options::new(transport)).await;
        let what = format!("round {round}: the older one goes");
        eventually(&what, PATIENCE, async || older.is_closed().then_some(())).await;
        assert!(
            !older.is_disconnected(),
            "a client whose older connection is served late would stay away"
        );
        let text = format!("round {round}");
        say(&talker, &text).await;
        while newer.next("message").await.arg(0) != &json!(text) {}
        assert!(!newer.is_closed(), "round {round}: the newer one was sent away");
        older = newer;
    }
}

#[tokio::test]
async fn the_newer_of_two_connections_of_a_session_wins_on_one_node() {
    let node = Node::memory().await;
    newest_wins(&[node]).await;
}

#[tokio::test]
async fn the_newer_of_two_connections_of_a_session_wins_on_two_nodes() {
    let redis = Redis::start(Keeps::Nothing).await;
    newest_wins(&two_nodes(&redis, &[]).await).await;
}

#[tokio::test]
async fn one_of_many_connections_that_take_a_session_at_once_is_left() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    for round in 0..4 {
        let first = plain(&nodes[0], Transport::WebSocket).await;
        let away = Away::of(first, None).await;
        let mut takers = tokio::task::JoinSet::new();
        for number in 0..8 {
            let node = nodes[number % 2].address;
            let options = Options::new(Transport::ALL[number % 3]).auth(away.auth());
            takers.spawn(Client::connect(node, options));
        }
        let taken: Vec<Client> =
            takers.join_all().await.into_iter().filter_map(Result::ok).collect();
        let is_left = |client: &&Client| !client.is_disconnected() && !client.is_closed();
        let left = || taken.iter().filter(is_left).collect::<Vec<_>>();
        eventually("one is left", PATIENCE, async || (left().len() == 1).then_some(())).await;
        let text = format!("round {round}");
        say(&talker, &text).await;
        let left = left()[0];
        assert_eq!(left.pid(), away.pid);
        while left.next("message").await.arg(0) != &json!(text) {}
    }
}

/// The status of a POST with this name for a session.
async fn post(node: &Node, sid: &str) -> u16 {
    let mut http = Http::open(node.address).await.expect("the node accepts");
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let event = br#"42["user-message","stolen"]"#;
    http.request("POST", &path, &[], event).await.expect("an answer").status
}

/// POST, GET and upgrade.
async fn tries(node: &Node, sid: &str) -> [u16; 3] {
    let mut http = Http::open(node.address).await.expect("the node accepts");
    let path = |transport: &str| format!("/socket.io/?EIO=4&transport={transport}&sid={sid}");
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let polled = http.request("GET", &path("polling"), &[], b"").await.expect("an answer");
    let upgraded = http.request("GET", &path("websocket"), &upgrade, b"").await.expect("an answer");
    [post(node, sid).await, polled.status, upgraded.status]
}

#[tokio::test]
async fn a_public_id_opens_nothing_and_the_session_id_stays_private() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let witness = plain(&nodes[0], Transport::WebSocket).await;
    let mut secrets = Vec::new();
    let client = plain(&nodes[0], Transport::Polling).await;
    secrets.extend([client.sid.clone(), client.pid()]);
    assert_ne!(client.sid, client.public_id());
    assert_eq!(tries(&nodes[0], &client.public_id()).await, [400; 3]);
    assert_eq!(tries(&nodes[0], &client.pid()).await, [400; 3]);
    say(&client, "still mine").await;
    assert!(!client.is_closed());
    // With the session id itself it would have been done.
    assert_eq!(post(&nodes[0], &client.sid).await, 200);
    // Everything that happens to a polling client: taken over, too large, turned away, stopped.
    let away = Away { pid: client.pid(), public_id: client.public_id(), offset: None };
    let newer = away.recovered(&nodes[0], Options::new(Transport::Polling)).await;
    eventually("it goes", PATIENCE, async || client.is_closed().then_some(())).await;
    secrets.push(newer.sid.clone());
    newer.send_raw(&format!("42[\"user-message\",\"{}\"]", "x".repeat(1 << 18))).await;
    newer.closed(PATIENCE).await;
    let last = plain(&nodes[0], Transport::Polling).await;
    secrets.push(last.sid.clone());
    nodes[0].signal(Signal::TERM);
    last.closed(PATIENCE).await;
    witness.closed(PATIENCE).await;
    let heard = witness.drain();
    for secret in &secrets {
        assert!(!nodes[0].output().contains(secret), "logged:\n{}", nodes[0].output());
        assert!(!heard.iter().any(|event| event.raw.contains(secret)), "told to others");
    }
}

#[tokio::test]
async fn an_ack_that_was_lost_is_given_again_and_the_message_shown_once() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let witness = plain(&nodes[1], Transport::WebSocket).await;
    for (transport, node) in Transport::ALL.into_iter().zip(nodes.iter().cycle()) {
        let client = plain(&nodes[0], transport).await;
        // Not what another transport's client said last: that may still be on its way to this node.
        let [once, end] = ["once", "end"].map(|word| format!("{word} {transport:?}"));
        let message = [json!(once), json!(own_id(&format!("id {transport:?}")))];
        client.stop_reading();
        client.emit_for_ack("user-message", &message).await;
        // Stored, so that only the ack can be lost.
        let shown = witness.next("message").await;
        let client = Away::of(client, None).await.recovered(node, Options::new(transport)).await;
        let ack = client.request("user-message", &message).await;
        let stored = format!("{}-{}", ack["epoch"].as_str().unwrap_or_default(), ack["seq"]);
        assert_eq!(stored, offset(&shown), "{ack}");
        say(&client, &end).await;
        assert_eq!(witness.next("message").await.arg(0), &json!(end), "shown twice");
        until(&client, |event| event.arg(0) == &json!(once)).await;
        assert_eq!(client.next("message").await.arg(0), &json!(end), "shown twice");
    }
}

#[tokio::test]
async fn a_client_that_is_refused_leaves_its_session_alone() {
    let node = Node::memory().await;
    let client = plain(&node, Transport::WebSocket).await;
    let away = Away { pid: client.pid(), public_id: client.public_id(), offset: None };
    let options = Options::new(Transport::Polling).auth(json!({ "token": 7 }));
    let refused = Client::connect(node.address, options.auth(away.auth())).await;
    assert!(matches!(refused, Err(Refusal::Namespace(_))), "{refused:?}");
    say(&client, "undisturbed").await;
    assert!(!client.is_disconnected());
}

#[tokio::test]
async fn a_client_that_disconnects_and_reconnects_at_once_is_served() {
    let node = Node::memory().await;
    for transport in [Transport::WebSocket, Transport::Polling] {
        let mut client = plain(&node, transport).await;
        let mut greeted = 0;
        for _ in 0..100 {
            if client.connect_again().await {
                greeted += 1;
            } else {
                client = plain(&node, transport).await;
            }
            say(&client, "here again").await;
            until(&client, |event| event.arg(0) == &json!("here again")).await;
        }
        assert!(greeted > 50, "{transport:?}: the connection was ended {} times", 100 - greeted);
        client.send_raw("41").await;
        client.closed(PATIENCE).await;
    }
}

//! Recovery where something is wrong: a client away for too long, Redis gone, a node that stops,
//! and thousands that never come back.

use std::time::{Duration, Instant};

use roomcast::{chat::Counts, config::Config, server::Server};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{join, native, offset, plain, say, send, two_nodes},
    client::{Client, Options, Refusal, Transport},
    eventually,
    http::Http,
    node::Node,
    packet,
    redis::{Keeps, Redis},
    serial,
};

/// Says `count` messages of `bytes` bytes, and waits until they are stored.
async fn fill(client: &Client, count: usize, bytes: usize) {
    let text = json!("x".repeat(bytes));
    for batch in 0..count.div_ceil(50) {
        let mut answers = Vec::new();
        for _ in 0..50.min(count - batch * 50) {
            answers.push(client.emit_for_ack("user-message", std::slice::from_ref(&text)).await);
        }
        for answer in answers {
            assert_eq!(answer.await.expect("an ack")[0]["ok"], json!(true));
        }
        client.drain();
    }
}

/// The event that says this; those before it are dropped.
async fn until(client: &Client, text: &str) -> packet::Event {
    loop {
        let event = client.next("message").await;
        if event.arg(0) == &json!(text) {
            return event;
        }
    }
}

#[tokio::test]
async fn a_client_too_far_behind_begins_anew_and_is_not_flooded() {
    let _turn = serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    let mut away = Vec::new();
    for transport in Transport::ALL {
        let client = plain(&nodes[0], transport).await;
        away.push((transport, Away::of(client, None).await));
    }
    // 18 MiB, where 16 MiB can be told.
    fill(&talker, 600, 31 << 10).await;
    let late = plain(&nodes[0], Transport::WebSocket).await;
    say(&talker, "little").await;
    let last = until(&late, "little").await;
    let near = Away::of(late, Some(&last)).await;
    fill(&talker, 300, 31 << 10).await;
    for (node, (transport, away)) in nodes.iter().cycle().zip(&away) {
        let client = away.begins_anew(node, Options::new(*transport)).await;
        let own = format!("new {transport:?}");
        say(&client, &own).await;
        // The one before may have been on its way to this node.
        let mut heard = client.next("message").await;
        while heard.arg(0) != &json!(own) {
            assert!(heard.raw.contains("new "), "flooded: {} bytes", heard.raw.len());
            heard = client.next("message").await;
        }
        assert_eq!(client.drain(), [], "flooded");
    }
    // 9 MiB are told whole, on a websocket and in one poll.
    for transport in [Transport::WebSocket, Transport::Polling] {
        let client = near.recovered(&nodes[1], Options::new(transport)).await;
        client.collect("message", 303).await;
        client.reset().await;
    }
}

/// What a fresh node, whose memory holds nothing, makes of a trimmed log.
#[tokio::test]
async fn a_client_beyond_the_log_is_never_given_a_part_of_what_it_missed() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    let client = plain(&nodes[0], Transport::WebSocket).await;
    let first = say(&talker, "heard").await;
    let last = client.next("message").await;
    let away = Away::of(client, Some(&last)).await;
    for text in ["gone", "kept"] {
        say(&talker, text).await;
    }
    redis.call(&["XTRIM", "rc:{0}:log", "MAXLEN", "1"]).await;
    let fresh = Node::start(&["--redis", &redis.url()]).await;
    fresh.wait_ready(PATIENCE).await;
    let witness = plain(&fresh, Transport::WebSocket).await;
    let top = say(&talker, "top").await;
    until(&witness, "top").await;
    away.begins_anew(&fresh, Options::new(Transport::Upgrade)).await;

    let client = Client::connected(fresh.address, native(Transport::WebSocket)).await;
    let at = |seq: &Value| json!({ "epoch": first["epoch"], "seq": seq });
    let other = json!({ "epoch": "another", "seq": 1 });
    let beyond = at(&json!(1_u64 << 40));
    for after in [at(&first["seq"]), other, beyond, at(&json!(u64::MAX))] {
        let answer = join(&client, "lobby", Some(after.clone())).await;
        let said = [&answer["recovered"], &answer["messages"], &answer["epoch"], &answer["seq"]];
        assert_eq!(said, [&json!(false), &json!([]), &top["epoch"], &top["seq"]], "{after}");
        client.request("leave", &[json!({ "room": "lobby" })]).await;
    }
    let answer = join(&client, "lobby", Some(at(&json!(2)))).await;
    assert_eq!(answer["recovered"], json!(true), "{answer}");
    let told = answer["messages"].as_array().expect("a list");
    assert_eq!(told.iter().map(|m| &m["text"]).collect::<Vec<_>>(), ["kept", "top"]);
}

#[tokio::test]
async fn a_join_that_missed_more_than_one_answer_can_hold_says_so() {
    let node = Node::memory().await;
    let talker = plain(&node, Transport::WebSocket).await;
    let first = say(&talker, "first").await;
    fill(&talker, 1_001, 1).await;
    let client = Client::connected(node.address, native(Transport::WebSocket)).await;
    let after = |seq: u64| json!({ "epoch": first["epoch"], "seq": seq });
    for (seq, recovered, told) in [(1, false, 0), (2, true, 1_000)] {
        let answer = join(&client, "lobby", Some(after(seq))).await;
        let count = answer["messages"].as_array().expect("a list").len();
        assert_eq!((&answer["recovered"], count), (&json!(recovered), told), "after {seq}");
        assert_eq!(answer["seq"], json!(1_002));
        client.request("leave", &[json!({ "room": "lobby" })]).await;
    }
}

#[tokio::test]
async fn while_redis_is_away_a_returning_client_is_turned_away_and_a_new_client_gets_in() {
    let _turn = serial().await;
    let mut redis = Redis::start(Keeps::Everything).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    let mut all = Vec::new();
    for transport in Transport::ALL {
        all.push((transport, Away::of(plain(&nodes[0], transport).await, None).await));
    }
    say(&talker, "missed").await;
    redis.kill();
    for node in &nodes {
        node.wait_unready(PATIENCE).await;
    }
    for (node, (transport, away)) in nodes.iter().zip(&all) {
        let options = Options::new(*transport);
        let answer = Client::connect(node.address, options.clone().auth(away.auth())).await;
        // A refusal of the namespace would keep an official client away.
        assert!(matches!(answer, Err(Refusal::Network(_))), "{transport:?}: {answer:?}");
        let fresh = Client::connected(node.address, options).await;
        assert_ne!(fresh.pid(), away.pid);
    }
    redis.restart().await;
    for node in &nodes {
        node.wait_ready(PATIENCE).await;
    }
    for (node, (transport, away)) in nodes.iter().cycle().zip(&all) {
        let client = away.recovered(node, Options::new(*transport)).await;
        assert_eq!(client.next("message").await.arg(0), &json!("missed"));
    }
}

/// The client's own waits begin anew with each transport that opens, so the node must spread them.
#[tokio::test]
async fn while_redis_is_away_clients_are_turned_away_late_and_at_different_times() {
    const CLIENTS: usize = 30;
    let _turn = serial().await;
    let mut redis = Redis::start(Keeps::Everything).await;
    let node = Node::start(&["--redis", &redis.url()]).await;
    node.wait_ready(PATIENCE).await;
    let mut all = Vec::new();
    for n in 0..CLIENTS {
        all.push(Away::of(plain(&node, Transport::ALL[n % 3]).await, None).await);
    }
    redis.kill();
    node.wait_unready(PATIENCE).await;
    let mut attempts = JoinSet::new();
    for (n, away) in all.iter().enumerate() {
        let options = Options::new(Transport::ALL[n % 2]).auth(away.auth());
        let address = node.address;
        attempts.spawn(async move {
            let began = Instant::now();
            let answer = Client::connect(address, options).await;
            assert!(matches!(answer, Err(Refusal::Network(_))), "{answer:?}");
            began.elapsed()
        });
    }
    let mut per_second = [0; 20];
    while let Some(took) = attempts.join_next().await {
        let took = took.expect("an attempt");
        assert!(took > Duration::from_secs(3), "turned away after {took:?}");
        per_second[usize::try_from(took.as_secs()).expect("a few seconds")] += 1;
    }
    let most = per_second.iter().max().copied().unwrap_or_default();
    assert!(most <= CLIENTS / 2, "they come together: {per_second:?}");
}

#[tokio::test]
async fn a_client_that_waits_for_redis_is_recovered_on_its_connection_when_redis_returns() {
    let _turn = serial().await;
    let mut redis = Redis::start(Keeps::Everything).await;
    let node = Node::start(&["--redis", &redis.url()]).await;
    node.wait_ready(PATIENCE).await;
    let talker = plain(&node, Transport::WebSocket).await;
    let away = Away::of(plain(&node, Transport::WebSocket).await, None).await;
    say(&talker, "missed").await;
    redis.kill();
    node.wait_unready(PATIENCE).await;
    let options = Options::new(Transport::WebSocket).auth(away.auth());
    let (client, ()) = tokio::join!(Client::connect(node.address, options), redis.restart());
    let client = client.expect("it waits");
    assert_eq!(client.pid(), away.pid);
    assert_eq!(client.next("message").await.arg(0), &json!("missed"));
}

/// What a node that has just started does not know yet it must not take for nothing.
#[tokio::test]
async fn a_node_that_starts_later_delivers_messages_from_before_its_start() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[0], Transport::WebSocket).await;
    for round in 0..6 {
        let transport = Transport::ALL[round % 3];
        let away = Away::of(plain(&nodes[0], transport).await, None).await;
        let text = format!("round {round}");
        say(&talker, &text).await;
        let young = Node::start(&["--redis", &redis.url()]).await;
        let options = Options::new(transport).auth(away.auth());
        // It may be too young even to take up sessions.
        let client = eventually("it is let in", PATIENCE, async || {
            Client::connect(young.address, options.clone()).await.ok()
        })
        .await;
        assert_eq!(client.pid(), away.pid);
        assert_eq!(client.next("message").await.arg(0), &json!(text), "nothing else is said");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_that_stops_go_on_at_another_and_lose_nothing() {
    let _turn = serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = two_nodes(&redis, &[]).await;
    let talker = plain(&nodes[1], Transport::WebSocket).await;
    let mut clients = JoinSet::new();
    let begun = std::sync::Arc::new(tokio::sync::Barrier::new(13));
    for number in 0..12 {
        let transport = Transport::ALL[number % 3];
        let (first, then) = (nodes[0].address, nodes[1].address);
        let begun = std::sync::Arc::clone(&begun);
        clients.spawn(async move {
            let mut heard = Vec::new();
            let client = Client::connected(first, Options::new(transport)).await;
            begun.wait().await;
            let mut last = None;
            while let Some(event) = next_until_closed(&client).await {
                heard.push(event.arg(0).clone());
                last = Some(event);
            }
            assert!(!client.is_disconnected(), "told to stay away");
            let away = Away::of(client, last.as_ref()).await;
            let options = Options::new(transport).auth(away.auth());
            let client = Client::connected(then, options).await;
            assert_eq!(client.pid(), away.pid, "{transport:?}: not recovered");
            while heard.last() != Some(&json!("end")) {
                heard.push(client.next("message").await.arg(0).clone());
            }
            heard
        });
    }
    begun.wait().await;
    let mut said: Vec<Value> = Vec::new();
    for n in 0..400 {
        if n == 100 {
            nodes[0].signal(Signal::TERM);
        }
        let (id, answer) = talker.expect_ack();
        said.push(json!(n));
        talker.send_raw(&packet::event("user-message", &[json!(n)], Some(id))).await;
        answer.await.expect("the other node lives");
    }
    nodes[0].exit_code(PATIENCE).await;
    say(&talker, "end").await;
    said.push(json!("end"));
    for heard in clients.join_all().await {
        assert_eq!(heard, said);
    }
}

async fn next_until_closed(client: &Client) -> Option<packet::Event> {
    loop {
        match client.try_next("message", Duration::from_millis(50)).await {
            Some(event) => return Some(event),
            None if client.is_closed() => return client.try_next("message", Duration::ZERO).await,
            None => {}
        }
    }
}

/// A session whose client is seen to hold nothing is claimable at once.
#[tokio::test]
async fn a_join_is_stored_before_it_is_answered() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = two_nodes(&redis, &[]).await;
    let talker = Client::connected(nodes[1].address, native(Transport::WebSocket)).await;
    join(&talker, "attic", None).await;
    for round in 0..5 {
        let client = Client::connected(nodes[0].address, native(Transport::WebSocket)).await;
        join(&client, "attic", None).await;
        nodes[0].kill();
        let text = format!("round {round}");
        send(&talker, "attic", &text).await;
        let seen = talker.next("message").await;
        let away = Away::of(client, None).await;
        let client = away.recovered(&nodes[1], native(Transport::WebSocket)).await;
        let missed = client.next("message").await;
        assert_eq!((missed.arg(0), offset(&missed)), (seen.arg(0), offset(&seen)));
        nodes[0].restart().await;
        nodes[0].wait_ready(PATIENCE).await;
    }
}

async fn in_process() -> Server {
    let args = ["roomcast", "--listen", "127.0.0.1:0", "--data", "memory"];
    let quick = ["--ping-interval", "2s", "--ping-timeout", "2s"];
    let config = Config::from_args(args.into_iter().chain(quick)).expect("a configuration");
    Server::start(&config).await.expect("it starts")
}

/// Connects up to a stage, and vanishes.
async fn vanish(address: std::net::SocketAddr, stage: usize, away: Option<Value>) {
    let transport = if stage.is_multiple_of(2) { "websocket" } else { "polling" };
    let connect = format!("40{}", away.map(|auth| auth.to_string()).unwrap_or_default());
    if transport == "polling" {
        let mut http = Http::open(address).await.expect("loopback works");
        let path = "/socket.io/?EIO=4&transport=polling";
        let open = http.request("GET", path, &[], b"").await.expect("an answer").text();
        let open: Value = serde_json::from_str(open.trim_start_matches('0')).expect("a handshake");
        let path = format!("{path}&sid={}", open["sid"].as_str().expect("a sid"));
        if stage > 1 {
            http.request("POST", &path, &[], connect.as_bytes()).await.expect("an answer");
        }
        if stage > 3 {
            http.request("GET", &path, &[], b"").await.expect("an answer");
        }
        return;
    }
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let stream = TcpStream::connect(address).await.expect("loopback works");
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).expect("loopback works");
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut websocket, _) =
        tokio_tungstenite::client_async(url, stream).await.expect("a handshake");
    websocket.next().await.expect("an open packet").expect("an open packet");
    if stage > 1 {
        websocket.send(Message::text(connect)).await.expect("it is sent");
    }
    if stage > 3 {
        websocket.next().await.expect("a reply").expect("a reply");
    }
}

/// Before CONNECT, in admission, and after it; new, and as sessions that come back.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_vanish_at_any_stage_leave_nothing() {
    const CLIENTS: usize = 5_000;
    let _turn = serial().await;
    let server = in_process().await;
    let address = server.addresses()[0];
    let nothing =
        Counts { connections: 0, restoring: 0, connect_replies: 0, rooms: 0, addressed: 0 };
    let mut known = Vec::new();
    for _ in 0..50 {
        known.push(Client::connected(address, Options::new(Transport::WebSocket)).await);
    }
    // The lobby, and the personal room of each user.
    eventually("everybody is in their rooms", PATIENCE, async || {
        ((server.counts().connections, server.counts().rooms) == (50, 51)).then_some(())
    })
    .await;
    let pids: Vec<String> = known.iter().map(Client::pid).collect();
    drop(known);
    for round in 0..CLIENTS / 50 {
        let mut clients = JoinSet::new();
        for (index, pid) in pids.iter().enumerate() {
            let away = (index % 12 > 5).then(|| json!({ "pid": pid }));
            clients.spawn(vanish(address, (round + index) % 6, away));
        }
        while let Some(done) = clients.join_next().await {
            done.expect("it vanished");
        }
    }
    // Polling clients are missed when they answer no ping.
    eventually("nothing is left", PATIENCE * 2, async || {
        (server.counts() == nothing).then_some(())
    })
    .await;
    server.stop(PATIENCE).await;
}

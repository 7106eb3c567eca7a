//! Two nodes and one Redis: one chat, also for redis-cli.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Transport},
    eventually, free_port,
    node::Node,
    packet::{self, own_id},
    redis::{Connection, Keeps, Redis, Reply},
};

/// The lobby's channel, with the default prefix and one partition.
const CHANNEL: &str = "rc:{0}";
/// What the project promises after an outage of Redis.
const READY_WITHIN: Duration = Duration::from_secs(2);

async fn two_nodes(redis: &Redis) -> [Node; 2] {
    let nodes = [
        Node::start(&["--redis", &redis.url()]).await,
        Node::start(&["--redis", &redis.url()]).await,
    ];
    for node in &nodes {
        node.wait_ready(PATIENCE).await;
    }
    nodes
}

async fn client(node: &Node) -> Client {
    Client::connected(node.address, Options::new(Transport::WebSocket)).await
}

#[tokio::test]
async fn a_burst_of_5_000_arrives_whole_and_in_order_on_every_node() {
    const BURST: usize = 5_000;
    let _turn = crate::harness::serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis).await;
    let mut clients = Vec::new();
    for node in &nodes {
        for transport in Transport::ALL {
            clients.push(Client::connected(node.address, Options::new(transport)).await);
        }
    }
    let burst = (0..BURST).map(|n| packet::event("user-message", &[json!(n)], None));
    clients[0].burst(burst.collect()).await;
    for client in &clients {
        let events = client.collect("message", BURST).await;
        let order = events.iter().map(|event| event.arg(0).clone());
        assert!(order.eq((0..BURST).map(Value::from)), "out of order: {client}");
    }
}

#[tokio::test]
async fn receivers_on_two_nodes_get_all_senders_in_one_order() {
    let _turn = crate::harness::serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis).await;
    let clients = [client(&nodes[0]).await, client(&nodes[1]).await];
    for (who, sender) in clients.iter().enumerate() {
        let burst = (0..1_000).map(|n| packet::event("user-message", &[json!([who, n])], None));
        sender.burst(burst.collect()).await;
    }
    let [one, other] =
        [clients[0].collect("message", 2_000).await, clients[1].collect("message", 2_000).await];
    assert!(one == other, "two nodes show two orders");
}

#[tokio::test]
async fn a_retry_on_another_node_shows_once() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis).await;
    let listener = client(&nodes[1]).await;
    let mut acks = Vec::new();
    for node in [&nodes[0], &nodes[1], &nodes[0]] {
        let options = Options::new(Transport::WebSocket).auth(json!({ "token": "mine" }));
        let sender = Client::connected(node.address, options).await;
        acks.push(sender.request("user-message", &[json!("once"), json!(own_id("id-1"))]).await);
        if acks.len() == 3 {
            sender.request("user-message", &[json!("end")]).await;
        }
    }
    assert!(acks[0]["ok"] == json!(true) && acks[0] == acks[1] && acks[1] == acks[2], "{acks:?}");
    let shown = listener.collect("message", 2).await;
    assert_eq!((shown[0].arg(0), shown[1].arg(0)), (&json!("once"), &json!("end")));
}

#[tokio::test]
async fn messages_of_one_node_are_read_on_another() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis).await;
    let writer = client(&nodes[0]).await;
    for n in 1..=60 {
        writer.request("user-message", &[json!(n)]).await;
    }
    let late = Node::start(&["--redis", &redis.url()]).await;
    late.wait_ready(PATIENCE).await;
    for node in [&nodes[1], &late] {
        let reader = client(node).await;
        let page = reader.request("history", &[json!({"room": "lobby"})]).await;
        let bodies: Vec<u64> = page["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|message| message["body"].as_u64())
            .collect();
        assert_eq!(bodies, (11..=60).collect::<Vec<_>>(), "{page}");
        assert_eq!((&page["more"], &page["seq"]), (&json!(true), &json!(60)));
        assert_eq!(reader.drain(), [], "history comes as an answer, not as events");
    }
}

#[tokio::test]
async fn redis_cli_can_read_and_publish_messages() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis).await;
    let clients = [client(&nodes[0]).await, client(&nodes[1]).await];
    let mut cli = Connection::open(redis.address).await.expect("redis-server accepts");
    cli.call(&["SUBSCRIBE", CHANNEL]).await.expect("redis-server answers");
    clients[0].request("user-message", &[json!({"text": "hello"})]).await;
    let Reply::Many(heard) = cli.reply().await.expect("a message") else {
        panic!("no message was published")
    };
    let frame = heard[2].clone().into_text();
    assert!(frame.contains(r#"{"text":"hello"}"#), "not readable: {frame}");

    for client in &clients {
        assert_eq!(client.next("message").await.arg(0), &json!({"text": "hello"}));
    }
    for (typed, shown) in [
        ("plain words", json!("plain words")),
        (r#"{"text":"typed"}"#, json!({"text": "typed"})),
        ("[1,2]", json!([1, 2])),
        (r#""quoted""#, json!("quoted")),
        ("1:2:3", json!("1:2:3")),
    ] {
        redis.call(&["PUBLISH", CHANNEL, typed]).await;
        for client in &clients {
            let event = client.next("message").await;
            assert_eq!(event.arg(0), &shown, "typed {typed}");
            // A string at the end would be taken for an offset.
            assert!(event.args.len() == 1 || !event.arg(1).is_string(), "{}", event.raw);
        }
    }
}

#[tokio::test]
async fn prefixes_keep_chats_on_one_redis_apart() {
    let redis = Redis::start(Keeps::Nothing).await;
    let one = Node::start(&["--redis", &redis.url(), "--redis-prefix", "one"]).await;
    let two = Node::start(&["--redis", &redis.url(), "--redis-prefix", "two"]).await;
    one.wait_ready(PATIENCE).await;
    two.wait_ready(PATIENCE).await;
    let (in_one, in_two) = (client(&one).await, client(&two).await);
    in_one.request("user-message", &[json!("one")]).await;
    in_two.request("user-message", &[json!("two")]).await;
    assert_eq!(in_one.next("message").await.arg(0), &json!("one"));
    assert_eq!(in_two.next("message").await.arg(0), &json!("two"));
}

#[tokio::test]
async fn a_node_serves_without_redis_and_recovers_within_2_s_of_its_return() {
    let _turn = crate::harness::serial().await;
    // No server listens there yet, and the password must stay a secret.
    let url = format!("redis://user:s3cret@127.0.0.1:{}", free_port());
    let lonely = Node::start(&["--redis", &url]).await;
    assert!(lonely.ready().await.is_err(), "ready without Redis");
    assert_eq!(lonely.get("/healthz").await.status, 200);
    let answer = client(&lonely).await.request("user-message", &[json!("x")]).await;
    assert_eq!(answer["error"]["code"], json!("unavailable"), "{answer}");
    assert!(!lonely.output().contains("s3cret"), "{}", lonely.output());

    let mut redis = Redis::start(Keeps::Everything).await;
    let node = Node::start(&["--redis", &redis.url()]).await;
    node.wait_ready(PATIENCE).await;
    let client = client(&node).await;
    client.request("user-message", &[json!("before")]).await;
    let mut unsure = Vec::new();
    for frozen in [false, true] {
        if frozen {
            redis.freeze()
        } else {
            redis.kill()
        }
        let reason = node.wait_unready(PATIENCE).await;
        assert!(reason.contains("Redis"), "{reason}");
        // What was on its way when Redis went may be stored; soon the node knows better.
        for n in 0.. {
            let answer = client.request("user-message", &[json!(n)]).await;
            match answer["error"]["code"].as_str() {
                Some("unavailable") => break,
                Some("unconfirmed") => unsure.push(json!(n)),
                _ => panic!("{answer}"),
            }
        }
        if frozen {
            redis.thaw()
        } else {
            redis.restart().await
        }
        let back = Instant::now();
        eventually("a send is stored again", PATIENCE, async || {
            let answer = client.request("user-message", &[json!("after")]).await;
            (answer["ok"] == json!(true)).then_some(())
        })
        .await;
        let took = back.elapsed();
        assert!(took < READY_WITHIN, "itself only {took:?} after Redis, frozen: {frozen}");
        node.wait_ready(READY_WITHIN).await;
    }
    client.request("user-message", &[json!("end")]).await;
    let mut shown = Vec::new();
    while shown.last() != Some(&json!("end")) {
        shown.push(client.next("message").await.arg(0).clone());
    }
    shown.retain(|body| !unsure.contains(body));
    assert_eq!(json!(shown), json!(["before", "after", "after", "end"]));
    for state in ["not ready", "ready: messages are stored and delivered"] {
        let logged = eventually("a change of state is logged", PATIENCE, async || {
            Some(node.logs(state)).filter(|lines| lines.len() >= 2)
        });
        // Not a line for each failed attempt: on a loaded machine it may change its mind once.
        assert!(logged.await.len() <= 5, "{}", node.output());
    }
}

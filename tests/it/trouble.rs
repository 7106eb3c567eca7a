//! What a node says and does when Redis, its log, or the link to it is not as it should be: told to
//! clients, to `/readyz`, and in the log of the node.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Transport},
    eventually,
    node::Node,
    proxy::{Network, Proxy},
    redis::{Keeps, Pretender, Redis, Reply},
};

const LOG: &str = "rc:{0}:log";

/// One Redis and two nodes; the far one reaches it over a link that can be broken.
struct Pair {
    redis: Redis,
    link: Proxy,
    near: Node,
    far: Node,
}

impl Pair {
    async fn start() -> Self {
        let redis = Redis::start(Keeps::Nothing).await;
        let link = Proxy::start(redis.address).await;
        let over_link = format!("redis://{}", link.address);
        let near = Node::start(&["--redis", &redis.url()]).await;
        let far = Node::start(&["--redis", &over_link]).await;
        near.wait_ready(PATIENCE).await;
        far.wait_ready(PATIENCE).await;
        Self { redis, link, near, far }
    }
}

/// Clients of every transport, each in the lobby: it has heard a message.
async fn listeners(node: &Node, sender: &Client) -> Vec<Client> {
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        let client = Client::connected(node.address, Options::new(transport)).await;
        eventually("it hears", PATIENCE, async || {
            send(sender, &json!("are you there?")).await;
            client.try_next("message", Duration::from_millis(100)).await
        })
        .await;
        clients.push(client);
    }
    let last = send(sender, &json!("all are there")).await;
    for client in &clients {
        hear_until(client, last).await;
    }
    clients
}

/// Sends and answers with the `seq` that the message has.
async fn send(sender: &Client, body: &Value) -> u64 {
    let ack = sender.request("user-message", std::slice::from_ref(body)).await;
    ack["seq"].as_u64().unwrap_or_else(|| panic!("not stored: {ack}"))
}

async fn sender(node: &Node) -> Client {
    Client::connected(node.address, Options::new(Transport::WebSocket)).await
}

fn seq(offset: &Value) -> u64 {
    let (_epoch, seq) = offset.as_str().and_then(|it| it.rsplit_once('-')).expect("an offset");
    seq.parse().expect("a number")
}

/// What comes up to the message with this `seq`: `Ok` is a message's `seq`, `Err` anything else.
async fn hear_until(client: &Client, last: u64) -> Vec<Result<u64, Value>> {
    let mut heard = Vec::new();
    while heard.last() != Some(&Ok(last)) {
        let event = client.try_next_any(PATIENCE).await;
        let event = event.unwrap_or_else(|| panic!("only {heard:?} up to {last} came: {client}"));
        heard.push(match event.name.as_str() {
            "message" => Ok(seq(event.arg(1))),
            name => Err(json!([name, event.arg(0)])),
        });
    }
    heard
}

#[tokio::test]
async fn a_hole_that_the_log_cannot_fill_is_told_exactly_and_the_chat_goes_on() {
    let pair = Pair::start().await;
    let sender = sender(&pair.near).await;
    let mut near = listeners(&pair.near, &sender).await;
    let far = listeners(&pair.far, &sender).await;
    let before = send(&sender, &json!("before")).await;
    for client in near.iter().chain(&far) {
        hear_until(client, before).await;
    }
    let mut top = before;
    // The second time, nothing at all is left of what was missed.
    for kept in [10, 0] {
        pair.link.set(Network::Refusing);
        pair.link.cut();
        pair.far.wait_unready(PATIENCE).await;
        let first = top + 1;
        for n in 0..40 {
            top = send(&sender, &json!(n)).await;
        }
        let from = top + 1 - kept;
        pair.redis.call(&["XTRIM", LOG, "MINID", &from.to_string()]).await;
        pair.link.heal();
        pair.far.wait_ready(PATIENCE).await;
        top = send(&sender, &json!("after")).await;
        for client in &far {
            let heard = hear_until(client, top).await;
            let [Err(gap), after @ ..] = heard.as_slice() else { panic!("no gap: {heard:?}") };
            let epoch = &gap[1]["epoch"];
            let hole = json!({"room": "lobby", "epoch": epoch, "from": first, "to": from - 1});
            assert_eq!(gap, &json!(["gap", hole]));
            assert!(epoch.as_str().is_some_and(|epoch| !epoch.is_empty()), "{gap}");
            assert_eq!(after, (from..=top).map(Ok).collect::<Vec<_>>(), "in order after the gap");
        }
    }
    // A client that was not cut off has missed nothing and is told nothing.
    for client in near.drain(..) {
        let heard = hear_until(&client, top).await;
        assert_eq!(heard, (before + 1..=top).map(Ok).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn readyz_reports_a_deaf_subscription_until_it_hears_and_nothing_is_lost() {
    let pair = Pair::start().await;
    let sender = sender(&pair.near).await;
    let far = listeners(&pair.far, &sender).await;
    let first = send(&sender, &json!("heard")).await;
    pair.link.set(Network::Deaf);
    let deaf = async || pair.far.ready().await.err().filter(|reason| reason.contains("is deaf"));
    eventually("/readyz says that it is deaf", PATIENCE, async || {
        send(&sender, &json!("is it deaf?")).await;
        deaf().await
    })
    .await;
    // Commands work, so it goes on from the log; it does not call itself ready for that.
    let middle = send(&sender, &json!("from the log")).await;
    for client in &far {
        let heard = hear_until(client, middle).await;
        assert!(heard.ends_with(&(first..=middle).map(Ok).collect::<Vec<_>>()), "{heard:?}");
    }
    assert!(pair.far.ready().await.is_err(), "ready, and nothing was heard");
    assert_eq!(pair.near.ready().await, Ok(()), "the other node hears");
    eventually("/readyz says it again", PATIENCE, deaf).await;

    // No one tells it: the node finds out by itself.
    pair.link.heal();
    pair.far.wait_ready(PATIENCE).await;
    let last = send(&sender, &json!("heard again")).await;
    for client in &far {
        assert_eq!(hear_until(client, last).await, [Ok(last)], "nothing twice");
    }
    assert_eq!(pair.far.logs("receives nothing").len(), 1, "{}", pair.far.output());
}

#[tokio::test]
async fn a_refused_subscription_is_reported_and_tried_again() {
    let pair = Pair::start().await;
    let sender = sender(&pair.far).await;
    assert_eq!(pair.redis.call(&["ACL", "SETUSER", "default", "resetchannels"]).await, ok());
    pair.link.cut();
    eventually("/readyz says why", PATIENCE, async || {
        pair.far.ready().await.err().filter(|reason| reason.contains("NOPERM"))
    })
    .await;
    assert_eq!(pair.redis.call(&["ACL", "SETUSER", "default", "allchannels"]).await, ok());
    pair.far.wait_ready(PATIENCE).await;
    send(&sender, &json!("stored")).await;
}

/// Each of a node's connections finds its own way back; the last one makes it ready.
#[tokio::test]
async fn a_node_that_says_it_is_ready_takes_messages() {
    let pair = Pair::start().await;
    let sender = sender(&pair.far).await;
    for _ in 0..10 {
        pair.link.set(Network::Refusing);
        pair.link.cut();
        pair.far.wait_unready(PATIENCE).await;
        pair.link.heal();
        pair.far.wait_ready(PATIENCE).await;
        send(&sender, &json!("stored")).await;
    }
}

fn ok() -> Reply {
    Reply::text("OK")
}

/// Each read of the log is so large that it takes longer than a command may.
#[tokio::test]
async fn a_slow_connection_is_enough_to_catch_up() {
    let pair = Pair::start().await;
    let sender = sender(&pair.near).await;
    let far = listeners(&pair.far, &sender).await;
    pair.link.set(Network::Refusing);
    pair.link.cut();
    pair.far.wait_unready(PATIENCE).await;
    let body = json!("x".repeat(30_000));
    let first = send(&sender, &body).await;
    let mut last = first;
    for _ in 1..64 {
        last = send(&sender, &body).await;
    }
    // 32 of them are a megabyte.
    pair.link.set(Network::Narrow { bytes_per_second: 500_000 });
    for client in &far {
        let heard = hear_until(client, last).await;
        assert_eq!(heard, (first..=last).map(Ok).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused_with_a_clear_line() {
    let old = Pretender::start("6.0.16").await;
    let node = Node::start(&["--redis", &format!("redis://{}", old.address)]).await;
    let line = "Redis version 6.0.16 is too old: 6.2 or newer is needed";
    eventually("the log says why", PATIENCE, async || {
        node.logs(line).first().filter(|line| line["level"] == json!("ERROR")).map(drop)
    })
    .await;
    let why = eventually("/readyz says why", PATIENCE, async || {
        node.ready().await.err().filter(|reason| reason.contains("6.0.16 is too old"))
    })
    .await;
    assert!(why.contains("6.2 or newer"), "{why}");
    let refused = sender(&node).await.request("user-message", &[json!("x")]).await;
    assert_eq!(refused["error"]["code"], json!("unavailable"), "{refused}");
    // It asks again and again; the line stands there once.
    let asked = old.asked();
    eventually("it asks again", PATIENCE, async || (old.asked() > asked + 1).then_some(())).await;
    assert_eq!(node.logs(line).len(), 1, "{}", node.output());
}

/// Before 6.0, Redis does not even know how the conversation begins.
#[tokio::test]
async fn a_redis_that_is_much_too_old_is_refused_with_a_clear_line() {
    let old = Pretender::start("5.0.14").await;
    let node = Node::start(&["--redis", &format!("redis://{}", old.address)]).await;
    let why = "it is too old: 6.2 or newer is needed";
    eventually("/readyz says why", PATIENCE, async || {
        node.ready().await.err().filter(|reason| reason.contains(why))
    })
    .await;
    let lines = eventually("the log says why", PATIENCE, async || {
        Some(node.logs("cannot connect to Redis")).filter(|lines| !lines.is_empty())
    })
    .await;
    assert_eq!(lines.last().map(|line| &line["fields"]["why"]), Some(&json!(why)));
}

#[tokio::test]
async fn settings_of_redis_that_lose_messages_are_warned_of() {
    const EVICTS: &str = "Redis may evict messages";
    const FORGETS: &str = "Redis keeps nothing on disk";
    for (keeps, setting, value, expected) in [
        (Keeps::Nothing, "maxmemory-policy", "allkeys-lru", &[EVICTS, FORGETS][..]),
        (Keeps::Everything, "maxmemory-policy", "volatile-ttl", &[EVICTS]),
        (Keeps::Nothing, "save", "3600 1", &[]),
        (Keeps::Nothing, "save", "", &[FORGETS]),
        (Keeps::Everything, "save", "", &[]),
    ] {
        let redis = Redis::start(keeps).await;
        assert_eq!(redis.call(&["CONFIG", "SET", setting, value]).await, ok());
        let node = Node::start(&["--redis", &redis.url()]).await;
        // It has looked before it is ready.
        node.wait_ready(PATIENCE).await;
        let warned =
            |text: &&&str| node.logs(text).iter().any(|line| line["level"] == json!("WARN"));
        let said: Vec<&str> = [EVICTS, FORGETS].iter().filter(warned).copied().collect();
        assert_eq!(said, expected, "{keeps:?} {setting} {value}: {}", node.output());
    }
}

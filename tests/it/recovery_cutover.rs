//! Where what was missed and what is live meet: nothing lost, doubled or out of order there, in a
//! room that never rests.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::interval};

use crate::harness::{
    PATIENCE, Random,
    away::Away,
    chat::{join, native, offset, plain, send, two_nodes},
    client::{Client, Options, Transport},
    eventually,
    node::Node,
    packet::{self, Event},
    redis::{Keeps, Redis},
    serial,
};

/// Messages said meanwhile, in groups of `GROUP` every 10 ms: 2 000 a second on an idle machine.
const MESSAGES: u64 = 4_000;
const GROUP: u64 = 20;
/// How long everything may take: far more than it does.
const OVER_AFTER: Duration = Duration::from_secs(120);

/// Talks to the lobby, and answers the last message's `seq`.
async fn talk(node: SocketAddr) -> u64 {
    let talker = Client::connected(node, Options::new(Transport::WebSocket)).await;
    let mut ticks = interval(Duration::from_millis(10));
    for group in 0..MESSAGES / GROUP {
        ticks.tick().await;
        let text = |n| packet::event("user-message", &[json!(group * GROUP + n)], None);
        talker.burst((0..GROUP).map(text).collect()).await;
        talker.drain();
    }
    let ack = talker.request("user-message", &[json!("end")]).await;
    ack["seq"].as_u64().expect("the end is stored")
}

/// The lobby is the only room, so its sequence has no holes.
#[derive(Debug, Default)]
struct Follower {
    last: Option<u64>,
}

impl Follower {
    fn hears(&mut self, seq: u64, how: &str) {
        if let Some(last) = self.last {
            assert_eq!(seq, last + 1, "after {last}, by {how}");
        }
        self.last = Some(seq);
    }

    fn hears_event(&mut self, event: &Event) {
        assert_eq!(event.name, "message", "{}", event.raw);
        let offset = offset(event);
        let (_epoch, seq) = offset.rsplit_once('-').expect("epoch and seq");
        self.hears(seq.parse().expect("a number"), "an event");
    }
}

impl Follower {
    async fn read_history(&mut self, client: &Client, to: u64) {
        let mut more = true;
        while more && self.last < Some(to) {
            let newest = client.request("history", &[json!({ "room": "lobby", "limit": 1 })]).await;
            let after = json!({ "epoch": newest["epoch"], "seq": self.last });
            let request = json!({ "room": "lobby", "after": after, "limit": 200 });
            let page = client.request("history", &[request]).await;
            more = page["more"] == json!(true);
            for message in page["messages"].as_array().expect("a page") {
                let seq = message["seq"].as_u64().expect("a number");
                if seq <= to {
                    self.hears(seq, "a page of history");
                }
            }
        }
    }
}

/// One client that loses its connection again and again.
struct Restless {
    nodes: Vec<SocketAddr>,
    options: fn(Transport) -> Options,
    transport: Transport,
    random: Random,
    follower: Follower,
    lives: u64,
}

impl Restless {
    fn new(
        nodes: &[Node],
        transport: Transport,
        number: u64,
        options: fn(Transport) -> Options,
    ) -> Self {
        let mut nodes: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let turn = usize::try_from(number).expect("a small number") % nodes.len();
        nodes.rotate_left(turn);
        let random = Random::new(number + 1);
        Self { nodes, options, transport, random, follower: Follower::default(), lives: 0 }
    }

    fn next_node(&mut self) -> SocketAddr {
        self.lives += 1;
        self.nodes.rotate_left(1);
        self.nodes[0]
    }

    /// Hears some of what comes, or all until `end`. True when the end was heard.
    async fn live(&mut self, client: &Client, end: u64, last: &mut Option<Event>) -> bool {
        let mut count = self.random.between(0, 400);
        let deadline = Instant::now() + OVER_AFTER;
        while count > 0 && self.follower.last < Some(end) {
            let Some(event) = client.try_next_any(Duration::from_millis(200)).await else {
                assert!(Instant::now() < deadline, "nothing comes: {client}");
                if client.is_closed() {
                    return false;
                }
                continue;
            };
            if event.name == "presence" {
                continue;
            }
            self.follower.hears_event(&event);
            *last = Some(event);
            count -= 1;
        }
        self.follower.last >= Some(end)
    }
}

/// Comes back by `pid` and `offset`, as the official client does.
async fn comes_back_by_pid(mut restless: Restless, end: u64) -> u64 {
    let mut last = None;
    let options = (restless.options)(restless.transport);
    let mut client = Client::connected(restless.nodes[0], options.clone()).await;
    // Something to begin with: then everything is owed to it.
    while restless.follower.last.is_none() {
        restless.live(&client, end, &mut last).await;
    }
    loop {
        if restless.live(&client, end, &mut last).await {
            return restless.lives;
        }
        let away = Away::of(client, last.as_ref()).await;
        let node = restless.next_node();
        client = Client::connected(node, options.clone().auth(away.auth())).await;
        assert_eq!(client.pid(), away.pid, "{:?} was not recovered", restless.transport);
    }
}

/// Comes back as a new session each time, and says where it is.
async fn comes_back_by_join(mut restless: Restless, end: u64, keeps_pid: bool) -> u64 {
    let mut last: Option<Event> = None;
    let mut position: Option<Value> = None;
    let mut auth = json!({});
    loop {
        let node = restless.next_node();
        let options = (restless.options)(restless.transport).auth(auth);
        let client = Client::connected(node, options).await;
        // What comes by itself comes before any answer, so the client knows when it has it all.
        client.request("history", &[json!({ "room": "lobby", "limit": 1 })]).await;
        for event in client.drain().into_iter().filter(|event| event.name != "presence") {
            restless.follower.hears_event(&event);
            last = Some(event);
        }
        if let (Some(position), Some(seq)) = (&mut position, restless.follower.last) {
            position["seq"] = json!(seq);
        }
        let answer = join(&client, "lobby", position.clone()).await;
        assert_eq!(answer["ok"], json!(true), "{answer}");
        let begin = answer["seq"].as_u64().expect("a number");
        for message in answer["messages"].as_array().expect("a list") {
            restless.follower.hears(message["seq"].as_u64().expect("a number"), "the answer");
        }
        if answer["recovered"] == json!(false) && position.is_some() {
            // More than an answer holds: pages of history lead to where events begin.
            restless.follower.read_history(&client, begin).await;
        }
        let is_known = restless.follower.last.is_some_and(|last| last >= begin);
        assert!(is_known || position.is_none(), "{answer} does not reach where events begin");
        restless.follower.last = restless.follower.last.max(Some(begin));
        position = Some(json!({ "epoch": answer["epoch"], "seq": begin }));
        if restless.live(&client, end, &mut last).await {
            return restless.lives;
        }
        position =
            position.map(|at| json!({ "epoch": at["epoch"], "seq": restless.follower.last }));
        auth = if keeps_pid { Away::of(client, last.as_ref()).await.auth() } else { json!({}) };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_busy_room_each_returning_client_gets_every_message_once_in_order() {
    let _turn = serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    // No other client sends, so the end is known before it comes.
    let end = MESSAGES + 1;
    let mut talking = JoinSet::new();
    talking.spawn(talk(nodes[0].address));
    let mut clients = JoinSet::new();
    for number in 0..9_u64 {
        let transport = Transport::ALL[usize::try_from(number % 3).expect("small")];
        match number / 3 {
            0 => {
                let restless = Restless::new(&nodes, transport, number, Options::new);
                clients.spawn(comes_back_by_pid(restless, end));
            }
            1 => {
                let restless = Restless::new(&nodes, transport, number, native);
                clients.spawn(comes_back_by_join(restless, end, false));
            }
            _ => {
                let restless = Restless::new(&nodes, transport, number, native);
                clients.spawn(comes_back_by_join(restless, end, true));
            }
        }
    }
    let lives = tokio::time::timeout(OVER_AFTER, clients.join_all()).await.expect("in time");
    assert_eq!(talking.join_all().await, [end]);
    assert!(lives.iter().sum::<u64>() > 50, "hardly anybody came back: {lives:?}");
}

/// A client that sends at once gets its own message: its room is live before it can send.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_its_own_first_message_without_waiting() {
    const ROUNDS: usize = 40;
    let _turn = serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let mut talking = JoinSet::new();
    talking.spawn(talk(nodes[0].address));
    for round in 0..ROUNDS {
        let (transport, node) = (Transport::ALL[round % 3], &nodes[round % 2]);
        let mine = json!(format!("mine {round}"));
        let client = plain(node, transport).await;
        client.emit("user-message", std::slice::from_ref(&mine)).await;
        eventually("its own message comes", PATIENCE, async || {
            (client.next("message").await.arg(0) == &mine).then_some(())
        })
        .await;

        let client = Client::connected(node.address, native(transport)).await;
        let room = format!("room {round}");
        let (id, joined) = client.expect_ack();
        client
            .burst(vec![
                packet::event("join", &[json!({ "room": room })], Some(id)),
                packet::event("send", &[json!({ "room": room, "text": "first" })], None),
            ])
            .await;
        // As an event, or in the answer when it was stored before the membership began.
        let answer = joined.await.expect("an answer").remove(0);
        let told = answer["messages"].as_array().expect("a list").len();
        if told == 0 {
            assert_eq!(client.next("message").await.arg(0)["text"], json!("first"));
        } else {
            assert_eq!((told, &answer["messages"][0]["text"]), (1, &json!("first")));
        }
        client.request("history", &[json!({ "room": room })]).await;
        assert!(client.drain().iter().all(|event| event.name != "message"), "told twice");
    }
    talking.join_all().await;
}

#[tokio::test]
async fn a_room_that_is_left_is_silent_and_joins_do_not_double() {
    let node = Node::memory().await;
    let talker = Client::connected(node.address, native(Transport::WebSocket)).await;
    join(&talker, "attic", None).await;
    for transport in Transport::ALL {
        let client = Client::connected(node.address, native(transport)).await;
        let stand = join(&client, "attic", None).await;
        let after = json!({ "epoch": stand["epoch"], "seq": stand["seq"] });
        send(&talker, "attic", "one").await;
        client.next("message").await;
        // In the room already: what came as events is not told again.
        for again in [None, Some(after.clone())] {
            let answer = join(&client, "attic", again.clone()).await;
            assert_eq!(answer["messages"], json!([]), "{answer}");
            assert_eq!(answer["recovered"], json!(again.is_some()));
        }
        send(&talker, "attic", "two").await;
        assert_eq!(client.next("message").await.arg(0)["text"], json!("two"));
        // Left and joined in one breath, again and again: live once, and told nothing twice.
        let request = || json!({ "room": "attic" });
        let mut packets = Vec::new();
        for _ in 0..3 {
            packets.push(packet::event("leave", &[request()], None));
            packets.push(packet::event("join", &[request()], None));
        }
        client.burst(packets).await;
        send(&client, "attic", "three").await;
        assert_eq!(client.next("message").await.arg(0)["text"], json!("three"));
        let left = client.request("leave", &[request()]).await;
        assert_eq!(left, json!({ "ok": true, "room": "attic" }));
        send(&talker, "attic", "four").await;
        while talker.next("message").await.arg(0)["text"] != json!("four") {}
        let refused = send(&client, "attic", "five").await;
        assert_eq!(refused["error"]["code"], json!("not_joined"));
        let heard = client.drain();
        assert!(heard.iter().all(|event| event.name != "message"), "{heard:?} after it left");
        // Back in, with what it missed in the answer.
        let answer = join(&client, "attic", Some(after)).await;
        let told = answer["messages"].as_array().expect("a list");
        let told: Vec<_> = told.iter().map(|message| message["text"].clone()).collect();
        assert_eq!(told, ["one", "two", "three", "four"]);
    }
}

#[tokio::test]
async fn rooms_of_a_client_are_bounded() {
    let node = Node::start(&["--data", "memory", "--rooms-max", "3"]).await;
    let client = Client::connected(node.address, native(Transport::WebSocket)).await;
    for room in ["a", "b", "c", "a"] {
        assert_eq!(join(&client, room, None).await["ok"], json!(true), "{room}");
    }
    assert_eq!(join(&client, "d", None).await["error"]["code"], json!("too_many"));
    client.request("leave", &[json!({ "room": "b" })]).await;
    assert_eq!(join(&client, "d", None).await["ok"], json!(true));
    // A session that comes back has as many.
    let client = Away::of(client, None).await.recovered(&node, native(Transport::Polling)).await;
    assert_eq!(join(&client, "e", None).await["error"]["code"], json!("too_many"));
    assert_eq!(send(&client, "d", "x").await["ok"], json!(true));
}

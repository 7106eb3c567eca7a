//! What much traffic must not do: break order, grow memory, or hold up somebody else.
//!
//! Against the real server, which stores and acks all of it.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{sync::Barrier, task::JoinSet};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    PATIENCE,
    client::{self, Client, Options, Transport},
    client_io::WebSocket,
    eventually,
    node::Node,
    packet::{self, Event, Packet},
    serial,
};

/// The place in the log, from the offset that ends every stored message.
fn seq(event: &Event) -> u64 {
    let offset = event.arg(1).as_str().expect("a stored message ends in its offset");
    let (_epoch, seq) = offset.rsplit_once('-').expect("epoch and sequence");
    seq.parse().expect("a sequence is a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_50_000_passes_whole_in_order_and_in_bounded_memory() {
    const MESSAGES: usize = 50_000;
    const BODY_BYTES: usize = 2_000;
    // All of it is 100 MB. What may be there of it at one time: SQLite's pages (16 MiB a
    // connection), what is under way and what waits for a lane.
    const GROWTH_MAX: u64 = 60 << 20;
    let _turn = serial().await;
    // A log in memory would be the growth.
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&["--data", dir.path().to_str().expect("a plain path")]).await;
    let sender = Client::connected(node.address, Options::new(Transport::WebSocket)).await;
    let before = node.memory_peak();
    let filler = "x".repeat(BODY_BYTES);
    let mut acks = Vec::with_capacity(MESSAGES);
    let burst = (0..MESSAGES).map(|number| {
        let (id, ack) = sender.expect_ack();
        acks.push(ack);
        packet::event("user-message", &[json!([number, filler])], Some(id))
    });
    sender.burst(burst.collect()).await;
    let mut positions = Vec::with_capacity(MESSAGES);
    for number in 0..MESSAGES {
        let Some(event) = sender.try_next("message", PATIENCE).await else {
            panic!("message {number} did not come: {sender}");
        };
        assert_eq!(event.arg(0)[0], json!(number));
        positions.push(seq(&event));
    }
    assert!(positions.is_sorted_by(|one, next| one + 1 == *next), "a hole, or a repeat");
    for (ack, position) in acks.into_iter().zip(positions) {
        let ack = tokio::time::timeout(PATIENCE, ack).await.expect("in time").expect("an ack");
        assert_eq!((&ack[0]["ok"], &ack[0]["seq"]), (&json!(true), &json!(position)));
    }
    let growth = node.memory_peak() - before;
    assert!(growth < GROWTH_MAX, "memory grew by {} MiB", growth >> 20);
}

/// A client that knows in which order packets of different kinds came.
struct Raw(WebSocket);

impl Raw {
    async fn open(node: &Node) -> Self {
        let options = Options::new(Transport::WebSocket);
        let opened = client::websocket(node.address, &options, None).await;
        let (websocket, _socket) = opened.expect("a handshake");
        Self(websocket)
    }

    async fn say(&mut self, packets: &[&'static str]) {
        for packet in packets {
            self.0.feed(Message::text(*packet)).await.expect("an open connection");
        }
        self.0.flush().await.expect("an open connection");
    }

    async fn hear(&mut self) -> Packet {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        match next.expect("a packet in time") {
            Some(Ok(Message::Text(text))) => packet::parse(text.as_str()),
            other => panic!("no packet: {other:?}"),
        }
    }

    /// The places of what comes before the next CONNECT reply, or of `count` messages.
    async fn messages(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            match self.hear().await {
                Packet::Event(event) if event.name == "message" => seqs.push(seq(&event)),
                Packet::Connected(_) => break,
                Packet::Open(_) => {}
                Packet::Ping => self.say(&["3"]).await,
                other => panic!("the client was told {other:?}"),
            }
        }
        seqs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_and_enters_again_gets_an_unbroken_sequence_each_time() {
    const CLIENTS: usize = 100;
    const TIMES: usize = 100;
    let _turn = serial().await;
    let node = Node::memory().await;
    let talker = Client::connected(node.address, Options::new(Transport::WebSocket)).await;
    // All at once, so that the engine has other things to do than to write a reply.
    let together = Arc::new(Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let together = Arc::clone(&together);
        let mut raw = Raw::open(&node).await;
        clients.spawn(async move {
            raw.say(&["40"]).await;
            assert_eq!(raw.messages(usize::MAX).await, [0; 0], "a message before the first reply");
            for _ in 0..TIMES {
                let mut piece = raw.messages(3).await;
                together.wait().await;
                raw.say(&["41", "40"]).await;
                piece.extend(raw.messages(usize::MAX).await);
                assert!(piece.is_sorted_by(|one, next| one + 1 == *next), "{piece:?}");
            }
        });
    }
    let mut talk = JoinSet::new();
    talk.spawn(async move {
        loop {
            let burst = (0..20).map(|_| packet::event("user-message", &[json!("x")], None));
            talker.burst(burst.collect()).await;
            talker.request("user-message", &[json!("x")]).await;
            talker.drain();
        }
    });
    while let Some(done) = clients.join_next().await {
        done.expect("one unbroken piece each time");
    }
}

#[tokio::test]
async fn the_table_of_open_files_has_its_size_from_the_start() {
    let node = Node::start(&["--data", "memory", "--connections-max", "3000"]).await;
    assert!((3_000..8_000).contains(&node.file_places()), "{}", node.file_places());
}

/// What it does not read waits in its lane, where it is bounded, and not in the kernel.
#[tokio::test]
async fn the_kernel_holds_little_for_a_client_that_does_not_read() {
    let node = Node::memory().await;
    let options = || Options::new(Transport::WebSocket);
    let deaf = Client::connected(node.address, options().receive_buffer(4_096)).await;
    deaf.stop_reading();
    let talker = Client::connected(node.address, options()).await;
    let body = json!("x".repeat(20_000));
    // 2 MB, of which the lane holds one.
    for _ in 0..100 {
        let ack = talker.request("user-message", std::slice::from_ref(&body)).await;
        assert!(ack["seq"].is_u64(), "{ack}");
    }
    eventually("it is cut", PATIENCE, async || {
        (!node.logs("cut a client's connection").is_empty()).then_some(())
    })
    .await;
}

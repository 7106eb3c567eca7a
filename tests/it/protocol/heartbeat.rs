//! Pings: the first comes after the interval and not before, on every transport.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{PING_INTERVAL, PING_TIMEOUT, Poller, Raw, node};
use crate::harness::node::Node;

/// What a loaded machine may add to a time.
const LATE_MAX: Duration = Duration::from_millis(250);
/// Timers and clocks differ by this much at most.
const EARLY_MAX: Duration = Duration::from_millis(20);

fn assert_about(took: Duration, expected: Duration, what: &str) {
    let fits = took + EARLY_MAX >= expected && took <= expected + LATE_MAX;
    assert!(fits, "{what} after {took:?} and not {expected:?}");
}

#[tokio::test]
async fn pings_come_every_interval_while_they_are_answered_on_a_websocket() {
    let node = node().await;
    let mut raw = Raw::opened(&node).await;
    let mut last = Instant::now();
    for _ in 0..3 {
        assert_eq!(raw.next().await, "2");
        assert_about(last.elapsed(), PING_INTERVAL, "a ping");
        last = Instant::now();
        raw.send("3").await;
    }
}

#[tokio::test]
async fn pings_come_every_interval_while_they_are_answered_over_polling() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let mut last = Instant::now();
    for _ in 0..3 {
        assert_eq!(poller.poll().await.text(), "2");
        assert_about(last.elapsed(), PING_INTERVAL, "a ping");
        last = Instant::now();
        assert_eq!(poller.post("3").await.text(), "ok");
    }
}

#[tokio::test]
async fn the_first_ping_does_not_come_early_to_a_client_that_is_in_the_namespace() {
    let node = node().await;
    let opened = Instant::now();
    let mut raw = Raw::connected(&node).await;
    assert_eq!(raw.next().await, "2");
    assert_about(opened.elapsed(), PING_INTERVAL, "a ping on a websocket");

    let opened = Instant::now();
    let poller = Poller::open(&node).await;
    poller.post("40").await;
    let reply = poller.poll().await.text();
    assert!(reply.starts_with("40{") && !reply.contains('\x1e'), "{reply}");
    assert_eq!(poller.poll().await.text(), "2");
    assert_about(opened.elapsed(), PING_INTERVAL, "a ping over polling");
}

#[tokio::test]
async fn a_session_that_upgrades_at_once_gets_its_first_ping_after_the_interval() {
    let node = node().await;
    let opened = Instant::now();
    let poller = Poller::open(&node).await;
    let mut raw = Raw::open(&node, Some(&poller.sid)).await;
    raw.send("2probe").await;
    assert_eq!(raw.next().await, "3probe");
    raw.send("5").await;
    raw.send("40").await;
    assert!(raw.next().await.starts_with("40{"));
    for round in 1..=3 {
        assert_eq!(raw.next().await, "2");
        assert_about(opened.elapsed(), PING_INTERVAL * round, "a ping");
        raw.send("3").await;
    }
}

#[tokio::test]
async fn a_websocket_that_never_answers_ends_after_interval_and_timeout() {
    let node = node().await;
    let mut raw = Raw::opened(&node).await;
    let opened = Instant::now();
    assert_eq!(raw.until_closed().await.first().map(String::as_str), Some("2"));
    assert_about(opened.elapsed(), PING_INTERVAL + PING_TIMEOUT, "the end");
}

#[tokio::test]
async fn a_polling_session_that_never_answers_ends_after_interval_and_timeout() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    let opened = Instant::now();
    assert_eq!(poller.poll().await.text(), "2");
    let last = poller.poll().await;
    assert_about(opened.elapsed(), PING_INTERVAL + PING_TIMEOUT, "the end");
    assert_eq!(last.text(), "1", "a close packet");
    let after = poller.poll().await;
    assert_eq!(after.text(), r#"{"code":1,"message":"Session ID unknown"}"#);
}

/// The client's message has begun when the lane answers the first ping: the answer must not get
/// into the middle of it, or the engine cannot read on.
#[tokio::test]
async fn the_first_ping_is_answered_between_the_clients_messages() {
    let node = Node::memory().await;
    // `40` in two fragments, and a ping of the websocket between them, cut everywhere.
    let frames = b"\x01\x81\x00\x00\x00\x004\x89\x80\x00\x00\x00\x00\x80\x81\x00\x00\x00\x000";
    let handshake = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n\
                     Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for cut in 0..frames.len() {
        let mut stream = TcpStream::connect(node.address).await.expect("loopback works");
        let (first, rest) = frames.split_at(cut);
        let head = [handshake.as_bytes(), first].concat();
        stream.write_all(&head).await.expect("loopback works");
        let mut came = Vec::new();
        until(&mut stream, &mut came, "maxPayload").await;
        // Time for the ping to pass.
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(rest).await.expect("loopback works");
        until(&mut stream, &mut came, "40{\"sid\"").await;
    }
}

async fn until(stream: &mut TcpStream, came: &mut Vec<u8>, text: &str) {
    while !String::from_utf8_lossy(came).contains(text) {
        let size = stream.read_buf(came).await.expect("the connection is open");
        assert!(size > 0, "closed after {}", String::from_utf8_lossy(came));
    }
}

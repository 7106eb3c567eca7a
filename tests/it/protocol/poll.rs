//! A poll whose client is gone: its session ends at once.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Poller, path};
use crate::harness::{
    PATIENCE,
    chat::{ShownRoster, join, native, with_token},
    client::{Client, Transport},
    eventually,
    node::Node,
};

/// Begins a poll whose answer nobody waits for.
async fn begin_poll(poller: &Poller) -> TcpStream {
    let mut stream = TcpStream::connect(poller.node).await.expect("the node accepts");
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path(Some(&poller.sid)));
    stream.write_all(request.as_bytes()).await.expect("loopback works");
    // The node has it when its engine refuses another one; that would end the session.
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream
}

#[tokio::test]
async fn a_session_ends_when_the_connection_of_its_poll_closes() {
    let node = Node::memory().await;
    for is_reset in [false, true] {
        let poller = Poller::open(&node).await;
        let stream = begin_poll(&poller).await;
        assert_eq!(poller.post("").await.status, 200, "it lives while the poll waits");
        if is_reset {
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).expect("loopback works");
        }
        drop(stream);
        eventually("the session has ended", Duration::from_secs(2), async || {
            let answer = poller.post("3").await;
            (answer.text() == r#"{"code":1,"message":"Session ID unknown"}"#).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_grace_of_a_polling_user_begins_when_its_poll_is_cut() {
    let node = Node::memory().await;
    let ann = Client::connected(node.address, with_token("ann")).await;
    let mut shown = ShownRoster::answered(&join(&ann, "attic", None).await);
    let options = native(Transport::Polling).auth(json!({ "token": "bob" }));
    let bob = Client::connected(node.address, options).await;
    join(&bob, "attic", None).await;
    shown.until(&ann, 2, PATIENCE).await;
    // By then its next poll waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    bob.reset().await;
    let gone = shown.until(&ann, 1, Duration::from_secs(20)).await;
    assert!((9..14).contains(&gone.as_secs()), "a ghost stayed for {gone:?}");
}

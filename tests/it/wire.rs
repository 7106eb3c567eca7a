//! The classic contract over the wire: `user-message` in, `message` out, acks, errors, history.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Refusal, Transport},
    client_io::Closed,
    http,
    node::Node,
    packet::{self, Event, own_id},
};

/// Largest body of a message, as the node's default has it.
const MESSAGE_BYTES_MAX: usize = 32 << 10;
const TRANSPORT_BYTES_MAX: usize = 128 << 10;

async fn client(node: &Node, transport: Transport) -> Client {
    Client::connected(node.address, Options::new(transport)).await
}

/// Somebody who keeps a token, and so stays the same sender.
async fn known(node: &Node, token: &str) -> Client {
    let options = Options::new(Transport::WebSocket).auth(json!({ "token": token }));
    Client::connected(node.address, options).await
}

async fn one_of_each(node: &Node) -> Vec<Client> {
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        // What official clients add against caches.
        let options = Options::new(transport).query("t", "p8Xz");
        clients.push(Client::connected(node.address, options).await);
    }
    clients
}

/// Epoch and sequence, from the offset that ends every stored message.
fn position(event: &Event) -> (String, u64) {
    assert_eq!(event.args.len(), 2, "a message and its offset: {}", event.raw);
    let offset = event.arg(1).as_str().expect("an offset is text");
    let (epoch, seq) = offset.rsplit_once('-').expect("an offset is epoch and sequence");
    (epoch.to_owned(), seq.parse().expect("a sequence is a number"))
}

fn ack_position(ack: &Value) -> (String, u64) {
    assert_eq!(ack["ok"], json!(true), "{ack}");
    let epoch = ack["epoch"].as_str().expect("an epoch is text").to_owned();
    (epoch, ack["seq"].as_u64().expect("a sequence is a number"))
}

fn assert_refused(answer: &Value, code: &str, hint: &str) {
    assert_eq!(answer["code"], json!(code), "{answer}");
    let message = answer["message"].as_str().expect("a message is text");
    assert!(message.contains(hint), "no `{hint}` in {message:?}");
}

/// Everything up to the message that says `end`, which is sent last.
async fn until_end(sender: &Client, receiver: &Client) -> Vec<Event> {
    sender.emit("user-message", &[json!("end")]).await;
    let mut events = Vec::new();
    loop {
        let event = receiver.next("message").await;
        if event.arg(0) == &json!("end") {
            return events;
        }
        events.push(event);
    }
}

fn first_args(events: &[Event]) -> Vec<Value> {
    events.iter().map(|event| event.arg(0).clone()).collect()
}

#[tokio::test]
async fn any_json_comes_back_byte_by_byte_on_every_transport() {
    let node = Node::memory().await;
    let clients = one_of_each(&node).await;
    let bodies = [
        r#""hello""#,
        r#""""#,
        r#""grüße, 世界, \ud83d\ude00, \"quoted\"\n""#,
        "0",
        "-1.50",
        "123456789012345678901234567890",
        "1E+2",
        "null",
        "true",
        "[]",
        r#"[1,[2,{"a":"]\\"}],null]"#,
        r#"{"z":1,"a":{"text":"hi","user":"me"},"z2":[]}"#,
        r#"{"ok":true,"_placeholder":false}"#,
    ];
    for sender in &clients {
        for body in bodies {
            sender.send_raw(&format!(r#"42["user-message",{body}]"#)).await;
        }
        for receiver in &clients {
            for body in bodies {
                let event = receiver.next("message").await;
                let start = format!(r#"["message",{body},""#);
                assert!(event.raw.starts_with(&start), "{} is not {start}", event.raw);
                assert!(position(&event).1 > 0);
            }
        }
    }
    for client in &clients {
        assert_eq!((client.drain(), client.others()), (vec![], vec![]), "more than was sent");
    }
}

#[tokio::test]
async fn an_ack_tells_where_the_message_stands() {
    let node = Node::memory().await;
    for transport in Transport::ALL {
        let client = client(&node, transport).await;
        let ack = client.request("user-message", &[json!({ "a": 1 }), json!(own_id("id-1"))]).await;
        let event = client.next("message").await;
        assert_eq!(ack_position(&ack), position(&event), "{transport:?}");
        let keys: HashSet<&str> =
            ack.as_object().expect("one object").keys().map(|k| &**k).collect();
        assert_eq!(keys, HashSet::from(["ok", "id", "room", "epoch", "seq", "at"]));
        assert_eq!((&ack["id"], &ack["room"]), (&json!(own_id("id-1")), &json!("lobby")));
        let at = Duration::from_millis(ack["at"].as_u64().expect("milliseconds"));
        let now = std::time::UNIX_EPOCH.elapsed().expect("now is after 1970");
        assert!(now.abs_diff(at) < Duration::from_secs(60), "{at:?} is not now");

        let ack = client.request("user-message", &[json!("without an id")]).await;
        let made = ack["id"].as_str().expect("an id is made up");
        assert!(!made.is_empty() && made != own_id("id-1"));
    }
}

/// What a client may get wrong: a packet without its `42` and ack number, the code, a hint.
fn mistakes() -> Vec<(String, &'static str, &'static str)> {
    let large = |size: usize| format!(r#"["user-message","{}"]"#, "x".repeat(size - 2));
    let mut mistakes = vec![(large(MESSAGE_BYTES_MAX + 1), "too_large", "32")];
    for (packet, hint) in [
        (r#"["user-message"]"#, "user-message"),
        (r#"["send",{"room":"lobby","text":"x"}]"#, "?dialect=native"),
        (r#"["dance",{"how":"well"}]"#, "dance"),
        (r#"["history"]"#, "history"),
        (r#"["history","lobby"]"#, "history"),
        (r#"["history",{"room":""}]"#, "room"),
        (r#"["history",{"room":"lobby","limit":0}]"#, "limit"),
        (r#"["history",{"room":"lobby","before":"x"}]"#, "history"),
    ] {
        mistakes.push((packet.to_owned(), "bad_request", hint));
    }
    mistakes
}

#[tokio::test]
async fn wrong_input_is_answered_and_the_connection_lives() {
    let node = Node::memory().await;
    for transport in Transport::ALL {
        let client = client(&node, transport).await;
        for (packet, code, hint) in mistakes() {
            let (id, answer) = client.expect_ack();
            client.send_raw(&format!("42{id}{packet}")).await;
            let answer = answer.await.expect("an ack");
            assert_eq!(answer[0]["ok"], json!(false), "{packet:.80}: {answer:?}");
            assert_refused(&answer[0]["error"], code, hint);

            client.send_raw(&format!("42{packet}")).await;
            assert_refused(client.next("error").await.arg(0), code, hint);
        }
        assert_eq!(until_end(&client, &client).await, [], "{transport:?}: a mistake was stored");
        assert_eq!((client.drain(), client.others()), (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_binary_argument_is_refused_and_the_connection_lives() {
    let node = Node::memory().await;
    let event = r#"["user-message",{"_placeholder":true,"num":0}]"#;
    for transport in Transport::ALL {
        let client = client(&node, transport).await;
        let attach = async || match transport {
            Transport::Polling => client.send_raw("bAQID").await,
            Transport::WebSocket | Transport::Upgrade => client.send_binary(vec![1, 2, 3]).await,
        };
        let (id, answer) = client.expect_ack();
        client.send_raw(&format!("451-{id}{event}")).await;
        attach().await;
        assert_refused(&answer.await.expect("an ack")[0]["error"], "bad_request", "binary");

        client.send_raw(&format!("451-{event}")).await;
        attach().await;
        assert_refused(client.next("error").await.arg(0), "bad_request", "binary");
        assert_eq!(until_end(&client, &client).await, []);
    }
}

#[tokio::test]
async fn the_largest_message_passes_on_every_transport() {
    let node = Node::memory().await;
    let text = "x".repeat(MESSAGE_BYTES_MAX - 2);
    for sender in one_of_each(&node).await {
        let ack = sender.request("user-message", &[json!(text)]).await;
        assert_eq!(ack["ok"], json!(true));
        assert_eq!(sender.next("message").await.arg(0), &json!(text));
    }
}

#[tokio::test]
async fn above_the_transports_bound_the_session_closes() {
    let node = Node::memory().await;
    let other = client(&node, Transport::WebSocket).await;
    let large = packet::event("user-message", &[json!("x".repeat(TRANSPORT_BYTES_MAX))], None);

    let polling = client(&node, Transport::Polling).await;
    polling.send_raw(&large).await;
    assert_eq!(polling.closed(PATIENCE).await, Closed::Status(413));
    let poll = format!("/socket.io/?EIO=4&transport=polling&sid={}", polling.sid);
    let gone = crate::harness::eventually("the session is gone", PATIENCE, async || {
        let answer = http::get(node.address, &poll, &[]).await;
        (answer.status != 200).then_some(answer.status)
    });
    assert_eq!(gone.await, 400);

    for transport in [Transport::WebSocket, Transport::Upgrade] {
        let client = client(&node, transport).await;
        client.send_raw(&large).await;
        client.closed(PATIENCE).await;
    }
    assert_eq!(until_end(&other, &other).await, [], "it was stored");
}

#[tokio::test]
async fn a_retry_shows_once_and_has_the_first_position() {
    let node = Node::memory().await;
    let (anna, anna_again) = (known(&node, "secret-a").await, known(&node, "secret-a").await);
    let (ben, nobody) = (known(&node, "secret-b").await, client(&node, Transport::Polling).await);
    let listener = client(&node, Transport::WebSocket).await;
    let send = async |client: &Client, text: &str, id: &str| {
        ack_position(&client.request("user-message", &[json!(text), json!(own_id(id))]).await)
    };

    let first = send(&anna, "a", "id-1").await;
    assert_eq!(send(&anna, "a", "id-1").await, first, "on the same connection");
    assert_eq!(send(&anna_again, "a", "id-1").await, first, "on another connection");
    let other = anna.request("user-message", &[json!("z"), json!(own_id("id-1"))]).await;
    assert_eq!((&other["ok"], &other["error"]["code"]), (&json!(false), &json!("conflict")));
    let second = send(&anna, "b", "id-2").await;
    let third = send(&ben, "c", "id-1").await;
    let fourth = send(&nobody, "d", "id-1").await;
    assert_eq!(send(&nobody, "d", "id-1").await, fourth, "the connection is the sender");
    let seqs = [&first, &second, &third, &fourth].map(|(_epoch, seq)| *seq);
    assert_eq!(seqs, [1, 2, 3, 4], "ids belong to their sender");

    // A message without an id is another message each time.
    anna.emit("user-message", &[json!("e")]).await;
    anna.emit("user-message", &[json!("e")]).await;
    anna.request("user-message", &[json!("f")]).await;
    let shown = first_args(&until_end(&anna, &listener).await);
    assert_eq!(json!(shown), json!(["a", "b", "c", "d", "e", "e", "f"]));
}

#[tokio::test]
async fn retries_within_one_burst_show_once() {
    let node = Node::memory().await;
    let client = known(&node, "secret").await;
    let mut answers = Vec::new();
    let mut burst = Vec::new();
    for n in 0..300 {
        let (id, answer) = client.expect_ack();
        let args = [json!(n % 100), json!(own_id(&format!("id-{}", n % 100)))];
        burst.push(packet::event("user-message", &args, Some(id)));
        answers.push(answer);
    }
    client.burst(burst).await;
    let shown = first_args(&until_end(&client, &client).await);
    assert_eq!(shown, (0..100).map(Value::from).collect::<Vec<_>>());
    for (n, answer) in answers.into_iter().enumerate() {
        let (_epoch, seq) = ack_position(&answer.await.expect("an ack")[0]);
        assert_eq!(seq, n as u64 % 100 + 1);
    }
}

#[tokio::test]
async fn a_refused_client_is_told_the_reason() {
    let node = Node::memory().await;
    for transport in Transport::ALL {
        for token in [json!("t".repeat(20_000)), json!(7), json!(true), json!(["a"])] {
            let options = Options::new(transport).auth(json!({ "token": token }));
            match Client::connect(node.address, options).await {
                Err(Refusal::Namespace(why)) => {
                    let message = why["message"].as_str().expect("a message is text");
                    assert!(message.starts_with("bad_request"), "{message}");
                    assert!(message.contains("token"), "{message}");
                }
                other => panic!("{transport:?}: {other:?}"),
            }
        }
    }
}

async fn history(client: &Client, request: Value) -> Value {
    let answer = client.request("history", &[request]).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    answer
}

fn bodies(history: &Value) -> Vec<u64> {
    let messages = history["messages"].as_array().expect("a list");
    messages.iter().map(|message| message["body"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let node = Node::memory().await;
    let client = known(&node, "a-secret-of-mine").await;
    for n in 1..=120 {
        client.request("user-message", &[json!(n), json!(own_id(&format!("id-{n}")))]).await;
    }
    client.collect("message", 120).await;

    let newest = history(&client, json!({"room": "lobby"})).await;
    assert_eq!(bodies(&newest), (71..=120).collect::<Vec<_>>());
    let facts = (&newest["room"], &newest["seq"], &newest["more"], &newest["trimmed"]);
    assert_eq!(facts, (&json!("lobby"), &json!(120), &json!(true), &json!(false)));
    let last = &newest["messages"][49];
    let facts = (&last["room"], &last["epoch"], &last["seq"], &last["id"]);
    assert_eq!(facts, (&json!("lobby"), &newest["epoch"], &json!(120), &json!(own_id("id-120"))));
    assert!(last["at"].is_u64() && last["from"].is_string(), "{last}");
    assert!(!newest.to_string().contains("a-secret-of-mine"), "a token was shown");

    let at = |seq: u64| json!({"epoch": newest["epoch"], "seq": seq});
    for (request, expected, more) in [
        (json!({"room": "lobby", "before": at(71), "limit": 30}), 41..=70, true),
        (json!({"room": "lobby", "before": at(21), "limit": 30}), 1..=20, false),
        (json!({"room": "lobby", "after": at(0), "limit": 20}), 1..=20, true),
        (json!({"room": "lobby", "after": at(100), "limit": 20}), 101..=120, false),
        (json!({"room": "lobby", "after": at(118)}), 119..=120, false),
        (json!({"room": "lobby", "limit": 1}), 120..=120, true),
    ] {
        let page = history(&client, request.clone()).await;
        assert_eq!(bodies(&page), expected.collect::<Vec<_>>(), "{request}");
        assert_eq!((&page["more"], &page["trimmed"]), (&json!(more), &json!(false)), "{request}");
    }
    let end = history(&client, json!({"room": "lobby", "after": at(120)})).await;
    assert_eq!((bodies(&end), &end["more"]), (vec![], &json!(false)));
    let other = client.request("history", &[json!({"room": "not mine"})]).await;
    assert_refused(&other["error"], "not_joined", "not mine");
}

#[tokio::test]
async fn a_position_of_another_epoch_is_answered_with_the_newest_page() {
    let node = Node::memory().await;
    let client = client(&node, Transport::WebSocket).await;
    client.request("user-message", &[json!(1)]).await;
    let after = json!({"epoch": "of-another-log", "seq": 0});
    let page = history(&client, json!({"room": "lobby", "after": after})).await;
    assert_eq!((bodies(&page), &page["trimmed"]), (vec![1], &json!(true)));
}

#[tokio::test]
async fn a_burst_of_5_000_arrives_whole_and_in_order_at_every_client() {
    const BURST: usize = 5_000;
    let _turn = crate::harness::serial().await;
    for transport in Transport::ALL {
        let node = Node::memory().await;
        let (sender, receivers) = (client(&node, transport).await, one_of_each(&node).await);
        let mut answers = Vec::new();
        let mut burst = Vec::new();
        for n in 0..BURST {
            let (id, answer) = sender.expect_ack();
            burst.push(packet::event("user-message", &[json!(n)], Some(id)));
            answers.push(answer);
        }
        sender.burst(burst).await;
        for receiver in receivers.iter().chain([&sender]) {
            let events = receiver.collect("message", BURST).await;
            for (n, event) in events.iter().enumerate() {
                assert_eq!((event.arg(0), position(event).1), (&json!(n), n as u64 + 1));
            }
        }
        for (n, answer) in answers.into_iter().enumerate() {
            let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an ack in time");
            assert_eq!(ack_position(&answer.expect("an ack")[0]).1, n as u64 + 1);
        }
    }
}

#[tokio::test]
async fn all_receivers_get_several_senders_in_one_order() {
    let node = Node::memory().await;
    let clients = one_of_each(&node).await;
    for (who, sender) in clients.iter().enumerate() {
        let burst = (0..500).map(|n| packet::event("user-message", &[json!([who, n])], None));
        sender.burst(burst.collect()).await;
    }
    let mut orders = Vec::new();
    for receiver in &clients {
        orders.push(first_args(&receiver.collect("message", 1_500).await));
    }
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[0], orders[2]);
    for who in 0..3 {
        let own = orders[0].iter().filter(|body| body[0] == json!(who)).map(|body| &body[1]);
        assert!(own.eq(&(0..500).map(Value::from).collect::<Vec<_>>()), "sender {who}");
    }
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_and_a_silent_client_is_closed() {
    let pings = ["--ping-interval", "150ms", "--ping-timeout", "300ms"];
    let node = Node::start(&[&["--data", "memory"], &pings[..]].concat()).await;
    let clients = one_of_each(&node).await;
    let frozen = client(&node, Transport::WebSocket).await;
    frozen.stop_reading();
    for client in &clients {
        crate::harness::eventually("ten pings are answered", PATIENCE, async || {
            (client.pings() >= 10).then_some(())
        })
        .await;
    }
    frozen.resume_reading();
    frozen.closed(PATIENCE).await;
    clients[0].emit("user-message", &[json!("still here")]).await;
    for client in &clients {
        assert_eq!(client.next("message").await.arg(0), &json!("still here"));
    }
}

#[tokio::test]
async fn a_client_that_vanishes_disturbs_no_other_client() {
    let node = Node::memory().await;
    let stays = client(&node, Transport::WebSocket).await;
    for transport in Transport::ALL {
        let vanishes = client(&node, transport).await;
        vanishes.emit("user-message", &[json!("bye")]).await;
        assert_eq!(stays.next("message").await.arg(0), &json!("bye"));
        vanishes.reset().await;
        assert_eq!(until_end(&stays, &stays).await, []);
    }
}

/// It delays no other client, and misses nothing without knowing it: it hears everything in the end, or
/// its connection is closed.
#[tokio::test]
async fn a_client_that_does_not_read_delays_no_other_client() {
    const MESSAGES: usize = 400;
    const ROUND: usize = 10;
    let _turn = crate::harness::serial().await;
    let node = Node::memory().await;
    let options = Options::new(Transport::WebSocket).receive_buffer(4 << 10);
    let slow = Client::connected(node.address, options).await;
    let (sender, listener) =
        (client(&node, Transport::WebSocket).await, client(&node, Transport::Upgrade).await);
    slow.stop_reading();
    let padding = "x".repeat(30 << 10);
    // As fast as the others read: these may not be cut for what the machine cannot carry.
    for round in 0..MESSAGES / ROUND {
        let numbers = round * ROUND..(round + 1) * ROUND;
        let said = |n| packet::event("user-message", &[json!([n, padding])], None);
        sender.burst(numbers.clone().map(said).collect()).await;
        for receiver in [&sender, &listener] {
            for (n, event) in numbers.clone().zip(receiver.collect("message", ROUND).await) {
                assert_eq!(event.arg(0)[0], json!(n));
            }
        }
    }
    slow.resume_reading();
    let mut heard = 0;
    while heard < MESSAGES {
        match slow.try_next("message", Duration::from_millis(500)).await {
            Some(event) => assert_eq!(event.arg(0)[0], json!(heard), "something was skipped"),
            None if slow.is_closed() => break,
            None => panic!("neither heard nor closed: {slow}"),
        }
        heard += 1;
    }
}

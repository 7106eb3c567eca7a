//! Direct messages between two users, on one node and on two.

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{World, error_code, join, offset, own_id, send, two_nodes, with_token},
    client::Client,
    eventually,
    packet::Event,
    redis::{Keeps, Redis},
};

async fn write(client: &Client, user: &str, text: &str) -> Value {
    client.request("send", &[json!({ "to": user, "text": text })]).await
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.arg(0)["text"].as_str().expect("a text")).collect()
}

/// The room as it stands in this client's list.
async fn listed(client: &Client, room: &Value) -> Option<Value> {
    let answer = client.request("rooms", &[json!({})]).await;
    let rooms = answer["rooms"].as_array().unwrap_or_else(|| panic!("{answer}"));
    rooms.iter().find(|listed| listed["room"] == *room).cloned()
}

#[tokio::test]
async fn a_direct_message_reaches_every_tab_of_both_users_once() {
    for world in World::both().await {
        let anns = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        let bobs = [world.connect(0, "bob").await, world.connect(1, "bob").await];
        let eve = world.connect(1, "eve").await;
        let (ann, bob) = (own_id(&anns[0]).await, own_id(&bobs[0]).await);
        let ack = write(&anns[0], &bob, "one").await;
        let mut ids = [ann.as_str(), bob.as_str()];
        ids.sort_unstable();
        let room = format!("dm:{}:{}", ids[0], ids[1]);
        assert_eq!((&ack["ok"], &ack["room"]), (&json!(true), &json!(room)), "{ack}");
        // A join of the direct room repeats nothing, now or later.
        let before = ack["seq"].as_u64().expect("a number") - 1;
        let before = json!({ "epoch": ack["epoch"], "seq": before });
        let joined = join(&bobs[0], &room, Some(before)).await;
        assert_eq!((&joined["ok"], &joined["messages"]), (&json!(true), &json!([])), "{joined}");
        assert_eq!(write(&bobs[1], &ann, "two").await["room"], json!(room));
        assert_eq!(send(&anns[1], &room, "three").await["ok"], json!(true), "by its name");
        for client in anns.iter().chain(&bobs) {
            let events = client.collect("message", 3).await;
            assert_eq!(texts(&events), ["one", "two", "three"]);
            let first = events[0].arg(0);
            assert_eq!((&first["room"], &first["from"]["id"]), (&json!(room), &json!(ann)));
            assert_eq!(first["seq"], ack["seq"]);
            offset(&events[0]);
        }
        for client in anns.iter().chain(&bobs).chain([&eve]) {
            join(client, "attic", None).await;
        }
        send(&anns[0], "attic", "end").await;
        for client in anns.iter().chain(&bobs).chain([&eve]) {
            assert_eq!(texts(&client.collect("message", 1).await), ["end"], "nothing before it");
        }
    }
}

#[tokio::test]
async fn direct_messages_wait_for_a_user_that_is_away() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = world.connect(1, "bob").await;
        let id = own_id(&bob).await;
        bob.reset().await;
        let first = write(&ann, &id, "one").await;
        assert_eq!(first["ok"], json!(true), "{first}");
        let second = write(&ann, &id, "two").await;
        let room = &first["room"];
        // When the next message arrives, this node, which will be Bob's too, is done with these.
        join(&ann, "attic", None).await;
        send(&ann, "attic", "next").await;
        assert_eq!(texts(&ann.collect("message", 3).await), ["one", "two", "next"]);
        let bob = world.connect(0, "bob").await;
        let unread = async || {
            let listed = listed(&bob, room).await.expect("it is listed");
            (listed["seq"].clone(), listed["read"].clone(), listed["unread"].clone())
        };
        assert_eq!(unread().await, (second["seq"].clone(), json!(0), json!(2)));
        let page = bob.request("history", &[json!({ "room": room })]).await;
        let stored: Vec<_> = page["messages"].as_array().expect("a list").iter().collect();
        assert_eq!((&stored[0]["text"], &stored[1]["text"]), (&json!("one"), &json!("two")));
        let read = json!({ "room": room, "seq": second["seq"] });
        assert_eq!(bob.request("read", &[read]).await["seq"], second["seq"]);
        assert_eq!(unread().await, (second["seq"].clone(), second["seq"].clone(), json!(0)));
        let told = ann.next("read").await;
        assert_eq!((&told.arg(0)["user"], &told.arg(0)["room"]), (&json!(id), room));
        let anns = listed(&ann, room).await.expect("it is listed for both");
        assert_eq!(anns["unread"], json!(0), "its own");
        let eve = world.connect(0, "eve").await;
        assert_eq!(listed(&eve, room).await, None);
        // What came before a join that says what the client has is in its answer.
        let after = json!({ "epoch": first["epoch"], "seq": first["seq"] });
        let joined = join(&bob, room.as_str().expect("a name"), Some(after)).await;
        assert_eq!(joined["recovered"], json!(true), "{joined}");
        assert_eq!(joined["messages"][0]["text"], json!("two"));
    }
}

#[tokio::test]
async fn a_session_that_comes_back_gets_what_was_written_to_it() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = world.connect(0, "bob").await;
        let (anns, bobs) = (own_id(&ann).await, own_id(&bob).await);
        write(&ann, &bobs, "heard").await;
        let heard = bob.next("message").await;
        let mut away = Away::of(bob, Some(&heard)).await;
        let mut sent = vec!["heard".to_owned()];
        for turn in 0..4 {
            let text = format!("missed {turn}");
            write(&ann, &bobs, &text).await;
            sent.push(text);
            let node = &world.nodes[(turn + 1) % world.nodes.len()];
            let bob = away.recovered(node, with_token("bob")).await;
            let text = format!("live {turn}");
            write(&bob, &anns, &text).await;
            sent.push(text);
            let events = bob.collect("message", 2).await;
            assert_eq!(texts(&events), sent[sent.len() - 2..], "once, and in order");
            away = Away::of(bob, events.last()).await;
        }
        assert_eq!(texts(&ann.collect("message", sent.len()).await), sent);
    }
}

#[tokio::test]
async fn a_client_that_comes_back_in_a_stream_of_messages_gets_each_once() {
    const COUNT: usize = 600;
    for world in World::both().await {
        let mut bob = world.connect(0, "bob").await;
        let id = own_id(&bob).await;
        let ann = world.connect(1, "ann").await;
        let writing = async {
            for n in 0..COUNT {
                let ack = write(&ann, &id, &n.to_string()).await;
                assert_eq!(ack["ok"], json!(true), "{ack}");
            }
        };
        let reading = async {
            let mut heard = Vec::new();
            for turn in 0.. {
                heard.extend(bob.collect("message", 30.min(COUNT - heard.len())).await);
                if heard.len() == COUNT {
                    break;
                }
                let away = Away::of(bob, heard.last()).await;
                bob =
                    away.recovered(&world.nodes[turn % world.nodes.len()], with_token("bob")).await;
            }
            heard
        };
        let ((), heard) = tokio::join!(writing, reading);
        let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
        assert_eq!(texts(&heard), expected);
    }
}

#[tokio::test]
async fn direct_rooms_and_the_lobby_are_in_one_sequence() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &["--partitions", "4"]).await;
    let bob = Client::connected(nodes[0].address, with_token("bob")).await;
    let id = own_id(&bob).await;
    join(&bob, "lobby", None).await;
    let others: Vec<String> = (0..8).map(|n| format!("person {n}")).collect();
    let mut writers = Vec::new();
    for token in &others {
        let writer = Client::connected(nodes[1].address, with_token(token)).await;
        assert_eq!(write(&writer, &id, "heard").await["ok"], json!(true));
        writers.push(writer);
    }
    let heard = bob.collect("message", others.len()).await;
    let away = Away::of(bob, heard.last()).await;
    for writer in &writers {
        write(writer, &id, "missed").await;
    }
    let bob = away.recovered(&nodes[1], with_token("bob")).await;
    assert_eq!(texts(&bob.collect("message", others.len()).await), ["missed"; 8]);
    let answer = bob.request("rooms", &[json!({})]).await;
    let rooms = answer["rooms"].as_array().expect("a list");
    let unread = rooms.iter().filter(|room| room["unread"] == json!(2)).count();
    assert_eq!(unread, others.len(), "{answer}");
}

#[tokio::test]
async fn messages_of_one_client_to_several_rooms_keep_their_order() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = own_id(&world.connect(1, "bob").await).await;
        let eve = own_id(&world.connect(1, "eve").await).await;
        join(&ann, "attic", None).await;
        let mut answers = Vec::new();
        for n in 0..60 {
            let request = match n % 4 {
                0 | 3 => json!({ "room": "attic", "text": "a" }),
                1 => json!({ "to": bob, "text": "b" }),
                _ => json!({ "to": eve, "text": "c" }),
            };
            answers.push(ann.emit_for_ack("send", &[request]).await);
        }
        let mut seqs = Vec::new();
        for answer in answers {
            let answer = answer.await.expect("an answer");
            seqs.push(answer[0]["seq"].as_u64().unwrap_or_else(|| panic!("{answer:?}")));
        }
        assert!(seqs.is_sorted(), "{seqs:?}");
    }
}

#[tokio::test]
async fn the_other_user_of_a_direct_room_gets_typing() {
    for world in World::both().await {
        let anns = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        let bob = world.connect(1, "bob").await;
        let (ann, id) = (own_id(&anns[0]).await, own_id(&bob).await);
        let room = write(&anns[0], &id, "hi").await["room"].clone();
        let typing = json!({ "room": room, "typing": true });
        assert_eq!(anns[0].request("typing", &[typing]).await["ok"], json!(true));
        let event = bob.next("typing").await;
        assert_eq!((&event.arg(0)["room"], &event.arg(0)["user"]["id"]), (&room, &json!(ann)));
        write(&bob, &ann, "end").await;
        for client in &anns {
            client.collect("message", 2).await;
            assert!(client.drain().iter().all(|event| event.name != "typing"), "its own");
        }
    }
}

#[tokio::test]
async fn a_third_user_cannot_use_a_direct_room() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = own_id(&world.connect(1, "bob").await).await;
        let eve = world.connect(1, "eve").await;
        let room = write(&ann, &bob, "for you").await["room"].clone();
        for (name, request) in [
            ("history", json!({ "room": room })),
            ("join", json!({ "room": room })),
            ("leave", json!({ "room": room })),
            ("typing", json!({ "room": room, "typing": true })),
            ("read", json!({ "room": room, "seq": 1 })),
            ("send", json!({ "room": room, "text": "me too" })),
        ] {
            assert_eq!(error_code(&eve, name, request).await, "forbidden", "{name}");
        }
        for name in ["dm:", "dm:ann", &format!("user:{bob}"), "user:x", "socket:x"] {
            assert_eq!(
                error_code(&ann, "join", json!({ "room": name })).await,
                "forbidden",
                "{name}"
            );
        }
        assert_eq!(
            error_code(&ann, "send", json!({ "to": "nobody", "text": "a" })).await,
            "not_found"
        );
        let nobody = "0".repeat(24);
        assert_eq!(
            error_code(&ann, "send", json!({ "to": nobody, "text": "a" })).await,
            "not_found"
        );
        let both = json!({ "to": bob, "room": "attic", "text": "a" });
        assert_eq!(error_code(&ann, "send", both).await, "bad_request");
        assert_eq!(write(&ann, &bob, "and on").await["ok"], json!(true), "nothing is stuck");
        assert!(eve.drain().is_empty());
    }
}

#[tokio::test]
async fn an_online_user_can_be_written_to_after_redis_lost_its_data() {
    let mut redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let ann = Client::connected(nodes[0].address, with_token("ann")).await;
    let bob = Client::connected(nodes[1].address, with_token("bob")).await;
    let id = own_id(&bob).await;
    redis.kill();
    redis.restart().await;
    eventually("the user is found again", PATIENCE, async || {
        (write(&ann, &id, "hi").await["ok"] == json!(true)).then_some(())
    })
    .await;
    assert_eq!(bob.next("message").await.arg(0)["text"], json!("hi"));
}

//! Rooms and users as clients of the native dialect see them, on one node and on two.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    chat::{ShownRoster, World, join, native, own_id, send, two_nodes, user_id, with_token},
    client::{Client, Transport},
    eventually,
    node::Node,
    redis::{Keeps, Redis},
};

#[tokio::test]
async fn a_join_and_a_leave_are_told_once_per_user_with_any_number_of_tabs() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let mut shown = ShownRoster::answered(&join(&ann, "attic", None).await);
        shown.until(&ann, 1, PATIENCE).await;
        assert!(shown.ids.contains(&own_id(&ann).await));

        let tabs = [world.connect(0, "bob").await, world.connect(1, "bob").await];
        for tab in &tabs {
            assert_eq!(join(tab, "attic", None).await["ok"], json!(true));
        }
        shown.until(&ann, 2, PATIENCE).await;
        let eve = world.connect(1, "eve").await;
        let mut eves = ShownRoster::answered(&join(&eve, "attic", None).await);
        eves.until(&eve, 3, PATIENCE).await;
        shown.until(&ann, 3, PATIENCE).await;
        assert_eq!(shown.ids, eves.ids);

        // The first of two tabs changes nothing, the second ends the presence of a user.
        assert_eq!(tabs[0].request("leave", &[json!({"room": "attic"})]).await["ok"], json!(true));
        tabs[1].send_raw("41").await;
        let told = shown.until(&ann, 2, PATIENCE).await;
        assert!(told < Duration::from_secs(5), "a clean leave took {told:?}");
        eves.until(&eve, 2, PATIENCE).await;

        let answer = ann.request("rooms", &[json!({})]).await;
        let attic = json!({ "room": "attic", "count": 2, "seq": 0 });
        assert!(answer["rooms"].as_array().expect("a list").contains(&attic), "{answer}");
    }
}

#[tokio::test]
async fn a_user_that_reconnects_at_once_is_not_reported_as_left() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let mut shown = ShownRoster::answered(&join(&ann, "attic", None).await);
        let mut bob = world.connect(1, "bob").await;
        join(&bob, "attic", None).await;
        shown.until(&ann, 2, PATIENCE).await;
        for turn in 0..4 {
            let pid = bob.pid();
            bob.reset().await;
            let auth = json!({ "token": "bob", "pid": pid });
            let node = &world.nodes[turn % world.nodes.len()];
            let options = native(Transport::WebSocket).auth(auth);
            bob = Client::connected(node.address, options).await;
            assert_eq!(bob.pid(), pid);
        }
        // Longer than a lost connection counts.
        assert_eq!(ann.try_next("presence", Duration::from_secs(4)).await, None);
        let zoe = world.connect(0, "zoe").await;
        join(&zoe, "attic", None).await;
        let mut told = ShownRoster { ids: shown.ids.clone(), count: shown.count };
        told.hears(&ann.next("presence").await);
        assert!(told.ids.is_superset(&shown.ids), "somebody left");
    }
}

#[tokio::test]
async fn users_of_a_killed_node_are_gone_within_15_s_and_others_stay() {
    let redis = Redis::start(Keeps::Nothing).await;
    let mut nodes = two_nodes(&redis, &[]).await;
    let ann = Client::connected(nodes[0].address, with_token("ann")).await;
    let mut shown = ShownRoster::answered(&join(&ann, "attic", None).await);
    let mut others = Vec::new();
    for token in ["bob", "eve", "zoe"] {
        let client = Client::connected(nodes[1].address, with_token(token)).await;
        join(&client, "attic", None).await;
        others.push(client);
    }
    // One of them is on both nodes.
    let here = Client::connected(nodes[0].address, with_token("zoe")).await;
    join(&here, "attic", None).await;
    shown.until(&ann, 4, PATIENCE).await;
    nodes[1].kill();
    let gone = shown.until(&ann, 2, Duration::from_secs(30)).await;
    assert!(gone < Duration::from_secs(20), "ghosts stayed for {gone:?}");
}

#[tokio::test]
async fn users_of_a_node_that_stops_move_on_without_leaving() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &[]).await;
    let ann = Client::connected(nodes[0].address, with_token("ann")).await;
    let mut shown = ShownRoster::answered(&join(&ann, "attic", None).await);
    let bob = Client::connected(nodes[1].address, with_token("bob")).await;
    let eve = Client::connected(nodes[1].address, with_token("eve")).await;
    for client in [&bob, &eve] {
        join(client, "attic", None).await;
    }
    shown.until(&ann, 3, PATIENCE).await;
    let bobs = own_id(&bob).await;
    let pid = bob.pid();
    nodes[1].signal(Signal::TERM);
    bob.closed(PATIENCE).await;
    let options = native(Transport::WebSocket).auth(json!({ "token": "bob", "pid": pid }));
    let again = Client::connected(nodes[0].address, options).await;
    assert_eq!(again.pid(), pid);
    // Eve does not come back. Had Bob left, two steps would be told.
    let gone = shown.until(&ann, 2, Duration::from_secs(30)).await;
    assert!(shown.ids.contains(&bobs));
    assert!(gone < Duration::from_secs(20), "a ghost stayed for {gone:?}");
}

#[tokio::test]
async fn typing_is_told_to_others_and_not_to_the_typing_user() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let tabs = [world.connect(0, "bob").await, world.connect(1, "bob").await];
        for client in [&ann, &tabs[0], &tabs[1]] {
            join(client, "attic", None).await;
        }
        let bob = own_id(&tabs[0]).await;
        let types = async |typing: bool| {
            let request = json!({ "room": "attic", "typing": typing });
            assert_eq!(tabs[0].request("typing", &[request]).await, json!({ "ok": true }));
        };
        for _ in 0..20 {
            types(true).await;
        }
        let event = ann.next("typing").await;
        assert_eq!((user_id(&event.arg(0)["user"]), &event.arg(0)["typing"]), (bob, &json!(true)));
        types(false).await;
        assert_eq!(ann.next("typing").await.arg(0)["typing"], json!(false), "told once each");
        // Also when it was a while ago.
        types(true).await;
        assert_eq!(ann.next("typing").await.arg(0)["typing"], json!(true));
        assert_eq!(ann.try_next("typing", Duration::from_millis(2_500)).await, None);
        types(false).await;
        let stopped = ann.try_next("typing", Duration::from_millis(1_500)).await;
        assert!(stopped.is_some_and(|event| event.arg(0)["typing"] == json!(false)));
        // A silent client stops typing after a while.
        types(true).await;
        assert_eq!(ann.next("typing").await.arg(0)["typing"], json!(true));
        assert_eq!(ann.next("typing").await.arg(0)["typing"], json!(false));
        for tab in &tabs {
            assert!(tab.drain().iter().all(|event| event.name != "typing"), "its own");
        }
        let answer = ann.request("history", &[json!({ "room": "attic" })]).await;
        assert_eq!(answer["messages"], json!([]), "it was stored");
    }
}

#[tokio::test]
async fn a_name_belongs_to_one_user_and_a_change_is_seen_everywhere() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let bob = world.connect(1, "bob").await;
        for client in [&ann, &bob] {
            join(client, "attic", None).await;
        }
        let guest = ann.request("profile", &[json!({})]).await;
        assert_eq!(guest["token"], json!("ann"));
        assert!(guest["user"]["name"].as_str().expect("a name").starts_with("guest "), "{guest}");
        let picture = "https://example.org/ann.png";
        let set = json!({ "name": "  Ann   Lee ", "picture": picture });
        let answer = ann.request("profile", &[set]).await;
        let user = json!({ "id": guest["user"]["id"], "name": "Ann Lee", "picture": picture });
        assert_eq!(answer["user"], user);
        assert_eq!(bob.next("profile").await.arg(0)["user"], user);
        let taken = bob.request("profile", &[json!({ "name": "ann lee" })]).await;
        assert_eq!(taken["error"]["code"], json!("taken"), "{taken}");
        // A user that joins later sees the name as well, and the old name is free.
        let zoe = world.connect(1, "zoe").await;
        let listed = eventually("the new name is listed", PATIENCE, async || {
            let answer = join(&zoe, "attic", None).await;
            let members = answer["members"].as_array().expect("a list").clone();
            members.contains(&user).then_some(members)
        })
        .await;
        assert!(listed.len() >= 2, "{listed:?}");
        assert_eq!(ann.request("profile", &[json!({ "name": "Anna" })]).await["ok"], json!(true));
        let free = bob.request("profile", &[json!({ "name": "ann lee" })]).await;
        assert_eq!(free["user"]["name"], json!("ann lee"), "{free}");
        // Bob is the same user after a reconnect.
        let again = world.connect(1, "ann").await.request("profile", &[json!({})]).await;
        assert_eq!((&again["user"]["id"], &again["user"]["name"]), (&user["id"], &json!("Anna")));
    }
}

#[tokio::test]
async fn a_profile_change_is_told_once_with_any_number_of_shared_rooms() {
    for world in World::both().await {
        let (ann, bob) = (world.connect(0, "ann").await, world.connect(1, "bob").await);
        for room in ["attic", "cellar", "hall"] {
            let mut shown = ShownRoster::answered(&join(&bob, room, None).await);
            join(&ann, room, None).await;
            shown.until(&bob, 2, PATIENCE).await;
        }
        for name in ["Ann", "Anna"] {
            let answer = ann.request("profile", &[json!({ "name": name })]).await;
            assert_eq!(bob.next("profile").await.arg(0)["user"], answer["user"]);
        }
        // The first would be told again before this.
        send(&ann, "hall", "end").await;
        bob.next("message").await;
        assert!(bob.drain().iter().all(|event| event.name != "profile"), "it was told twice");
    }
}

#[tokio::test]
async fn changes_of_one_profile_undo_nothing_of_each_other() {
    for world in World::both().await {
        let tabs = [world.connect(0, "ann").await, world.connect(1, "ann").await];
        for round in 0..10 {
            let name = format!("Ann {round}");
            let picture = format!("https://example.org/{round}.png");
            let named = tabs[0].emit_for_ack("profile", &[json!({ "name": name })]).await;
            // On the same connection, or on another one.
            let other = &tabs[round % 2];
            let pictured = other.emit_for_ack("profile", &[json!({ "picture": picture })]).await;
            for answer in [named, pictured] {
                let answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time");
                assert_eq!(answer.expect("it stays")[0]["ok"], json!(true));
            }
            let user = tabs[1].request("profile", &[json!({})]).await["user"].clone();
            assert_eq!((&user["name"], &user["picture"]), (&json!(name), &json!(picture)));
        }
    }
}

#[tokio::test]
async fn a_read_mark_only_grows_and_other_tabs_of_the_user_follow() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        let tabs = [world.connect(0, "bob").await, world.connect(1, "bob").await];
        for client in [&ann, &tabs[0], &tabs[1]] {
            join(client, "attic", None).await;
        }
        let mut seqs = Vec::new();
        for text in ["one", "two", "three"] {
            seqs.push(send(&ann, "attic", text).await["seq"].clone());
        }
        let read = async |seq: &Value| {
            let request = json!({ "room": "attic", "seq": seq });
            tabs[0].request("read", &[request]).await
        };
        assert_eq!(read(&seqs[1]).await["seq"], seqs[1]);
        assert_eq!(read(&seqs[0]).await["seq"], seqs[1], "it went back");
        let rooms = tabs[1].request("rooms", &[json!({})]).await["rooms"].clone();
        let attic = rooms.as_array().expect("a list").iter().find(|room| room["room"] == "attic");
        let attic = attic.unwrap_or_else(|| panic!("{rooms}"));
        assert_eq!((&attic["read"], &attic["unread"]), (&seqs[1], &json!(1)), "{attic}");
        assert_eq!(read(&seqs[2]).await["seq"], seqs[2]);
        for client in [&ann, &tabs[1]] {
            for seq in [&seqs[1], &seqs[2]] {
                assert_eq!(&client.next("read").await.arg(0)["seq"], seq);
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_request_is_answered_with_its_error_code() {
    let node = Node::memory().await;
    let ann = Client::connected(node.address, with_token("ann")).await;
    let code = async |name: &str, argument: Value| {
        let answer = ann.request(name, &[argument]).await;
        answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    assert_eq!(code("typing", json!({ "room": "attic", "typing": true })).await, "not_joined");
    assert_eq!(code("read", json!({ "room": "attic", "seq": 1 })).await, "not_joined");
    assert_eq!(code("profile", json!({ "name": " " })).await, "bad_request");
    assert_eq!(code("profile", json!({ "name": "x".repeat(41) })).await, "bad_request");
    assert_eq!(code("profile", json!({ "picture": "javascript:alert(1)" })).await, "bad_request");
    assert_eq!(code("typing", json!({ "room": "attic" })).await, "bad_request");
}

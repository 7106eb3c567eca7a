//! Who asks: users by their token, backends by their key; direct messages, members, search, rooms.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{list, rest};
use crate::harness::{
    PATIENCE,
    chat::{World, join, own_id, two_nodes},
    eventually,
    node::Node,
    redis::{Keeps, Redis},
    rest::Rest,
};

const SHOP: &str = "0123456789abcdef-shop";
const CI: &str = "0123456789abcdef:ci";

fn key_file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys");
    fs::write(&path, text).expect("it can be written");
    let path = path.to_str().expect("a path").to_owned();
    (dir, path)
}

fn keys() -> (TempDir, String) {
    key_file(&format!("# backends\nshop:{SHOP}\n\nci:{CI}\n"))
}

#[tokio::test]
async fn a_direct_message_reaches_its_user_and_nobody_else_reads_it() {
    for world in World::both().await {
        let (ann, bob) = (rest(&world, 0, "ann").await, rest(&world, 1, "bob").await);
        let socket = world.connect(1, "bob").await;
        let id = own_id(&socket).await;
        let to_bob = format!("/direct/{id}/messages");
        let (status, sent) = ann.post(&to_bob, Some("k"), json!({ "text": "hi" })).await;
        assert_eq!(status, 201, "{sent}");
        assert_eq!(
            ann.post(&to_bob, Some("k"), json!({ "text": "hi" })).await,
            (201, sent.clone())
        );
        let event = socket.next("message").await;
        assert_eq!((&event.arg(0)["room"], &event.arg(0)["text"]), (&sent["room"], &json!("hi")));

        // Bob answers, although Ann has never had a connection.
        let anns = ann.get("/me").await.1["id"].as_str().expect("an id").to_owned();
        let to_ann = format!("/direct/{anns}/messages");
        let answer = socket.request("send", &[json!({ "to": anns, "text": "hello" })]).await;
        assert_eq!(answer["ok"], json!(true), "{answer}");
        for (rest, path) in [(&ann, &to_bob), (&bob, &to_ann)] {
            let (_, page) = rest.get(path).await;
            let texts: Vec<_> = list(&page).iter().map(|one| one["text"].clone()).collect();
            assert_eq!(texts, ["hi", "hello"]);
            assert_eq!(page["room"], sent["room"]);
        }
        let (_, listed) = bob.get("/rooms").await;
        let direct = json!({ "room": sent["room"], "count": 2, "seq": answer["seq"], "read": 0, "unread": 1 });
        assert_eq!(listed["rooms"], json!([direct]));
        let eve = rest(&world, 0, "eve").await;
        let room = sent["room"].as_str().expect("a room");
        for path in [format!("/rooms/{room}/messages"), format!("/search?room={room}&text=hi")] {
            let (status, problem) = eve.get(&path).await;
            assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
        }
        assert_eq!(eve.get("/rooms").await.1["rooms"], json!([]));
        let (status, problem) =
            ann.post("/direct/nobody/messages", None, json!({ "text": "x" })).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    }
}

#[tokio::test]
async fn an_api_key_is_a_user_with_the_name_of_the_key() {
    let (_dir, file) = keys();
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = Vec::from(two_nodes(&redis, &["--api-key-file", &file]).await);
    let (shop, ci) = (Rest::new(&nodes[0], SHOP).await, Rest::new(&nodes[1], CI).await);
    assert_eq!(shop.get("/me").await.1, json!({ "id": "api-shop", "name": "shop" }));
    let bob = crate::harness::client::Client::connected(
        nodes[1].address,
        crate::harness::chat::with_token("bob"),
    )
    .await;
    join(&bob, "orders", None).await;
    shop.say("orders", "one").await;
    let event = bob.next("message").await;
    assert_eq!(event.arg(0)["from"], json!({ "id": "api-shop", "name": "shop" }));
    let (status, sent) = shop.post("/direct/api-ci/messages", None, json!({ "text": "x" })).await;
    assert_eq!(status, 404, "it was never here: {sent}");
    let path = format!("/direct/{}/messages", own_id(&bob).await);
    assert_eq!(shop.post(&path, None, json!({ "text": "for you" })).await.0, 201);
    assert_eq!(bob.next("message").await.arg(0)["from"]["name"], json!("shop"));
    let answer = bob.request("send", &[json!({ "to": "api-shop", "text": "thanks" })]).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    let (_, page) = shop.get(&path).await;
    assert_eq!(list(&page).last().expect("a message")["text"], json!("thanks"));
    let (_, renamed) = ci.patch("/me", json!({ "name": "Builds" })).await;
    assert_eq!(renamed, json!({ "id": "api-ci", "name": "Builds" }));
    // A key that is not in the file is an ordinary token.
    let (_, other) = Rest::new(&nodes[0], "0123456789abcdef-shoq").await.get("/me").await;
    assert_ne!(other["id"], json!("api-shop"));
}

#[tokio::test]
async fn a_wrong_key_file_is_refused_at_the_start_without_the_key() {
    let secret = "s3cret-s3cret-s3cret";
    for (text, line) in [
        (format!("shop:{secret}\nno colon {secret}\n"), "line 2"),
        (format!("# keys\nsh op:{secret}\n"), "line 2"),
        (format!("shop:{secret}\n\nci:{secret}\n"), "line 3"),
        ("shop:s3cret\n".to_owned(), "line 1"),
    ] {
        let (_dir, file) = key_file(&text);
        let args = ["--data", "memory", "--listen", "127.0.0.1:0", "--api-key-file", &file];
        let (code, lines) = Node::run(&args, &[]).await;
        let said = lines.join("\n");
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(line) && said.contains(&file) && !said.contains("s3cret"), "{said}");
    }
    let args = ["--data", "memory", "--listen", "127.0.0.1:0", "--api-key-file", "/none/keys"];
    let (code, lines) = Node::run(&args, &[]).await;
    assert_eq!(code, 64, "{lines:?}");
    assert!(lines.join("\n").contains("/none/keys"), "{lines:?}");
}

#[tokio::test]
async fn members_and_rooms_are_those_that_sockets_see() {
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        assert_eq!(here.get("/rooms").await.1, json!({ "rooms": [] }));
        let (_, nobody) = here.get("/rooms/attic/members").await;
        assert_eq!(nobody, json!({ "room": "attic", "count": 0, "members": [] }));
        let (bob, eve) = (world.connect(0, "bob").await, world.connect(1, "eve").await);
        let picture = "https://example.org/bob.png";
        let profile = json!({ "name": "Bob", "picture": picture });
        let user = bob.request("profile", &[profile]).await["user"].clone();
        for client in [&bob, &eve] {
            join(client, "attic", None).await;
        }
        let members = eventually("both are listed", PATIENCE, async || {
            let (_, answer) = here.get("/rooms/attic/members").await;
            (answer["count"] == json!(2)).then(|| answer["members"].clone())
        })
        .await;
        let bobs = json!({ "id": user["id"], "name": "Bob" });
        assert!(members.as_array().expect("a list").contains(&bobs), "{members}");
        let stored = here.say("attic", "hello").await;
        let line = json!({ "room": "attic", "count": 2, "seq": stored["seq"] });
        assert_eq!(here.get("/rooms").await.1, json!({ "rooms": [line] }));
        assert_eq!(rest(&world, 1, "bob").await.get("/me").await.1, user);
    }
}

#[tokio::test]
async fn a_name_belongs_to_one_user() {
    for world in World::both().await {
        let (ann, bob) = (rest(&world, 0, "ann").await, rest(&world, 1, "bob").await);
        assert_eq!(
            ann.patch("/me", json!({ "name": " Ann  Lee " })).await.1["name"],
            json!("Ann Lee")
        );
        let (status, problem) = bob.patch("/me", json!({ "name": "ann lee" })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("taken")));
        let picture = json!({ "picture": "https://example.org/a.png" });
        let (_, me) = ann.patch("/me", picture).await;
        assert_eq!(
            (&me["name"], &me["picture"]),
            (&json!("Ann Lee"), &json!("https://example.org/a.png"))
        );
        assert_eq!(ann.get("/me").await, (200, me));
    }
}

#[tokio::test]
async fn search_finds_words_and_goes_on_where_it_stopped() {
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        let mut stored = Vec::new();
        for n in 0..7 {
            stored.push(here.say("attic", &format!("Köln {n}")).await["position"].clone());
            here.say("attic", "other").await;
            here.say("cellar", "köln").await;
        }
        let there = rest(&world, 1, "bob").await;
        let (mut found, mut before) = (Vec::new(), String::new());
        loop {
            let path = format!("/search?room=attic&text=K%C3%96LN&limit=3{before}");
            let (status, page) = there.get(&path).await;
            assert_eq!(status, 200, "{page}");
            let positions: Vec<Value> =
                list(&page).iter().map(|one| one["position"].clone()).collect();
            found = [positions, found].concat();
            match page["prev"].as_str() {
                Some(prev) => before = format!("&before={prev}"),
                None => break,
            }
        }
        assert_eq!(found, stored);
        let (status, problem) = there.get("/search?room=attic&text=a&before=other-9").await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    }
}

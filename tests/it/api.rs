//! The REST API on one node and on two: what is posted, read page by page, repeated and refused.

mod refusals;
mod users;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{
    PATIENCE,
    chat::{World, join, own_id, plain, send},
    client::Transport,
    rest::{Rest, escaped},
};

/// The nodes of a world by turns.
async fn rest(world: &World, turn: usize, secret: &str) -> Rest {
    Rest::new(&world.nodes[turn % world.nodes.len()], secret).await
}

fn list(page: &Value) -> &Vec<Value> {
    page["messages"].as_array().unwrap_or_else(|| panic!("{page}"))
}

#[tokio::test]
async fn a_posted_message_reaches_sockets_like_one_that_a_socket_sent() {
    for world in World::both().await {
        let posting = rest(&world, 0, "ann").await;
        let (status, me) = posting.patch("/me", json!({ "name": "Ann" })).await;
        assert_eq!((status, &me["name"]), (200, &json!("Ann")));
        let bob = world.connect(1, "bob").await;
        assert_eq!(join(&bob, "lobby", None).await["ok"], json!(true));
        let plain = plain(world.nodes.last().expect("a node"), Transport::Polling).await;
        let stored = posting.say("lobby", "hello").await;
        let event = bob.next("message").await;
        let heard = event.arg(0);
        for field in ["id", "room", "epoch", "seq", "at"] {
            assert_eq!(heard[field], stored[field], "{field}");
        }
        assert_eq!(event.args.last(), Some(&stored["position"]));
        assert_eq!(plain.next("message").await.args, [json!("hello"), stored["position"].clone()]);

        // The same user, now through a socket on the other node.
        let ann = world.connect(1, "ann").await;
        assert_eq!(own_id(&ann).await, me["id"]);
        assert_eq!(join(&ann, "lobby", None).await["ok"], json!(true));
        send(&ann, "lobby", "hello").await;
        let mut sent = bob.next("message").await.arg(0).clone();
        for field in ["id", "seq", "at"] {
            sent[field] = heard[field].clone();
        }
        assert_eq!(&sent, heard);

        let (status, page) = rest(&world, 1, "eve").await.get("/rooms/lobby/messages").await;
        assert_eq!((status, list(&page).len()), (200, 2));
        let mut listed = list(&page)[0].clone();
        assert_eq!(listed["position"], stored["position"]);
        listed.as_object_mut().expect("a message").remove("position");
        assert_eq!(&listed, heard, "history has the fields of the event");
    }
}

/// All positions that a walk finds, page by page.
async fn walk(rest: &Rest, first: &str, cursor: &str, parameter: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut query = first.to_owned();
    loop {
        let (status, page) = rest.get(&format!("/rooms/attic/messages?limit=5{query}")).await;
        assert_eq!((status, &page["trimmed"]), (200, &json!(false)), "{page}");
        pages.push(list(&page).iter().map(|message| message["position"].clone()).collect());
        match page[cursor].as_str() {
            Some(position) => query = format!("&{parameter}={position}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn paging_walks_all_messages_once_in_both_directions() {
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        let mut stored = Vec::new();
        for n in 0..23 {
            stored.push(here.say("attic", &n.to_string()).await["position"].clone());
            here.say("cellar", "between").await;
        }
        let there = rest(&world, 1, "bob").await;
        let mut back = walk(&there, "", "prev", "before").await;
        let sizes = |pages: &[Vec<Value>]| pages.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&back), [5, 5, 5, 5, 3]);
        back.reverse();
        assert_eq!(back.concat(), stored);
        let first = stored[0].as_str().expect("a position");
        let (epoch, _) = first.rsplit_once('-').expect("a position");
        let forth = walk(&there, &format!("&after={epoch}-0"), "next", "after").await;
        assert_eq!(sizes(&forth), [5, 5, 5, 5, 3], "no page is empty");
        assert_eq!(forth.concat(), stored);

        let (_, newest) = there.get("/rooms/attic/messages?limit=5").await;
        assert_eq!(newest.get("next"), None, "{newest}");
        let end = newest["end"].as_str().expect("a position");
        let (_, nothing) = there.get(&format!("/rooms/attic/messages?after={end}")).await;
        assert_eq!((list(&nothing).len(), nothing.get("next")), (0, None), "{nothing}");
        let later = here.say("attic", "later").await;
        let (_, page) = there.get(&format!("/rooms/attic/messages?after={end}")).await;
        assert_eq!(list(&page).len(), 1, "{page}");
        assert_eq!(list(&page)[0]["position"], later["position"]);
    }
}

#[tokio::test]
async fn a_page_around_a_position_has_messages_on_both_sides() {
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        let mut stored = Vec::new();
        for n in 0..9 {
            stored.push(here.say("attic", &n.to_string()).await["position"].clone());
        }
        let there = rest(&world, 1, "ann").await;
        let around = async |position: &str, limit: u32| {
            let path = format!("/rooms/attic/messages?around={position}&limit={limit}");
            let (status, page) = there.get(&path).await;
            assert_eq!(status, 200, "{page}");
            let positions: Vec<_> = list(&page).iter().map(|one| one["position"].clone()).collect();
            (positions, page.get("prev").cloned(), page.get("next").cloned())
        };
        let at = |index: usize| stored[index].as_str().expect("a position");
        let cursor = |index: usize| Some(stored[index].clone());
        assert_eq!(around(at(4), 4).await, (stored[3..7].to_vec(), cursor(3), cursor(6)));
        assert_eq!(around(at(4), 3).await, (stored[3..6].to_vec(), cursor(3), cursor(5)));
        assert_eq!(around(at(4), 1).await, (stored[4..5].to_vec(), cursor(4), cursor(4)));
        assert_eq!(around(at(0), 4).await, (stored[..3].to_vec(), None, cursor(2)));
        assert_eq!(around(at(8), 4).await, (stored[7..].to_vec(), cursor(7), None));
        assert_eq!(around(at(4), 200).await, (stored.clone(), None, None));
        let (positions, ..) = around("other-4", 2).await;
        assert_eq!(positions, stored[7..], "a position of another log: the newest page");
        let huge = format!("{}99", at(4));
        assert_eq!(around(&huge, 2).await.0, stored[8..]);
    }
}

#[tokio::test]
async fn history_shows_edits_deletions_and_reactions() {
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        let ann = world.connect(1, "ann").await;
        join(&ann, "attic", None).await;
        let one = here.say("attic", "one").await;
        let two = here.say("attic", "two").await;
        let target = |of: &Value| json!({ "room": "attic", "epoch": of["epoch"], "of": of["seq"] });
        let mut edit = target(&one);
        edit["text"] = json!("ONE");
        let mut react = target(&one);
        react["emoji"] = json!("👍");
        react["on"] = json!(true);
        for (name, request) in [("edit", edit), ("react", react), ("delete", target(&two))] {
            assert_eq!(ann.request(name, &[request]).await["ok"], json!(true), "{name}");
        }
        let (_, page) = rest(&world, 1, "bob").await.get("/rooms/attic/messages").await;
        let [one, two] = list(&page).as_slice() else { panic!("{page}") };
        assert_eq!(one["text"], json!("ONE"));
        assert!(one["edited"].is_u64() && one.get("deleted").is_none(), "{one}");
        let id = own_id(&ann).await;
        assert_eq!(one["reactions"], json!([{ "emoji": "👍", "users": [id] }]));
        assert!(two["deleted"].is_u64() && two.get("edited").is_none(), "{two}");
        assert_eq!(two["text"], json!(""));
    }
}

#[tokio::test]
async fn a_repeated_key_is_one_message_on_every_node() {
    for world in World::both().await {
        let (here, there) = (rest(&world, 0, "ann").await, rest(&world, 1, "ann").await);
        let path = "/rooms/attic/messages";
        let key = "schlüssel 1";
        let (status, first) = here.post(path, Some(key), json!({ "text": "hello" })).await;
        assert_eq!((status, &first["id"]), (201, &json!(key)), "{first}");
        for again in [&here, &there] {
            let answer = again.post(path, Some(key), json!({ "text": "hello" })).await;
            assert_eq!(answer, (201, first.clone()));
            let body = json!({ "text": "hello", "id": key });
            assert_eq!(again.post(path, None, body.clone()).await, (201, first.clone()));
            assert_eq!(again.post(path, Some(key), body).await, (201, first.clone()));
        }
        // The same key for anything else would lose a message.
        let bob = own_id(&world.connect(1, "bob").await).await;
        let direct = format!("/direct/{bob}/messages");
        for (path, text) in
            [(path, "other"), ("/rooms/cellar/messages", "hello"), (&direct, "hello")]
        {
            for rest in [&here, &there] {
                let (status, problem) = rest.post(path, Some(key), json!({ "text": text })).await;
                assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{path} {text}");
            }
        }
        // A socket of the same user repeats it too, and another user has keys of its own.
        let ann = world.connect(1, "ann").await;
        join(&ann, "attic", None).await;
        let request = json!({ "room": "attic", "text": "hello", "id": key });
        assert_eq!(ann.request("send", &[request]).await["seq"], first["seq"]);
        let bob = rest(&world, 1, "bob").await;
        let (_, other) = bob.post(path, Some(key), json!({ "text": "hello" })).await;
        assert_ne!(other["seq"], first["seq"]);
        let (_, page) = bob.get(path).await;
        assert_eq!(list(&page).len(), 2, "{page}");
        let both = json!({ "text": "hello", "id": "other" });
        let (status, problem) = here.post(path, Some(key), both).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")));
    }
}

#[tokio::test]
async fn texts_and_names_of_every_script_come_back_as_they_were() {
    let texts = [
        "",
        "\u{0}\u{1f}\u{7f}\u{feff}\u{200b}",
        "\u{10ffff} 👩‍👩‍👧 क्षि \u{202e}abc",
        "Z\u{301}\u{301}\u{301}\u{301}",
        "\"quotes\" \\ and\r\nlines\t",
    ];
    for world in World::both().await {
        let here = rest(&world, 0, "ann").await;
        let bob = world.connect(1, "bob").await;
        for room in ["köln/altes rathaus", "部屋?#%", "👩‍👩‍👧", "..", "a\u{301}"] {
            assert_eq!(join(&bob, room, None).await["ok"], json!(true));
            for text in texts {
                here.say(&escaped(room), text).await;
                let event = bob.next("message").await;
                assert_eq!(
                    (&event.arg(0)["room"], &event.arg(0)["text"]),
                    (&json!(room), &json!(text))
                );
            }
            let path = format!("/rooms/{}/messages", escaped(room));
            let (_, page) = rest(&world, 1, "eve").await.get(&path).await;
            let shown: Vec<_> = list(&page).iter().map(|one| one["text"].clone()).collect();
            assert_eq!(shown, texts, "{room}");
        }
    }
}

/// What plain clients sent is any JSON.
#[tokio::test]
async fn a_body_that_is_no_text_is_shown_as_json_text() {
    for world in World::both().await {
        let plain = plain(&world.nodes[0], Transport::WebSocket).await;
        // The last one is half of a surrogate pair, which is JSON and no text.
        for body in [r#"{"a":[1,null]}"#, "null", "7", r#""\ud83d\ude00""#, r#""\ud800""#] {
            let (number, answer) = plain.expect_ack();
            plain.send_raw(&format!(r#"42{number}["user-message",{body}]"#)).await;
            let answer = timeout(PATIENCE, answer).await.expect("in time").expect("an ack");
            assert_eq!(answer[0]["ok"], json!(true), "{body}");
        }
        let (_, page) = rest(&world, 1, "ann").await.get("/rooms/lobby/messages").await;
        let shown: Vec<_> = list(&page).iter().map(|one| one["text"].clone()).collect();
        assert_eq!(shown, [r#"{"a":[1,null]}"#, "", "7", "😀", "\u{fffd}\u{fffd}\u{fffd}"]);
    }
}

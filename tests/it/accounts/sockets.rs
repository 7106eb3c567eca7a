//! Sockets of accounts: who is online, and messages to their receiver only.

use super::*;
use crate::harness::{away::Away, chat::with_token};

#[tokio::test]
async fn a_message_reaches_its_receiver_only_and_is_kept() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) =
            (Browser::sign_up(here, "ann").await, Browser::sign_up(there, "bob").await);
        let eve = Browser::sign_up(here, "eve").await;
        let own = ann.socket(here).await;
        let bobs = [
            bob.socket(there).await,
            bob.socket_over(there, Transport::Polling).await,
            bob.socket_over(here, Transport::Upgrade).await,
        ];
        let others = eve.socket(there).await;
        online(&own, &[&ann, &bob, &eve]).await;
        let message = json!({ "text": "hi", "image": data_url("png", PNG) });
        let (status, sent) = ann.send(here, &bob.id, &message).await;
        assert_eq!(status, 201, "{sent}");
        assert_eq!((&sent["senderId"], &sent["receiverId"]), (&json!(ann.id), &json!(bob.id)));
        assert_eq!((&sent["text"], &sent["createdAt"]), (&json!("hi"), &sent["updatedAt"]));
        assert!(sent["createdAt"].as_str().is_some_and(|at| at.len() == 24 && at.ends_with('Z')));
        for socket in &bobs {
            assert_eq!(first(&socket.next("newMessage").await), sent);
        }
        let (_, answer) = bob.send(there, &ann.id, &json!({ "text": "hello" })).await;
        assert_eq!(first(&own.next("newMessage").await), answer, "its own message did not come");
        hears_no_message(&others).await;
        hears_no_message(&bobs[0]).await;
        assert_eq!(answer.get("image"), None);

        let all = json!([sent, answer]);
        let of = |other: &Browser| format!("/api/messages/{}", other.id);
        assert_eq!(ann.get(there, &of(&bob)).await, (200, all.clone()));
        assert_eq!(bob.get(here, &of(&ann)).await, (200, all));
        for other in [&ann, &bob] {
            assert_eq!(eve.get(here, &of(other)).await, (200, json!([])), "not eve's");
        }
        let image = sent["image"].as_str().expect("a URL");
        assert_eq!(there.get(image).await.body, PNG);
    }
}

#[tokio::test]
async fn a_user_id_alone_proves_nothing() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) = (Browser::sign_up(here, "ann").await, Browser::sign_up(here, "bob").await);
        let eve = Browser::sign_up(here, "eve").await;
        let claim = |node: &Node, options: Options| {
            Client::connected(node.address, options.query("userId", &bob.id))
        };
        let over = Options::new;
        let bare = claim(there, over(Transport::Polling)).await;
        let stolen = claim(here, over(Transport::WebSocket).header("Cookie", &eve.cookie)).await;
        let forged = format!("{}0", bob.cookie);
        let forged = claim(there, over(Transport::WebSocket).header("Cookie", &forged)).await;
        let named = over(Transport::WebSocket).query("dialect", "mern");
        assert!(claim_refused(here, named).await, "no client can name the dialect");
        let own = ann.socket(here).await;
        for socket in [&bare, &stolen, &forged] {
            online(socket, &[&ann]).await;
        }
        let (status, _) = ann.send(here, &bob.id, &json!({ "text": "secret" })).await;
        assert_eq!(status, 201);
        for socket in [&bare, &stolen, &forged, &own] {
            hears_no_message(socket).await;
        }
        let returning = Away::of(bob.socket(there).await, None).await;
        let back = returning.back(there, over(Transport::WebSocket).query("userId", &bob.id)).await;
        ann.send(here, &bob.id, &json!({ "text": "secret" })).await;
        hears_no_message(&back).await;
    }
}

async fn claim_refused(node: &Node, options: Options) -> bool {
    Client::connect(node.address, options).await.is_err()
}

#[tokio::test]
async fn everybody_is_told_who_is_online() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) =
            (Browser::sign_up(here, "ann").await, Browser::sign_up(there, "bob").await);
        let anns = ann.socket(here).await;
        online(&anns, &[&ann]).await;
        let (first, second) = (bob.socket(there).await, bob.socket(here).await);
        online(&anns, &[&ann, &bob]).await;
        online(&second, &[&ann, &bob]).await;
        // As a frontend that logs out does it.
        first.send_raw("41").await;
        let told = anns.try_next("getOnlineUsers", Duration::from_secs(2)).await;
        let told = told.map(|event| event.arg(0).as_array().map(Vec::len));
        assert!(told.is_none_or(|count| count == Some(2)), "one socket is left: {told:?}");
        second.send_raw("41").await;
        online(&anns, &[&ann]).await;
    }
}

#[tokio::test]
async fn a_socket_that_comes_back_gets_what_it_missed_once() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) =
            (Browser::sign_up(here, "ann").await, Browser::sign_up(there, "bob").await);
        let socket = bob.socket(there).await;
        ann.send(here, &bob.id, &json!({ "text": "one" })).await;
        let last = socket.next("newMessage").await;
        let away = Away::of(socket, Some(&last)).await;
        ann.send(here, &bob.id, &json!({ "text": "two" })).await;
        bob.send(there, &ann.id, &json!({ "text": "its own" })).await;
        ann.send(here, &bob.id, &json!({ "text": "three" })).await;
        let options = Options::new(Transport::WebSocket).query("userId", &bob.id);
        let back = away.recovered(here, options.header("Cookie", &bob.cookie)).await;
        for text in ["two", "three"] {
            assert_eq!(first(&back.next("newMessage").await)["text"], text);
        }
        hears_no_message(&back).await;
    }
}

#[tokio::test]
async fn a_native_client_reads_the_same_messages() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) =
            (Browser::sign_up(here, "ann").await, Browser::sign_up(there, "bob").await);
        let token = bob.cookie.replace("jwt=", "");
        let native = Client::connected(there.address, with_token(&token)).await;
        let anns = ann.socket(here).await;
        ann.send(here, &bob.id, &json!({ "image": data_url("png", PNG) })).await;
        let event = first(&native.next("message").await);
        assert!(event["text"].as_str().is_some_and(|text| text.starts_with("/api/pictures/")));
        assert_eq!(event["from"]["id"], ann.id);
        let name = event["from"]["name"].as_str().expect("a name");
        assert!(name.starts_with("ann (guest "), "{name}");

        let sent = native.request("send", &[json!({ "to": ann.id, "text": "hello" })]).await;
        assert_eq!(sent["ok"], true, "{sent}");
        let heard = first(&anns.next("newMessage").await);
        assert_eq!((&heard["text"], &heard["senderId"]), (&json!("hello"), &json!(bob.id)));
        let (_, listed) = ann.get(here, &format!("/api/messages/{}", bob.id)).await;
        assert_eq!(listed.as_array().map(Vec::len), Some(2));

        let change = json!({ "room": sent["room"], "epoch": sent["epoch"], "of": sent["seq"] });
        let deleted = native.request("delete", &[change]).await;
        assert_eq!(deleted["ok"], true, "{deleted}");
        let path = format!("/api/messages/{}", bob.id);
        eventually("the deleted message is gone", PATIENCE, async || {
            let (_, listed) = ann.get(here, &path).await;
            (listed.as_array().map(Vec::len) == Some(1)).then_some(())
        })
        .await;
        let rooms = native.request("rooms", &[]).await;
        assert!(!rooms.to_string().contains("accounts:online"), "{rooms}");
        let joined = native.request("join", &[json!({ "room": "accounts:online" })]).await;
        assert_eq!(joined["error"]["code"], "forbidden", "{joined}");
    }
}

//! What the native dialect knows of a message beside its text, on one node and on two.

use serde_json::{Value, json};

use crate::{
    harness::{
        client::{Client, Transport},
        packet::Event,
    },
    recovery::{join, plain, say, send},
    together::{World, own_id},
};

async fn is_called(client: &Client, name: &str) {
    let answer = client.request("profile", &[json!({ "name": name })]).await;
    assert_eq!(answer["user"]["name"], json!(name), "{answer}");
}

/// The name beside each text.
fn lines<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Vec<(String, String)> {
    let line = |message: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
        (text(&message["from"]["name"]), text(&message["text"]))
    };
    messages.into_iter().map(line).collect()
}

fn heard(events: &[Event]) -> Vec<(String, String)> {
    lines(events.iter().map(|event| event.arg(0)))
}

fn listed(answer: &Value) -> Vec<(String, String)> {
    lines(answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}")))
}

#[tokio::test]
async fn a_message_keeps_the_name_that_its_sender_had() {
    for world in World::both().await {
        let (ann, bob) = (world.comes(0, "ann").await, world.comes(1, "bob").await);
        for client in [&ann, &bob] {
            join(client, "lobby", None).await;
        }
        let guest = format!("guest {}", &own_id(&ann).await[..6]);
        let first = send(&ann, "lobby", "word one").await;
        is_called(&ann, "Ann").await;
        send(&ann, "lobby", "word two").await;
        // Known by her name wherever she is.
        let tab = world.comes(1, "ann").await;
        join(&tab, "lobby", None).await;
        send(&tab, "lobby", "word three").await;
        is_called(&tab, "Anna").await;
        let told = async |client: &Client| client.next("profile").await;
        while told(&ann).await.arg(0)["user"]["name"] != json!("Anna") {}
        send(&ann, "lobby", "word four").await;
        let talker = plain(&world.nodes[0], Transport::WebSocket).await;
        say(&talker, "word five").await;
        let events = bob.collect("message", 5).await;
        let stranger = events[4].arg(0)["from"]["id"].as_str().expect("an id");
        let stranger = format!("guest {}", &stranger[..6]);
        let names = [guest.as_str(), "Ann", "Ann", "Anna", &stranger];
        let texts = ["word one", "word two", "word three", "word four", "word five"];
        let said: Vec<(String, String)> =
            names.into_iter().zip(texts).map(|(n, t)| (n.to_owned(), t.to_owned())).collect();
        assert_eq!(heard(&events), said);
        let page = bob.request("history", &[json!({ "room": "lobby" })]).await;
        assert_eq!(listed(&page), said);
        let found = bob.request("search", &[json!({ "room": "lobby", "text": "word" })]).await;
        assert_eq!(listed(&found), said);
        let before = json!({ "epoch": first["epoch"], "seq": 0 });
        let eve = world.comes(0, "eve").await;
        assert_eq!(listed(&join(&eve, "lobby", Some(before)).await), said);
        let page = talker.request("history", &[json!({ "room": "lobby" })]).await;
        assert!(page["messages"][1]["from"].is_string(), "plain answers are as they were: {page}");
    }
}

//! What history and search show of messages that were changed, and what a client makes of the events
//! that told it so: it must be the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{about, all_join, delete, edit, react, told, word};
use crate::harness::{
    Random,
    chat::{World, join, own_id, send},
    client::Client,
};

/// What a client shows of a room: its messages as a page had them, and what it was told since.
#[derive(Debug, Clone)]
struct Shown {
    seq: u64,
    messages: BTreeMap<u64, Shape>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shape {
    text: String,
    edited: Option<u64>,
    deleted: Option<u64>,
    reactions: BTreeMap<String, Vec<String>>,
}

impl Shown {
    async fn page(client: &Client) -> Self {
        let page = client.request("history", &[json!({ "room": "attic", "limit": 200 })]).await;
        assert_eq!(page["more"], json!(false), "{page}");
        let messages = page["messages"].as_array().expect("a list").iter();
        let messages = messages.map(|message| (number(&message["seq"]), Shape::read(message)));
        Self { seq: number(&page["seq"]), messages: messages.collect() }
    }

    /// Whatever the page had already is passed over.
    fn hear(&mut self, name: &str, record: &Value) {
        let seq = number(&record["seq"]);
        if seq <= self.seq {
            return;
        }
        self.seq = seq;
        if name == "message" {
            self.messages.insert(seq, Shape::read(record));
            return;
        }
        let message = self.messages.get_mut(&number(&record["of"])).expect("a known message");
        if message.deleted.is_some() {
            return;
        }
        let at = Some(number(&record["at"]));
        match name {
            "edit" => {
                message.text = word(&record["text"]).to_owned();
                message.edited = at;
            }
            "delete" => *message = Shape { deleted: at, ..Shape::default() },
            "react" => message.react(record),
            _ => panic!("{name}: {record}"),
        }
    }

    /// Hears until the message that is sent last.
    async fn hear_all(&mut self, client: &Client) {
        loop {
            let event = told(client, 1).await.remove(0);
            self.hear(&event.name, event.arg(0));
            if event.arg(0)["text"] == json!("end") {
                return;
            }
        }
    }
}

impl Shape {
    fn read(message: &Value) -> Self {
        let texts = |list: &Value| {
            let list = list.as_array().expect("a list").iter();
            list.map(|text| word(text).to_owned()).collect()
        };
        let reactions = message["reactions"].as_array().into_iter().flatten();
        let reactions = reactions.map(|one| (word(&one["emoji"]).to_owned(), texts(&one["users"])));
        Self {
            text: word(&message["text"]).to_owned(),
            edited: message["edited"].as_u64(),
            deleted: message["deleted"].as_u64(),
            reactions: reactions.collect(),
        }
    }

    fn react(&mut self, record: &Value) {
        let user = word(&record["from"]["id"]);
        let users = self.reactions.entry(word(&record["emoji"]).to_owned()).or_default();
        let known = users.iter().position(|known| known == user);
        match (known, record["on"] == json!(true)) {
            (None, true) => users.push(user.to_owned()),
            (Some(at), false) => drop(users.remove(at)),
            _ => {}
        }
        self.reactions.retain(|_, users| !users.is_empty());
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Does something to a message at random, whether it may or not.
async fn meddle(client: &Client, messages: &[Value], seed: u64) {
    let mut random = Random::new(seed);
    let mut answers = Vec::new();
    for n in 0..40 {
        let message = random.pick(messages);
        let emoji = *random.pick(&["+", "👍", ":heart:"]);
        let (name, more) = match random.between(0, 9) {
            0 => ("delete", json!({})),
            1..=3 => ("edit", json!({ "text": format!("{seed} {n}") })),
            4..=7 => ("react", json!({ "emoji": emoji, "on": true })),
            _ => ("react", json!({ "emoji": emoji, "on": false })),
        };
        answers.push(client.emit_for_ack(name, &[about(message, more)]).await);
        if random.between(0, 4) == 0 {
            client
                .emit("send", &[json!({ "room": "attic", "text": format!("new {seed} {n}") })])
                .await;
        }
    }
    for answer in answers {
        let answer = answer.await.expect("an answer").remove(0);
        let why = answer["error"]["code"].as_str().unwrap_or("done");
        assert!(["done", "forbidden", "not_found"].contains(&why), "{answer}");
    }
}

#[tokio::test]
async fn a_search_finds_what_messages_say_now() {
    for world in World::both().await {
        let ann = world.connect(0, "ann").await;
        join(&ann, "attic", None).await;
        let said = send(&ann, "attic", "hello one").await;
        let gone = send(&ann, "attic", "hello gone").await;
        edit(&ann, &said, "hello two").await;
        react(&ann, &said, "+", true).await;
        delete(&ann, &gone).await;
        for text in ["one", "gone"] {
            let request = json!({ "room": "attic", "text": text });
            let found = ann.request("search", &[request]).await;
            assert_eq!(found["messages"], json!([]), "{text}");
        }
        let found = ann.request("search", &[json!({ "room": "attic", "text": "hello" })]).await;
        let page = ann.request("history", &[json!({ "room": "attic" })]).await;
        assert_eq!(found["messages"], json!([page["messages"][0]]));
        let shown = Shape::read(&page["messages"][0]);
        assert!(shown.text == "hello two" && shown.edited.is_some(), "{page}");
        assert_eq!(shown.reactions["+"], [own_id(&ann).await]);
    }
}

/// What a client had, and what it is told later, is what a new one finds.
#[tokio::test]
async fn live_events_add_up_to_what_history_shows() {
    for world in World::both().await {
        let clients = [
            world.connect(0, "ann").await,
            world.connect(1, "bob").await,
            world.connect(1, "eve").await,
        ];
        all_join(&clients, "attic").await;
        let mut messages = Vec::new();
        for n in 0..12 {
            messages.push(send(&clients[n % 3], "attic", &n.to_string()).await);
        }
        let mut shown = vec![Shown::page(&clients[0]).await; 3];
        let stood = shown[0].clone();
        // Some look in the middle of it.
        let late = async |turn: usize| {
            let client = world.connect(turn, "zoe").await;
            join(&client, "attic", None).await;
            (Shown::page(&client).await, client)
        };
        let ((), (), (), one, two) = tokio::join!(
            meddle(&clients[0], &messages, 1),
            meddle(&clients[1], &messages, 2),
            meddle(&clients[2], &messages, 3),
            late(0),
            late(1),
        );
        assert_eq!(send(&clients[0], "attic", "end").await["ok"], json!(true));
        let mut histories = Vec::new();
        for turn in 0..world.nodes.len() {
            let client = world.connect(turn, "new").await;
            join(&client, "attic", None).await;
            histories.push(Shown::page(&client).await.messages);
        }
        let left = &histories[0];
        assert!(left.values().any(|message| message.edited.is_some()), "{left:?}");
        assert!(left.values().any(|message| message.deleted.is_some()), "{left:?}");
        assert!(left.values().any(|message| message.reactions.len() > 1), "{left:?}");
        for other in &histories {
            assert_eq!(other, left);
        }
        let watching = clients.iter().zip(&mut shown);
        for (client, shown) in watching {
            shown.hear_all(client).await;
            assert_eq!(&shown.messages, left);
        }
        for (mut shown, client) in [one, two] {
            shown.hear_all(&client).await;
            assert_eq!(&shown.messages, left);
        }
        // A client that was away asks for what came after its page.
        let after = json!({ "epoch": messages[0]["epoch"], "seq": stood.seq });
        for turn in 0..world.nodes.len() {
            let mut shown = stood.clone();
            let client = world.connect(turn, "away").await;
            let answer = join(&client, "attic", Some(after.clone())).await;
            assert_eq!(answer["recovered"], json!(true), "{answer}");
            for message in answer["messages"].as_array().expect("a list") {
                shown.messages.insert(number(&message["seq"]), Shape::read(message));
            }
            for record in answer["changes"].as_array().expect("a list") {
                shown.hear(word(&record["type"]), record);
            }
            assert_eq!(&shown.messages, left);
        }
    }
}

//! Presence while everything breaks, as seen by watchers that are in every room on every node.
//!
//! Presence is not made up for after a lost connection: a watcher then joins anew, and begins with
//! the answer. In between each coming and going must be told once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{
    client::{Client, Options, Transport},
    packet::Event,
};

/// A frozen node answers when it goes on.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// A lost connection counts for 10 s more, and so does a dead node; the rest is for a slow machine.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// The ids of the users that must be in each room.
pub type Truth = BTreeMap<String, BTreeSet<String>>;

/// The id of the user with this token.
pub fn id(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// One for each node, in rooms that are small enough for a list.
pub struct Watchers {
    watchers: Vec<Watcher>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Watcher {
    token: String,
    node: SocketAddr,
    rooms: Vec<String>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    rooms: BTreeMap<String, Shown>,
    broken: Vec<String>,
    /// Events, to see that there were any.
    told: usize,
}

/// The users of a room. The count is `None` until the first event about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    ids: BTreeSet<String>,
    count: Option<u64>,
}

impl Watchers {
    pub fn start(nodes: &[SocketAddr], rooms: &[String]) -> Self {
        let mut tasks = JoinSet::new();
        let mut watchers = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let token = format!("watcher {number}");
            let (node, rooms) = (*node, rooms.to_vec());
            let watcher = Watcher { token, node, rooms, seen: Arc::default() };
            tasks.spawn(watcher.clone().watch());
            watchers.push(watcher);
        }
        Self { watchers, _tasks: tasks }
    }

    /// The watchers are users, too.
    pub fn and_watchers(&self, mut truth: Truth) -> Truth {
        for watcher in &self.watchers {
            for room in &watcher.rooms {
                truth.entry(room.clone()).or_default().insert(id(&watcher.token));
            }
        }
        truth
    }

    /// What every node tells, lists and counts comes to be this.
    pub async fn expect(&self, when: &str, truth: &Truth) {
        for watcher in &self.watchers {
            let deadline = Instant::now() + TOLD_WITHIN;
            let mut wrong = watcher.differs(truth).await;
            while !wrong.is_empty() && Instant::now() < deadline {
                sleep(LOOKS_EVERY).await;
                wrong = watcher.differs(truth).await;
            }
            wrong.iter().for_each(|wrong| watcher.broken(&format!("{when}, {wrong}")));
        }
    }

    /// What was promised and not kept, and how many events there were.
    pub fn end(self) -> (Vec<String>, usize) {
        let all = self.watchers.iter().map(|watcher| std::mem::take(&mut *watcher.seen()));
        let all: Vec<Seen> = all.collect();
        let told = all.iter().map(|seen| seen.told).sum();
        (all.into_iter().flat_map(|seen| seen.broken).collect(), told)
    }
}

impl Watcher {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, what: &str) {
        self.seen().broken.push(format!("{}: {what}", self.token));
    }

    async fn comes(&self) -> Option<Client> {
        let options = Options::new(Transport::WebSocket).query("dialect", "native");
        let options = options.auth(json!({ "token": self.token }));
        Client::connect(self.node, options).await.ok()
    }

    async fn watch(self) {
        loop {
            if let Some(client) = self.comes().await {
                self.stay(&client).await;
            }
            self.seen().rooms.clear();
            sleep(LOOKS_EVERY).await;
        }
    }

    async fn stay(&self, client: &Client) {
        for room in &self.rooms {
            let Some(answer) = self.ask(client, "join", json!({ "room": room })).await else {
                return;
            };
            self.seen().rooms.insert(room.clone(), Shown::answered(&answer));
            // What came before the answer is part of it.
            for event in client.drain() {
                self.hear(&event, Some(room));
            }
        }
        while !client.is_closed() {
            if let Some(event) = client.try_next_any(LOOKS_EVERY).await {
                self.hear(&event, None);
            }
        }
    }

    /// `None`: not now.
    async fn ask(&self, client: &Client, name: &str, request: Value) -> Option<Value> {
        let answer = client.emit_for_ack(name, &[request]).await;
        let Ok(answer) = timeout(ANSWERED_WITHIN, answer).await else {
            self.broken(&format!("no answer to {name}"));
            return None;
        };
        let answer = answer.ok()?.into_iter().next()?;
        (answer["ok"] == json!(true)).then_some(answer)
    }

    fn hear(&self, event: &Event, begins: Option<&str>) {
        if event.name != "presence" {
            return;
        }
        let told = event.arg(0);
        let room = told["room"].as_str().expect("a room has a name");
        let mut seen = self.seen();
        seen.told += 1;
        let Some(shown) = seen.rooms.get_mut(room) else { return };
        let wrong = shown.hears(told);
        if begins != Some(room) && !wrong.is_empty() {
            seen.broken.push(format!("{}: {wrong:?} in {told}", self.token));
        }
    }

    /// Where this node and this watcher are not of the same mind as the truth.
    async fn differs(&self, truth: &Truth) -> Vec<String> {
        let mut wrong = Vec::new();
        for room in &self.rooms {
            let shown = self.seen().rooms.get(room).cloned().unwrap_or_default();
            wrong.extend(shown.differs(&truth[room]).map(|how| format!("told of {room}: {how}")));
        }
        if !wrong.is_empty() {
            return wrong;
        }
        let Some(client) = self.comes().await else { return vec!["nobody is let in".to_owned()] };
        for room in &self.rooms {
            let answer = self.ask(&client, "join", json!({ "room": room })).await;
            let listed = Shown::answered(&answer.unwrap_or_default());
            wrong
                .extend(listed.differs(&truth[room]).map(|how| format!("listed in {room}: {how}")));
        }
        let answer = self.ask(&client, "rooms", json!({})).await.unwrap_or_default();
        for (room, users) in truth {
            let listed = answer["rooms"].as_array().into_iter().flatten();
            let count = listed.filter(|listed| listed["room"] == room.as_str());
            let count = count.filter_map(|listed| listed["count"].as_u64()).sum::<u64>();
            if count != users.len() as u64 {
                wrong.push(format!("{count} counted in {room} of {}", users.len()));
            }
        }
        wrong
    }
}

fn ids(users: &Value) -> impl Iterator<Item = String> {
    let users = users.as_array().into_iter().flatten();
    users.map(|user| user["id"].as_str().expect("a user has an id").to_owned())
}

impl Shown {
    fn answered(answer: &Value) -> Self {
        Self { ids: ids(&answer["members"]).collect(), count: answer["count"].as_u64() }
    }

    /// Answers what cannot be.
    fn hears(&mut self, told: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        for id in ids(&told["joined"]) {
            if !self.ids.insert(id.clone()) {
                wrong.push(format!("{id} came twice"));
            }
        }
        for id in ids(&told["left"]) {
            if !self.ids.remove(&id) {
                wrong.push(format!("{id} left and was not there"));
            }
        }
        self.count = told["count"].as_u64();
        if self.count != Some(self.ids.len() as u64) {
            wrong.push(format!("{:?} are counted, {} are there", self.count, self.ids.len()));
        }
        wrong
    }

    fn differs(&self, truth: &BTreeSet<String>) -> Option<String> {
        let missing: Vec<&String> = truth.difference(&self.ids).collect();
        let ghosts: Vec<&String> = self.ids.difference(truth).collect();
        let is_so = *truth == self.ids && self.count == Some(truth.len() as u64);
        let count = self.count;
        (!is_so).then(|| format!("{count:?} counted, missing {missing:?}, ghosts {ghosts:?}"))
    }
}

//! Clients that send and clients that listen while a test breaks things, recorded for the checker.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    PATIENCE, Random,
    checker::{Attempt, History, JoinResult, Life, Moment, Outcome, Position, Report, check},
    client::{Answer, Client, Options, Transport},
    packet::own_id,
};

/// Past the last fault, everything under way must have arrived within this time.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// The message that says that nothing will follow.
pub const END: &str = "end";
/// The room that every client is in.
pub const LOBBY: &str = "lobby";

/// How clients send.
#[derive(Debug, Clone)]
pub struct Talk {
    pub seed: u64,
    pub senders_per_node: usize,
    /// Messages under way at most.
    pub batch_max: u64,
    pub pause_millis_max: u64,
    /// Whether a message without a sure answer is sent again with the same id.
    pub retries: bool,
}

impl Talk {
    pub fn seeded(seed: u64) -> Self {
        let (senders_per_node, batch_max, pause_millis_max) = (2, 24, 30);
        Self { seed, senders_per_node, batch_max, pause_millis_max, retries: true }
    }
}

/// Senders and receivers at work.
#[derive(Debug)]
pub struct Load {
    clock: Instant,
    nodes: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    senders: JoinSet<Vec<Attempt>>,
    ended: watch::Sender<bool>,
    receivers: JoinSet<Vec<Life>>,
}

impl Load {
    /// Returns when every receiver has heard something: from then on everything is owed to it.
    pub async fn start(nodes: &[SocketAddr], talk: &Talk) -> Self {
        let clock = Instant::now();
        let (stop, stopped) = watch::channel(false);
        let (ended, end) = watch::channel(false);
        let (hearing, mut hear) = watch::channel(0_usize);
        let mut receivers = JoinSet::new();
        let mut senders = JoinSet::new();
        for (index, node) in nodes.iter().enumerate() {
            for transport in [Transport::WebSocket, Transport::Upgrade] {
                let name = format!("{transport:?} on node {index}");
                let receiver = Receiver { name, node: *node, transport, clock };
                receivers.spawn(receiver.listen(end.clone(), hearing.clone()));
            }
            for number in 0..talk.senders_per_node {
                let name = format!("s{index}{number}");
                let random = Random::new(talk.seed ^ (index * 16 + number) as u64);
                // Its own node first, the others when that one dies.
                let nodes = nodes.iter().cycle().skip(index).take(nodes.len()).copied().collect();
                let sender = Sender { name, nodes, clock, talk: talk.clone(), random };
                senders.spawn(sender.talk(stopped.clone()));
            }
        }
        let all = receivers.len();
        timeout(PATIENCE, hear.wait_for(|hearing| *hearing == all))
            .await
            .expect("every receiver hears something")
            .expect("receivers live");
        Self { clock, nodes: nodes.to_vec(), stop, senders, ended, receivers }
    }

    /// Stops the talk, lets everything arrive, and judges.
    pub async fn judge(mut self) -> (Report, History) {
        self.stop.send_replace(true);
        let mut history = History::default();
        while let Some(attempts) = self.senders.join_next().await {
            history.attempts.extend(attempts.expect("a sender does not panic"));
        }
        history.attempts.extend(self.say_the_end().await);
        self.ended.send_replace(true);
        while let Some(lives) = self.receivers.join_next().await {
            history.lives.extend(lives.expect("a receiver does not panic"));
        }
        (check(&history), history)
    }

    /// What this message's receipt proves: everything before it has arrived.
    async fn say_the_end(&self) -> Vec<Attempt> {
        let talk = Talk { seed: 0, senders_per_node: 1, batch_max: 1, ..Talk::seeded(0) };
        let mut sender = Sender {
            name: END.into(),
            nodes: self.nodes.clone(),
            clock: self.clock,
            talk,
            random: Random::new(0),
        };
        let mut attempts = Vec::new();
        let client = sender.connect().await;
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let batch = sender.send(&client, &[END.to_owned()], &mut attempts).await;
            if let [Outcome::Stored(_)] = batch.as_slice() {
                return attempts;
            }
            assert!(Instant::now() < deadline, "the end cannot be said: {batch:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Sender {
    name: String,
    nodes: Vec<SocketAddr>,
    clock: Instant,
    talk: Talk,
    random: Random,
}

impl Sender {
    async fn talk(mut self, stopped: watch::Receiver<bool>) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let mut next = 0;
        let mut again: Vec<String> = Vec::new();
        let mut client = self.connect().await;
        while !*stopped.borrow() {
            if client.is_closed() {
                self.nodes.rotate_left(1);
                client = self.connect().await;
            }
            let mut batch = std::mem::take(&mut again);
            for _ in 0..self.random.between(1, self.talk.batch_max) {
                batch.push(format!("{}-{next}", self.name));
                next += 1;
            }
            let outcomes = self.send(&client, &batch, &mut attempts).await;
            if self.talk.retries {
                let unsure = batch.into_iter().zip(&outcomes);
                let unsure = unsure.filter(|(_id, outcome)| **outcome == Outcome::Unknown);
                again = unsure.map(|(id, _outcome)| id).collect();
            }
            let pause = self.random.millis(0, self.talk.pause_millis_max);
            let refused = outcomes.contains(&Outcome::Refused);
            sleep(if refused { pause.max(Duration::from_millis(20)) } else { pause }).await;
        }
        attempts
    }

    async fn connect(&mut self) -> Client {
        let token = json!({ "token": format!("token of {}", self.name) });
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let options = Options::new(Transport::WebSocket).auth(token.clone());
            match Client::connect(self.nodes[0], options).await {
                Ok(client) => return client,
                Err(why) => assert!(Instant::now() < deadline, "{} is out: {why}", self.name),
            }
            self.nodes.rotate_left(1);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends all, then waits for all answers.
    async fn send(
        &mut self,
        client: &Client,
        ids: &[String],
        attempts: &mut Vec<Attempt>,
    ) -> Vec<Outcome> {
        let mut sent: Vec<(Moment, Answer)> = Vec::with_capacity(ids.len());
        for id in ids {
            let body = json!({ "id": id });
            let at = self.clock.elapsed();
            sent.push((at, client.emit_for_ack("user-message", &[body, json!(own_id(id))]).await));
        }
        let mut outcomes = Vec::with_capacity(ids.len());
        for (id, (at, answer)) in ids.iter().zip(sent) {
            let answer = timeout(SETTLED_WITHIN, answer).await;
            let answer = answer.unwrap_or_else(|_late| panic!("{id} has no answer: {client}"));
            let outcome = answer.map_or(Ok(Outcome::Unknown), |args| outcome(&args[0]));
            let outcome = outcome.expect("an honest sender is stored, refused or unsure");
            outcomes.push(outcome.clone());
            let (sender, id, room) = (self.name.clone(), id.clone(), LOBBY.to_owned());
            attempts.push(Attempt { sender, id, room, at, outcome });
        }
        outcomes
    }
}

/// What an ack says of a message. An error is an answer that an honest sender never gets.
pub fn outcome(ack: &Value) -> Result<Outcome, Value> {
    if ack["ok"] == json!(true) {
        let epoch = ack["epoch"].as_str().expect("an epoch is text").to_owned();
        let seq = ack["seq"].as_u64().expect("a sequence is a number");
        return Ok(Outcome::Stored(Position { epoch, seq }));
    }
    match ack["error"]["code"].as_str() {
        Some("unavailable" | "busy") => Ok(Outcome::Refused),
        Some("unconfirmed") => Ok(Outcome::Unknown),
        _ => Err(ack.clone()),
    }
}

struct Receiver {
    name: String,
    node: SocketAddr,
    transport: Transport,
    clock: Instant,
}

impl Receiver {
    async fn listen(self, end: watch::Receiver<bool>, hearing: watch::Sender<usize>) -> Vec<Life> {
        let mut lives = Vec::new();
        loop {
            let number = lives.len();
            let client = match Client::connect(self.node, Options::new(self.transport)).await {
                Ok(client) => client,
                Err(_down) if *end.borrow() => return lives,
                Err(_down) => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let receiver = format!("{} ({number})", self.name);
            let mut life = Life::in_rooms(receiver, &[LOBBY.to_owned()]);
            self.live(&client, &mut life, &end, &hearing).await;
            let over = life.stayed || *end.borrow();
            lives.push(life);
            if over {
                return lives;
            }
        }
    }

    /// Until the end is heard, the connection closes, or time is up.
    async fn live(
        &self,
        client: &Client,
        life: &mut Life,
        end: &watch::Receiver<bool>,
        hearing: &watch::Sender<usize>,
    ) {
        let mut deadline = None;
        loop {
            match client.try_next_any(Duration::from_millis(50)).await {
                Some(event) => {
                    let heard = heard(&event.name, &event.args).expect("nothing else is said");
                    let last = matches!(&heard, JoinResult::Message { id, .. } if id == END);
                    life.heard.push(heard);
                    if life.from == Moment::MAX {
                        life.from = self.clock.elapsed();
                        hearing.send_modify(|hearing| *hearing += 1);
                    }
                    if last {
                        life.stayed = true;
                        return;
                    }
                }
                None if client.is_closed() => return,
                // A client that has not heard the end by then has lost it, and the checker says so.
                None if *end.borrow() => {
                    let late = *deadline.get_or_insert(Instant::now() + SETTLED_WITHIN);
                    if Instant::now() > late {
                        life.stayed = true;
                        return;
                    }
                }
                None => {}
            }
        }
    }
}

/// What an event says to the checker; nothing when it is of no concern to it.
pub fn heard(name: &str, args: &[Value]) -> Option<JoinResult> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let number = |value: &Value| value.as_u64().expect("a number");
    let argument = args.first().unwrap_or(&Value::Null);
    Some(match name {
        "message" => {
            let offset = args.get(1).and_then(Value::as_str);
            let position = offset.and_then(|offset| offset.rsplit_once('-'));
            // With several partitions an offset is no position.
            let position = position.and_then(|(epoch, seq)| {
                Some(Position { epoch: epoch.to_owned(), seq: seq.parse().ok()? })
            });
            JoinResult::Message { id: text(&body(argument)["id"]), position }
        }
        "gap" => JoinResult::Gap {
            epoch: text(&argument["epoch"]),
            from: number(&argument["from"]),
            to: number(&argument["to"]),
        },
        "notice" if argument["code"] == json!("new_epoch") => JoinResult::NewEpoch,
        _ => return None,
    })
}

/// What was said, in whichever dialect it was and is told: a native client says and hears text.
pub fn body(argument: &Value) -> Value {
    match argument.as_str().or_else(|| argument["text"].as_str()) {
        Some(text) => serde_json::from_str(text).expect("what is said here is JSON"),
        None => argument.clone(),
    }
}

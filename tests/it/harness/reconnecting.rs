//! A client that reconnects as the official one does: with its pid and offset, to any node.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Random,
    checker::{Attempt, Moment, Outcome},
    client::{Answer, Client, Options, Transport},
    diary::Diary,
    load::LOBBY,
    packet::{Event, own_id},
};

/// How often it tries to come back to say that it leaves.
const LEAVES_MAX: usize = 10;
/// A connection that gives no answer for so long has broken its promise.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// What socket.io-client would wait by default is 1 to 5 s.
const BACK_OFF: [u64; 4] = [100, 400, 1_000, 2_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// In the lobby, by itself, and nowhere else.
    Plain,
    /// In the rooms it joins.
    Native,
}

impl Dialect {
    /// As the query of the handshake has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Native => "native",
        }
    }

    /// The event and the arguments that say something in a room.
    pub fn speech(self, room: &str, id: &str, at: Moment) -> (&'static str, Vec<Value>) {
        let at = u64::try_from(at.as_millis()).expect("a test is short");
        let body = json!({ "id": id, "at": at });
        match self {
            Self::Plain => ("user-message", vec![body, json!(own_id(id))]),
            Self::Native => {
                ("send", vec![json!({ "room": room, "text": body.to_string(), "id": id })])
            }
        }
    }
}

/// What every client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Talk,
    /// Say nothing new, but have everything acked.
    Settle,
    Leave,
}

#[derive(Debug)]
pub struct ReconnectingClient {
    pub diary: Diary,
    pub server: SocketAddr,
    pub transport: Transport,
    pub name: String,
    pub dialect: Dialect,
    pub rooms: Vec<String>,
    pub clock: Instant,
    pub random: Random,
    /// Between two messages, in milliseconds.
    pub pause_max: u64,
    /// When it will say something.
    next: Instant,
    /// Hears one message and says nothing of it, to see that the checker would.
    pub ignores_one: bool,
    recovery: Recovery,
    said: u64,
    /// Without a sure answer, to be sent again.
    unsure: VecDeque<Line>,
}

/// What the official client keeps for the server.
#[derive(Debug, Default)]
struct Recovery {
    pid: Option<String>,
    offset: Option<String>,
}

#[derive(Debug, Clone)]
struct Line {
    id: String,
    room: String,
    /// When it was said first: a retry has the same content.
    begun: Moment,
}

#[derive(Debug)]
struct InFlight {
    line: Line,
    at: Moment,
    late: tokio::time::Instant,
    answer: Answer,
}

impl ReconnectingClient {
    pub fn new(name: String, server: SocketAddr, transport: Transport, diary: Diary) -> Self {
        Self {
            diary,
            server,
            transport,
            name,
            dialect: Dialect::Plain,
            rooms: vec![LOBBY.to_owned()],
            clock: Instant::now(),
            random: Random::new(0),
            pause_max: 0,
            next: Instant::now(),
            ignores_one: false,
            recovery: Recovery::default(),
            said: 0,
            unsure: VecDeque::new(),
        }
    }

    pub async fn live(mut self, mut phase: watch::Receiver<Phase>) {
        let (mut tries, mut leaves, mut has_left) = (0, 0, false);
        self.next = Instant::now() + self.random.millis(0, self.pause_max);
        while !has_left && leaves < LEAVES_MAX {
            leaves += usize::from(*phase.borrow() == Phase::Leave);
            let Some(client) = self.connect().await else {
                let most = BACK_OFF[tries.min(BACK_OFF.len() - 1)];
                tries += 1;
                sleep(self.random.millis(most / 2, most)).await;
                continue;
            };
            tries = 0;
            self.stay(&client, &mut phase).await;
            if *phase.borrow() == Phase::Leave {
                has_left = self.leave(&client).await;
            }
            for event in client.drain() {
                self.hear(&event);
            }
            if client.is_disconnected() {
                self.diary.broken("the server sent a DISCONNECT packet");
            }
            self.diary.closed(&client.to_string());
        }
    }

    async fn connect(&mut self) -> Option<Client> {
        let mut auth = json!({ "token": token(&self.name) });
        if let Some(pid) = &self.recovery.pid {
            auth["pid"] = json!(pid);
            if let Some(offset) = &self.recovery.offset {
                auth["offset"] = json!(offset);
            }
        }
        let options = Options::new(self.transport).auth(auth);
        let options = options.query("dialect", self.dialect.name());
        let client = match Client::connect(self.server, options).await {
            Ok(client) => client,
            Err(why) => {
                self.diary.not_connected(&why.to_string());
                return None;
            }
        };
        let reply = client.connect_reply();
        let pid = reply["pid"].as_str().map(str::to_owned);
        let recovered = pid.is_some() && pid == self.recovery.pid;
        self.recovery.pid = pid;
        let must_join = self.diary.connected(reply["sid"].as_str().unwrap_or_default(), recovered);
        if must_join && !self.join(&client).await {
            self.diary.closed("while it joined its rooms");
            return None;
        }
        Some(client)
    }

    /// False when the connection ended first.
    async fn join(&mut self, client: &Client) -> bool {
        let joins = match self.dialect {
            Dialect::Plain => &[],
            Dialect::Native => self.rooms.as_slice(),
        };
        for room in joins {
            let answer = client.emit_for_ack("join", &[json!({ "room": room })]).await;
            match timeout(ANSWERED_WITHIN, answer).await {
                Ok(Ok(answer)) if answer[0]["ok"] == json!(true) => {}
                Ok(Ok(answer)) => {
                    let answer = Value::from(answer);
                    self.diary.broken(&format!("the join of {room} was answered {answer}"));
                    return false;
                }
                Ok(Err(_closed)) => return false,
                Err(_late) => {
                    self.diary.broken("a join was not answered");
                    return false;
                }
            }
        }
        // What came before is of some rooms and not of others.
        for event in client.drain() {
            self.note_offset(&event);
        }
        self.diary.joined();
        true
    }

    /// Its rooms, so that nobody thinks that it comes back. False when the connection ended first.
    async fn leave(&self, client: &Client) -> bool {
        let rooms = if self.dialect == Dialect::Native { self.rooms.as_slice() } else { &[] };
        for room in rooms {
            let answer = client.emit_for_ack("leave", &[json!({ "room": room })]).await;
            match timeout(ANSWERED_WITHIN, answer).await {
                Ok(Ok(_answer)) => {}
                Ok(Err(_closed)) => return false,
                Err(_late) => self.diary.broken("a leave was not answered"),
            }
        }
        true
    }

    async fn stay(&mut self, client: &Client, phase: &mut watch::Receiver<Phase>) {
        let mut in_flight: VecDeque<InFlight> = VecDeque::new();
        loop {
            let talking = match *phase.borrow() {
                Phase::Talk => true,
                Phase::Settle => {
                    if in_flight.is_empty() && self.unsure.is_empty() {
                        self.diary.settled();
                    }
                    false
                }
                Phase::Leave => return,
            };
            let says = in_flight.is_empty() && (talking || !self.unsure.is_empty());
            tokio::select! {
                biased;
                answer = first_answer(&mut in_flight), if !in_flight.is_empty() => {
                    let first = in_flight.pop_front().expect("it was answered");
                    if self.take_answer(first, answer) {
                        // A client without a sure answer asks again, but not at once.
                        self.next = Instant::now() + self.random.millis(100, 300);
                    }
                }
                event = client.try_next_any(Duration::from_millis(100)) => match event {
                    Some(event) => self.hear(&event),
                    None if client.is_closed() => break,
                    None => {}
                },
                changed = phase.changed() => if changed.is_err() { return },
                () = sleep_until(self.next.into()), if says => {
                    self.say(client, talking, &mut in_flight).await;
                    self.next =
                        Instant::now() + self.random.millis(self.pause_max / 4, self.pause_max);
                }
            }
        }
        for line in in_flight {
            self.take_answer(line, Ok(None));
            self.next = Instant::now();
        }
    }

    /// What has no sure answer, and something new.
    async fn say(&mut self, client: &Client, new: bool, in_flight: &mut VecDeque<InFlight>) {
        let mut lines: Vec<Line> = self.unsure.drain(..).collect();
        if new {
            for _ in 0..self.random.between(1, 3) {
                let id = format!("{}-{}", self.name, self.said);
                self.said += 1;
                let room = self.random.pick(&self.rooms).clone();
                lines.push(Line { id, room, begun: self.clock.elapsed() });
            }
        }
        for line in lines {
            let at = self.clock.elapsed();
            let (name, args) = self.dialect.speech(&line.room, &line.id, line.begun);
            let answer = client.emit_for_ack(name, &args).await;
            let late = tokio::time::Instant::now() + ANSWERED_WITHIN;
            in_flight.push_back(InFlight { line, at, late, answer });
        }
    }

    /// Whether it must be said again.
    fn take_answer(&mut self, said: InFlight, answer: Result<Option<Value>, ()>) -> bool {
        let InFlight { line, at, .. } = said;
        if answer.is_err() {
            self.diary.broken(&format!("{} was not answered", line.id));
        }
        let attempt = Attempt {
            sender: self.name.clone(),
            id: line.id.clone(),
            room: line.room.clone(),
            at,
            outcome: Outcome::Unknown,
        };
        let outcome = self.diary.answered(attempt, answer.ok().flatten().as_ref());
        let again = !matches!(outcome, Outcome::Stored(_));
        if again {
            self.unsure.push_back(line);
        }
        again
    }

    fn hear(&mut self, event: &Event) {
        self.note_offset(event);
        let named = event.name == "message" && self.diary.read().is_hearing();
        if named && std::mem::take(&mut self.ignores_one) {
            return;
        }
        self.diary.event(&event.name, &event.args);
    }

    fn note_offset(&mut self, event: &Event) {
        if let Some(Value::String(offset)) = event.args.last()
            && self.recovery.pid.is_some()
        {
            self.recovery.offset = Some(offset.clone());
        }
    }
}

/// The token of the client with this name.
pub fn token(name: &str) -> String {
    format!("token of {name}")
}

/// None when the connection ended, an error when time did.
async fn first_answer(in_flight: &mut VecDeque<InFlight>) -> Result<Option<Value>, ()> {
    let first = in_flight.front_mut().ok_or(())?;
    match timeout_at(first.late, &mut first.answer).await {
        Ok(Ok(args)) => Ok(args.into_iter().next()),
        Ok(Err(_closed)) => Ok(None),
        Err(_late) => Err(()),
    }
}

//! What happened to one client over all its connections, written down for the checker.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    checker::{Attempt, JoinResult, Life, Moment, Outcome},
    load::{END, body, heard, outcome},
};

const TRAIL_MAX: usize = 12;

/// Shared by the one who lives and the ones who judge.
#[derive(Debug, Clone)]
pub struct Diary(Arc<Mutex<Pages>>);

/// A time between two connections.
#[derive(Debug, Clone, Copy)]
pub struct Absence {
    pub from: Moment,
    /// None as long as it lasts.
    pub until: Option<Moment>,
}

/// How long something took, and when it was begun.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub begun: Moment,
    pub took: Duration,
}

#[derive(Debug)]
pub struct Pages {
    pub name: String,
    rooms: Vec<String>,
    clock: Instant,
    pub attempts: Vec<Attempt>,
    pub lives: Vec<Life>,
    pub absences: Vec<Absence>,
    /// Connections that were not the first and began anew, for a documented reason.
    pub begun_anew: usize,
    pub recovered: usize,
    /// What the server promised and did not keep.
    pub broken: Vec<String>,
    /// Until a message came.
    pub receipts: Vec<Latency>,
    /// Until a message was acked.
    pub acks: Vec<Latency>,
    connected: bool,
    /// Whether it is in all its rooms; what comes earlier is nobody's.
    joined: bool,
    /// Whether it has nothing more to say.
    pub settled: bool,
    pub heard_end: bool,
    id: String,
    /// How its last connections began and ended, to tell when something is wrong with it.
    trail: VecDeque<String>,
    /// JoinResult after a connection ended and before the next one said whether it continues it, which
    /// is when official clients show what was replayed.
    early: Vec<(JoinResult, Option<Latency>)>,
}

impl Diary {
    pub fn new(name: String, clock: Instant, rooms: &[String]) -> Self {
        let rooms = rooms.to_vec();
        Self(Arc::new(Mutex::new(Pages {
            name,
            rooms,
            clock,
            attempts: Vec::new(),
            lives: Vec::new(),
            absences: Vec::new(),
            begun_anew: 0,
            recovered: 0,
            broken: Vec::new(),
            receipts: Vec::new(),
            acks: Vec::new(),
            connected: false,
            joined: false,
            settled: false,
            heard_end: false,
            id: String::new(),
            trail: VecDeque::new(),
            early: Vec::new(),
        })))
    }

    pub fn read(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it must join its rooms now.
    pub fn connected(&self, id: &str, recovered: bool) -> bool {
        self.read().connect(id, recovered)
    }

    pub fn joined(&self) {
        self.read().join();
    }

    pub fn closed(&self, why: &str) {
        self.read().close(why);
    }

    pub fn not_connected(&self, why: &str) {
        self.read().trail(format!("not connected: {why}"));
    }

    pub fn event(&self, name: &str, args: &[Value]) {
        self.read().take(name, args);
    }

    pub fn settled(&self) {
        self.read().settled = true;
    }

    pub fn broken(&self, what: &str) {
        let mut pages = self.read();
        let trail = pages.trail.make_contiguous().join("; ");
        let now = pages.clock.elapsed();
        let line = format!("{} at {now:.1?}: {what} ({trail})", pages.name);
        pages.broken.push(line);
    }

    /// Writes the answer down and says what it means.
    pub fn answered(&self, attempt: Attempt, answer: Option<&Value>) -> Outcome {
        let outcome = answer.map_or(Ok(Outcome::Unknown), outcome);
        let mut pages = self.read();
        let now = pages.clock.elapsed();
        if let Ok(Outcome::Stored(_)) = &outcome {
            pages.acks.push(Latency { begun: attempt.at, took: now.saturating_sub(attempt.at) });
        }
        let outcome = outcome.unwrap_or_else(|answer| {
            // Without a session that was restored, it is in no room until it has joined again.
            if answer["error"]["code"] != json!("not_joined") || pages.joined {
                let line = format!("{} at {now:?}: {} got {answer}", pages.name, attempt.id);
                pages.broken.push(line);
            }
            Outcome::Refused
        });
        pages.attempts.push(Attempt { outcome: outcome.clone(), ..attempt });
        outcome
    }
}

impl Pages {
    fn trail(&mut self, what: String) {
        self.trail.push_back(format!("{:.1?} {what}", self.clock.elapsed()));
        if self.trail.len() > TRAIL_MAX {
            self.trail.pop_front();
        }
    }

    fn connect(&mut self, id: &str, recovered: bool) -> bool {
        let now = self.clock.elapsed();
        let early = self.early.len();
        self.trail(format!("connected as {id}, recovered {recovered}, {early} early"));
        if let Some(absence) = self.absences.last_mut() {
            absence.until.get_or_insert(now);
        }
        self.connected = true;
        if recovered {
            self.recovered += 1;
            if id != self.id {
                self.broken.push(format!("{} came back as {id}, was {}", self.name, self.id));
            }
            for (heard, latency) in std::mem::take(&mut self.early) {
                self.keep(heard, latency);
            }
            return !self.joined;
        }
        // Without an offset, which comes with the first message, a client cannot say what it has.
        let had_offset = self.lives.last().is_some_and(|life| !life.heard.is_empty());
        if had_offset {
            let line = format!("{} at {now:?}: not recovered, was {}", self.name, self.id);
            self.broken.push(line);
        } else if !self.lives.is_empty() {
            self.begun_anew += 1;
        }
        let receiver = format!("{} ({})", self.name, self.lives.len());
        self.lives.push(Life::in_rooms(receiver, &self.rooms));
        self.id = id.to_owned();
        self.joined = false;
        self.early.clear();
        true
    }

    fn join(&mut self) {
        let now = self.clock.elapsed();
        self.joined = true;
        if let Some(life) = self.lives.last_mut() {
            life.from = now;
        }
    }

    fn close(&mut self, why: &str) {
        self.trail(format!("closed: {why}"));
        // After the end it leaves for good.
        if std::mem::take(&mut self.connected) && !self.heard_end {
            self.absences.push(Absence { from: self.clock.elapsed(), until: None });
        }
    }

    fn take(&mut self, name: &str, args: &[Value]) {
        let Some(heard) = heard(name, args) else { return };
        let now = self.clock.elapsed();
        let begun = args.first().and_then(|told| body(told)["at"].as_u64());
        let begun = begun.map(Duration::from_millis);
        let latency = begun.map(|begun| Latency { begun, took: now.saturating_sub(begun) });
        if self.connected {
            self.keep(heard, latency);
        } else {
            self.early.push((heard, latency));
        }
    }

    fn keep(&mut self, heard: JoinResult, latency: Option<Latency>) {
        if !self.joined {
            return;
        }
        let life = self.lives.last_mut().expect("who is connected lives");
        let last = matches!(&heard, JoinResult::Message { id, .. } if id == END);
        life.heard.push(heard);
        life.stayed |= last;
        self.heard_end |= last;
        self.receipts.extend(latency);
    }

    pub fn is_in(&self) -> bool {
        self.connected && self.joined
    }

    /// Whether it has an offset by now, so that whatever happens next is made up for.
    pub fn is_hearing(&self) -> bool {
        self.is_in() && self.lives.last().is_some_and(|life| !life.heard.is_empty())
    }
}

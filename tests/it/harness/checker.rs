//! The judge: from what was sent, answered and heard, what went wrong.
//!
//! It knows nothing of Roomcast but its law: what was acked is heard once, in one order, by
//! everybody who was there; what was refused is heard by nobody; a hole is told. What was neither
//! acked nor refused may be heard or not, but then by all or by none.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

/// Any clock that all clients of a history share.
pub type Moment = std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: String,
    pub seq: u64,
}

/// One try to send one message. A retry is a second attempt with the same id.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub sender: String,
    /// Unique in the whole history; every receipt of the message shows it.
    pub id: String,
    pub room: String,
    pub at: Moment,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acked.
    Stored(Position),
    /// Refused with a code that says: certainly not stored.
    Refused,
    /// No answer, or one that says that the outcome is unknown.
    Unknown,
}

/// One receiver from joining to leaving. A reconnection that the server recovered goes on with
/// the same life; any other begins a new one.
#[derive(Debug, Clone)]
pub struct Life {
    pub receiver: String,
    /// Whose messages it is owed, and no others.
    pub rooms: Vec<String>,
    /// From when on everything sent is owed.
    pub from: Moment,
    /// Whether it was there until everything under way had arrived.
    pub stayed: bool,
    pub heard: Vec<JoinResult>,
}

impl Life {
    /// One that has heard nothing, and is owed nothing yet.
    pub fn in_rooms(receiver: String, rooms: &[String]) -> Self {
        let (rooms, from) = (rooms.to_vec(), Moment::MAX);
        Self { receiver, rooms, from, stayed: false, heard: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinResult {
    Message {
        id: String,
        position: Option<Position>,
    },
    /// The server says that it cannot deliver these, both ends included.
    Gap {
        epoch: String,
        from: u64,
        to: u64,
    },
    /// The server says that what it had is gone and that it counts anew.
    NewEpoch,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    /// Of each sender in the order sent.
    pub attempts: Vec<Attempt>,
    pub lives: Vec<Life>,
}

/// One line per finding, for a reader.
#[derive(Debug, Default)]
pub struct Report {
    /// Stored, and not heard by somebody who was there and was told of no hole.
    pub lost: Vec<String>,
    pub duplicated: Vec<String>,
    /// Against the positions, or against the order of one sender.
    pub reordered: Vec<String>,
    /// JoinResult, but never sent, or refused.
    pub phantom: Vec<String>,
    /// Two answers, or two receivers, that cannot both be right.
    pub disagreed: Vec<String>,
    /// Stored and not heard, and the receiver was told so.
    pub excused: usize,
    /// Messages known to be stored.
    pub stored: usize,
    /// Receipts that were judged.
    pub receipts: usize,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_what, findings)| findings.is_empty())
    }

    fn findings(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("reordered", &self.reordered),
            ("phantom", &self.phantom),
            ("disagreed", &self.disagreed),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stored, {} receipts, {} excused", self.stored, self.receipts, self.excused)?;
        for (what, findings) in self.findings() {
            write!(f, "; {} {what}", findings.len())?;
        }
        for (what, findings) in self.findings() {
            for finding in findings.iter().take(5) {
                write!(f, "\n  {what}: {finding}")?;
            }
        }
        Ok(())
    }
}

pub fn check(history: &History) -> Report {
    let mut judge = Judge::default();
    judge.take_attempts(&history.attempts);
    for life in &history.lives {
        judge.take_life(life);
    }
    for life in &history.lives {
        judge.find_losses(life);
    }
    judge.compare_receivers(&history.lives);
    judge.report.stored = judge.messages.values().filter(|m| m.position.is_some()).count();
    judge.report
}

/// What is known of one message.
struct Message<'a> {
    sender: &'a str,
    room: &'a String,
    /// Its place among the sender's messages; none when it was tried more than once, because then
    /// a later message may rightly be stored before it.
    order: Option<usize>,
    sent: Moment,
    may_exist: bool,
    position: Option<&'a Position>,
}

#[derive(Default)]
struct Judge<'a> {
    messages: HashMap<&'a str, Message<'a>>,
    at: HashMap<&'a Position, &'a str>,
    report: Report,
}

impl<'a> Judge<'a> {
    fn take_attempts(&mut self, attempts: &'a [Attempt]) {
        for (order, attempt) in attempts.iter().enumerate() {
            let message = self
                .messages
                .entry(&attempt.id)
                .and_modify(|message| message.order = None)
                .or_insert(Message {
                    sender: &attempt.sender,
                    room: &attempt.room,
                    order: Some(order),
                    sent: attempt.at,
                    may_exist: false,
                    position: None,
                });
            message.may_exist |= attempt.outcome != Outcome::Refused;
            if let Outcome::Stored(position) = &attempt.outcome {
                self.place(&attempt.id, position, "the ack");
            }
        }
        let mut last: HashMap<(&str, &str), u64> = HashMap::new();
        for attempt in attempts {
            let Outcome::Stored(Position { epoch, seq }) = &attempt.outcome else { continue };
            if self.messages[attempt.id.as_str()].order.is_none() {
                continue;
            }
            let last = last.entry((&attempt.sender, epoch)).or_default();
            if seq < last {
                let line = format!("{} acked at {seq}, after {last} of a later one", attempt.id);
                self.report.reordered.push(line);
            }
            *last = *seq;
        }
    }

    /// A message has one position, and a position one message.
    fn place(&mut self, id: &'a str, position: &'a Position, who: &str) {
        let Some(message) = self.messages.get_mut(id) else { return };
        let known = *message.position.get_or_insert(position);
        if known != position {
            let line = format!("{who} has {id} at {position:?}, not at {known:?}");
            self.report.disagreed.push(line);
        }
        let there = *self.at.entry(position).or_insert(id);
        if there != id {
            let line = format!("{who} has {id} at {position:?}, where {there} is");
            self.report.disagreed.push(line);
        }
    }

    fn take_life(&mut self, life: &'a Life) {
        let who = life.receiver.as_str();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut of_sender: HashMap<&str, usize> = HashMap::new();
        let mut epochs: Vec<&str> = Vec::new();
        let mut last = 0;
        for heard in &life.heard {
            let JoinResult::Message { id, position } = heard else { continue };
            self.report.receipts += 1;
            if !seen.insert(id) {
                self.report.duplicated.push(format!("{who} heard {id} again"));
                continue;
            }
            match self.messages.get(id.as_str()) {
                None => self.report.phantom.push(format!("{who} heard {id}, never sent")),
                Some(message) if !message.may_exist => {
                    self.report.phantom.push(format!("{who} heard {id}, which was refused"));
                }
                Some(message) if !life.rooms.contains(message.room) => {
                    let line = format!("{who} heard {id} of {}, where it is not", message.room);
                    self.report.phantom.push(line);
                }
                Some(Message { sender, order: Some(order), .. }) => {
                    let before = of_sender.entry(sender).or_default();
                    if *order < *before {
                        let line = format!("{who} heard {id} after a later one of {sender}");
                        self.report.reordered.push(line);
                    }
                    *before = *order;
                }
                Some(Message { order: None, .. }) => {}
            }
            let Some(position) = position else { continue };
            self.place(id, position, who);
            if epochs.last() == Some(&position.epoch.as_str()) {
                if position.seq <= last {
                    let line = format!("{who} heard {id} at {}, after {last}", position.seq);
                    self.report.reordered.push(line);
                }
            } else if epochs.contains(&position.epoch.as_str()) {
                let line = format!("{who} heard {id} of epoch {}, which had ended", position.epoch);
                self.report.reordered.push(line);
            } else {
                epochs.push(&position.epoch);
            }
            last = position.seq;
        }
    }

    fn find_losses(&mut self, life: &'a Life) {
        let mut ids: HashSet<&str> = HashSet::new();
        let mut gaps: Vec<(&str, u64, u64)> = Vec::new();
        // First and last heard of each epoch, and the epoch it ended in.
        let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let mut current = None;
        let mut told_new_epoch = false;
        for heard in &life.heard {
            match heard {
                JoinResult::Message { id, position } => {
                    ids.insert(id);
                    if let Some(Position { epoch, seq }) = position {
                        let span = spans.entry(epoch).or_insert((*seq, *seq));
                        *span = (span.0.min(*seq), span.1.max(*seq));
                        current = Some(epoch.as_str());
                    }
                }
                JoinResult::Gap { epoch, from, to } => gaps.push((epoch, *from, *to)),
                JoinResult::NewEpoch => told_new_epoch = true,
            }
        }
        for (id, message) in &self.messages {
            let Some(Position { epoch, seq }) = message.position else { continue };
            if ids.contains(id) || !life.rooms.contains(message.room) {
                continue;
            }
            let span = spans.get(epoch.as_str());
            let between = span.is_some_and(|(first, last)| first < seq && seq < last);
            if !(between || life.stayed && message.sent >= life.from) {
                continue;
            }
            let in_gap =
                |&(of, from, to): &(&str, u64, u64)| of == epoch && (from..=to).contains(seq);
            // Of an epoch that is over, the end may be gone; the middle may not.
            let ended = told_new_epoch && current != Some(epoch.as_str()) && !between;
            if gaps.iter().any(in_gap) || ended {
                self.report.excused += 1;
            } else {
                let line = format!("{} did not hear {id} at {epoch} {seq}", life.receiver);
                self.report.lost.push(line);
            }
        }
    }

    /// The order of what two receivers both heard, without looking at positions. Where both have
    /// them all, each was in their order by itself, and there is nothing left to compare.
    fn compare_receivers(&mut self, lives: &'a [Life]) {
        let positioned: Vec<bool> = lives.iter().map(is_positioned).collect();
        let ids = |life: &'a Life| {
            life.heard.iter().filter_map(|heard| match heard {
                JoinResult::Message { id, .. } => Some(id.as_str()),
                JoinResult::Gap { .. } | JoinResult::NewEpoch => None,
            })
        };
        for (index, one) in lives.iter().enumerate() {
            let mut places: HashMap<&str, usize> = HashMap::new();
            for (place, id) in ids(one).enumerate() {
                places.entry(id).or_insert(place);
            }
            for (at, other) in lives.iter().enumerate().skip(index + 1) {
                if positioned[index] && positioned[at] {
                    continue;
                }
                let mut furthest: Option<(usize, &str)> = None;
                let mut seen = HashSet::new();
                for id in ids(other).filter(|id| seen.insert(*id)) {
                    let Some(&place) = places.get(id) else { continue };
                    if let Some((before, earlier)) = furthest
                        && place < before
                    {
                        let (one, other) = (&one.receiver, &other.receiver);
                        let line = format!("{one}: {id}, {earlier}; {other}: {earlier}, {id}");
                        self.report.disagreed.push(line);
                        break;
                    }
                    furthest = Some((place, id));
                }
            }
        }
    }
}

fn is_positioned(life: &Life) -> bool {
    life.heard.iter().all(|heard| !matches!(heard, JoinResult::Message { position: None, .. }))
}

#[cfg(test)]
mod tests;

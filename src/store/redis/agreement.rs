//! What all living nodes of a chat must have in common, and which node gives way if they differ.
//! No I/O.
//!
//! The lease of a node carries its values. Of two living nodes that differ, the one that came first
//! serves, and the other waits until the first has ended. A node that waits makes no other wait.

use std::collections::{BTreeMap, BTreeSet};

use fred::types::Value;

use crate::store::redis::scripts::{number, text};

/// Stands in the lease of a node that waits, where others have the time since when they count.
const WAITS: &str = "-";

/// Beats that fail before a node that Redis answers otherwise serves all the same.
const UNANSWERED_MAX: u32 = 3;

/// The values of this node that must be those of all living nodes.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    pub values: Vec<AgreedValue>,
}

#[derive(Debug, Clone)]
pub struct AgreedValue {
    /// What it is and the option that sets it, for an operator: `the event table (--events)`.
    pub name: String,
    /// A digest, or a short text.
    pub value: String,
    /// Values of other nodes beside which this node can serve.
    pub accepted: Vec<String>,
}

/// Since when this node counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// From the next answer on.
    Next,
    /// It has given way to another node.
    Waits,
    /// Milliseconds of Redis' clock.
    At(u64),
}

/// Whether this node may serve.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Serves,
    /// It may, if the next answer still allows it.
    AskAgain,
    /// The reason, for an operator.
    GivesWay(String),
}

/// How this node stands to the others.
#[derive(Debug)]
pub struct Agreeing {
    mine: Agreement,
    partitions: u16,
    since: Since,
    /// Beats that failed before the first answer.
    unanswered: u32,
    has_warned_of_older: bool,
    /// Living nodes that differ and came later.
    warned_of: BTreeSet<String>,
}

/// Each value by its name: first the node's own, then those that it accepts.
type Values = BTreeMap<String, Vec<String>>;

impl Agreeing {
    pub fn new(mine: Agreement, partitions: u16) -> Self {
        let (since, warned_of) = (Since::Next, BTreeSet::new());
        let (unanswered, has_warned_of_older) = (0, false);
        Self { mine, partitions, since, unanswered, has_warned_of_older, warned_of }
    }

    /// The arguments of beat.lua: values, since when the node counts, and the partitions.
    pub fn arguments(&self) -> [String; 3] {
        let own = |own: &AgreedValue| {
            let all = std::iter::once(&own.value).chain(&own.accepted).cloned().collect();
            (own.name.clone(), all)
        };
        let values: Values = self.mine.values.iter().map(own).collect();
        let since = match self.since {
            Since::Next => String::new(),
            Since::Waits => WAITS.to_owned(),
            Since::At(since) => since.to_string(),
        };
        let values = serde_json::to_string(&values).expect("texts are JSON");
        [values, since, self.partitions.to_string()]
    }

    /// Judges what beat.lua answers to them. `None`: the answer has another shape.
    pub fn judge(&mut self, incarnation: &str, answer: &[Value]) -> Option<Standing> {
        let [since, partitions, others @ ..] = answer else { return None };
        let (since, partitions) = (number(since), number(partitions)?);
        let others: Vec<(&str, &str)> = others
            .chunks_exact(2)
            .map(|other| Some((text(&other[0])?, text(&other[1])?)))
            .collect::<Option<_>>()?;
        self.warned_of.retain(|known| others.iter().any(|(other, _)| known == other));
        let mut reason = self.other_partitions(partitions);
        for (other, lease) in others {
            let Some((their_since, values)) = lease.split_once(' ') else {
                self.warn_of_older(other);
                continue;
            };
            let values: Values = serde_json::from_str(values).ok()?;
            let Some((AgreedValue { name, value, .. }, theirs)) = self.difference(&values) else {
                continue;
            };
            let their_since: Option<u64> = their_since.parse().ok();
            let is_first = their_since.is_some_and(|theirs| {
                since.is_none_or(|since| (theirs, other) < (since, incarnation))
            });
            if is_first {
                reason.get_or_insert(format!(
                    "{name} differs between the living nodes: {value} on this node, {theirs} on \
                     node {other}, which came first. Start this node with the same, or stop the \
                     other: this node is ready when that one's lease has ended"
                ));
            } else if self.warned_of.insert(other.to_owned()) {
                tracing::warn!(
                    other,
                    here = value,
                    there = theirs,
                    "{name} differs between the living nodes; the other node, which came later, \
                     must not serve"
                );
            }
        }
        Some(self.decide(since, reason))
    }

    /// A beat failed, though Redis answers. `true`: this node need not wait for an answer. A Redis
    /// that refuses all writes has none, and can still be read.
    pub fn failed(&mut self) -> bool {
        self.unanswered += 1;
        self.since == Since::Next && self.unanswered >= UNANSWERED_MAX
    }

    fn decide(&mut self, since: Option<u64>, reason: Option<String>) -> Standing {
        match (reason, self.since, since) {
            (Some(reason), ..) => {
                // Before the first connection the health only says "connecting", and later it does
                // not tell that the reason is another.
                if self.since != Since::Waits {
                    tracing::error!(reason, "this node does not serve");
                }
                self.since = Since::Waits;
                Standing::GivesWay(reason)
            }
            // Other nodes that wait may ask at the same moment: Redis then says which came first.
            (None, Since::Waits, _) | (None, _, None) => {
                self.since = Since::Next;
                Standing::AskAgain
            }
            (None, Since::Next | Since::At(_), Some(since)) => {
                self.since = Since::At(since);
                Standing::Serves
            }
        }
    }

    /// The number of partitions belongs to the stored messages, whatever nodes live.
    fn other_partitions(&self, stored: u64) -> Option<String> {
        let own = self.partitions;
        (stored != u64::from(own)).then(|| {
            format!(
                "its messages are stored in {stored} partitions, and this node has --partitions \
                 {own}. Start it with --partitions {stored}, or with another --redis-prefix"
            )
        })
    }

    /// A value that the other node has too, but differently. A value that it does not know is none.
    fn difference(&self, theirs: &Values) -> Option<(AgreedValue, String)> {
        self.mine.values.iter().find_map(|own| {
            let (their, accepted) = theirs.get(&own.name)?.split_first()?;
            let is_fine = *their == own.value
                || own.accepted.contains(their)
                || accepted.contains(&own.value);
            (!is_fine).then(|| (own.clone(), their.clone()))
        })
    }

    fn warn_of_older(&mut self, other: &str) {
        if !std::mem::replace(&mut self.has_warned_of_older, true) {
            tracing::warn!(
                other,
                "a living node is of an older release, which does not say what it was started \
                 with; check that it has the same options"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreeing(value: &str, accepted: &[&str]) -> Agreeing {
        let accepted = accepted.iter().copied().map(str::to_owned).collect();
        let value = AgreedValue { name: "the table".to_owned(), value: value.to_owned(), accepted };
        Agreeing::new(Agreement { values: vec![value] }, 1)
    }

    fn judge(node: &mut Agreeing, since: &str, others: &[(&str, &str)]) -> Standing {
        let others = others.iter().flat_map(|(other, lease)| [*other, *lease]);
        let answer: Vec<Value> = [since, "1"].into_iter().chain(others).map(Value::from).collect();
        node.judge("b.1", &answer).expect("the shape is right")
    }

    fn gives_way(verdict: &Standing) -> bool {
        matches!(verdict, Standing::GivesWay(_))
    }

    #[test]
    fn of_two_nodes_that_differ_the_later_one_gives_way() {
        let other = [("a.1", "100 {\"the table\":[\"one\"]}")];
        assert!(gives_way(&judge(&mut agreeing("two", &[]), "101", &other)));
        assert!(gives_way(&judge(&mut agreeing("two", &[]), "100", &other)), "by their names");
        assert_eq!(judge(&mut agreeing("two", &[]), "99", &other), Standing::Serves);
        assert_eq!(judge(&mut agreeing("one", &[]), "101", &other), Standing::Serves);
    }

    #[test]
    fn a_value_is_fine_if_either_node_accepts_it() {
        let other = [("a.1", "100 {\"the table\":[\"one\",\"zero\"],\"unknown\":[\"x\"]}")];
        assert_eq!(judge(&mut agreeing("two", &["one"]), "101", &other), Standing::Serves);
        assert_eq!(judge(&mut agreeing("zero", &[]), "101", &other), Standing::Serves);
        assert!(gives_way(&judge(&mut agreeing("two", &["zero"]), "101", &other)));
    }

    #[test]
    fn a_node_that_waits_makes_no_other_wait_and_asks_before_it_serves() {
        let mut node = agreeing("two", &[]);
        assert_eq!(node.arguments(), ["{\"the table\":[\"two\"]}", "", "1"]);
        assert!(gives_way(&judge(&mut node, "101", &[("a.1", "100 {\"the table\":[\"one\"]}")])));
        assert_eq!(node.arguments()[1], WAITS);
        let waits = [("c.1", "- {\"the table\":[\"three\"]}")];
        assert_eq!(judge(&mut node, WAITS, &waits), Standing::AskAgain);
        assert_eq!(node.arguments()[1], "");
        let was_faster = [("c.1", "200 {\"the table\":[\"three\"]}")];
        assert!(gives_way(&judge(&mut node, "201", &was_faster)));
        assert_eq!(judge(&mut node, WAITS, &[]), Standing::AskAgain);
        assert_eq!(judge(&mut node, "300", &[]), Standing::Serves);
        assert_eq!(node.arguments()[1], "300");
    }

    #[test]
    fn a_node_of_an_older_release_makes_no_other_wait() {
        assert_eq!(judge(&mut agreeing("two", &[]), "101", &[("a.1", "")]), Standing::Serves);
    }

    #[test]
    fn the_partitions_are_those_of_the_stored_messages() {
        let answer = ["7", "4"].map(Value::from);
        let Some(Standing::GivesWay(reason)) = agreeing("one", &[]).judge("b.1", &answer) else {
            panic!("it gives way");
        };
        assert!(reason.contains("--partitions 4"), "{reason}");
    }
}

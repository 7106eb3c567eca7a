//! The judge catches what is planted, and lets a clean run pass.

use super::*;

const MESSAGES: u64 = 40;

fn position(seq: u64) -> Position {
    Position { epoch: "e".into(), seq }
}

fn moment(seq: u64) -> Moment {
    Moment::from_millis(seq)
}

fn heard(seq: u64) -> JoinResult {
    JoinResult::Message { id: format!("m{seq}"), position: Some(position(seq)) }
}

/// Two senders in turn, three receivers, everything as it must be.
fn clean() -> History {
    let attempts = (1..=MESSAGES).map(|seq| Attempt {
        sender: format!("s{}", seq % 2),
        id: format!("m{seq}"),
        room: "r".into(),
        at: moment(seq),
        outcome: Outcome::Stored(position(seq)),
    });
    let lives = ["a", "b", "c"].map(|receiver| Life {
        receiver: receiver.into(),
        rooms: vec!["r".into()],
        from: moment(0),
        stayed: true,
        heard: (1..=MESSAGES).map(heard).collect(),
    });
    History { attempts: attempts.collect(), lives: lives.into() }
}

/// Applies a change for every message, and looks at each report.
fn planted(change: impl Fn(&mut History, usize), found: impl Fn(&Report) -> usize) {
    for index in 0..usize::try_from(MESSAGES).expect("small") - 1 {
        let mut history = clean();
        change(&mut history, index);
        let report = check(&history);
        assert!(found(&report) > 0, "not found at {index}: {report}");
    }
}

#[test]
fn a_clean_history_is_clean() {
    let report = check(&clean());
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.stored, report.receipts), (40, 120));
}

#[test]
fn a_planted_loss_is_found() {
    planted(
        |history, index| {
            history.lives[1].heard.remove(index);
        },
        |report| report.lost.len(),
    );
}

#[test]
fn a_planted_duplicate_is_found() {
    planted(
        |history, index| {
            let again = history.lives[1].heard[index].clone();
            history.lives[1].heard.push(again);
        },
        |report| report.duplicated.len(),
    );
}

#[test]
fn a_planted_reorder_is_found() {
    planted(
        |history, index| history.lives[1].heard.swap(index, index + 1),
        |report| report.reordered.len(),
    );
}

#[test]
fn a_planted_reorder_of_all_receivers_is_found_by_the_sender() {
    planted(
        |history, index| {
            // The log itself swapped two messages of one sender: positions look right.
            for attempt in &mut history.attempts {
                attempt.sender = "s".into();
            }
            let first = history.attempts[index].outcome.clone();
            let second = std::mem::replace(&mut history.attempts[index + 1].outcome, first);
            history.attempts[index].outcome = second;
            for life in &mut history.lives {
                for (at, id) in [(index, index + 2), (index + 1, index + 1)] {
                    let JoinResult::Message { id: heard, .. } = &mut life.heard[at] else {
                        continue;
                    };
                    *heard = format!("m{id}");
                }
            }
        },
        |report| report.reordered.len().min(report.disagreed.is_empty().into()),
    );
}

#[test]
fn a_planted_phantom_is_found() {
    planted(
        |history, index| history.attempts[index].outcome = Outcome::Refused,
        |report| report.phantom.len(),
    );
    planted(
        |history, index| {
            history.attempts.remove(index);
        },
        |report| report.phantom.len(),
    );
}

#[test]
fn a_disagreement_of_two_receivers_is_found_without_positions() {
    planted(
        |history, index| {
            for heard in history.lives.iter_mut().flat_map(|life| &mut life.heard) {
                let JoinResult::Message { position, .. } = heard else { continue };
                *position = None;
            }
            history.lives[2].heard.swap(index, index + 1);
        },
        |report| report.disagreed.len(),
    );
}

#[test]
fn a_position_with_two_messages_is_found() {
    planted(
        |history, index| {
            let taken = history.attempts[index + 1].outcome.clone();
            history.attempts[index].outcome = taken;
        },
        |report| report.disagreed.len(),
    );
}

#[test]
fn an_unconfirmed_message_is_heard_by_all_or_by_none() {
    let mut history = clean();
    history.attempts[7].outcome = Outcome::Unknown;
    assert!(check(&history).is_clean(), "heard by all");
    history.lives[0].heard.remove(7);
    assert_eq!(check(&history).lost.len(), 1, "heard by some");
    history.lives[1].heard.remove(7);
    history.lives[2].heard.remove(7);
    assert!(check(&history).is_clean(), "heard by none");
}

#[test]
fn a_retry_is_one_message() {
    let mut history = clean();
    let retry = history.attempts[4].clone();
    history.attempts[4].outcome = Outcome::Unknown;
    history.attempts.push(retry);
    let report = check(&history);
    assert!(report.is_clean(), "{report}");
    history.attempts.last_mut().expect("the retry").outcome = Outcome::Stored(position(99));
    assert!(!check(&history).disagreed.is_empty(), "a retry at another position");
}

#[test]
fn a_client_is_owed_only_messages_between_its_join_and_its_leave() {
    let mut history = clean();
    let life = &mut history.lives[1];
    life.heard.drain(30..);
    life.heard.drain(..10);
    (life.from, life.stayed) = (moment(11), false);
    assert!(check(&history).is_clean(), "{}", check(&history));
    history.lives[1].heard.remove(5);
    assert_eq!(check(&history).lost.len(), 1);
}

#[test]
fn a_room_is_owed_to_those_in_it_and_heard_by_no_others() {
    let mut history = clean();
    history.attempts[7].room = "other".into();
    assert_eq!(check(&history).phantom.len(), 3);
    history.lives[0].rooms.push("other".into());
    history.lives[1].heard.remove(7);
    history.lives[2].heard.remove(7);
    assert!(check(&history).is_clean(), "{}", check(&history));
    history.lives[0].heard.remove(7);
    assert_eq!(check(&history).lost.len(), 1, "owed to the one that is in the room");
}

#[test]
fn a_reported_gap_excuses_exactly_its_messages() {
    let mut history = clean();
    history.lives[1].heard.drain(9..13);
    history.lives[1].heard.insert(9, JoinResult::Gap { epoch: "e".into(), from: 10, to: 12 });
    let report = check(&history);
    assert_eq!((report.excused, report.lost.len()), (3, 1), "{report}");
}

#[test]
fn a_reported_new_epoch_excuses_the_end_of_the_old_one_and_mixing_is_found() {
    let mut history = clean();
    for attempt in &mut history.attempts[20..] {
        let Outcome::Stored(position) = &mut attempt.outcome else { continue };
        (position.epoch, position.seq) = ("f".into(), position.seq - 20);
    }
    for heard in history.lives.iter_mut().flat_map(|life| &mut life.heard[20..]) {
        let JoinResult::Message { position: Some(position), .. } = heard else { continue };
        (position.epoch, position.seq) = ("f".into(), position.seq - 20);
    }
    assert!(check(&history).is_clean(), "{}", check(&history));

    history.lives[1].heard.drain(17..20);
    assert_eq!(check(&history).lost.len(), 3, "nobody told");
    history.lives[1].heard.insert(17, JoinResult::NewEpoch);
    let report = check(&history);
    assert_eq!((report.excused, report.is_clean()), (3, true), "{report}");

    let old = history.lives[0].heard.remove(19);
    history.lives[0].heard.insert(25, old);
    assert!(!check(&history).reordered.is_empty(), "the old epoch came back");
}

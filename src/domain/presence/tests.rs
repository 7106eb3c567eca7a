//! Presence as a value: no runtime, no store, and the time that each test says.

use proptest::prelude::*;

use super::*;
use crate::domain::name::UserName;

const SECOND: Duration = Duration::from_secs(1);

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

fn user(id: &str) -> User {
    User { id: UserId::parse(id).unwrap(), name: UserName::parse(id).unwrap(), picture: None }
}

fn state() -> (PresenceState, Instant) {
    (PresenceState::new(PresenceSettings::default()), Instant::now())
}

/// This node is in the room, whose roster has been read.
fn enter(state: &mut PresenceState, name: &str, users: &[&str]) {
    assert!(state.enter(&room(name), &user("me").id));
    let (asked, number) = state.next_roster_to_read().unwrap();
    let users: Vec<User> = users.iter().map(|id| user(id)).collect();
    let count = u32::try_from(users.len()).unwrap();
    state.learn(&asked, number, RosterSnapshot { version: 1, count, users });
}

fn typing(name: &str, id: &str, typing: bool) -> TypingChange {
    TypingChange { room: room(name), user: user(id), typing }
}

#[test]
fn a_user_counts_once_however_many_connections_it_has() {
    let (mut state, _) = state();
    let (attic, ann) = (room("attic"), user("ann").id);
    assert!(state.enter(&attic, &ann));
    assert!(!state.enter(&attic, &ann));
    assert!(!state.leave(&attic, &ann));
    assert!(state.leave(&attic, &ann));
    assert!(!state.leave(&attic, &ann), "it is gone");
    assert_eq!(state.next_roster_to_read(), None, "nobody asks for the room any more");
}

#[test]
fn a_lost_connection_counts_until_its_grace_ends() {
    let (mut state, now) = state();
    let (attic, ann) = (room("attic"), user("ann").id);
    state.enter(&attic, &ann);
    state.lost(&attic, &ann, now);
    assert_eq!(state.next(now), Some(now + 10 * SECOND));
    // It is back, and then lost again.
    assert!(!state.enter(&attic, &ann));
    assert_eq!(state.end_grace(now + 9 * SECOND), []);
    assert_eq!(state.end_grace(now + 10 * SECOND), []);
    state.lost(&attic, &ann, now + 10 * SECOND);
    assert_eq!(state.end_grace(now + 20 * SECOND), [(attic, ann)]);
    assert_eq!(state.next(now), None);
}

#[test]
fn a_read_that_began_before_an_invalidation_is_discarded() {
    let (mut state, _) = state();
    let attic = room("attic");
    state.enter(&attic, &user("me").id);
    let (_, number) = state.next_roster_to_read().unwrap();
    state.invalidate(|_| true);
    let read = RosterSnapshot { version: 7, count: 1, users: vec![user("ann")] };
    state.learn(&attic, number, read.clone());
    assert!(state.is_unknown(&attic));
    let (_, number) = state.next_roster_to_read().unwrap();
    state.learn(&attic, number, read);
    assert_eq!(state.members(&attic), Some((1, vec![user("ann")])));
}

#[test]
fn what_is_answered_is_what_was_told() {
    let (mut state, now) = state();
    enter(&mut state, "attic", &["ann", "bob"]);
    let (joined, left) = (vec![user("cem")], vec![user("ann").id]);
    state.step(&room("attic"), RosterStep { version: 2, joined, left, count: 2 });
    assert_eq!(state.next(now), Some(now));
    let (count, mut users) = state.members(&room("attic")).unwrap();
    users.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!((count, users), (2, vec![user("ann"), user("bob")]));
    let changes = state.take_changes();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].1.joined().eq([&user("cem")]) && changes[0].1.left().eq([&user("ann")]));
    assert_eq!(state.members(&room("attic")), Some((2, vec![user("bob"), user("cem")])));
    assert_eq!((state.take_changes().len(), state.next(now)), (0, None));
}

#[test]
fn a_profile_is_told_once_with_all_rooms_that_list_the_user() {
    let (mut state, _) = state();
    for name in ["attic", "cellar"] {
        enter(&mut state, name, &["ann", "bob"]);
    }
    enter(&mut state, "hall", &["bob"]);
    let named = |name| User { name: UserName::parse(name).unwrap(), ..user("ann") };
    state.hear_profile(&named("Ann"));
    state.hear_profile(&named("Anna"));
    state.hear_profile(&user("nobody"));
    let mut told = state.take_profiles();
    told[0].1.sort();
    assert_eq!(told, [(named("Anna"), vec![room("attic"), room("cellar")])]);
    assert_eq!(state.take_profiles(), []);
    assert!(state.members(&room("attic")).unwrap().1.contains(&named("Anna")));
}

#[test]
fn typing_signals_of_one_batch_are_told_as_one() {
    let (mut state, now) = state();
    let mut told = |heard: &[bool], now| -> Vec<bool> {
        heard.iter().for_each(|on| state.hear_typing(typing("attic", "ann", *on)));
        state.take_typing(now, |_| true).into_iter().map(|it| it.typing).collect()
    };
    assert_eq!(told(&[true, false, true], now), [true]);
    assert!(told(&[false, true], now).is_empty(), "that is known");
    assert_eq!(told(&[true, false], now), [false]);
    assert!(told(&[true, false], now).is_empty());
    assert_eq!(told(&[true], now), [true]);
    assert!(told(&[true], now + 4 * SECOND).is_empty());
    assert!(told(&[], now + 8 * SECOND).is_empty(), "it was repeated");
    assert_eq!(told(&[], now + 9 * SECOND), [false]);
    assert_eq!(state.next(now), None);
}

#[test]
fn nothing_is_told_where_there_are_no_clients() {
    let (mut state, now) = state();
    state.hear_typing(typing("attic", "ann", true));
    assert_eq!(state.take_typing(now, |_| false), []);
    assert_eq!(state.next(now), None);
}

#[test]
fn a_user_who_toggles_is_published_at_most_once_in_a_batch() {
    let (mut state, now) = state();
    let after = |millis| now + Duration::from_millis(millis);
    assert!(!state.types(typing("attic", "ann", false), now), "nobody thinks otherwise");
    assert!(state.types(typing("attic", "ann", true), now));
    assert!(!state.types(typing("attic", "ann", true), after(1_999)), "repeated too soon");
    assert!(state.types(typing("attic", "ann", true), after(2_000)));
    for turn in 0..9 {
        assert!(!state.types(typing("attic", "ann", turn % 2 == 1), after(2_001 + turn)));
    }
    assert_eq!(state.next(now), Some(now));
    assert_eq!(state.take_unpublished(after(2_100)), [typing("attic", "ann", false)]);
    assert!(!state.types(typing("attic", "ann", true), after(2_150)));
    assert!(!state.types(typing("attic", "ann", false), after(2_151)));
    assert_eq!(state.take_unpublished(after(2_200)), [], "it was taken back");
    assert!(state.types(typing("attic", "ann", true), after(2_300)));
    assert_eq!(state.take_unpublished(after(7_300)), []);
    assert_eq!(state.next(now), None, "nothing is kept of it");
}

proptest! {
    /// The index of listed users is what the rosters say, whatever happens to them.
    #[test]
    fn the_index_of_listed_users_follows_the_rosters(
        events in prop::collection::vec((0u8..6, 0usize..3, 0usize..5, any::<bool>()), 0..80),
    ) {
        let mut state = PresenceState::new(PresenceSettings::default());
        let me = user("me").id;
        for (version, (what, at, who, is_large)) in (1..).zip(events) {
            let name = room(["attic", "cellar", "hall"][at]);
            let who = user(["ann", "bob", "cem", "dan", "eve"][who]);
            let count = if is_large { LISTED_MAX + 1 } else { 2 };
            match what {
                0 => drop(state.enter(&name, &me)),
                1 => drop(state.leave(&name, &me)),
                2 => state.step(&name, RosterStep { version, joined: vec![who], left: vec![], count }),
                3 => state.step(&name, RosterStep { version, joined: vec![], left: vec![who.id], count }),
                4 => drop(state.take_changes()),
                _ => {
                    let number = state.rooms.get(&name).map_or(0, |room| room.valid_from_number);
                    let users = if is_large { vec![] } else { vec![who, user("zoe")] };
                    state.learn(&name, number, RosterSnapshot { version, count, users });
                }
            }
            let mut truth: HashMap<UserId, HashSet<RoomName>> = HashMap::new();
            for (room, occupied) in &state.rooms {
                for user in occupied.roster.users() {
                    truth.entry(user.id.clone()).or_default().insert(room.clone());
                }
            }
            prop_assert_eq!(&state.listed, &truth);
        }
    }
}

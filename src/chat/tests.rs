//! What clients are told while the store has not answered yet, with a store that answers on demand.

use std::{collections::HashSet, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

use super::*;
use crate::{
    domain::{
        name::{MessageId, UserName},
        page::Page,
        record::Body,
        request::{Destination, NewMessage, PageRequest},
        user::{ProfilePatch, User},
    },
    store::{
        RetentionPolicy,
        presence::{Members, PresenceStore},
        profiles::ProfileStore,
        sqlite::{self, Location, SqliteOptions},
    },
    transport::{self, settings::TransportSettings},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers requests for profiles, and for rosters of the rooms that a test allows.
#[derive(Debug)]
struct Slow {
    profile: User,
    profiles: Semaphore,
    rooms: watch::Sender<HashSet<RoomName>>,
    /// How many rosters are being read, and the largest number so far.
    reading: Mutex<(usize, usize)>,
}

impl Slow {
    async fn ask(&self) -> User {
        self.profiles.acquire().await.expect("it stays open").forget();
        self.profile.clone()
    }

    fn begin(&self, count: usize) {
        let mut reading = self.reading.lock();
        *reading = (count, reading.1.max(count));
    }

    fn reading(&self) -> (usize, usize) {
        *self.reading.lock()
    }

    fn let_in(&self, rooms: impl IntoIterator<Item = RoomName>) {
        self.rooms.send_modify(|known| known.extend(rooms));
    }
}

impl PresenceStore for Slow {
    fn members(&self, room: RoomName, _: u32) -> BoxFuture<'_, Result<Members, ReadError>> {
        async move {
            self.begin(self.reading().0 + 1);
            self.rooms.subscribe().wait_for(|rooms| rooms.contains(&room)).await.unwrap();
            self.begin(self.reading().0 - 1);
            Ok(Members { version: 7, count: 1, users: vec![self.profile.clone()] })
        }
        .boxed()
    }

    fn add(&self, _: RoomName, _: User) {}
    fn remove(&self, _: RoomName, _: UserId) {}
    fn publish(&self, _: Signal) {}
}

impl ProfileStore for Slow {
    fn profile(&self, _: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.ask().map(Some).map(Ok).boxed()
    }

    fn patch(&self, _: ProfilePatch) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.ask().map(Some).map(Ok).boxed()
    }
}

fn room(number: usize) -> RoomName {
    RoomName::parse(&format!("room {number}")).unwrap()
}

fn ann(name: &str) -> User {
    let id = UserId::parse("ann").unwrap();
    User { id, name: UserName::parse(name).unwrap(), picture: None }
}

fn chat() -> (Arc<Slow>, Chat) {
    let slow = Arc::new(Slow {
        profile: ann("Old"),
        profiles: Semaphore::new(0),
        rooms: watch::Sender::default(),
        reading: Mutex::default(),
    });
    let tasks = Tasks::default();
    let retention = RetentionPolicy {
        history_max: 1,
        history_ttl: PATIENCE,
        idempotency_window: PATIENCE,
        recovery_window: PATIENCE,
    };
    let opened = sqlite::open(SqliteOptions { location: Location::Memory, retention }).unwrap();
    let store = Store {
        presence: Arc::<Slow>::clone(&slow),
        profiles: Arc::<Slow>::clone(&slow),
        ..opened.store
    };
    let registry = transport::start(TransportSettings::default(), &tasks, &tasks);
    let limits = Limits { message_bytes_max: 100, in_flight_max: 2, rooms_max: 2 };
    let dialects = crate::dialects::Dialects::builtin();
    let replay = ReplayBuffer::new(Arc::clone(&store.log), dialects);
    (slow, Chat::new(store, limits, Subscriptions::new(registry, dialects), replay, tasks))
}

fn told(chat: &Chat, name: &str) {
    chat.on_event(NodeEvent::Signal(Signal::Profile { user: ann(name) }));
}

fn called(chat: &Chat) -> String {
    chat.online(&ann("x").id).unwrap().name.to_string()
}

#[tokio::test]
async fn what_is_told_of_a_person_while_he_is_asked_for_is_newer() {
    let (slow, chat) = chat();
    let id = ann("x").id;
    let mut meeting = Box::pin(chat.register(&id));
    assert!(meeting.as_mut().now_or_never().is_none());
    told(&chat, "New");
    slow.profiles.add_permits(1);
    meeting.await;
    assert_eq!(called(&chat), "New");
    chat.register(&id).await;
    assert_eq!(called(&chat), "New", "what is known is not asked for");

    let patch = ProfilePatch { user: id.clone(), name: Some(ann("Old").name), picture: None };
    let mut setting = Box::pin(chat.patch_profile(patch.clone()));
    assert!(setting.as_mut().now_or_never().is_none());
    told(&chat, "Newer");
    slow.profiles.add_permits(1);
    setting.await.unwrap();
    assert_eq!(called(&chat), "Newer");
    slow.profiles.add_permits(1);
    chat.patch_profile(patch).await.unwrap();
    assert_eq!(called(&chat), "Old", "without other news the answer counts");
}

#[tokio::test]
async fn a_roster_that_cannot_be_read_holds_up_no_other() {
    let (slow, chat) = chat();
    let presence = chat.0.presence.clone();
    chat.0.tasks.spawn("rosters", presence.clone().read_rosters());
    slow.let_in((1..1_000).map(room));
    for number in 0..1_000 {
        presence.enter(&room(number), &ann("Ann"));
    }
    for number in 1..1_000 {
        timeout(PATIENCE, presence.known(&room(number))).await.unwrap();
        assert_eq!(presence.members(&room(number)).unwrap().0, 1, "room {number}");
    }
    assert!(presence.members(&room(0)).is_none());
    chat.0.tasks.stop();
}

#[tokio::test(start_paused = true)]
async fn rosters_are_read_a_few_at_a_time_and_each_is_known_at_once() {
    let (slow, chat) = chat();
    let presence = chat.0.presence.clone();
    chat.0.tasks.spawn("rosters", presence.clone().read_rosters());
    for number in 0..100 {
        presence.enter(&room(number), &ann("Ann"));
    }
    presence.known(&room(99)).await;
    assert_eq!(slow.reading(), (16, 16));
    let fifth = room(5);
    let mut knows = Box::pin(presence.known(&fifth));
    assert!(knows.as_mut().now_or_never().is_none());
    slow.let_in([room(5)]);
    let asked = tokio::time::Instant::now();
    knows.await;
    assert_eq!(asked.elapsed(), Duration::ZERO, "fifteen others are still read");
    slow.let_in((0..100).map(room));
    presence.known(&room(99)).await;
    assert_eq!(slow.reading(), (0, 16));
    chat.0.tasks.stop();
}

#[tokio::test]
async fn a_user_without_a_connection_sends_a_message_under_its_name() {
    let (slow, chat) = chat();
    slow.profiles.add_permits(1);
    let user = ann("x").id;
    let send = |room: &str| {
        let to = Destination::Room(RoomName::parse(room).unwrap());
        let message = NewMessage::new(to, MessageId::parse("m").unwrap(), Body::from_json("1"));
        let (done, sent) = oneshot::channel();
        chat.send(Actor::user(&user), message, |result| done.send(result).unwrap());
        timeout(PATIENCE, sent)
    };
    let sent = send("attic").await.unwrap().unwrap().unwrap();
    assert_eq!((sent.room.as_str(), sent.position.seq), ("attic", 1));
    let refused = send("dm:bob:cem").await.unwrap().unwrap();
    assert_eq!(refused.unwrap_err().code, Code::Forbidden);
    let page = PageRequest { room: sent.room, page: Page::Newest, limit: 9, epoch: None };
    let history = chat.history(Actor::user(&user), page).await.unwrap();
    let names: Vec<_> = history.messages.into_iter().map(|message| message.name).collect();
    assert_eq!(names, [Some(ann("Old").name)]);
}

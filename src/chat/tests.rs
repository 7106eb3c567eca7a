//! What is told while the bus has not answered yet, with a bus that answers when it is let.

use std::collections::HashSet;

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::{
    domain::{
        message::Draft,
        name::{PublicId, UserName},
        page::Page,
        search::Search,
        user::{Patch, User},
    },
    store::{
        Health, History, Settle,
        presence::{Members, RoomSummary, Unread},
        search::Found,
        sessions::Tail,
    },
    transport::registry::TransportSettings,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers what it is asked about profiles, and about the rooms that it is let.
#[derive(Debug)]
struct Slow {
    profile: User,
    profiles: Semaphore,
    rooms: watch::Sender<HashSet<RoomName>>,
    /// How many rosters are being read, and how many were at most.
    reading: Mutex<(usize, usize)>,
}

impl Slow {
    async fn ask(&self) -> User {
        self.profiles.acquire().await.expect("it stays open").forget();
        self.profile.clone()
    }

    fn begin(&self, count: usize) {
        let mut reading = self.reading.lock().unwrap();
        *reading = (count, reading.1.max(count));
    }

    fn reading(&self) -> (usize, usize) {
        *self.reading.lock().unwrap()
    }

    fn let_in(&self, rooms: impl IntoIterator<Item = RoomName>) {
        self.rooms.send_modify(|known| known.extend(rooms));
    }
}

impl Bus for Slow {
    fn members(&self, room: RoomName, _: u32) -> BoxFuture<'_, Result<Members, ReadError>> {
        async move {
            self.begin(self.reading().0 + 1);
            self.rooms.subscribe().wait_for(|rooms| rooms.contains(&room)).await.unwrap();
            self.begin(self.reading().0 - 1);
            Ok(Members { version: 7, count: 1, users: vec![self.profile.clone()] })
        }
        .boxed()
    }

    fn profile(&self, _: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.ask().map(Some).map(Ok).boxed()
    }

    fn patch_profile(&self, _: Patch) -> BoxFuture<'_, Result<Option<User>, ReadError>> {
        self.ask().map(Some).map(Ok).boxed()
    }

    fn add_presence(&self, _: RoomName, _: User) {}
    fn remove_presence(&self, _: RoomName, _: UserId) {}
    fn signal(&self, _: Signal) {}
    fn partitions(&self) -> u16 {
        1
    }
    fn partition(&self, _: &RoomName) -> u16 {
        0
    }
    fn began(&self, _: u16) -> Option<Position> {
        None
    }

    fn submit(&self, _: Draft, _: Settle) {
        unreachable!()
    }
    fn history(&self, _: RoomName, _: Page, _: u32) -> BoxFuture<'_, Result<History, ReadError>> {
        unreachable!()
    }
    fn tail(&self, _: u16, _: Position, _: u32) -> BoxFuture<'_, Result<Tail, ReadError>> {
        unreachable!()
    }
    fn save_session(
        &self,
        _: PublicId,
        _: Holder,
        _: SessionRecord,
    ) -> BoxFuture<'_, Result<bool, ReadError>> {
        unreachable!()
    }
    fn claim_session(
        &self,
        _: PublicId,
        _: Holder,
        _: UserId,
    ) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        unreachable!()
    }
    fn release_session(&self, _: PublicId, _: Holder) {
        unreachable!()
    }
    fn session(&self, _: PublicId) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>> {
        unreachable!()
    }
    fn rooms(&self, _: u32) -> BoxFuture<'_, Result<Vec<RoomSummary>, ReadError>> {
        unreachable!()
    }
    fn mark_read(&self, _: UserId, _: RoomName, _: u64) -> BoxFuture<'_, Result<u64, ReadError>> {
        std::future::ready(Ok(0)).boxed()
    }
    fn is_known(&self, _: UserId) -> BoxFuture<'_, Result<bool, ReadError>> {
        unreachable!()
    }
    fn direct_rooms(&self, _: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>> {
        unreachable!()
    }
    fn search(&self, _: Search) -> BoxFuture<'_, Result<Found, ReadError>> {
        unreachable!()
    }
    fn unread(&self, _: UserId, _: Vec<RoomName>) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>> {
        unreachable!()
    }
    fn health(&self) -> watch::Receiver<Health> {
        unreachable!()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        unreachable!()
    }
}

fn room(number: usize) -> RoomName {
    RoomName::parse(&format!("room {number}")).unwrap()
}

fn ann(name: &str) -> User {
    let id = UserId::parse("ann").unwrap();
    User { id, name: UserName::parse(name).unwrap(), picture: None }
}

fn hub() -> (Arc<Slow>, Hub) {
    let bus = Arc::new(Slow {
        profile: ann("Old"),
        profiles: Semaphore::new(0),
        rooms: watch::Sender::default(),
        reading: Mutex::default(),
    });
    let tasks = Tasks::default();
    let shared: Arc<dyn Bus> = Arc::<Slow>::clone(&bus);
    let registry = Registry::new(TransportSettings::default(), &tasks, &tasks);
    let recent = ReplayBuffer::new(Arc::clone(&shared));
    (bus, Hub::new(shared, registry, recent, Rooms::default(), tasks))
}

fn told(hub: &Hub, name: &str) {
    hub.on_event(NodeEvent::Signal(Signal::Profile { user: ann(name) }));
}

fn called(hub: &Hub) -> String {
    hub.person(&ann("x").id).unwrap().name.to_string()
}

#[tokio::test]
async fn what_is_told_of_a_person_while_he_is_asked_for_is_newer() {
    let (bus, hub) = hub();
    let id = ann("x").id;
    let mut meeting = Box::pin(hub.register(&id));
    assert!(meeting.as_mut().now_or_never().is_none());
    told(&hub, "New");
    bus.profiles.add_permits(1);
    meeting.await;
    assert_eq!(called(&hub), "New");
    hub.register(&id).await;
    assert_eq!(called(&hub), "New", "what is known is not asked for");

    let patch = Patch { user: id.clone(), name: Some(ann("Old").name), picture: None };
    let mut setting = Box::pin(hub.set_profile(patch.clone()));
    assert!(setting.as_mut().now_or_never().is_none());
    told(&hub, "Newer");
    bus.profiles.add_permits(1);
    setting.await.unwrap();
    assert_eq!(called(&hub), "Newer");
    bus.profiles.add_permits(1);
    hub.set_profile(patch).await.unwrap();
    assert_eq!(called(&hub), "Old", "without other news the answer counts");
}

#[tokio::test]
async fn a_roster_that_cannot_be_read_holds_up_no_other() {
    let (bus, hub) = hub();
    let presence = hub.0.presence.clone();
    hub.0.tasks.spawn("rosters", presence.clone().read_rosters());
    bus.let_in((1..1_000).map(room));
    for number in 0..1_000 {
        presence.enter(&room(number), &ann("Ann"));
    }
    for number in 1..1_000 {
        timeout(PATIENCE, presence.known(&room(number))).await.unwrap();
        assert_eq!(presence.members(&room(number)).unwrap().0, 1, "room {number}");
    }
    assert!(presence.members(&room(0)).is_none());
    hub.0.tasks.stop();
}

#[tokio::test(start_paused = true)]
async fn rosters_are_read_a_few_at_a_time_and_each_is_known_at_once() {
    let (bus, hub) = hub();
    let presence = hub.0.presence.clone();
    hub.0.tasks.spawn("rosters", presence.clone().read_rosters());
    for number in 0..100 {
        presence.enter(&room(number), &ann("Ann"));
    }
    presence.known(&room(99)).await;
    assert_eq!(bus.reading(), (16, 16));
    let fifth = room(5);
    let mut knows = Box::pin(presence.known(&fifth));
    assert!(knows.as_mut().now_or_never().is_none());
    bus.let_in([room(5)]);
    let asked = tokio::time::Instant::now();
    knows.await;
    assert_eq!(asked.elapsed(), Duration::ZERO, "fifteen others are still read");
    bus.let_in((0..100).map(room));
    presence.known(&room(99)).await;
    assert_eq!(bus.reading(), (0, 16));
    hub.0.tasks.stop();
}

//! Rooms of a shard, side by side with socketioxide's own; and what is left of a session.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::{self, Pending};
use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use serde::{Deserialize, Serialize};
use socketioxide_core::{
    Sid, Str, Uid, Value,
    adapter::{
        AckStreamItem, BroadcastFlags, BroadcastIter, BroadcastOptions, CoreLocalAdapter,
        RemoteSocketData, SocketEmitter, errors::SocketError,
    },
    packet::Packet,
    parser::Parse,
};
use socketioxide_parser_common::CommonParser;

use crate::transport::{
    connect_reply::ConnectReply, connection::Shard, lane::Lane, stream::Stream,
};

const ROOMS: [&str; 3] = ["a", "b", "c"];
const SOCKETS: usize = 5;

/// Sockets that are in the namespace, and nothing more.
struct Sockets(Vec<Sid>, Str);

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("nothing is sent here")]
struct Never;

impl SocketEmitter for Sockets {
    type AckError = Never;
    type AckStream = Pending<AckStreamItem<Never>>;

    fn get_all_sids(&self, filter: impl Fn(&Sid) -> bool) -> Vec<Sid> {
        self.0.iter().copied().filter(filter).collect()
    }

    fn get_remote_sockets(&self, _: BroadcastIter<'_>) -> Vec<RemoteSocketData> {
        Vec::new()
    }

    fn send_many(&self, _: BroadcastIter<'_>, _: Value) -> Result<(), Vec<SocketError>> {
        Ok(())
    }

    fn send_many_volatile(&self, _: BroadcastIter<'_>, _: Value) {}

    fn send_many_with_ack(
        &self,
        _: BroadcastIter<'_>,
        _: Packet,
        _: Option<Duration>,
    ) -> (Self::AckStream, u32) {
        (stream::pending(), 0)
    }

    fn disconnect_many(&self, _: Vec<Sid>) -> Result<(), Vec<SocketError>> {
        Ok(())
    }

    fn path(&self) -> &Str {
        &self.1
    }

    fn parser(&self) -> impl Parse {
        CommonParser
    }

    fn server_id(&self) -> Uid {
        Uid::ZERO
    }

    fn ack_timeout(&self) -> Duration {
        Duration::ZERO
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    LeaveAll(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (socket, room) = (|| 0..SOCKETS, || 0..ROOMS.len());
    prop_oneof![
        4 => (socket(), room()).prop_map(|(socket, room)| Step::Join(socket, room)),
        2 => (socket(), room()).prop_map(|(socket, room)| Step::Leave(socket, room)),
        1 => socket().prop_map(Step::LeaveAll),
    ]
}

/// Rooms, excepted rooms, a socket, and whether it is a broadcast.
type To = (Vec<usize>, Vec<usize>, Option<usize>, bool);

fn to() -> impl Strategy<Value = To> {
    let rooms = || prop::collection::vec(0..ROOMS.len(), 0..4);
    (rooms(), rooms(), prop::option::of(0..SOCKETS), any::<bool>())
}

proptest! {
    #[test]
    fn an_audience_is_the_same_as_in_socketioxide(
        steps in prop::collection::vec(step(), 0..40),
        audiences in prop::collection::vec(to(), 1..10),
    ) {
        let sids: Vec<Sid> = (0..SOCKETS).map(|_| Sid::new()).collect();
        let theirs = CoreLocalAdapter::new(Sockets(sids.clone(), Str::from("/")));
        let mut ours = Shard::default();
        sids.iter().for_each(|sid| ours.admit(*sid, 1, None));
        for step in steps {
            match step {
                Step::Join(socket, room) => {
                    theirs.add_all(sids[socket], ROOMS[room]);
                    ours.join(sids[socket], ROOMS[room]);
                }
                Step::Leave(socket, room) => {
                    theirs.del(sids[socket], ROOMS[room]);
                    ours.leave(sids[socket], ROOMS[room]);
                }
                Step::LeaveAll(socket) => {
                    theirs.del_all(sids[socket]);
                    ours.leave_all(sids[socket]);
                }
            }
        }
        for (rooms, except, socket, is_broadcast) in audiences {
            let names =
                |rooms: Vec<usize>| rooms.into_iter().map(|room| ROOMS[room].into()).collect();
            let mut audience = BroadcastOptions::default();
            (audience.rooms, audience.except) = (names(rooms), names(except));
            audience.sid = socket.map(|socket| sids[socket]);
            if is_broadcast {
                audience.add_flag(BroadcastFlags::Broadcast);
            }
            if audience.rooms.is_empty() && !is_broadcast {
                // It is for one socket, whatever room that is in.
                continue;
            }
            let mut expected = theirs.sockets(audience.clone());
            let mut found = ours.audience(&audience, sids.clone());
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "{audience:?}");
        }
    }
}

fn lane() -> Arc<Lane> {
    Lane::new(Stream::Other(Box::pin(tokio::io::empty())), Bytes::new(), None, None)
}

fn reply(pid: &str) -> Option<ConnectReply> {
    Some(ConnectReply::new("public", pid, Bytes::new()))
}

#[tokio::test]
async fn nothing_is_left_of_a_session_that_polls_when_its_admission_ends() {
    let (mut shard, sid) = (Shard::default(), Sid::new());
    shard.admit(sid, 1, reply("p"));
    assert!(shard.join(sid, "a") && shard.is_in(sid, "a") && shard.has_connect_reply(sid));
    assert!(!shard.join(sid, "a"), "it is a member");
    shard.dismiss(sid, 1);
    assert_eq!((shard.connections.len(), shard.rooms.len()), (0, 0));
    assert!(!shard.join(sid, "a"), "it has ended");
    assert_eq!((shard.connections.len(), shard.rooms.len()), (0, 0));
}

#[tokio::test]
async fn nothing_is_left_of_a_session_when_its_lane_ends() {
    let (mut shard, sid, first) = (Shard::default(), Sid::new(), lane());
    assert!(shard.open(sid, &first));
    shard.admit(sid, 1, reply("p"));
    shard.join(sid, "a");
    assert!(!shard.open(sid, &lane()), "it has a lane");
    assert!(!shard.close(sid, &lane()), "another lane is none of this session");
    assert!(shard.close(sid, &first));
    assert_eq!((shard.connections.len(), shard.rooms.len()), (0, 0));
    shard.dismiss(sid, 1);
}

#[tokio::test]
async fn an_admission_that_ends_late_does_not_touch_the_next_one() {
    let (mut shard, sid) = (Shard::default(), Sid::new());
    shard.open(sid, &lane());
    shard.admit(sid, 1, reply("first"));
    shard.join(sid, "a");
    shard.admit(sid, 2, reply("second"));
    assert!(!shard.is_in(sid, "a"), "the new session is in no room yet");
    shard.join(sid, "b");
    shard.dismiss(sid, 1);
    assert!(shard.is_in(sid, "b") && shard.has_connect_reply(sid));
    shard.dismiss(sid, 2);
    assert!(!shard.is_in(sid, "b") && !shard.has_connect_reply(sid));
    assert!(shard.lane(sid).is_some(), "the client may connect again on its websocket");
}

#[tokio::test]
async fn a_connect_reply_waits_in_a_poll_and_in_the_lane_of_an_upgrade() {
    let (mut shard, sid) = (Shard::default(), Sid::new());
    shard.admit(sid, 1, reply("p"));
    let lane = lane();
    shard.open(sid, &lane);
    assert!(lane.has_connect_reply() && shard.has_connect_reply(sid));
    assert_eq!(shard.connect_replies(), 1);
    assert!(shard.take_connect_reply(sid).is_some(), "a poll takes it");
    assert!(!lane.has_connect_reply());
}

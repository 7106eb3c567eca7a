//! Profiles and read marks in Redis. The keys of one script call are on one node of a cluster.

use std::{collections::BTreeMap, time::Duration};

use fred::{
    clients::Client,
    interfaces::{ClientLike, HashesInterface, KeysInterface},
    types::Value,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value as Json;

use crate::store::redis::{
    calls::{Caller, strange},
    keys::{Keys, Prefix},
    link::Status,
    scripts::{MARK, PROFILE, UNREAD, number, text},
    signal,
};
use crate::{
    domain::{
        name::UserId,
        room::RoomName,
        user::{ProfilePatch, User},
    },
    store::{
        error::ReadError,
        inbox::{MARKS_MAX, UNREAD_MAX, Unread},
        presence::Signal,
    },
};

/// How often a change is tried, while other changes of the same profile overtake it. Of all changes
/// that are in flight one succeeds each time, so this is enough for a few connections.
const TRIES_MAX: usize = 32;
/// Rooms of one call that counts unread messages, and bytes of messages it reads in each.
const ROOMS_PER_CALL: usize = 8;
const BYTES_PER_ROOM: usize = 2 << 20;
/// Such calls in flight for one request.
const CALLS_AT_ONCE: usize = 4;

#[derive(Debug)]
pub struct RedisProfiles {
    caller: Caller,
    publish: &'static str,
    prefix: Prefix,
    life: Duration,
}

impl RedisProfiles {
    pub fn new(client: Client, status: Status, prefix: Prefix, life: Duration) -> Self {
        let publish = if client.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
        Self { caller: Caller { client, status }, publish, prefix, life }
    }

    pub async fn profile(&self, user: UserId) -> Result<Option<User>, ReadError> {
        let key = self.keys(0).user(&user);
        let found: Option<String> = self.caller.ask(self.caller.client.get(key)).await?;
        Ok(stored(found.as_deref().unwrap_or_default())?.map(|(_key, user)| user))
    }

    /// `None`: another user has the name.
    pub async fn change(&self, patch: ProfilePatch) -> Result<Option<User>, ReadError> {
        let keys = self.keys(0);
        let mut read = String::new();
        for _ in 0..TRIES_MAX {
            let (before, known) = stored(&read)?.unzip();
            let user = patch.apply(known);
            let name = user.name.key();
            let before = before.unwrap_or(&name);
            let call = self.caller.run(
                &PROFILE,
                vec![keys.user(&user.id), keys.name(&name), keys.name(before)],
                vec![
                    user.id.to_string(),
                    read.clone(),
                    format!("{name}\n{}", signal::user_line(&user)),
                    self.life.as_millis().to_string(),
                    self.publish.to_owned(),
                    keys.signals(),
                    signal::line(Signal::Profile { user: user.clone() }),
                ],
            );
            match call.await?.as_slice() {
                [Value::Integer(1)] => return Ok(Some(user)),
                [Value::Integer(0)] => return Ok(None),
                [Value::Integer(2), now] => read = text(now).unwrap_or_default().to_owned(),
                _ => return Err(strange("profile.lua")),
            }
        }
        Err(ReadError::Unavailable("the profile changes all the time".to_owned()))
    }

    pub async fn mark(
        &self,
        partition: u16,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> Result<u64, ReadError> {
        let keys = self.keys(partition);
        let arguments = vec![
            room.to_string(),
            seq.to_string(),
            MARKS_MAX.to_string(),
            self.life.as_millis().to_string(),
            self.publish.to_owned(),
            keys.signals(),
            Json::from(user.as_str()).to_string(),
        ];
        let reply =
            self.caller.run(&MARK, vec![keys.read_marks(&user), keys.meta()], arguments).await?;
        reply.first().and_then(number).ok_or_else(|| strange("mark.lua"))
    }

    pub async fn is_known(&self, partition: u16, user: &UserId) -> Result<bool, ReadError> {
        let marks = self.keys(partition).read_marks(user);
        let count: u64 = self.caller.ask(self.caller.client.exists(marks)).await?;
        Ok(count > 0)
    }

    pub async fn direct_rooms(
        &self,
        partition: u16,
        user: &UserId,
    ) -> Result<Vec<(RoomName, u64)>, ReadError> {
        let (client, keys) = (&self.caller.client, self.keys(partition));
        let marked: Vec<String> = self.caller.ask(client.hkeys(keys.read_marks(user))).await?;
        let rooms = marked.iter().filter_map(|name| RoomName::parse(name).ok());
        let rooms: Vec<RoomName> = rooms.filter(|room| room.is_direct()).collect();
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let fields: Vec<String> = rooms.iter().map(|room| format!("r:{room}")).collect();
        let seqs: Vec<Option<u64>> = self.caller.ask(client.hmget(keys.rooms(), fields)).await?;
        let said = rooms.into_iter().zip(seqs);
        Ok(said.filter_map(|(room, seq)| Some((room, seq?))).collect())
    }

    pub async fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
        partition: impl Fn(&RoomName) -> u16,
    ) -> Result<Vec<Unread>, ReadError> {
        let mut places: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (place, room) in rooms.iter().enumerate() {
            places.entry(partition(room)).or_default().push(place);
        }
        let mut calls = Vec::new();
        for (partition, places) in &places {
            let chunks = places.chunks(ROOMS_PER_CALL);
            calls.extend(chunks.map(|places| self.count(*partition, &user, &rooms, places)));
        }
        let calls = stream::iter(calls).buffer_unordered(CALLS_AT_ONCE);
        let found: Vec<Vec<(usize, u64, u32)>> = calls.try_collect().await?;
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        found.sort_unstable();
        Ok(found
            .into_iter()
            .map(|(place, mark, count)| (rooms[place].clone(), mark, count))
            .collect())
    }

    /// For rooms of one partition: the index of each room that has a mark, its mark, and the count of
    /// unread messages.
    async fn count(
        &self,
        partition: u16,
        user: &UserId,
        rooms: &[RoomName],
        places: &[usize],
    ) -> Result<Vec<(usize, u64, u32)>, ReadError> {
        let keys = self.keys(partition);
        let mut names = vec![keys.read_marks(user), keys.meta()];
        let mut arguments = vec![
            Json::from(user.as_str()).to_string(),
            UNREAD_MAX.to_string(),
            BYTES_PER_ROOM.to_string(),
        ];
        for &place in places {
            names.push(keys.room(&rooms[place]));
            arguments.push(rooms[place].to_string());
        }
        let reply = self.caller.run(&UNREAD, names, arguments).await?;
        let three = |three: &[Value]| {
            let place = *places.get(usize::try_from(number(&three[0])?).ok()?)?;
            Some((place, number(&three[1])?, u32::try_from(number(&three[2])?).ok()?))
        };
        let found: Option<Vec<_>> = reply.chunks_exact(3).map(three).collect();
        found.ok_or_else(|| strange("unread.lua"))
    }

    fn keys(&self, partition: u16) -> Keys {
        Keys::new(&self.prefix, partition)
    }
}

/// The key of the name, and the profile.
fn stored(text: &str) -> Result<Option<(&str, User)>, ReadError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (key, line) = text
        .split_once('\n')
        .ok_or_else(|| ReadError::Corrupt("a profile has one line".to_owned()))?;
    Ok(Some((key, signal::user(line)?)))
}

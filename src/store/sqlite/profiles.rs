//! Profiles and read marks in the file: what the writer's transaction changes, and what is read.
//!
//! A profile that was not used for as long as history is kept counts as expired, even while its row
//! is still there.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::oneshot;

use crate::store::sqlite::{history::read_error, retention::after};
use crate::{
    domain::{
        name::{UserId, UserName},
        position::Timestamp,
        room::{DIRECT_PREFIX, RoomName, SOCKET_PREFIX},
        user::{Picture, ProfilePatch, User},
    },
    store::{
        error::ReadError,
        inbox::{MARKS_MAX, UNREAD_MAX, Unread},
        log::RoomSummary,
        presence::Signal,
    },
};

/// A request to the writer.
#[derive(Debug)]
pub enum Job {
    Patch { patch: ProfilePatch, answer: oneshot::Sender<Result<Option<User>, ReadError>> },
    Mark { user: UserId, room: RoomName, seq: u64, answer: oneshot::Sender<Result<u64, ReadError>> },
}

/// The result of a job, and the signal that follows from it.
#[derive(Debug)]
pub enum ProfileJobDone {
    /// The profile, or none when its name is another user's; and whether something has changed.
    Patched {
        profile: Result<Option<User>, ReadError>,
        changed: bool,
    },
    Marked {
        seq: u64,
        moved: bool,
    },
}

impl Job {
    /// Called after the commit. The caller may have stopped waiting.
    pub fn answer(self, done: ProfileJobDone) -> Option<Signal> {
        match (self, done) {
            (Self::Patch { answer, .. }, ProfileJobDone::Patched { profile, changed }) => {
                let user = profile.as_ref().ok().cloned().flatten();
                drop(answer.send(profile));
                user.filter(|_| changed).map(|user| Signal::Profile { user })
            }
            (Self::Mark { user, room, answer, .. }, ProfileJobDone::Marked { seq, moved }) => {
                drop(answer.send(Ok(seq)));
                moved.then_some(Signal::Read { user, room, seq })
            }
            (Self::Patch { .. } | Self::Mark { .. }, _) => None,
        }
    }

    pub fn refuse(self, error: ReadError) {
        match self {
            Self::Patch { answer, .. } => drop(answer.send(Err(error))),
            Self::Mark { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

/// `life` is how long an unused name and an unmoved read mark are kept.
pub fn perform(
    transaction: &Transaction<'_>,
    job: &Job,
    now: Timestamp,
    life: Duration,
) -> rusqlite::Result<ProfileJobDone> {
    match job {
        Job::Patch { patch, answer: _ } => change(transaction, patch, now, life),
        Job::Mark { user, room, seq, answer: _ } => {
            mark(transaction, user, room, *seq, after(now, life))
        }
    }
}

fn change(
    transaction: &Transaction<'_>,
    patch: &ProfilePatch,
    now: Timestamp,
    life: Duration,
) -> rusqlite::Result<ProfileJobDone> {
    let row = row(transaction, &patch.user, now)?;
    let known = match row.map(|row| parsed(&patch.user, &row)).transpose() {
        Ok(known) => known,
        Err(corrupt) => {
            return Ok(ProfileJobDone::Patched { profile: Err(corrupt), changed: false });
        }
    };
    let user = patch.apply(known.clone());
    let key = user.name.key();
    let taken: bool = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM profiles WHERE name_key = ?1 AND user <> ?2 AND ends > ?3)",
        )?
        .query_row(params![key, user.id.as_str(), now.0], |row| row.get(0))?;
    if taken {
        return Ok(ProfileJobDone::Patched { profile: Ok(None), changed: false });
    }
    transaction
        .prepare_cached("DELETE FROM profiles WHERE name_key = ?1 AND user <> ?2")?
        .execute(params![key, user.id.as_str()])?;
    let picture = user.picture.as_ref().map(Picture::as_str);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO profiles (user, name, name_key, picture, ends)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![user.id.as_str(), user.name.as_str(), key, picture, after(now, life)])?;
    let changed = known.as_ref() != Some(&user);
    Ok(ProfileJobDone::Patched { profile: Ok(Some(user)), changed })
}

fn mark(
    transaction: &Transaction<'_>,
    user: &UserId,
    room: &RoomName,
    seq: u64,
    ends: u64,
) -> rusqlite::Result<ProfileJobDone> {
    let top: u64 =
        transaction.prepare_cached("SELECT last_seq FROM log")?.query_row([], |row| row.get(0))?;
    let seq = seq.min(top);
    let was: Option<u64> = transaction
        .prepare_cached("SELECT seq FROM read_marks WHERE user = ?1 AND room = ?2")?
        .query_row([user.as_str(), room.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(was) = was.filter(|was| *was >= seq) {
        transaction
            .prepare_cached("UPDATE read_marks SET ends = ?3 WHERE user = ?1 AND room = ?2")?
            .execute(params![user.as_str(), room.as_str(), ends])?;
        return Ok(ProfileJobDone::Marked { seq: was, moved: false });
    }
    if was.is_none() {
        // The lowest mark is the one that was set longest ago.
        transaction
            .prepare_cached(
                "DELETE FROM read_marks WHERE user = ?1 AND room IN
                     (SELECT room FROM read_marks WHERE user = ?1
                      ORDER BY seq DESC LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![user.as_str(), MARKS_MAX - 1])?;
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO read_marks (user, room, seq, ends) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![user.as_str(), room.as_str(), seq, ends])?;
    Ok(ProfileJobDone::Marked { seq, moved: seq != was.unwrap_or_default() })
}

pub fn profile(
    connection: &Connection,
    user: &UserId,
    now: Timestamp,
) -> Result<Option<User>, ReadError> {
    let row = row(connection, user, now).map_err(read_error)?;
    row.map(|row| parsed(user, &row)).transpose()
}

/// Name and picture, as they are stored.
type ProfileRow = (String, Option<String>);

fn row(
    connection: &Connection,
    user: &UserId,
    now: Timestamp,
) -> rusqlite::Result<Option<ProfileRow>> {
    let columns = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    connection
        .prepare_cached("SELECT name, picture FROM profiles WHERE user = ?1 AND ends > ?2")?
        .query_row(params![user.as_str(), now.0], columns)
        .optional()
}

fn parsed(user: &UserId, (name, picture): &ProfileRow) -> Result<User, ReadError> {
    let corrupt = |why: &dyn std::fmt::Display| ReadError::Corrupt(format!("a profile: {why}"));
    let picture = picture.as_deref().map(Picture::parse).transpose();
    Ok(User {
        id: user.clone(),
        name: UserName::parse(name).map_err(|why| corrupt(&why))?,
        picture: picture.map_err(|why| corrupt(&why))?,
    })
}

pub fn is_known(connection: &Connection, user: &UserId) -> Result<bool, ReadError> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM read_marks WHERE user = ?1)")
        .and_then(|mut sql| sql.query_row([user.as_str()], |row| row.get(0)))
        .map_err(read_error)
}

/// Rooms of two users in which the user has a mark, with the seq of the last message of each.
pub fn direct_rooms(
    connection: &Connection,
    user: &UserId,
) -> Result<Vec<(RoomName, u64)>, ReadError> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT r.name, (SELECT m.seq FROM messages m INDEXED BY messages_by_room
                             WHERE m.room = r.id AND m.of_seq IS NULL ORDER BY m.seq DESC LIMIT 1)
             FROM read_marks k JOIN rooms r ON r.name = k.room AND r.kept > 0
             WHERE k.user = ?1 AND k.room GLOB '{DIRECT_PREFIX}*'",
        ))
        .and_then(|mut sql| {
            let columns = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
            sql.query_map([user.as_str()], columns)?.collect::<Result<Vec<_>, _>>()
        })
        .map_err(read_error)?;
    let corrupt = |why| ReadError::Corrupt(format!("a room: {why}"));
    let room = |(name, seq): (String, u64)| Ok((RoomName::parse(&name).map_err(corrupt)?, seq));
    found.into_iter().map(room).collect()
}

/// One snapshot of a user's marks and of the messages after them.
pub fn unread(
    connection: &mut Connection,
    user: &UserId,
    rooms: Vec<RoomName>,
) -> Result<Vec<Unread>, ReadError> {
    let snapshot = connection.transaction().map_err(read_error)?;
    let mut found = Vec::new();
    for room in rooms {
        let counted = snapshot
            .prepare_cached(
                "SELECT seq, (SELECT count(*) FROM
                     (SELECT 1 FROM rooms r CROSS JOIN messages m INDEXED BY messages_by_room
                      ON m.room = r.id AND m.of_seq IS NULL AND m.seq > max(k.seq, r.trimmed_to)
                      WHERE r.name = k.room AND m.sender <> k.user LIMIT ?3))
                 FROM read_marks k WHERE user = ?1 AND room = ?2",
            )
            .and_then(|mut sql| {
                sql.query_row(params![user.as_str(), room.as_str(), UNREAD_MAX], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
            })
            .map_err(read_error)?;
        found.extend(counted.map(|(mark, count)| (room, mark, count)));
    }
    Ok(found)
}

/// Summaries of rooms: the given ones first, then the newest others.
pub fn rooms(
    connection: &mut Connection,
    occupied: Vec<(RoomName, u32)>,
    limit: u32,
) -> Result<Vec<RoomSummary>, ReadError> {
    let snapshot = connection.transaction().map_err(read_error)?;
    let mut rooms = Vec::new();
    for (room, count) in occupied {
        let seq = snapshot
            .prepare_cached(
                "SELECT m.seq FROM rooms r CROSS JOIN messages m INDEXED BY messages_by_room
                 ON m.room = r.id AND m.of_seq IS NULL WHERE r.name = ?1 ORDER BY m.seq DESC LIMIT 1",
            )
            .and_then(|mut sql| sql.query_row([room.as_str()], |row| row.get(0)).optional())
            .map_err(read_error)?;
        rooms.push(RoomSummary { room, count, seq: seq.unwrap_or_default() });
    }
    let mut statement = snapshot
        .prepare_cached(&format!(
            "SELECT r.name, (SELECT m.seq FROM messages m INDEXED BY messages_by_room
                             WHERE m.room = r.id AND m.of_seq IS NULL ORDER BY m.seq DESC LIMIT 1)
             FROM rooms r WHERE r.kept > 0 AND r.name NOT GLOB '{DIRECT_PREFIX}*'
                 AND r.name NOT GLOB '{SOCKET_PREFIX}*'
             ORDER BY r.id DESC LIMIT ?1",
        ))
        .map_err(read_error)?;
    // The rows may contain the given rooms too, so that many more are read.
    let mut rows = statement.query([u64::from(limit) + rooms.len() as u64]).map_err(read_error)?;
    let known: std::collections::HashSet<RoomName> =
        rooms.iter().map(|summary| summary.room.clone()).collect();
    while let Some(row) = rows.next().map_err(read_error)? {
        let name: String = row.get(0).map_err(read_error)?;
        let corrupt = |why| ReadError::Corrupt(format!("a room: {why}"));
        let room = RoomName::parse(&name).map_err(corrupt)?;
        if !known.contains(&room) {
            let seq: Option<u64> = row.get(1).map_err(read_error)?;
            rooms.push(RoomSummary { room, count: 0, seq: seq.unwrap_or_default() });
        }
    }
    rooms.sort_by_key(|summary| std::cmp::Reverse((summary.count, summary.seq)));
    rooms.truncate(limit as usize);
    Ok(rooms)
}

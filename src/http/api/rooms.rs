//! The list of rooms, and the users in one.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{context::Context, extract::InPath, problem::Problem, requester::Requester};
use crate::{
    chat::ListedRooms,
    domain::{room::RoomName, roster::LISTED_MAX, user::User},
    store::{log::RoomSummary, presence::Members},
};

/// Rooms that have users or messages, the fullest first, then the caller's rooms of two users.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rooms)]
struct RoomsAnswer<'a> {
    rooms: Vec<RoomLine<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Room)]
struct RoomLine<'a> {
    room: &'a str,
    /// Users in the room.
    count: u32,
    /// `seq` of the last message; 0 when none is known.
    seq: u64,
    /// Up to where the caller has read the room; only for rooms of two users.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    read: Option<u64>,
    /// Messages of others after that, at most 999; only for rooms of two users.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    unread: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Members)]
struct MembersAnswer<'a> {
    room: &'a str,
    /// Users in the room, on all nodes.
    count: u32,
    /// The users; left out when there are more than 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    members: Option<Vec<MemberLine<'a>>>,
}

/// A user without its picture: 500 pictures would be 4 MB.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
struct MemberLine<'a> {
    id: &'a str,
    name: &'a str,
}

/// List the rooms.
#[utoipa::path(
    get, path = "/rooms",
    responses((status = 200, description = "The list.", body = RoomsAnswer)),
)]
pub async fn list_rooms(
    State(api): State<Context>,
    requester: Requester,
) -> Result<Response, Problem> {
    let _turn = api.turn_to_read().await;
    let listed = api.chat.rooms(requester.actor()).await?;
    Ok(Json(RoomsAnswer::new(&listed)).into_response())
}

/// List the users that are in a room now.
#[utoipa::path(
    get, path = "/rooms/{room}/members",
    params(("room" = String, Path, min_length = 1, max_length = 64)),
    responses((status = 200, description = "The list.", body = MembersAnswer)),
)]
pub async fn list_members(
    State(api): State<Context>,
    requester: Requester,
    InPath(room): InPath,
) -> Result<Response, Problem> {
    let room = RoomName::parse(&room)?;
    let _turn = api.turn_to_read().await;
    let members = api.chat.members(requester.actor(), room.clone()).await?;
    Ok(Json(MembersAnswer::new(&room, &members)).into_response())
}

impl<'a> RoomsAnswer<'a> {
    fn new(listed: &'a ListedRooms) -> Self {
        let line = |summary: &'a RoomSummary| {
            let mark = listed.marks.iter().find(|(room, ..)| *room == summary.room);
            RoomLine {
                room: summary.room.as_str(),
                count: summary.count,
                seq: summary.seq,
                read: mark.map(|(_, read, _)| *read),
                unread: mark.map(|(.., unread)| *unread),
            }
        };
        Self { rooms: listed.rooms.iter().map(line).collect() }
    }
}

impl<'a> MembersAnswer<'a> {
    fn new(room: &'a RoomName, members: &'a Members) -> Self {
        let line = |user: &'a User| MemberLine { id: user.id.as_str(), name: user.name.as_str() };
        let lines = || members.users.iter().map(line).collect();
        let members_listed = (members.count <= LISTED_MAX).then(lines);
        Self { room: room.as_str(), count: members.count, members: members_listed }
    }
}

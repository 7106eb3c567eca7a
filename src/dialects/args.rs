//! How requests are read from the arguments of an event, in every dialect.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::{
    name::NameError,
    page::{PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX, Page},
    position::Epoch,
    reject::{Code, Reject},
    request::{PageRequest, Request},
    room::RoomName,
};

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct HistoryRequest {
    room: String,
    before: Option<At>,
    after: Option<At>,
    limit: Option<u32>,
}

/// A position in the log.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct At {
    pub epoch: String,
    pub seq: u64,
}

/// The one object that a request of the native dialect takes.
pub fn object<'a, T: Deserialize<'a>>(args: &[&'a RawValue], shape: &str) -> Result<T, Reject> {
    let argument = args.first().ok_or_else(|| bad(shape))?;
    serde_json::from_str(argument.get()).map_err(|why| bad(format!("{shape}: {why}")))
}

pub fn history(args: &[&RawValue]) -> Result<Request, Reject> {
    let shape = "history takes {room, before?: {epoch, seq} | after?: {epoch, seq}, limit?}";
    let asked: HistoryRequest = object(args, shape)?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let (page, epoch) = match (asked.before, asked.after) {
        (None, None) => (Page::Newest, None),
        (Some(at), None) => (Page::Before(at.seq), Some(Epoch::new(&at.epoch))),
        (None, Some(at)) => (Page::After(at.seq), Some(Epoch::new(&at.epoch))),
        (Some(_), Some(_)) => return Err(bad("history takes before or after, not both")),
    };
    let limit = page_limit(asked.limit)?;
    Ok(Request::History(PageRequest { room, page, limit, epoch }))
}

pub fn page_limit(asked: Option<u32>) -> Result<u32, Reject> {
    let limit = asked.unwrap_or(PAGE_LIMIT_DEFAULT);
    if !(1..=PAGE_LIMIT_MAX).contains(&limit) {
        return Err(bad(format!("limit is between 1 and {PAGE_LIMIT_MAX}")));
    }
    Ok(limit)
}

pub fn bad(message: impl Into<String>) -> Reject {
    Reject::new(Code::BadRequest, message)
}

pub fn bad_name(why: NameError) -> Reject {
    bad(why.to_string())
}

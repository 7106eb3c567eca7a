//! The wall clock, read at the edge and passed on as an argument.

use std::time::UNIX_EPOCH;

use crate::domain::position::Timestamp;

#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

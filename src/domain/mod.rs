//! What a chat is, apart from how it is stored and sent.
//!
//! Nothing here awaits, locks, reads a clock or draws a random number: time and ids come in as
//! arguments, and decisions go out as values. So the tests need no runtime. Formats of storage
//! and of the wire are elsewhere.

pub mod account;
pub mod message;
pub mod name;
pub mod page;
pub mod position;
pub mod presence;
pub mod record;
pub mod reject;
pub mod request;
pub mod room;
pub mod roster;
pub mod search;
pub mod user;
pub mod visibility;

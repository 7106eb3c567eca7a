//! What a chat is, without saying how it travels.
//!
//! Nothing here awaits, locks, reads a clock or draws a random number: time and ids come in as
//! arguments, decisions go out as values. That is why these tests need no runtime.

pub mod changes;
pub mod message;
pub mod name;
pub mod page;
pub mod request;
pub mod roster;
pub mod search;
pub mod session;
pub mod user;

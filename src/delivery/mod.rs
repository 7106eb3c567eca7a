//! From an event of the log to the sockets of this node: who is told, rendered once per dialect.
//!
//! The `relay` takes log events in order; the `broadcaster` emits them to the sockets that see
//! them; the `replay` buffer remembers what was delivered lately, for clients that come back.

pub mod broadcaster;
pub mod relay;
pub mod replay;
pub mod subscriptions;

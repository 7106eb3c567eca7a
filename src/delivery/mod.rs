//! From an event of the log to the sockets of this node: which sockets get it, rendered once per
//! dialect.
//!
//! The `relay` takes log events in order; the `broadcaster` emits them to the sockets that may see
//! them; the `replay` buffer keeps what was delivered lately, for returning clients.

pub mod broadcaster;
pub mod relay;
pub mod replay;
pub mod subscriptions;
pub mod ticks;

//! Bytes on sockets: connections, rooms of sockets, and packets that are encoded once.
//!
//! Nothing here knows what a chat is: a room is a name, a packet is bytes. The `adapter` takes
//! broadcasts from socketioxide; `flush` collects what goes out together and writes it to every
//! `lane`; `accept` makes the lanes, the `registry` knows which session has which, and the
//! `supervisor` ends those that do not keep up.

pub mod accept;
pub mod adapter;
pub mod connect_reply;
mod flush;
pub mod frame;
pub mod lane;
pub mod registry;
pub mod stream;
mod supervisor;

pub type Io = socketioxide::SocketIo<adapter::Adapter>;
/// The id of a connection's Engine.IO session: whoever knows it can post into a polling session.
pub type Sid = socketioxide_core::Sid;

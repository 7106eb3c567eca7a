//! Bytes on sockets: connections, rooms of sockets, and packets that are encoded once.
//!
//! Nothing here knows what a chat is: a room is a name, a packet is bytes. From the bottom up:
//! `frame` and `packet` encode; a `lane` writes to one `stream`; a `connection` is what is kept of
//! one session, and the `registry` has all of them. `flush` collects what goes out together and
//! writes it to every lane, and the `supervisor` ends the connections that do not keep up. The
//! `adapter` takes broadcasts from socketioxide, `accept` makes the lanes, and a `lane_stream` is
//! the engine's end of one.

pub mod accept;
pub mod adapter;
pub mod close;
pub mod connect_reply;
mod connection;
mod farewell;
mod flush;
pub mod frame;
pub mod lane;
pub mod lane_stream;
mod namespace;
pub mod packet;
pub mod registry;
pub mod request;
pub mod sessions;
pub mod settings;
pub mod stream;
mod supervisor;

use crate::{
    shutdown::Tasks,
    transport::{flush::FlushTask, registry::Registry, settings::TransportSettings},
};

pub type Io = socketioxide::SocketIo<adapter::Adapter>;
/// The id of a connection's Engine.IO session. Any client that knows it can post into a polling
/// session.
pub type Sid = socketioxide_core::Sid;

/// Starts the flush tasks, which run among `delivering`. All other tasks will be among `tasks`.
pub fn start(settings: TransportSettings, tasks: &Tasks, delivering: &Tasks) -> Registry {
    let registry = Registry::new(settings, tasks);
    for shard in 0..registry.settings().flush_tasks {
        delivering.spawn_vital("flush", FlushTask::new(shard, registry.clone()).run());
    }
    registry
}

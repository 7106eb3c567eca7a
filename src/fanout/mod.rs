//! From a delivery to bytes on sockets. Only this layer emits to rooms.
//!
//! The `relay` emits; the `adapter` encodes once; a `pass` collects what goes out together and
//! writes it to every `lane`. `accept` makes the lanes, `lanes` knows which session has which, and
//! the `keeper` ends those that do not keep up.

pub mod accept;
pub mod adapter;
pub mod dialect;
pub mod frame;
mod keeper;
pub mod lane;
pub mod lanes;
mod pass;
pub mod recent;
pub mod relay;
pub mod rooms;
pub mod stream;
pub mod teller;
pub mod welcome;

/// The adapter that carries emits to this node's sockets.
pub type Adapter = adapter::LaneAdapter;
pub type Io = socketioxide::SocketIo<Adapter>;
/// A connection's session in the engine.
pub type Sid = socketioxide_core::Sid;

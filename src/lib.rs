//! Roomcast: a chat server that any socket.io-client can talk to, one node or many over Redis.
//!
//! Imports go down only: `server` builds everything; `sockets` and `http` are the two faces;
//! `chat` has the use cases; `delivery` brings stored records to sockets, rendered by `dialects`
//! and carried by `transport`; `store` has the ports to SQLite and Redis; `domain` is what a chat
//! is. `config`, `telemetry`, `shutdown`, `clock` and `random` are leaves. ARCHITECTURE.md says
//! where to begin reading.

pub mod chat;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod dialects;
pub mod domain;
pub mod http;
pub mod random;
pub mod server;
pub mod shutdown;
pub mod sockets;
pub mod store;
pub mod telemetry;
pub mod transport;

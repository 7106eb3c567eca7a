//! Roomcast: a chat server that any socket.io-client can talk to, one node or many over Redis.
//!
//! Layers, imports go down only: `server` builds everything; `sockets` and `http` are the two
//! faces; `hub` carries out what sessions decide; `fanout` and `bus` are the roads out and between
//! nodes; `domain` is what a chat is. `config`, `telemetry`, `shutdown`, `clock` and `random` are
//! leaves. To read it: `domain`, then `bus/mod.rs`, then `sockets/mod.rs`, then `hub.rs`, then
//! `fanout/relay.rs`, then `server.rs`.

pub mod bus;
pub mod clock;
pub mod config;
pub mod domain;
pub mod fanout;
pub mod http;
pub mod hub;
pub mod random;
pub mod server;
pub mod shutdown;
pub mod sockets;
pub mod telemetry;

//! Socket.IO packets of the one namespace, and how they look on a websocket.

use bytes::Bytes;
use serde::Serialize;
use socketioxide_core::{Value, packet::Packet, parser::Parse};
use socketioxide_parser_common::CommonParser;

use crate::transport::frame;

/// The namespace in which everything is said.
pub const NAMESPACE: &str = "/";

/// The packet that an emit of socketioxide makes: the elements of a tuple are the event's
/// arguments, and any other value is its only argument.
pub fn event(name: &str, arguments: &impl Serialize) -> Packet {
    let event = CommonParser.encode_value(arguments, Some(name)).expect("arguments are JSON");
    Packet::event(NAMESPACE, event)
}

/// An event whose name and arguments are one JSON array already.
pub fn encoded_event(array: String) -> Packet {
    Packet::event(NAMESPACE, Value::Str(array.into(), None))
}

/// A packet as websocket frames.
pub fn frames(packet: Packet) -> Bytes {
    frame::encode(&CommonParser.encode(packet))
}

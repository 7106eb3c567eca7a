//! What a client is told when it has connected, in place of the engine's own CONNECT reply.
//!
//! The engine answers `40{"sid":..}` with the Engine.IO session id, which lets whoever knows it
//! post into a polling session. So the reply is exchanged where it flush_tasks, in the lane or in the
//! body of a poll: for one of our own, and the events that the client missed right behind it. Not
//! before it, as Node has them: the official client would keep what it hears before the reply, and
//! hear it again when the connection ends in between.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use socketioxide_core::Sid;

use crate::transport::{frame, registry::Registry};

/// How the reply to be exchanged begins, on every transport.
const CONNECT: &[u8] = b"40{\"sid\":";
/// Between the packets of one poll.
const SEPARATOR: u8 = 0x1e;

/// Frames to be sent in place of a CONNECT reply.
#[derive(Debug, Clone)]
pub struct ConnectReply {
    pub connect: Bytes,
    /// What the client missed, as websocket frames.
    pub missed: Bytes,
}

#[derive(Serialize)]
struct Connect<'a> {
    sid: &'a str,
    pid: &'a str,
}

impl ConnectReply {
    /// `sid` is what the client is called, `pid` the secret by which it comes back.
    pub fn new(sid: &str, pid: &str, missed: Bytes) -> Self {
        let connect = serde_json::to_string(&Connect { sid, pid }).expect("two texts are JSON");
        Self { missed, connect: frame::text(format!("40{connect}").as_bytes()) }
    }

    /// The same as packets of one poll.
    fn put_payload(&self, out: &mut BytesMut) {
        let connect = frame::first(&self.connect).and_then(|frame| frame.text);
        out.put_slice(connect.unwrap_or_default());
        let mut at = 0;
        while let Some(frame) = self.missed.get(at..).and_then(frame::first) {
            out.put_u8(SEPARATOR);
            out.put_slice(frame.text.unwrap_or_default());
            at += frame.size;
        }
    }
}

/// Whether a packet is a reply that a connect_reply stands in for.
pub fn is_connect(packet: &[u8]) -> bool {
    packet.starts_with(CONNECT)
}

/// A poll's body with the connect_reply in it, if the CONNECT reply is there.
pub fn in_payload(payload: &Bytes, registry: &Registry, sid: Sid) -> Bytes {
    let is_there = |packet: &[u8]| is_connect(packet);
    if !payload.split(|byte| *byte == SEPARATOR).any(is_there) {
        return payload.clone();
    }
    let Some(connect_reply) = registry.take_connect_reply(sid) else { return payload.clone() };
    let mut out = BytesMut::with_capacity(payload.len() + connect_reply.missed.len() + 128);
    for packet in payload.split(|byte| *byte == SEPARATOR) {
        if !out.is_empty() {
            out.put_u8(SEPARATOR);
        }
        if is_connect(packet) {
            connect_reply.put_payload(&mut out);
        } else {
            out.put_slice(packet);
        }
    }
    // What clients missed is bounded until they have taken it, and so kept with what is made of it.
    Bytes::from_owner(Payload { packets: out, _missed: connect_reply.missed })
}

struct Payload {
    packets: BytesMut,
    _missed: Bytes,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.packets
    }
}

/// Takes the connect_reply back if the client has gone without it.
#[derive(Debug)]
pub struct ConnectReplyGuard {
    registry: Registry,
    sid: Sid,
    number: u64,
}

impl ConnectReplyGuard {
    /// `number` is that of the connect_reply.
    pub(super) fn new(registry: Registry, sid: Sid, number: u64) -> Self {
        Self { registry, sid, number }
    }
}

impl Drop for ConnectReplyGuard {
    fn drop(&mut self) {
        self.registry.forget_connect_reply(self.sid, self.number);
    }
}

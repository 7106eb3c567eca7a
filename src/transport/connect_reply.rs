//! The packet that tells a client that it is connected, in place of the engine's CONNECT reply.
//!
//! The engine answers `40{"sid":..}` with the Engine.IO session id, and that id lets any client
//! post into a polling session. So the reply is replaced where it passes, in the lane or in
//! the body of a poll: by one of our own, with the events that the client missed right behind it.
//! Not before it, as Node sends them: the official client keeps what arrives before the reply, and
//! would show it a second time when the connection ends in between.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::transport::frame;

/// How the reply to be replaced begins, on every transport.
const CONNECT: &[u8] = b"40{\"sid\":";
/// Between the packets of one poll.
const SEPARATOR: u8 = 0x1e;

/// Frames to be sent in place of a CONNECT reply.
#[derive(Debug, Clone)]
pub struct ConnectReply {
    pub connect: Bytes,
    /// The events that the client missed, as websocket frames.
    pub missed: Bytes,
}

#[derive(Serialize)]
struct Connect<'a> {
    sid: &'a str,
    pid: &'a str,
}

impl ConnectReply {
    /// `sid` is the client's public name, `pid` the secret by which it comes back.
    pub fn new(sid: &str, pid: &str, missed: Bytes) -> Self {
        let connect = serde_json::to_string(&Connect { sid, pid }).expect("two texts are JSON");
        Self { missed, connect: frame::text(format!("40{connect}").as_bytes()) }
    }

    /// The body of a poll, with this in place of the CONNECT reply.
    pub(super) fn into_payload(self, payload: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(payload.len() + self.missed.len() + 128);
        for packet in payload.split(|byte| *byte == SEPARATOR) {
            if !out.is_empty() {
                out.put_u8(SEPARATOR);
            }
            if is_connect(packet) {
                self.put_packets(&mut out);
            } else {
                out.put_slice(packet);
            }
        }
        // `missed` holds a permit for its memory. It is given back when the body is sent.
        Bytes::from_owner(Payload { packets: out, _missed: self.missed })
    }

    fn put_packets(&self, out: &mut BytesMut) {
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

/// Whether a packet is a CONNECT reply of the engine.
pub fn is_connect(packet: &[u8]) -> bool {
    packet.starts_with(CONNECT)
}

/// Whether a CONNECT reply of the engine is in the body of a poll.
pub fn is_in(payload: &[u8]) -> bool {
    payload.split(|byte| *byte == SEPARATOR).any(is_connect)
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

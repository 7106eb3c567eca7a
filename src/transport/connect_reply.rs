//! The packet that tells a client that it is connected, in place of the engine's CONNECT reply.
//!
//! The engine answers `40{"sid":..}` with the Engine.IO session id, and that id lets any client
//! post into a polling session. So the reply is replaced where it passes, in the lane or in
//! the body of a poll: by one of our own, with the events that the client missed right behind it.
//! Not before it, as Node sends them: the official client keeps what arrives before the reply, and
//! would show it a second time when the connection ends in between.
//!
//! A namespace beside `/` has the engine's reply with another id in it: nothing comes back there, so
//! the id only has to differ from every other one.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{random, transport::frame};

/// How the reply to be replaced begins, on every transport.
const CONNECT: &[u8] = b"40{\"sid\":";
/// How the reply of another namespace begins: `40/name,{"sid":..}`.
const CONNECT_ELSEWHERE: &[u8] = b"40/";
/// Bytes of the id in such a reply.
const ID_BYTES: usize = 16;
/// Between the packets of one poll.
const SEPARATOR: u8 = 0x1e;

/// Frames to be sent in place of a CONNECT reply.
#[derive(Debug, Clone)]
pub struct ConnectReply {
    pub connect: Bytes,
    /// The events that the client missed, as websocket frames.
    pub missed_frames: Bytes,
}

#[derive(Serialize)]
struct Connect<'a> {
    sid: &'a str,
    pid: &'a str,
}

impl ConnectReply {
    /// `sid` is the client's public name, `pid` the secret by which it comes back.
    pub fn new(sid: &str, pid: &str, missed_frames: Bytes) -> Self {
        let connect = serde_json::to_string(&Connect { sid, pid }).expect("two texts are JSON");
        Self { missed_frames, connect: frame::text(format!("40{connect}").as_bytes()) }
    }

    /// The body of a poll, with this in place of the CONNECT reply.
    pub(super) fn into_payload(self, payload: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(payload.len() + self.missed_frames.len() + 128);
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
        // `missed_frames` holds a permit for its memory. It is given back when the body is sent.
        Bytes::from_owner(Payload { packets: out, _missed_frames: self.missed_frames })
    }

    fn put_packets(&self, out: &mut BytesMut) {
        let connect = frame::first(&self.connect).and_then(|frame| frame.text);
        out.put_slice(connect.unwrap_or_default());
        let mut at = 0;
        while let Some(frame) = self.missed_frames.get(at..).and_then(frame::first) {
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

/// The engine's CONNECT reply of a namespace beside `/`, with an id that gives no access. `None`: it
/// is no such packet.
pub fn elsewhere(packet: &[u8]) -> Option<String> {
    let packet = std::str::from_utf8(packet.strip_prefix(CONNECT_ELSEWHERE)?).ok()?;
    let (name, _sid) = packet.split_once(",{\"sid\":")?;
    let id = Sha256::digest(packet);
    let id = random::to_hex(&id[..ID_BYTES]);
    Some(format!("40/{name},{{\"sid\":\"{id}\"}}"))
}

/// The body of a poll, with such replies in place of the engine's.
pub fn replace_elsewhere(payload: Bytes) -> Bytes {
    if !payload.split(|byte| *byte == SEPARATOR).any(|it| it.starts_with(CONNECT_ELSEWHERE)) {
        return payload;
    }
    let packets = payload.split(|byte| *byte == SEPARATOR);
    let replaced = packets.map(|packet| match elsewhere(packet) {
        Some(reply) => reply.into_bytes(),
        None => packet.to_vec(),
    });
    replaced.collect::<Vec<_>>().join(&SEPARATOR).into()
}

/// Whether a CONNECT reply of the engine is in the body of a poll.
pub fn is_in(payload: &[u8]) -> bool {
    payload.split(|byte| *byte == SEPARATOR).any(is_connect)
}

struct Payload {
    packets: BytesMut,
    _missed_frames: Bytes,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_in_no_reply_of_a_namespace() {
        let body = Bytes::from_static(
            b"40/user,{\"sid\":\"secret\"}\x1e42[\"a\"]\x1e40/b,{\"sid\":\"secret\"}",
        );
        let replaced = String::from_utf8(replace_elsewhere(body).to_vec()).unwrap();
        let packets: Vec<&str> = replaced.split('\u{1e}').collect();
        assert!(packets[0].starts_with("40/user,{\"sid\":\"") && packets[0].ends_with("\"}"));
        assert_eq!((packets[1], packets[0].len()), ("42[\"a\"]", packets[2].len() + 3));
        assert!(!replaced.contains("secret") && packets[0].get(18..) != packets[2].get(15..));
        assert_eq!(elsewhere(b"40{\"sid\":\"secret\"}"), None);
        assert_eq!(elsewhere(b"40/user,"), None);
    }
}

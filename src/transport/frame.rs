//! Engine.IO packets as websocket frames, and just enough reading of frames to stay between them.
//!
//! Server frames are never masked; client frames always are. Nothing here allocates but the
//! encoders.

use bytes::{BufMut, Bytes, BytesMut};
use socketioxide_core::Value;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest header: two bytes, and a length of eight.
const HEAD_MAX: usize = 10;

/// A Socket.IO packet as the frames of one Engine.IO message: a text, then its attachments.
pub fn encode(packet: &Value) -> Bytes {
    match packet {
        Value::Bytes(binary) => {
            let mut out = BytesMut::with_capacity(binary.len() + HEAD_MAX);
            put(&mut out, BINARY, &[], binary);
            out.freeze()
        }
        Value::Str(text, attachments) => {
            let attachments = attachments.iter().flatten();
            let size: usize = attachments.clone().map(|one| one.len() + HEAD_MAX).sum();
            let mut out = BytesMut::with_capacity(text.as_bytes().len() + 1 + HEAD_MAX + size);
            put(&mut out, TEXT, b"4", text.as_bytes());
            for attachment in attachments {
                put(&mut out, BINARY, &[], attachment);
            }
            out.freeze()
        }
    }
}

/// One text frame.
pub fn text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + HEAD_MAX);
    put(&mut out, TEXT, &[], payload);
    out.freeze()
}

/// A close frame. `reason` is cut to what a control frame may carry.
pub fn close(code: u16, reason: &'static str) -> Bytes {
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let mut out = BytesMut::with_capacity(reason.len() + 4);
    put(&mut out, CLOSE, &code.to_be_bytes(), reason);
    out.freeze()
}

fn put(out: &mut BytesMut, opcode: u8, prefix: &[u8], payload: &[u8]) {
    let length = prefix.len() + payload.len();
    out.put_u8(FINAL | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.put_u8(short),
        (_, Ok(medium)) => {
            out.put_u8(126);
            out.put_u16(medium);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    out.put_slice(prefix);
    out.put_slice(payload);
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    opcode: u8,
    is_final: bool,
    is_masked: bool,
    /// Bytes of the header, without the mask.
    size: usize,
    payload: u64,
}

impl Head {
    /// `None`: the header goes on beyond `bytes`.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let (size, payload) = match second & !MASKED {
            126 => (4, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (2, u64::from(short)),
        };
        Some(Self {
            opcode: first & 0x0f,
            is_final: first & FINAL != 0,
            is_masked: second & MASKED != 0,
            size,
            payload,
        })
    }
}

/// One whole server frame at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Header and payload.
    pub size: usize,
    /// The payload of a text frame that stands alone.
    pub text: Option<&'a [u8]>,
}

/// The first frame, if all of it is there.
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let head = Head::parse(bytes)?;
    let size = usize::try_from(head.payload).ok()?.checked_add(head.size)?;
    let payload = bytes.get(head.size..size)?;
    let stands_alone = head.opcode == TEXT && head.is_final;
    Some(Frame { size, text: stands_alone.then_some(payload) })
}

/// How many of `bytes` are whole frames.
pub fn whole(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(frame) = bytes.get(end..).and_then(first) {
        end += frame.size;
    }
    end
}

/// Where the frame ends of which `written` bytes may already be gone; `written` itself when that
/// is between two frames.
pub fn end_of_frame(bytes: &[u8], written: usize) -> usize {
    let mut end = 0;
    while end < written {
        match bytes.get(end..).and_then(first) {
            Some(frame) => end += frame.size,
            None => return bytes.len(),
        }
    }
    end
}

/// Where the frame starts of which `written` bytes may already be gone; `written` itself when that
/// is between two frames.
pub fn start_of_frame(bytes: &[u8], written: usize) -> usize {
    let mut start = 0;
    while let Some(frame) = bytes.get(start..).and_then(first)
        && start + frame.size <= written
    {
        start += frame.size;
    }
    start
}

/// A client's message is longer than the transport takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Follows a client's frames as they come in, in pieces of any size, and sees a message that is
/// too long before its bytes are read: at its header.
#[derive(Debug, Default)]
pub struct Inspector {
    head: [u8; HEAD_MAX],
    gathered: u8,
    /// Bytes until the next header.
    skip: u64,
    /// Payload of the message's frames so far.
    message: u64,
    /// Whether the message goes on in another frame.
    is_fragmented: bool,
    closed: bool,
}

impl Inspector {
    /// Whether a close frame has begun: nothing comes after it.
    pub fn saw_close(&self) -> bool {
        self.closed
    }

    /// How many bytes to follow, at least, until no message has begun. 0: none has.
    pub fn until_between_messages(&self) -> usize {
        match usize::try_from(self.skip) {
            Ok(0) if self.gathered == 0 && !self.is_fragmented => 0,
            // In a header, or before one: its next byte says more.
            Ok(0) => 1,
            Ok(rest) => rest,
            Err(_too_many) => usize::MAX,
        }
    }

    pub fn inspect(&mut self, mut bytes: &[u8], message_max: u64) -> Result<(), TooLarge> {
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            let Some((&byte, rest)) = bytes.get(skipped..).and_then(<[u8]>::split_first) else {
                return Ok(());
            };
            bytes = rest;
            self.head[usize::from(self.gathered)] = byte;
            self.gathered += 1;
            let Some(head) = Head::parse(&self.head[..usize::from(self.gathered)]) else {
                continue;
            };
            self.gathered = 0;
            let mask = if head.is_masked { 4 } else { 0 };
            self.skip = head.payload.saturating_add(mask);
            self.closed |= head.opcode == CLOSE;
            // Control frames may come between the frames of a message.
            if head.opcode < CLOSE {
                self.message = self.message.saturating_add(head.payload);
                if self.message > message_max {
                    return Err(TooLarge);
                }
                self.is_fragmented = !head.is_final;
                if head.is_final {
                    self.message = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &str) -> Bytes {
        encode(&Value::Str(String::from(payload).into(), None))
    }

    #[test]
    fn every_length_form_is_read_back() {
        for length in [0, 1, 124, 125, 126, 65_534, 65_535, 65_536, 70_000] {
            let frame = packet(&"x".repeat(length));
            let read = first(&frame).expect("a whole frame");
            assert_eq!(read.size, frame.len());
            assert_eq!(read.text.expect("text").len(), length + 1);
            assert_eq!(whole(&frame), frame.len());
            assert_eq!(first(&frame[..frame.len() - 1]), None);
        }
    }

    #[test]
    fn an_attachment_follows_its_text() {
        let packet = Value::Str("51-[]".into(), Some([Bytes::from_static(b"ab")].into()));
        assert_eq!(&encode(&packet)[..], b"\x81\x06451-[]\x82\x02ab");
    }

    #[test]
    fn the_end_of_a_partly_written_frame_is_found() {
        let two = [&packet("one")[..], &packet("three")[..]].concat();
        assert_eq!(end_of_frame(&two, 0), 0);
        assert_eq!(end_of_frame(&two, 1), 6);
        assert_eq!(end_of_frame(&two, 6), 6);
        assert_eq!(end_of_frame(&two, 7), two.len());
    }

    fn client_frame(opcode: u8, is_final: bool, length: u16) -> Vec<u8> {
        let mut frame = vec![opcode | if is_final { FINAL } else { 0 }, MASKED | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(std::iter::repeat_n(0, usize::from(length)));
        frame
    }

    #[test]
    fn the_place_between_two_messages_is_found() {
        let one = [
            client_frame(TEXT, false, 600),
            client_frame(0x9, true, 5),
            client_frame(0, true, 400),
        ]
        .concat();
        let two = [&one[..], &client_frame(TEXT, true, 7)].concat();
        let mut inspector = Inspector::default();
        let mut found = Vec::new();
        let mut at = 0;
        while at < two.len() {
            if inspector.until_between_messages() == 0 {
                found.push(at);
            }
            let step = inspector.until_between_messages().clamp(1, two.len() - at);
            assert_eq!(inspector.inspect(&two[at..at + step], 1_000), Ok(()));
            at += step;
        }
        assert_eq!(found, [0, one.len()]);
        assert_eq!(inspector.until_between_messages(), 0);
    }

    #[test]
    fn a_message_is_measured_over_its_fragments_and_in_any_pieces() {
        let stream = [
            client_frame(TEXT, true, 1_000),
            client_frame(TEXT, false, 600),
            client_frame(0x9, true, 5),
            client_frame(0, true, 400),
            client_frame(BINARY, true, 1_000),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 100, 4_000] {
            let mut inspector = Inspector::default();
            for bytes in stream.chunks(piece) {
                assert_eq!(inspector.inspect(bytes, 1_000), Ok(()), "pieces of {piece}");
            }
            assert_eq!(inspector.inspect(&client_frame(TEXT, false, 600), 1_000), Ok(()));
            assert_eq!(inspector.inspect(&client_frame(0, true, 401), 1_000), Err(TooLarge));
        }
    }
}

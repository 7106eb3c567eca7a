//! Why the server ends a connection: the one list of reasons, with what the client is told.

use bytes::Bytes;

use crate::transport::frame;

/// The code that a websocket reports when its connection ends without a close frame. It is never
/// sent.
const NO_CLOSE_FRAME: u16 = 1006;

/// Why the server ends a connection. It never sends a DISCONNECT packet for that: the official
/// client would then not connect again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left the namespace and did not enter it again.
    NotConnected,
    /// This node stops.
    GoingAway,
    /// The polling session was to end, and upgraded to this websocket in the meantime.
    SessionEnded,
    /// The session has a websocket already.
    DuplicateWebsocket,
    /// Another connection took over the client's session.
    SessionTaken,
    /// The client sent a message above `message_bytes_max`.
    MessageTooBig,
    /// More than `backlog_bytes_max` waited for the client.
    TooSlow,
    /// Bytes waited for the client, and it took none of them for `stall_max`.
    Stalled,
    /// The client's session cannot be read now.
    TryAgainLater,
}

impl CloseReason {
    pub fn code(self) -> u16 {
        self.row().0
    }

    pub fn words(self) -> &'static str {
        self.row().1
    }

    /// Whether the client should connect again.
    pub fn client_returns(self) -> bool {
        self.row().2
    }

    /// The close frame, for a client that can still read one.
    pub(super) fn frame(self) -> Option<Bytes> {
        (self.code() != NO_CLOSE_FRAME).then(|| frame::close(self.code(), self.words()))
    }

    fn row(self) -> (u16, &'static str, bool) {
        match self {
            Self::NotConnected => (1000, "not connected to a namespace", false),
            Self::GoingAway => (1001, "going away", true),
            Self::SessionEnded => (1001, "the session was ended", true),
            Self::DuplicateWebsocket => (1008, "this session already has a websocket", false),
            Self::SessionTaken => (1008, "this session was taken up on another connection", false),
            Self::MessageTooBig => (1009, "message too big", true),
            Self::TooSlow => (1013, "too slow: more is waiting than may wait", true),
            Self::Stalled => (NO_CLOSE_FRAME, "stalled", true),
            Self::TryAgainLater => (1013, "try again later", true),
        }
    }
}

//! How a test client sends and receives packets: by polling, or over a websocket. Each has a reading
//! and a writing half, which are apart so that a server that stops reading still has its answers
//! read.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message},
};

use super::{
    client::Options,
    http::{Http, Response},
    packet::{self, Event, Packet},
};

/// Why there is no client.
#[derive(Debug)]
pub enum Refusal {
    /// The handshake was answered with something else than success.
    Handshake(Response),
    /// The namespace said `connect_error`.
    Namespace(Value),
    Network(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Handshake(answer) => write!(f, "HTTP {}: {}", answer.status, answer.text()),
            Self::Namespace(why) => write!(f, "connect_error: {why}"),
            Self::Network(why) => f.write_str(why),
        }
    }
}

/// How a connection ended, seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// A websocket close frame; 1005 when it had no code.
    Frame { code: u16, reason: String },
    /// A polling request was answered with this status.
    Status(u16),
    /// Engine.IO's close packet.
    Packet,
    /// The connection ended without a word.
    Lost(String),
}

pub type WebSocket = WebSocketStream<TcpStream>;
pub type WsSink = SplitSink<WebSocket, Message>;

pub enum Outgoing {
    Packets(Vec<String>),
    Binary(Vec<u8>),
    /// From here on everything goes this way.
    Upgraded(Box<WsSink>),
}

/// What came and was not yet asked for.
#[derive(Debug, Default)]
pub struct Inbox {
    pub connected: Option<Result<Value, Value>>,
    /// Events that came before the CONNECT reply.
    pub before_connected: usize,
    pub events: VecDeque<Event>,
    pub acks: HashMap<u64, oneshot::Sender<Vec<Value>>>,
    /// The namespace was taken away.
    pub disconnected: bool,
    pub pings: usize,
    pub others: Vec<String>,
    pub closed: Option<Closed>,
}

/// Where a reader puts what it reads.
#[derive(Clone)]
pub struct Incoming {
    pub inbox: Arc<watch::Sender<Inbox>>,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub may_read: watch::Receiver<bool>,
}

impl Incoming {
    /// False when the connection is over.
    async fn take(&self, text: &str) -> bool {
        match packet::parse(text) {
            Packet::Ping => {
                self.inbox.send_modify(|inbox| inbox.pings += 1);
                let pong = Outgoing::Packets(vec!["3".into()]);
                return self.outgoing.send(pong).await.is_ok();
            }
            Packet::Noop => {}
            Packet::Connected(answer) => {
                self.inbox.send_modify(|inbox| {
                    inbox.before_connected = inbox.events.len();
                    inbox.connected = Some(Ok(answer));
                });
            }
            Packet::Refused(answer) => {
                self.inbox.send_modify(|inbox| inbox.connected = Some(Err(answer)));
            }
            Packet::Event(event) => self.inbox.send_modify(|inbox| inbox.events.push_back(event)),
            Packet::Ack { id, args } => self.inbox.send_modify(|inbox| {
                // The waiter may be gone.
                let waiting = inbox.acks.remove(&id);
                waiting.map(|waiting| waiting.send(args));
            }),
            Packet::Disconnected => self.inbox.send_modify(|inbox| inbox.disconnected = true),
            Packet::Close => {
                close(&self.inbox, Closed::Packet);
                return false;
            }
            Packet::Open(_) | Packet::Other(_) => {
                self.inbox.send_modify(|inbox| inbox.others.push(text.to_owned()));
            }
        }
        true
    }
}

/// The first reason is the true one.
fn close(inbox: &watch::Sender<Inbox>, reason: Closed) {
    inbox.send_modify(|inbox| {
        inbox.acks.clear();
        inbox.closed.get_or_insert(reason);
    });
}

pub async fn read_websocket(mut stream: SplitStream<WebSocket>, mut incoming: Incoming) {
    loop {
        if incoming.may_read.wait_for(|may| *may).await.is_err() {
            return;
        }
        let message = tokio::select! {
            _stopped = incoming.may_read.changed() => continue,
            message = stream.next() => message,
        };
        let reason = match message {
            Some(Ok(Message::Text(text))) => {
                if incoming.take(text.as_str()).await {
                    continue;
                }
                return;
            }
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                Closed::Frame { code, reason }
            }
            Some(Ok(other)) => {
                let other = format!("{other:?}");
                incoming.inbox.send_modify(|inbox| inbox.others.push(other));
                continue;
            }
            Some(Err(error)) => Closed::Lost(error.to_string()),
            None => Closed::Lost("end of stream".into()),
        };
        return close(&incoming.inbox, reason);
    }
}

/// The reading half of polling.
pub struct Polling {
    pub http: Http,
    pub path: String,
    pub options: Options,
    pub stopped: watch::Receiver<bool>,
}

impl Polling {
    pub async fn read(mut self, mut incoming: Incoming) {
        let headers = self.options.headers();
        while !*self.stopped.borrow() {
            if incoming.may_read.wait_for(|may| *may).await.is_err() {
                return;
            }
            let reason = match self.http.request("GET", &self.path, &headers, b"").await {
                Ok(response) if response.status == 200 => {
                    for packet in response.text().split('\x1e') {
                        if !incoming.take(packet).await {
                            return;
                        }
                    }
                    continue;
                }
                Ok(response) => Closed::Status(response.status),
                Err(error) => Closed::Lost(error.to_string()),
            };
            return close(&incoming.inbox, reason);
        }
    }
}

/// The writing half of polling.
pub struct Posting {
    pub http: Http,
    pub path: String,
    pub options: Options,
    pub payload_max: usize,
}

impl Posting {
    /// Posts the packets in as few bodies as the server's bound allows.
    async fn write(&mut self, packets: &[String]) -> Result<(), Closed> {
        let mut body = String::new();
        for packet in packets {
            if !body.is_empty() && body.len() + 1 + packet.len() > self.payload_max {
                self.post(&std::mem::take(&mut body)).await?;
            }
            if !body.is_empty() {
                body.push('\x1e');
            }
            body.push_str(packet);
        }
        if body.is_empty() { Ok(()) } else { self.post(&body).await }
    }

    async fn post(&mut self, body: &str) -> Result<(), Closed> {
        let mut headers = self.options.headers();
        headers.push(("Content-Type", "text/plain;charset=UTF-8"));
        match self.http.request("POST", &self.path, &headers, body.as_bytes()).await {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(Closed::Status(response.status)),
            Err(error) => Err(Closed::Lost(error.to_string())),
        }
    }
}

pub enum PacketWriter {
    Polling(Box<Posting>),
    WebSocket(Box<WsSink>),
}

impl PacketWriter {
    async fn write(&mut self, outgoing: Outgoing) -> Result<(), Closed> {
        match (self, outgoing) {
            (Self::Polling(posting), Outgoing::Packets(packets)) => posting.write(&packets).await,
            (Self::WebSocket(sink), Outgoing::Packets(packets)) => {
                for packet in packets {
                    sink.feed(Message::text(packet)).await.map_err(lost)?;
                }
                sink.flush().await.map_err(lost)
            }
            (Self::WebSocket(sink), Outgoing::Binary(bytes)) => {
                sink.send(Message::binary(bytes)).await.map_err(lost)
            }
            (writer, Outgoing::Upgraded(mut sink)) => {
                sink.send(Message::text("5")).await.map_err(lost)?;
                *writer = Self::WebSocket(sink);
                Ok(())
            }
            (Self::Polling(_), Outgoing::Binary(_)) => {
                panic!("on polling, an attachment is a packet of its own: `b` and base64")
            }
        }
    }
}

pub async fn write(
    mut writer: PacketWriter,
    mut packets: mpsc::Receiver<Outgoing>,
    inbox: Arc<watch::Sender<Inbox>>,
) {
    while let Some(outgoing) = packets.recv().await {
        if let Err(reason) = writer.write(outgoing).await {
            return close(&inbox, reason);
        }
    }
}

fn lost(error: WsError) -> Closed {
    Closed::Lost(error.to_string())
}

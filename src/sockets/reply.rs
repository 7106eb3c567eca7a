//! The answer to one event. It uses the same queue as the room's messages, so they arrive in order.

use serde::Serialize;
use socketioxide_core::{Value, packet::Packet};

use super::answers::{RejectAck, RejectEvent};
use crate::{
    domain::{record::Body, reject::Reject},
    transport::{Sid, lane::InFlight, registry::Registry},
};

#[derive(Debug)]
pub struct Reply {
    registry: Registry,
    sid: Sid,
    ack_id: Option<i64>,
    /// The request counts as in flight until the answer is delivered.
    in_flight: Option<InFlight>,
}

impl Reply {
    pub fn new(
        registry: Registry,
        sid: Sid,
        ack_id: Option<i64>,
        in_flight: Option<InFlight>,
    ) -> Self {
        Self { registry, sid, ack_id, in_flight }
    }

    pub fn is_wanted(&self) -> bool {
        self.ack_id.is_some()
    }

    /// A client that asked for no ack sees success by the event that follows.
    pub fn send(self, answer: &impl Serialize) {
        if let Some(ack_id) = self.ack_id {
            let packet = Packet::ack("/", json(&(answer,)), ack_id);
            self.registry.send(self.sid, packet, self.in_flight);
        }
    }

    /// A success whose answer is JSON already.
    pub fn send_json(self, answer: &Body) {
        if let Some(ack_id) = self.ack_id {
            let arguments = Value::Str(format!("[{}]", answer.as_json()).into(), None);
            self.registry.send(self.sid, Packet::ack("/", arguments, ack_id), self.in_flight);
        }
    }

    pub fn reject(self, reject: &Reject) {
        if self.ack_id.is_some() {
            return self.send(&RejectAck::new(reject));
        }
        let event = ("error", RejectEvent::new(reject));
        self.registry.send(self.sid, Packet::event("/", json(&event)), self.in_flight);
    }
}

fn json(arguments: &impl Serialize) -> Value {
    let text = serde_json::to_string(arguments).expect("an answer is JSON");
    Value::Str(text.into(), None)
}

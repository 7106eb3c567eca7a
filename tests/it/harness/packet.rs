//! Engine.IO and Socket.IO packets as text, of the main namespace only.
//!
//! <https://socket.io/docs/v4/socket-io-protocol/>

use serde_json::Value;

/// What a client gets to see.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    /// Engine.IO's handshake answer.
    Open(Value),
    Close,
    Ping,
    Noop,
    Connected(Value),
    Refused(Value),
    /// The server takes the namespace away; official clients do not reconnect after it.
    Disconnected,
    Event(Event),
    Ack {
        id: u64,
        args: Vec<Value>,
    },
    /// Nothing the protocol knows, or nothing that Roomcast ever sends.
    Other(String),
}

/// An event with its arguments, the name taken off.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub args: Vec<Value>,
    /// The array as it came, to compare byte by byte.
    pub raw: String,
}

impl Event {
    pub fn arg(&self, index: usize) -> &Value {
        self.args.get(index).unwrap_or(&Value::Null)
    }
}

pub fn parse(text: &str) -> Packet {
    parse_known(text).unwrap_or_else(|| Packet::Other(text.to_owned()))
}

fn parse_known(text: &str) -> Option<Packet> {
    let kind = text.chars().next()?;
    let rest = text.get(1..)?;
    Some(match kind {
        '0' => Packet::Open(serde_json::from_str(rest).ok()?),
        '1' => Packet::Close,
        '2' => Packet::Ping,
        '4' => return parse_message(rest),
        '6' => Packet::Noop,
        _ => return None,
    })
}

fn parse_message(text: &str) -> Option<Packet> {
    let kind = text.chars().next()?;
    let rest = text.get(1..)?;
    Some(match kind {
        '0' => Packet::Connected(serde_json::from_str(rest).ok()?),
        '1' => Packet::Disconnected,
        '2' => {
            let mut args: Vec<Value> = serde_json::from_str(rest).ok()?;
            let name = args.first()?.as_str()?.to_owned();
            args.remove(0);
            Packet::Event(Event { name, args, raw: rest.to_owned() })
        }
        '3' => {
            let (id, args) = rest.split_at(rest.find('[')?);
            Packet::Ack { id: id.parse().ok()?, args: serde_json::from_str(args).ok()? }
        }
        '4' => Packet::Refused(serde_json::from_str(rest).ok()?),
        _ => return None,
    })
}

/// The packet of an emit, ready to be sent.
pub fn event(name: &str, args: &[Value], ack: Option<u64>) -> String {
    let mut all = vec![Value::from(name)];
    all.extend_from_slice(args);
    let id = ack.map(|id| id.to_string()).unwrap_or_default();
    format!("42{id}{}", Value::Array(all))
}

/// A message id of this name, in a form that the rule table takes for one.
pub fn own_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0>16}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let text = event("message", &[json!({"a": [1]}), json!("e-1")], None);
        assert_eq!(text, r#"42["message",{"a":[1]},"e-1"]"#);
        let Packet::Event(event) = parse(&text) else { panic!("not an event: {text}") };
        assert_eq!((event.name.as_str(), event.arg(0)), ("message", &json!({"a": [1]})));
        assert_eq!(event.raw, r#"["message",{"a":[1]},"e-1"]"#);
    }

    #[test]
    fn acks_carry_their_number() {
        assert_eq!(event("x", &[], Some(12)), r#"4212["x"]"#);
        assert_eq!(parse("4312[true]"), Packet::Ack { id: 12, args: vec![json!(true)] });
    }

    #[test]
    fn unknown_packets_are_kept() {
        assert_eq!(parse("4"), Packet::Other("4".into()));
        assert_eq!(parse("42{}"), Packet::Other("42{}".into()));
        assert_eq!(parse("é"), Packet::Other("é".into()));
    }
}

//! The AsyncAPI document of the native dialect.
//!
//! A channel is an event name of Socket.IO. The payload of a message is the list of arguments that
//! follow the name, so that it also has the offset of a stored event.

use serde_json::{Map, Value, json};

use super::schemas::{EVENTS, REQUESTS, Schemas, reference};

const DESCRIPTION: &str = "Requests and events between a chat and its clients, over Socket.IO: \
    engine.io 4, the namespace `/`, and the query `dialect=native`. A channel is the name of a \
    Socket.IO event. A payload is the list of its arguments; the answer to a request is the \
    list of arguments of its ack.";

pub fn document(schemas: &Schemas) -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    for request in REQUESTS {
        let (name, channel) = (request.name, channel(&mut channels, request.name));
        channel.insert("request".to_owned(), message(name, &[reference(request.argument)]));
        let answers = [reference(request.answer), reference("RejectAck")];
        channel.insert("answer".to_owned(), message(name, &[json!({ "oneOf": answers })]));
        let operation = json!({
            "action": "receive",
            "channel": { "$ref": format!("#/channels/{name}") },
            "summary": request.summary,
            "messages": [{ "$ref": format!("#/channels/{name}/messages/request") }],
            "reply": {
                "channel": { "$ref": format!("#/channels/{name}") },
                "messages": [{ "$ref": format!("#/channels/{name}/messages/answer") }],
            },
        });
        operations.insert(format!("request-{name}"), operation);
    }
    for event in EVENTS {
        let name = event.name;
        let offset = json!({
            "type": "string",
            "description": "The offset: where the client is in the log after this event.",
        });
        let mut arguments = vec![reference(event.argument)];
        arguments.extend(event.stored.then_some(offset));
        channel(&mut channels, name).insert("event".to_owned(), message(name, &arguments));
        let operation = json!({
            "action": "send",
            "channel": { "$ref": format!("#/channels/{name}") },
            "summary": event.summary,
            "messages": [{ "$ref": format!("#/channels/{name}/messages/event") }],
        });
        operations.insert(format!("event-{name}"), operation);
    }
    let native = schemas.iter().filter(|(name, _)| !name.starts_with("Plain"));
    let native: Map<String, Value> =
        native.map(|(name, schema)| (name.clone(), schema.clone())).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Roomcast, native dialect",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": { "host": "localhost:9000", "pathname": "/socket.io/", "protocol": "ws" },
        },
        "channels": channels,
        "operations": operations,
        "components": { "schemas": native },
    })
}

/// The messages of a channel, which is made where there is none yet.
fn channel<'a>(channels: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let new = || json!({ "address": name, "messages": {} });
    let channel = channels.entry(name).or_insert_with(new);
    channel["messages"].as_object_mut().expect("an object")
}

/// AsyncAPI has the tuples of JSON Schema draft 7.
fn message(name: &str, arguments: &[Value]) -> Value {
    let payload = json!({
        "type": "array",
        "items": arguments,
        "minItems": arguments.len(),
        "maxItems": arguments.len(),
    });
    json!({ "name": name, "payload": payload })
}

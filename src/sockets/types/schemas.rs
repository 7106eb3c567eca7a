//! The JSON Schemas of everything that the native dialect and the profile `plain` send and take.
//!
//! They are derived from the Rust types. Where a Rust type serves several cases, each case gets a
//! schema of its own here: `edit` always has a text, and `react` always has an emoji.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    dialects::{
        args::HistoryRequest,
        event::{GapEvent, NoticeEvent},
        native::{
            events::{
                NativeChange, NativeMessage, PresenceEvent, ProfileEvent, ReadEvent, TypingEvent,
            },
            requests::{
                Edit, JoinRequest, LeaveRequest, ProfileRequest, React, ReadRequest, SearchRequest,
                SendRequest, Target, TypingRequest,
            },
        },
    },
    sockets::answers::{
        DoneAck, HistoryAck, JoinAck, LeaveAck, ProfileAck, ReadAck, RejectAck, RoomsAck,
        SearchAck, SentAck,
    },
};

/// Schemas by their names.
pub type Schemas = Map<String, Value>;

/// A request of the native dialect. Its argument and its answer are names of schemas.
pub struct RequestType {
    pub name: &'static str,
    pub argument: &'static str,
    pub answer: &'static str,
    pub summary: &'static str,
}

/// An event of the native dialect.
pub struct EventType {
    pub name: &'static str,
    pub argument: &'static str,
    /// Whether an offset follows the argument.
    pub stored: bool,
    pub summary: &'static str,
}

const fn request(
    name: &'static str,
    argument: &'static str,
    answer: &'static str,
    summary: &'static str,
) -> RequestType {
    RequestType { name, argument, answer, summary }
}

const fn stored(name: &'static str, argument: &'static str, summary: &'static str) -> EventType {
    EventType { name, argument, stored: true, summary }
}

const fn event(name: &'static str, argument: &'static str, summary: &'static str) -> EventType {
    EventType { name, argument, stored: false, summary }
}

pub const REQUESTS: &[RequestType] = &[
    request(
        "send",
        "SendRequest",
        "SentAck",
        "Stores a message in a room, for a user, or for one connection.",
    ),
    request("edit", "EditRequest", "SentAck", "Changes the text of an own message."),
    request("delete", "DeleteRequest", "SentAck", "Deletes an own message."),
    request("react", "ReactRequest", "SentAck", "Puts an emoji on a message, or takes it back."),
    request("join", "JoinRequest", "JoinAck", "Joins a room, and answers what was missed there."),
    request("leave", "LeaveRequest", "LeaveAck", "Leaves a room."),
    request("history", "HistoryRequest", "NativeHistoryAck", "Reads a room page by page."),
    request(
        "search",
        "SearchRequest",
        "NativeSearchAck",
        "Finds messages in the history of a room.",
    ),
    request("rooms", "RoomsRequest", "RoomsAck", "Lists rooms, with read marks and unread counts."),
    request(
        "typing",
        "TypingRequest",
        "DoneAck",
        "Tells the others in a room that the user types.",
    ),
    request("read", "ReadRequest", "ReadAck", "Moves the user's read mark forward."),
    request(
        "profile",
        "ProfileRequest",
        "ProfileAck",
        "Changes or reads the user's name and picture.",
    ),
];

pub const EVENTS: &[EventType] = &[
    stored("message", "NativeMessage", "Somebody sent a message."),
    stored("edit", "EditEvent", "A message has another text."),
    stored("delete", "DeleteEvent", "A message is gone, and its reactions with it."),
    stored("react", "ReactEvent", "A user reacts to a message, or no longer does."),
    event("presence", "PresenceEvent", "Users came to a room or left it."),
    event("typing", "TypingEvent", "Another user types, or stopped."),
    event("read", "ReadEvent", "A user's read mark moved."),
    event("profile", "ProfileEvent", "A user has another name or picture."),
    event("gap", "GapEvent", "Messages were not delivered and cannot be replayed."),
    event("notice", "NoticeEvent", "The log began anew."),
    event("error", "RejectEvent", "A request without an ack was refused."),
];

pub fn all() -> Schemas {
    let mut derived = derived();
    for (name, schema) in &mut derived {
        without_null(schema);
        if let Some(ok) = schema.pointer_mut("/properties/ok") {
            *ok = json!({ "const": name != "RejectAck" });
        }
    }
    let mut schemas = Schemas::new();
    add_requests(&mut schemas, &mut derived);
    add_changes(&mut schemas, &mut derived);
    add_pages(&mut schemas, &mut derived);
    derived["NoticeEvent"]["properties"]["code"] = json!({ "const": "new_epoch" });
    schemas.extend(derived);
    describe(&mut schemas);
    schemas
}

/// Gives the arguments that have no description one.
fn describe(schemas: &mut Schemas) {
    let requests = REQUESTS
        .iter()
        .map(|request| (request.argument, format!("The argument of `{}`.", request.name)));
    let events = EVENTS.iter().map(|event| (event.argument, event.summary.to_owned()));
    for (argument, description) in requests.chain(events) {
        let schema = schemas[argument].as_object_mut().expect("a schema is an object");
        schema.entry("description").or_insert(description.into());
    }
}

pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// As utoipa derives them.
fn derived() -> Schemas {
    fn add<T: ToSchema>(schemas: &mut Schemas) {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            schemas.insert(name, serde_json::to_value(schema).expect("a schema is JSON"));
        }
    }
    let mut schemas = Schemas::new();
    for add in [
        add::<SendRequest>,
        add::<Target>,
        add::<Edit>,
        add::<React>,
        add::<JoinRequest>,
        add::<LeaveRequest>,
        add::<HistoryRequest>,
        add::<SearchRequest>,
        add::<TypingRequest>,
        add::<ReadRequest>,
        add::<ProfileRequest>,
        add::<SentAck>,
        add::<JoinAck>,
        add::<LeaveAck>,
        add::<HistoryAck>,
        add::<SearchAck>,
        add::<RoomsAck>,
        add::<DoneAck>,
        add::<ReadAck>,
        add::<ProfileAck>,
        add::<RejectAck>,
        add::<NativeMessage>,
        add::<NativeChange>,
        add::<PresenceEvent>,
        add::<TypingEvent>,
        add::<ReadEvent>,
        add::<ProfileEvent>,
        add::<GapEvent>,
        add::<NoticeEvent>,
    ] {
        add(&mut schemas);
    }
    schemas
}

/// A field that may be left out is left out, and is never `null`.
fn without_null(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for property in properties.values_mut() {
        if let Some(types) = property.get("type").and_then(Value::as_array) {
            let one = types.iter().find(|one| **one != json!("null")).cloned();
            property["type"] = one.expect("a type beside null");
        }
        if let Some(types) = property.get("oneOf").and_then(Value::as_array) {
            let one = types.iter().find(|one| one["type"] != json!("null")).cloned();
            *property = one.expect("a type beside null");
        }
    }
}

fn take(derived: &mut Schemas, name: &str) -> Value {
    derived.remove(name).unwrap_or_else(|| panic!("no type {name} was derived"))
}

/// The same object without some fields, and with others that are always there.
fn narrowed(schema: &Value, without: &[&str], with: &[&str]) -> Value {
    let mut schema = schema.clone();
    let properties = schema["properties"].as_object_mut().expect("an object");
    properties.retain(|name, _| !without.contains(&name.as_str()));
    assert!(with.iter().all(|name| properties.contains_key(*name)), "{with:?}");
    let required = schema["required"].as_array_mut().expect("a list");
    required.extend(with.iter().map(|name| json!(name)));
    schema
}

/// An object with the fields of both.
fn merged(one: &Value, other: &Value) -> Value {
    let mut schema = one.clone();
    let properties = schema["properties"].as_object_mut().expect("an object");
    properties.extend(other["properties"].as_object().expect("an object").clone());
    let required = schema["required"].as_array_mut().expect("a list");
    required.extend(other["required"].as_array().expect("a list").iter().cloned());
    schema
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

fn one_of(names: &[&str], description: &str) -> Value {
    let each: Vec<Value> = names.iter().map(|name| reference(name)).collect();
    json!({ "description": description, "oneOf": each })
}

fn add_requests(schemas: &mut Schemas, derived: &mut Schemas) {
    let send = take(derived, "SendRequest");
    let goals = ["room", "to", "socket"];
    let names = ["SendToRoom", "SendToUser", "SendToConnection"];
    for (goal, name) in goals.into_iter().zip(names) {
        let others: Vec<&str> = goals.into_iter().filter(|other| *other != goal).collect();
        let schema = narrowed(&send, &others, &[goal]);
        schemas.insert(name.to_owned(), schema);
    }
    let send = one_of(&names, "The argument of `send`: a room, a user or a connection.");
    schemas.insert("SendRequest".to_owned(), send);

    let target = take(derived, "Target");
    let edit = merged(&target, &take(derived, "Edit"));
    let react = merged(&target, &take(derived, "React"));
    for (name, schema) in [("edit", edit), ("delete", target), ("react", react)] {
        schemas.insert(format!("{}Request", capitalized(name)), schema);
    }
    schemas.insert("RoomsRequest".to_owned(), json!({ "type": "object" }));
}

/// The three kinds of changes, each as an event and as an item of a list.
fn add_changes(schemas: &mut Schemas, derived: &mut Schemas) {
    let change = take(derived, "NativeChange");
    let mut listed = Vec::new();
    for (name, without, with) in [
        ("edit", ["emoji", "on"].as_slice(), ["text"].as_slice()),
        ("delete", &["text", "emoji", "on"], &[]),
        ("react", &["text"], &["emoji", "on"]),
    ] {
        let described = |schema, place| {
            described(schema, &format!("A change of an earlier message, as `{name}` {place}."))
        };
        let schema = narrowed(&change, without, with);
        let event = described(narrowed(&schema, &["type"], &[]), "tells it");
        let mut item = described(narrowed(&schema, &[], &["type"]), "told it, in a list");
        item["properties"]["type"] = json!({ "const": name });
        let name = capitalized(name);
        schemas.insert(format!("{name}Event"), event);
        schemas.insert(format!("Listed{name}"), item);
        listed.push(format!("Listed{name}"));
    }
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let listed = one_of(&listed, "A change among those that a client missed.");
    schemas.insert("ListedChange".to_owned(), listed);
    replace_reference(derived, "NativeChange", "ListedChange");
}

/// Pages show messages in the shape of the client's dialect.
fn add_pages(schemas: &mut Schemas, derived: &mut Schemas) {
    let page = take(derived, "PageMessage");
    take(derived, "Shape");
    let state = take(derived, "ShownState");
    let acks = ["HistoryAck", "SearchAck"].map(|name| (name, take(derived, name)));
    for dialect in ["Native", "Plain"] {
        let mut message = derived[&format!("{dialect}Message")].clone();
        let fields = state["properties"].as_object().expect("an object").clone();
        message["properties"].as_object_mut().expect("an object").extend(fields);
        message["description"] = page["description"].clone();
        let name = format!("{dialect}PageMessage");
        schemas.insert(name.clone(), message);
        for (ack, schema) in &acks {
            // Only native clients can search.
            if dialect == "Plain" && *ack == "SearchAck" {
                continue;
            }
            let ack = format!("{dialect}{ack}");
            schemas.insert(ack.clone(), schema.clone());
            let text = "/properties/messages/items";
            let items = schemas[&ack].pointer_mut(text).expect("it has messages");
            *items = reference(&name);
        }
    }
    take(derived, "PlainMessage");
}

fn replace_reference(schemas: &mut Schemas, from: &str, to: &str) {
    let text = serde_json::to_string(schemas).expect("schemas are JSON");
    let text = text.replace(&reference(from).to_string(), &reference(to).to_string());
    *schemas = serde_json::from_str(&text).expect("it was JSON");
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

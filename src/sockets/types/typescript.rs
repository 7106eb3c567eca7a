//! TypeScript declarations, from JSON Schemas.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::schemas::{EVENTS, REQUESTS, Schemas};

/// The plain ones are written by hand: `user-message` takes any JSON, and answers what `send`
/// answers. The end-to-end tests check them against the wire, as all others.
const PLAIN: &str = r#"
/** What a client of the profile `plain`, the default, receives. */
export interface PlainServerToClientEvents {
  /** Somebody sent a message: what was sent, and the offset, or `null` if it is not stored. */
  message: (body: unknown, offset: string | null) => void;
  /** Messages were not delivered and cannot be replayed. */
  gap: (event: GapEvent) => void;
  /** The log began anew. */
  notice: (event: NoticeEvent) => void;
  /** A request without an ack was refused. */
  error: (event: RejectEvent) => void;
}

/** What a client of the profile `plain`, the default, sends. */
export interface PlainClientToServerEvents {
  /** Stores a message in the lobby. With an `id`, a retry shows once. */
  "user-message": (
    ...args:
      | [body: unknown]
      | [body: unknown, id: string]
      | [body: unknown, ack: Ack<SentAck>]
      | [body: unknown, id: string, ack: Ack<SentAck>]
  ) => void;
  /** Reads a room page by page. */
  history: (argument: HistoryRequest, ack: Ack<PlainHistoryAck>) => void;
}
"#;

/// `renew` is the command that makes the file again.
pub fn declarations(schemas: &Schemas, renew: &str) -> String {
    let mut text = format!(
        "// The types of Roomcast's events, for the generics of socket.io-client. They are made \
         from the\n// types of the server. To renew them: {renew}\n"
    );
    for (name, schema) in schemas {
        text.push('\n');
        text.push_str(&comment(schema, ""));
        if schema["properties"].is_object() {
            writeln!(text, "export interface {name} {}", object(schema, "")).expect("a String");
        } else {
            let kind = type_of(schema, "");
            let is_long = name.len() + kind.len() > 80;
            let kind = if is_long {
                format!("\n  | {}", kind.replace(" | ", "\n  | "))
            } else {
                format!(" {kind}")
            };
            writeln!(text, "export type {name} ={kind};").expect("a String");
        }
    }
    text.push_str(
        "\n/** The answer to a request: `answer.ok` tells which of the two it is. */\n\
         export type Answer<T> = T | RejectAck;\n\
         \n/** Takes the answer to a request. */\n\
         export type Ack<T> = (answer: Answer<T>) => void;\n\
         \n/** What a client of the native dialect receives. */\n\
         export interface ServerToClientEvents {\n",
    );
    for event in EVENTS {
        let offset = if event.stored { ", offset: string" } else { "" };
        let (name, argument, summary) = (event.name, event.argument, event.summary);
        let line = format!("  {name}: (event: {argument}{offset}) => void;");
        writeln!(text, "  /** {summary} */\n{line}").expect("a String");
    }
    text.push_str(
        "}\n\n/** What a client of the native dialect sends. */\n\
         export interface ClientToServerEvents {\n",
    );
    for request in REQUESTS {
        let (name, argument, answer) = (request.name, request.argument, request.answer);
        let line = format!("  {name}: (argument: {argument}, ack: Ack<{answer}>) => void;");
        writeln!(text, "  /** {} */\n{line}", request.summary).expect("a String");
    }
    text.push_str("}\n");
    text.push_str(PLAIN);
    text
}

fn comment(schema: &Value, indent: &str) -> String {
    let Some(description) = schema["description"].as_str() else { return String::new() };
    let lines: Vec<&str> = description.lines().collect();
    if let [line] = lines.as_slice() {
        return format!("{indent}/** {line} */\n");
    }
    let lines: String = lines.iter().map(|line| format!("{indent} * {line}\n")).collect();
    format!("{indent}/**\n{lines}{indent} */\n")
}

fn type_of(schema: &Value, indent: &str) -> String {
    let united = |members: &[Value]| {
        let each: Vec<String> = members.iter().map(|one| type_of(one, indent)).collect();
        each.join(" | ")
    };
    if let Some(path) = schema["$ref"].as_str() {
        return path.rsplit('/').next().unwrap_or(path).to_owned();
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(members) = schema["oneOf"].as_array() {
        return united(members);
    }
    match schema["type"].as_str() {
        Some("string") => "string".to_owned(),
        Some("boolean") => "boolean".to_owned(),
        Some("integer") => "number".to_owned(),
        Some("array") => format!("{}[]", type_of(&schema["items"], indent)),
        Some("object") if schema["properties"].is_object() => object(schema, indent),
        Some("object") => "Record<string, never>".to_owned(),
        None => "unknown".to_owned(),
        Some(other) => panic!("a schema of type {other}, which nothing here had so far: {schema}"),
    }
}

/// The fields that are always there come first, in the order of the Rust type.
fn object(schema: &Value, indent: &str) -> String {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let optional = properties.keys().map(String::as_str).filter(|name| !required.contains(name));
    let inner = format!("{indent}  ");
    let mut text = "{\n".to_owned();
    for name in required.iter().copied().chain(optional) {
        let mark = if required.contains(&name) { "" } else { "?" };
        let kind = type_of(&properties[name], &inner);
        text.push_str(&comment(&properties[name], &inner));
        writeln!(text, "{inner}{name}{mark}: {kind};").expect("a String");
    }
    text + indent + "}"
}

//! Makes `static/types/` from the Rust types: TypeScript for frontends, and an AsyncAPI document.
//!
//! Both come from the same JSON Schemas, which utoipa derives in tests only: the program has none
//! of this, and serves the files as they are in the repository.

mod asyncapi;
mod schemas;
mod typescript;

use std::{collections::BTreeSet, fs, path::PathBuf};

use self::schemas::{EVENTS, REQUESTS};
use crate::{
    dialects::native::{
        events::change_name,
        requests::{self, NAMES},
    },
    domain::{
        name::{Emoji, MessageId},
        record::{Body, Change},
    },
};

const RENEW: &str = "cargo test --lib renew_the_types -- --ignored";

/// The files, and what the Rust types give for them.
fn files() -> [(PathBuf, String); 2] {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("static/types");
    let schemas = schemas::all();
    let mut document =
        serde_json::to_string_pretty(&asyncapi::document(&schemas)).expect("a document is JSON");
    document.push('\n');
    [
        (dir.join("roomcast.d.ts"), typescript::declarations(&schemas, RENEW)),
        (dir.join("asyncapi.json"), document),
    ]
}

#[test]
fn the_types_that_clients_get_are_those_of_the_code() {
    for (path, right) in files() {
        let file = fs::read_to_string(&path).unwrap_or_default();
        let name = path.display();
        assert!(file == right, "{name} is not what the Rust types give; renew it: {RENEW}");
    }
}

#[test]
#[ignore = "it writes the files that another test compares"]
fn renew_the_types() {
    for (path, right) in files() {
        fs::write(path, right).unwrap();
    }
}

#[test]
fn every_request_of_the_native_dialect_has_a_type() {
    let typed: BTreeSet<&str> = REQUESTS.iter().map(|request| request.name).collect();
    let known: BTreeSet<&str> = NAMES.into_iter().chain(["history"]).collect();
    assert_eq!(typed, known);
    let fresh_id = || MessageId::parse("m1").unwrap();
    for name in typed {
        assert!(requests::decode(name, &[], fresh_id).is_some(), "{name} is no request");
    }
}

#[test]
fn every_event_of_the_native_dialect_has_a_type() {
    let sources =
        [include_str!("../../dialects/native/mod.rs"), include_str!("../../dialects/event.rs")];
    let text = Body::from_json("\"a\"");
    let react = Change::React { emoji: Emoji::parse("a").unwrap(), on: true };
    let changes = [Change::Edit(text), Change::Delete, react];
    let mut known: BTreeSet<&str> = changes.iter().map(change_name).collect();
    for source in sources {
        let calls = source.split("::new(\"").skip(1);
        known.extend(calls.filter_map(|rest| rest.split('"').next()));
    }
    known.insert("error");
    let typed: BTreeSet<&str> = EVENTS.iter().map(|event| event.name).collect();
    assert_eq!(typed, known);
}

//! JSON that is carried and not interpreted.

use serde_json::value::RawValue;

/// A body is one JSON value: it goes out as it came in.
pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("a body is one JSON value")
}

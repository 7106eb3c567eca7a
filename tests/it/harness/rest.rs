//! A client of the REST API that holds every answer against the node's own OpenAPI document.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    http::{self, Headers, Http, Response},
    node::Node,
};

pub const ROOT: &str = "/api/v1";

/// Asks one node as one user.
#[derive(Debug)]
pub struct Rest {
    host: SocketAddr,
    authorization: String,
    document: Value,
}

impl Rest {
    /// `secret` is a user's token or an API key.
    pub async fn new(node: &Node, secret: &str) -> Self {
        let document = http::get(node.address, &format!("{ROOT}/openapi.json"), &[]).await;
        let document = serde_json::from_slice(&document.body).expect("the document is JSON");
        Self { host: node.address, authorization: format!("Bearer {secret}"), document }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        read(&self.send("GET", path, &[], b"").await)
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        let headers = [("Content-Type", "application/json")];
        read(&self.send("PATCH", path, &headers, body.to_string().as_bytes()).await)
    }

    pub async fn post(&self, path: &str, key: Option<&str>, body: Value) -> (u16, Value) {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(key.map(|key| ("Idempotency-Key", key)));
        read(&self.send("POST", path, &headers, body.to_string().as_bytes()).await)
    }

    /// Posts a text to a room; returns the answer.
    pub async fn say(&self, room: &str, text: &str) -> Value {
        let path = format!("/rooms/{room}/messages");
        let (status, answer) = self.post(&path, None, json!({ "text": text })).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// One request as this user, with these headers and bytes.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: &[u8],
    ) -> Response {
        let own = [("Authorization", self.authorization.as_str())];
        self.send_as_it_is(method, path, &[&own, headers].concat(), body).await
    }

    pub async fn send_as_it_is(
        &self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: &[u8],
    ) -> Response {
        let mut http = Http::open(self.host).await.expect("loopback works");
        let answer = http.request(method, &format!("{ROOT}{path}"), headers, body).await;
        let answer = answer.expect("the server answers");
        self.check(method, path, &answer);
        answer
    }

    /// Whether the answer is what the document says of it.
    fn check(&self, method: &str, path: &str, answer: &Response) {
        let what = format!("{method} {path}: {} {}", answer.status, answer.text());
        let value: Value = serde_json::from_slice(&answer.body).expect(&what);
        if answer.status >= 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
            assert_eq!(value["status"], answer.status, "{what}");
            self.matches(&json!({ "$ref": "#/components/schemas/Problem" }), &value, &what);
            return;
        }
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        let operation = &self.operations(path)[method.to_ascii_lowercase()];
        let response = &operation["responses"][answer.status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        self.matches(schema, &value, &what);
    }

    /// What the document lists for a path, without its query.
    fn operations(&self, path: &str) -> &Value {
        let path = path.split('?').next().expect("a path");
        let fits = |template: &str| {
            let (mut here, mut there) = (path.split('/'), template.split('/'));
            here.clone().count() == there.clone().count()
                && here.all(|part| there.next().is_some_and(|of| of == part || of.starts_with('{')))
        };
        let paths = self.document["paths"].as_object().expect("paths");
        let found = paths.iter().find(|(template, _)| fits(template));
        found.unwrap_or_else(|| panic!("the document does not list {path}")).1
    }

    /// The parts of JSON Schema that the document uses. A field that the schema does not name is
    /// wrong, too.
    fn matches(&self, schema: &Value, value: &Value, what: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let schema = self.document.pointer(pointer);
            return self.matches(schema.unwrap_or_else(|| panic!("{reference}")), value, what);
        }
        match schema["type"].as_str() {
            Some("string") => assert!(value.is_string(), "{value} in {what}"),
            Some("boolean") => assert!(value.is_boolean(), "{value} in {what}"),
            Some("integer") => {
                let number = value.as_u64().unwrap_or_else(|| panic!("{value} in {what}"));
                let minimum = schema["minimum"].as_u64().unwrap_or_default();
                let maximum = schema["maximum"].as_u64().unwrap_or(u64::MAX);
                assert!((minimum..=maximum).contains(&number), "{value} in {what}");
            }
            Some("array") => {
                let items = value.as_array().unwrap_or_else(|| panic!("{value} in {what}"));
                items.iter().for_each(|item| self.matches(&schema["items"], item, what));
            }
            Some("object") => {
                let fields = value.as_object().unwrap_or_else(|| panic!("{value} in {what}"));
                for (name, field) in fields {
                    let schema = &schema["properties"][name];
                    assert!(schema.is_object(), "`{name}` is not in the document: {what}");
                    self.matches(schema, field, what);
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    let name = name.as_str().expect("a name");
                    assert!(fields.contains_key(name), "`{name}` is missing: {what}");
                }
            }
            _ => panic!("{schema} has no type that is known here: {what}"),
        }
    }
}

pub fn read(answer: &Response) -> (u16, Value) {
    (answer.status, serde_json::from_slice(&answer.body).expect("an answer is JSON"))
}

/// A text as one part of a path, or as a value of a query.
pub fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

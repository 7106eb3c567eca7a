//! Requests and answers of Engine.IO as Node's server has them, and what the operator is told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    client::{Client, Options, Refusal, Transport},
    eventually,
    http::{self, Http, Response},
    node::Node,
};

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const UNSUPPORTED: &str = "Unsupported protocol version";
/// Well-formed, and of no session.
const UNKNOWN: &str = "AAAAAAAAAAAAAAHs";

async fn ask(node: &Node, method: &str, query: &str, upgrade: bool) -> Response {
    let headers: &[(&str, &str)] = if upgrade { &UPGRADE } else { &[] };
    let path = format!("/socket.io/?{query}");
    http::request(node.address, method, &path, headers).await.expect("the node answers")
}

fn assert_error(answer: &Response, code: u8, message: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {}", answer.text());
    assert_eq!(answer.text(), format!(r#"{{"code":{code},"message":"{message}"}}"#), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
}

/// Log lines with this text, of which there must be so many.
async fn told(node: &Node, text: &str, count: usize) -> Vec<Value> {
    let told = eventually("the operator is told", PATIENCE, async || {
        Some(node.logs(text)).filter(|lines| lines.len() >= count)
    });
    let told = told.await;
    assert_eq!(told.len(), count, "{told:?}");
    told
}

/// The session of a client that polls.
async fn session(node: &Node) -> String {
    let open = ask(node, "GET", "EIO=4&transport=polling", false).await.text();
    let open: Value = serde_json::from_str(open.trim_start_matches('0')).expect("an open packet");
    open["sid"].as_str().expect("a sid").to_owned()
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_nodes_code_and_words() {
    let node = Node::memory().await;
    let sid = session(&node).await;
    for (method, query, upgrade, code, message) in [
        ("GET", "EIO=4", false, 0, "Transport unknown"),
        ("GET", "EIO=4&transport=pigeon", true, 0, "Transport unknown"),
        ("GET", "EIO=4&transport=polling&sid=UNKNOWN", false, 1, "Session ID unknown"),
        ("POST", "EIO=4&transport=polling&sid=none", false, 1, "Session ID unknown"),
        ("GET", "EIO=4&transport=websocket&sid=UNKNOWN", true, 1, "Session ID unknown"),
        ("POST", "EIO=4&transport=polling", false, 2, "Bad handshake method"),
        ("DELETE", "EIO=4&transport=polling", false, 2, "Bad handshake method"),
        ("GET", "EIO=4&transport=websocket", false, 3, "Bad request"),
        ("GET", "EIO=4&transport=websocket&sid=KNOWN", false, 3, "Bad request"),
        ("GET", "EIO=4&transport=polling", true, 3, "Bad request"),
        ("GET", "EIO=4&transport=polling&sid=KNOWN", true, 3, "Bad request"),
        ("PUT", "EIO=4&transport=polling&sid=KNOWN", false, 3, "Bad request"),
        ("GET", "EIO=3&transport=polling&sid=KNOWN", false, 3, "Bad request"),
        ("GET", "EIO=3&transport=polling", false, 5, "Unsupported protocol version"),
        ("GET", "EIO=3&transport=websocket", true, 5, "Unsupported protocol version"),
        ("GET", "transport=websocket", true, 5, "Unsupported protocol version"),
    ] {
        let query = query.replace("UNKNOWN", UNKNOWN).replace("KNOWN", &sid);
        let answer = ask(&node, method, &query, upgrade).await;
        assert_error(&answer, code, message, &format!("{method} {query} {upgrade}"));
    }
}

#[tokio::test]
async fn a_websocket_handshake_that_is_not_whole_is_refused_before_the_101() {
    let node = Node::memory().await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    for missing in 0..UPGRADE.len() {
        let mut headers = UPGRADE.to_vec();
        let (name, _) = headers.remove(missing);
        let answer = http::get(node.address, path, &headers).await;
        assert_error(&answer, 3, "Bad request", name);
    }
    let answer = http::get(node.address, path, &UPGRADE).await;
    assert_eq!(answer.status, 101, "all of it is a handshake");
}

#[tokio::test]
async fn a_transport_that_is_not_offered_is_unknown() {
    for (offered, other, upgrade) in
        [("polling", "websocket", true), ("websocket", "polling", false)]
    {
        let node = Node::start(&["--data", "memory", "--transports", offered]).await;
        let query = format!("EIO=4&transport={other}");
        let answer = ask(&node, "GET", &query, upgrade).await;
        assert_error(&answer, 0, "Transport unknown", offered);
    }
}

#[tokio::test]
async fn an_error_of_a_session_has_a_code_too() {
    let node = Node::memory().await;
    let path = |sid: &str| format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let post = async |sid: &str, body: &[u8]| {
        let mut http = Http::open(node.address).await.expect("the node accepts");
        http.request("POST", &path(sid), &[], body).await.expect("the node answers")
    };
    let sid = session(&node).await;
    assert_error(&post(&sid, b"abc").await, 3, "Bad request", "no packet");
    assert_error(
        &http::get(node.address, &path(&sid), &[]).await,
        1,
        "Session ID unknown",
        "ended",
    );

    let sid = session(&node).await;
    let large = post(&sid, &vec![b'4'; 256 << 10]).await;
    assert_eq!(large.status, 413);
    assert_eq!(large.text(), r#"{"code":3,"message":"Bad request"}"#);

    // A session whose websocket is open does not poll.
    let upgraded = Client::connected(node.address, Options::new(Transport::Upgrade)).await;
    upgraded.request("user-message", &[json!("the upgrade is through")]).await;
    let polled = http::get(node.address, &path(&upgraded.sid), &[]).await;
    assert_error(&polled, 3, "Bad request", "upgraded");
    assert_error(&post(&upgraded.sid, b"41").await, 3, "Bad request", "upgraded");
}

#[tokio::test]
async fn no_answer_of_a_poll_may_be_cached() {
    let node = Node::memory().await;
    let open = ask(&node, "GET", "EIO=4&transport=polling", false).await;
    let handshake: Value =
        serde_json::from_str(open.text().trim_start_matches('0')).expect("an open packet");
    let sid = handshake["sid"].as_str().expect("a sid");
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let mut http = Http::open(node.address).await.expect("the node accepts");
    let posted = http.request("POST", &path, &[], b"40").await.expect("an answer");
    let polled = http::get(node.address, &path, &[]).await;
    let foreign = [("Origin", "https://elsewhere.example")];
    let forbidden = http::get(node.address, "/socket.io/?EIO=4&transport=polling", &foreign).await;
    for (answer, status) in [(open, 200), (posted, 200), (polled, 200), (forbidden, 403)] {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{}", answer.text());
    }
}

async fn with_token(node: &Node, transport: Transport, token: &Value) -> Result<Client, Refusal> {
    let options = Options::new(transport).auth(json!({ "token": token }));
    Client::connect(node.address, options).await
}

/// The user of a client, as others see it.
async fn user(client: &Client) -> Value {
    client.request("user-message", &[json!("here")]).await;
    let page = client.request("history", &[json!({ "room": "lobby", "limit": 1 })]).await;
    page["messages"][0]["from"].clone()
}

#[tokio::test]
async fn a_token_of_any_length_makes_the_same_user() {
    let node = Node::memory().await;
    for length in [1, 256, 257, 440, 9_000, 16 << 10] {
        let token = json!("j".repeat(length));
        let first = with_token(&node, Transport::WebSocket, &token).await.expect("admitted");
        let second = with_token(&node, Transport::Polling, &token).await.expect("admitted");
        assert_eq!(user(&first).await, user(&second).await, "{length} bytes");
        // All of it counts, not its beginning.
        let other = json!(format!("{}x", "j".repeat(length - 1)));
        let third = with_token(&node, Transport::WebSocket, &other).await.expect("admitted");
        assert_ne!(user(&first).await, user(&third).await, "{length} bytes");
    }
}

#[tokio::test]
async fn an_empty_token_is_none() {
    let node = Node::memory().await;
    for token in [json!(""), Value::Null] {
        let first = with_token(&node, Transport::WebSocket, &token).await.expect("admitted");
        let second = with_token(&node, Transport::WebSocket, &token).await.expect("admitted");
        assert_ne!(user(&first).await, user(&second).await, "{token}: two guests");
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused_at_once_and_the_operator_told_once() {
    let node = Node::memory().await;
    for _ in 0..3 {
        for (transport, upgrade) in [("polling", false), ("websocket", true)] {
            let asked = std::time::Instant::now();
            let answer = ask(&node, "GET", &format!("EIO=3&transport={transport}"), upgrade).await;
            assert_error(&answer, 5, "Unsupported protocol version", transport);
            assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        }
    }
    let told = told(&node, "refused a client of another protocol version", 1).await;
    assert_eq!((&told[0]["level"], &told[0]["fields"]["eio"]), (&json!("WARN"), &json!("3")));
    assert!(told[0]["fields"]["message"].as_str().is_some_and(|text| text.contains("update")));
}

#[tokio::test]
async fn a_refused_origin_is_told_to_the_operator_once_with_what_to_do() {
    let node = Node::memory().await;
    let origins = ["https://one.example", "https://two.example", "https://one.example"];
    for origin in origins {
        let path = "/socket.io/?EIO=4&transport=polling";
        let answer = http::get(node.address, path, &[("Origin", origin)]).await;
        assert_eq!(answer.status, 403);
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((&body["code"], &body["message"]), (&json!(4), &json!("Forbidden")));
    }
    let told = told(&node, "refused an origin", 2).await;
    let fields = |name: &'static str| told.iter().map(move |line| line["fields"][name].clone());
    assert!(fields("origin").eq(["https://one.example", "https://two.example"].map(Value::from)));
    assert!(fields("host").all(|host| host == json!(node.address.to_string())), "{told:?}");
    for line in &told {
        assert_eq!(line["level"], json!("WARN"));
        let message = line["fields"]["message"].as_str().expect("a message");
        assert!(message.contains("--cors-origin"), "{message}");
    }
}

#[tokio::test]
async fn what_is_told_to_the_operator_is_bounded() {
    let node = Node::memory().await;
    let mut http = Http::open(node.address).await.expect("the node accepts");
    for n in 0..300 {
        let origin = format!("https://{n}.example");
        let path = format!("/socket.io/?EIO={n}x&transport=polling");
        http.request("GET", &path, &[], b"").await.expect("an answer");
        http.request("GET", &path, &[("Origin", &origin)], b"").await.expect("an answer");
    }
    for text in ["refused an origin", "refused a client of another protocol version"] {
        told(&node, text, 100).await;
    }
}

#[tokio::test]
async fn a_proxy_that_drops_the_upgrade_is_told_to_the_operator_once() {
    let node = Node::memory().await;
    for _ in 0..2 {
        ask(&node, "GET", "EIO=4&transport=websocket", false).await;
    }
    let told = told(&node, "without the header Upgrade", 1).await;
    assert_eq!(told[0]["level"], json!("WARN"));
}

#[tokio::test]
async fn socket_io_and_its_client_can_have_another_path() {
    let node = Node::start(&["--data", "memory", "--socket-path", "/chat/ws"]).await;
    let polling = "/chat/ws/?EIO=4&transport=polling";
    let open = node.get(polling).await;
    assert_eq!(open.status, 200, "{}", open.text());
    let handshake: Value =
        serde_json::from_str(open.text().trim_start_matches('0')).expect("an open packet");
    let session = format!("{polling}&sid={}", handshake["sid"].as_str().expect("a sid"));
    let mut http = Http::open(node.address).await.expect("the node accepts");
    http.request("POST", &session, &[], b"40").await.expect("an answer");
    let reply = node.get(&session).await.text();
    assert!(reply.starts_with("40{") && reply.contains("pid"), "{reply}");

    let websocket = "/chat/ws/?EIO=4&transport=websocket";
    assert_eq!(http::get(node.address, websocket, &UPGRADE).await.status, 101);
    let foreign = [("Origin", "https://elsewhere.example")];
    assert_eq!(http::get(node.address, polling, &foreign).await.status, 403);
    assert_error(&node.get("/chat/ws/?EIO=3&transport=polling").await, 5, UNSUPPORTED, "EIO=3");
    assert_eq!(node.get("/socket.io/?EIO=4&transport=polling").await.status, 404);

    let client = node.get("/chat/ws/socket.io.js").await;
    assert_eq!(client.status, 200);
    for page in ["/", "/js/connection.js"] {
        let text = node.get(page).await.text();
        assert!(text.contains("\"/chat/ws/"), "{page} names another path");
        assert!(!text.contains("\"/socket.io/"), "{page} names the default path");
    }
    // A browser that knows the page of another path gets this one.
    let usual = Node::memory().await;
    let tag = |page: Response| page.header("etag").map(str::to_owned);
    assert_ne!(tag(usual.get("/").await), tag(node.get("/").await));
}

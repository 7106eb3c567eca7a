//! Every refusal below /api/v1 is a problem with a code, whoever refuses: router, reader, chat, log.

use serde_json::{Value, json};

use super::list;
use crate::harness::{
    PATIENCE,
    chat::{two_nodes, with_token},
    client::Client,
    http::{self, Http},
    node::Node,
    redis::{Keeps, Redis},
    rest::{ROOT, Rest, escaped, read},
};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn a_request_without_credentials_is_told_how_to_give_them() {
    let node = Node::memory().await;
    let rest = Rest::new(&node, "ann").await;
    for value in [None, Some("Bearer"), Some("Bearer "), Some("Basic YTpi"), Some("ann"), Some("")]
    {
        let headers: Vec<_> = value.map(|value| ("Authorization", value)).into_iter().collect();
        let answer = rest.send_as_it_is("GET", "/rooms", &headers, b"").await;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{value:?}");
        let (status, problem) = read(&answer);
        assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")), "{value:?}");
    }
    let headers = [("Authorization", "bearer ann")];
    let answer = rest.send_as_it_is("GET", "/me", &headers, b"").await;
    assert_eq!(read(&answer), rest.get("/me").await, "the name of the scheme has no case");
}

#[tokio::test]
async fn the_document_lists_exactly_the_methods_that_are_served() {
    let node = Node::memory().await;
    let rest = Rest::new(&node, "ann").await;
    let document = http::get(node.address, &format!("{ROOT}/openapi.json"), &[]).await;
    let document: Value = serde_json::from_slice(&document.body).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 5, "{paths:?}");
    for (template, operations) in paths {
        let path = template.replace("{room}", "attic").replace("{user}", "ann");
        let listed = operations.as_object().expect("operations");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = rest.send(method, &path, &[], b"").await;
            if listed.contains_key(&method.to_ascii_lowercase()) {
                assert!(![404, 405].contains(&answer.status), "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed = answer.header("allow").expect("the methods that are served");
            let mut allowed: Vec<_> = allowed.split(',').map(str::to_lowercase).collect();
            allowed.retain(|method| method != "head");
            let mut listed: Vec<_> = listed.keys().cloned().collect();
            listed.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(allowed, listed, "{path}");
        }
    }
}

#[tokio::test]
async fn every_wrong_request_is_a_problem_with_its_code() {
    let node = Node::memory().await;
    let rest = Rest::new(&node, "ann").await;
    let long = "x".repeat(65);
    let many = "a b c d e f g h i j k l m n o p q r s t u".replace(' ', "+");
    let positions = ["", "7", "e-", "-7", "e-x", "e-%2B7", "e-18446744073709551616"];
    let paged = ["before", "after", "around"]
        .iter()
        .flat_map(|name| positions.map(|at| format!("/rooms/attic/messages?{name}={at}")));
    let limits = ["0", "201", "-1", "x", "", "1.5"].map(|n| format!("/rooms/a/messages?limit={n}"));
    let bad = [
        "/rooms/%20/messages".to_owned(),
        "/rooms//messages".to_owned(),
        "/rooms/%00/messages".to_owned(),
        "/rooms/%ff/messages".to_owned(),
        "/rooms/%C3%28/members".to_owned(),
        format!("/rooms/{long}/messages"),
        format!("/direct/{long}/messages"),
        "/rooms/a/messages?before=e-1&after=e-1".to_owned(),
        "/rooms/a/messages?before=e-1&before=e-2".to_owned(),
        "/search".to_owned(),
        "/search?room=a".to_owned(),
        "/search?text=a".to_owned(),
        "/search?room=a&text=".to_owned(),
        "/search?room=a&text=%2A".to_owned(),
        format!("/search?room=a&text={many}"),
        format!("/search?room=a&text={long}{long}"),
        "/search?room=a&text=a&before=7".to_owned(),
    ];
    for path in bad.into_iter().chain(paged).chain(limits) {
        let (status, problem) = rest.get(&path).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{path}: {problem}");
    }
    for room in ["dm:bob:eve", "dm:a", "dm:", "user:ann", "user:", "socket:0a", "socket:"] {
        for part in ["messages", "members"] {
            let (status, problem) = rest.get(&format!("/rooms/{}/{part}", escaped(room))).await;
            assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{room}");
        }
        let path = format!("/rooms/{room}/messages");
        assert_eq!(rest.post(&path, None, json!({ "text": "x" })).await.0, 403, "{room}");
    }
    for user in ["a:b", "nobody"] {
        let path = format!("/direct/{user}/messages");
        let (status, problem) = rest.post(&path, None, json!({ "text": "x" })).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{user}");
    }
    for path in ["", "/", "/nothing", "/rooms/a", "/rooms/a/b/c", "/openapi.yaml", "/me/"] {
        let answer = http::get(node.address, &format!("{ROOT}{path}"), &[]).await;
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let (status, problem) = read(&answer);
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{path}");
    }
}

#[tokio::test]
async fn every_wrong_body_is_a_problem_with_its_code() {
    let node = Node::memory().await;
    let rest = Rest::new(&node, "ann").await;
    let path = "/rooms/attic/messages";
    let nested = format!(r#"{{"text":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let long_id = json!({ "text": "x", "id": "i".repeat(65) }).to_string();
    let bad: [&[u8]; 17] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"\"text\"",
        br#"["hello", "id"]"#,
        b"{}",
        br#"{"text":null}"#,
        br#"{"text":7}"#,
        br#"{"text":["a"]}"#,
        br#"{"text":"a","text":"b"}"#,
        br#"{"text":"\ud800"}"#,
        b"{\"text\":\"\xff\"}",
        br#"{"text":"a","id":7}"#,
        nested.as_bytes(),
        long_id.as_bytes(),
    ];
    for body in bad {
        let (status, problem) = read(&rest.send("POST", path, &[JSON], body).await);
        let shown = String::from_utf8_lossy(body.get(..40).unwrap_or(body)).into_owned();
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{shown}");
    }
    for key in ["", " ", &"k".repeat(65)] {
        let answer = rest.post(path, Some(key), json!({ "text": "x" })).await;
        assert_eq!(answer.0, 400, "{key:?}");
    }
    for kind in [&[][..], &[("Content-Type", "text/plain")]] {
        let (status, problem) = read(&rest.send("POST", path, kind, br#"{"text":"x"}"#).await);
        assert_eq!((status, &problem["code"]), (415, &json!("unsupported_media_type")));
    }
    for (name, value) in [("name", json!("")), ("name", json!(7)), ("picture", json!("http://a"))] {
        let (status, problem) = rest.patch("/me", json!({ name: value })).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{name} {value}");
    }
    assert_eq!(list(&rest.get(path).await.1).len(), 0, "nothing was stored");
}

#[tokio::test]
async fn sizes_are_bounded_like_those_of_sockets() {
    let args = ["--data", "memory", "--message-bytes-max", "1KiB", "--transport-bytes-max", "2KiB"];
    let node = Node::start(&args).await;
    let rest = Rest::new(&node, "ann").await;
    let path = "/rooms/attic/messages";
    let text = |bytes: usize| json!({ "text": "x".repeat(bytes) });
    assert_eq!(rest.post(path, None, text(1_022)).await.0, 201);
    for bytes in [1_023, 2_040] {
        let (status, problem) = rest.post(path, None, text(bytes)).await;
        assert_eq!((status, &problem["code"]), (413, &json!("too_large")), "{bytes}: {problem}");
    }
}

/// The page of a browser may ask from an origin that may connect.
#[tokio::test]
async fn cors_allows_what_the_api_needs_to_the_origins_of_sockets() {
    let node = Node::memory().await;
    let asked = |origin| {
        [
            ("Origin", origin),
            ("Access-Control-Request-Method", "PATCH"),
            ("Access-Control-Request-Headers", "authorization,content-type,idempotency-key"),
        ]
    };
    let path = format!("{ROOT}/me");
    let ask = async |origin| {
        let answer = http::request(node.address, "OPTIONS", &path, &asked(origin)).await;
        answer.expect("the server answers")
    };
    let answer = ask("http://localhost:5173").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:5173"));
    let methods = answer.header("access-control-allow-methods").expect("methods");
    assert!(methods.contains("PATCH") && methods.contains("POST"), "{methods}");
    let headers = answer.header("access-control-allow-headers").expect("headers");
    assert!(headers.contains("authorization") && headers.contains("idempotency-key"), "{headers}");
    let answer = ask("https://elsewhere.example").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_the_request() {
    let node = Node::memory().await;
    let mut http = Http::open(node.address).await.expect("loopback works");
    let head = format!(
        "POST {ROOT}/rooms/attic/messages HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer ann\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
        node.address
    );
    http.write(head.as_bytes()).await.expect("it takes the head");
    let answer = http.read("POST").await.expect("an answer");
    let (status, problem) = read(&answer);
    assert_eq!((status, &problem["code"]), (408, &json!("timeout")));
}

#[tokio::test]
async fn while_the_log_is_away_the_answer_says_so_and_when_to_come_back() {
    let mut redis = Redis::start(Keeps::Nothing).await;
    let [node, _other] = two_nodes(&redis, &[]).await;
    let rest = Rest::new(&node, "ann").await;
    rest.say("attic", "before").await;
    redis.kill();
    node.wait_unready(PATIENCE).await;
    let answer = rest.send("POST", "/rooms/attic/messages", &[JSON], br#"{"text":"x"}"#).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!((answer.status, &read(&answer).1["code"]), (503, &json!("unavailable")));
    for path in ["/rooms", "/rooms/attic/messages", "/rooms/attic/members", "/me"] {
        let (status, problem) = rest.get(path).await;
        assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{path}");
    }
}

#[tokio::test]
async fn a_message_that_was_not_confirmed_is_stored_once_when_it_is_repeated() {
    let redis = Redis::start(Keeps::Nothing).await;
    let [node, other] = two_nodes(&redis, &[]).await;
    let rest = Rest::new(&node, "ann").await;
    rest.say("attic", "before").await;
    // The node knows the name of a user that is online there, so it asks Redis nothing before.
    let ann = Client::connected(node.address, with_token("ann")).await;
    assert_eq!(ann.request("profile", &[json!({ "name": "Ann" })]).await["ok"], json!(true));
    redis.freeze();
    // Without a key the answer names the one that the node has made.
    let path = "/rooms/attic/messages";
    let (status, problem) = rest.post(path, None, json!({ "text": "x" })).await;
    assert_eq!((status, &problem["code"]), (504, &json!("unconfirmed")));
    let detail = problem["detail"].as_str().expect("a text");
    let (_, key) = detail.split_once("Idempotency-Key: ").expect("the key to repeat it with");
    let key = key.trim_end_matches('\'');
    redis.thaw();
    for node in [&node, &other] {
        node.wait_ready(PATIENCE).await;
        let rest = Rest::new(node, "ann").await;
        assert_eq!(rest.post(path, Some(key), json!({ "text": "x" })).await.0, 201);
    }
    let (_, page) = rest.get(path).await;
    let texts: Vec<_> = list(&page).iter().map(|one| one["text"].clone()).collect();
    assert_eq!(texts, ["before", "x"]);
}

//! What a browser and a load balancer ask for: origins, the client bundle, health.

use std::{io::Read as _, time::Duration};

use tokio::time::sleep;

use crate::harness::{
    client::{Client, Options, Refusal, Transport},
    http::{self, Http, Response},
    node::Node,
};

const FOREIGN: &str = "https://elsewhere.example";
const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

async fn connect_from(node: &Node, transport: Transport, origin: &str) -> Result<Client, Refusal> {
    Client::connect(node.address, Options::new(transport).header("Origin", origin)).await
}

fn assert_forbidden(answer: Result<Client, Refusal>, what: &str) {
    match answer {
        Err(Refusal::Handshake(response)) => assert_eq!(response.status, 403, "{what}"),
        other => panic!("{what}: not refused: {other:?}"),
    }
}

#[tokio::test]
async fn by_default_pages_of_this_server_and_of_localhost_may_connect() {
    let node = Node::memory().await;
    let own = format!("http://{}", node.address);
    for transport in Transport::ALL {
        for origin in [own.as_str(), "http://localhost:5173", "http://127.0.0.1:3000"] {
            connect_from(&node, transport, origin).await.expect("an allowed origin");
        }
        for origin in [FOREIGN, "null", "https://localhost.example"] {
            assert_forbidden(connect_from(&node, transport, origin).await, origin);
        }
    }
}

#[tokio::test]
async fn origins_that_are_configured_replace_the_default() {
    let allowed = "https://chat.example";
    let node = Node::start(&["--data", "memory", "--cors-origin", allowed]).await;
    for transport in Transport::ALL {
        connect_from(&node, transport, allowed).await.expect("an allowed origin");
        let other = "http://localhost:5173";
        assert_forbidden(connect_from(&node, transport, other).await, other);
    }
}

#[tokio::test]
async fn cors_is_answered_as_express_examples_do() {
    let node = Node::memory().await;
    let origin = "http://localhost:5173";
    let header = |response: &Response, name: &str| response.header(name).map(str::to_lowercase);

    let response = http::get(node.address, POLLING, &[("Origin", origin)]).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("access-control-allow-origin"), Some(origin));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    let vary = header(&response, "vary").expect("a cache must know");
    assert!(vary.contains("origin"), "{vary}");

    let asked = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-own"),
    ];
    let response = http::request(node.address, "OPTIONS", POLLING, &asked).await;
    let response = response.expect("the server answers");
    assert!(matches!(response.status, 200 | 204), "{}", response.status);
    assert_eq!(response.header("access-control-allow-origin"), Some(origin));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    let methods = header(&response, "access-control-allow-methods").expect("methods");
    assert!(methods.contains("get") && methods.contains("post"), "{methods}");
    let headers = header(&response, "access-control-allow-headers").expect("headers");
    assert!(headers.contains("content-type") && headers.contains("x-own"), "{headers}");

    let response = http::get(node.address, POLLING, &[("Origin", FOREIGN)]).await;
    assert_eq!(response.status, 403);
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn the_official_client_is_served_with_etag_304_and_gzip() {
    let node = Node::memory().await;
    let names =
        ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js"];
    for name in names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.map")]) {
        let path = format!("/socket.io/{name}");
        let plain = http::get(node.address, &path, &[]).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        let kind = if name.ends_with(".map") { "json" } else { "javascript" };
        let content_type = plain.header("content-type").expect("a type");
        assert!(content_type.contains(kind), "{path}: {content_type}");
        assert!(plain.body.len() > 10_000, "{path}: {} bytes", plain.body.len());

        let packed = http::get(node.address, &path, &[("Accept-Encoding", "gzip")]).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        assert!(packed.body.len() < plain.body.len() / 2, "{path}: {}", packed.body.len());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.body[..])
            .read_to_end(&mut unpacked)
            .expect("gzip can be read");
        assert!(unpacked == plain.body, "{path}: gzip holds something else");

        for answer in [&plain, &packed] {
            let etag = answer.header("etag").expect("an ETag");
            for accepts in ["identity", "gzip"] {
                let asked = [("If-None-Match", etag), ("Accept-Encoding", accepts)];
                let again = http::get(node.address, &path, &asked).await;
                assert_eq!((again.status, again.body.len()), (304, 0), "{path} {etag} {accepts}");
            }
        }
        let other = http::get(node.address, &path, &[("If-None-Match", "\"other\"")]).await;
        assert_eq!(other.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_node_says_that_it_lives_and_is_ready() {
    let node = Node::memory().await;
    assert_eq!(node.get("/healthz").await.status, 200);
    node.wait_ready(crate::harness::PATIENCE).await;
}

/// A load balancer that sends a request over a connection that is being closed loses it.
#[tokio::test]
async fn an_idle_connection_is_kept() {
    let node = Node::memory().await;
    let mut idle = Http::open(node.address).await.expect("loopback works");
    idle.request("GET", "/healthz", &[], b"").await.expect("it is open");
    sleep(Duration::from_secs(12)).await;
    let answer = idle.request("GET", "/healthz", &[], b"").await.expect("it is still open");
    assert_eq!(answer.status, 200);
}

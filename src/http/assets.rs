//! Serves the chat page, the official socket.io-client bundle and types for frontends from the
//! binary.
//!
//! Every file has a route of its own, made at start from the embedded files: no other path can be
//! read. A browser caches the files but asks each time whether they have changed, so a new server
//! version also updates every page.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    handler::HandlerWithoutStateExt as _,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use rust_embed::{Embed, EmbeddedFile};
use tower_http::{compression::CompressionLayer, set_header::SetResponseHeaderLayer};

use super::static_dir::StaticDir;
use crate::random;

/// Everything below `static/`. A debug build reads the files on each request, so an edited page
/// needs only a reload.
#[derive(Embed)]
#[folder = "static/"]
struct Files;

/// The folder of the unchanged files of the npm package.
const CLIENT: &str = "vendor/socket.io-client/";

/// The folder of the types, whose URLs are the same whatever page is served.
const TYPES: &str = "types/";

/// The page may run its own scripts and styles and connect to its own server, and nothing else.
/// `ws:` and `wss:` are named because some browsers do not count them as `'self'`.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The path of Socket.IO as the page's files name it.
const SOCKET_PATH: &str = "/socket.io/";

/// Only a debug build, which reads the files on each request, can miss one.
const GONE: StatusCode = StatusCode::NOT_FOUND;

const NOSNIFF: [(HeaderName, &str); 1] = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// The page and its files at `/`, `/socket.io/socket.io.js` and its siblings, `/types/`, and a 404
/// for the rest. With a directory of the user's own, its files are at `/` and the page is at `/roomcast/`.
///
/// The user's files get no content security policy: what they may run is not for us to say.
///
/// `socket_path` is the path of Socket.IO, which has the client beside it.
pub fn routes(static_dir: Option<StaticDir>, socket_path: &str) -> Router {
    let page = |base| page(base, socket_path);
    let client = client(socket_path).merge(types()).layer(CompressionLayer::new());
    match static_dir {
        None => page("/").fallback(|uri| not_found(uri, "/")).merge(client),
        Some(dir) => {
            let missing = (|uri| not_found(uri, "/roomcast/")).into_service();
            page("/roomcast/")
                .route("/roomcast", get(|| async { Redirect::temporary("/roomcast/") }))
                .merge(client)
                .fallback_service(dir.service(missing))
        }
    }
}

/// The URLs in the page are relative to `base`, but for those of the client: its path is always
/// the same.
fn page(base: &str, socket_path: &str) -> Router {
    let at: Arc<str> = socket_path.into();
    let socket_path = Arc::clone(&at);
    let index = get(move |headers| serve_page("index.html", socket_path, headers));
    let mut page = Router::new().route(base, index);
    let is_of_page = |path: &Cow<str>| !path.starts_with(CLIENT) && !path.starts_with(TYPES);
    for path in Files::iter().filter(is_of_page) {
        let route = format!("{base}{path}");
        let socket_path = Arc::clone(&at);
        page = page.route(&route, get(move |headers| serve_page(path, socket_path, headers)));
    }
    page.layer(always(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(always(header::REFERRER_POLICY, "no-referrer"))
        .layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(CompressionLayer::new())
}

/// Only the bundles: the licence and the hashes are for readers of the repository.
fn client(socket_path: &str) -> Router {
    let mut client = Router::new();
    for path in Files::iter() {
        let Some(name) = path.strip_prefix(CLIENT).filter(|name| name.starts_with("socket.io"))
        else {
            continue;
        };
        let route = format!("{socket_path}{name}");
        client = client.route(&route, get(move |headers| serve_client(path, headers)));
    }
    client.layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

/// Types for frontends in TypeScript, and the AsyncAPI document.
fn types() -> Router {
    let mut types = Router::new();
    for path in Files::iter().filter(|path| path.starts_with(TYPES)) {
        let route = format!("/{path}");
        let socket_path: Arc<str> = SOCKET_PATH.into();
        types = types.route(&route, get(move |headers| serve_page(path, socket_path, headers)));
    }
    types.layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
}

fn always(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// The tag is weak because the same file is also sent compressed.
#[expect(clippy::unused_async, reason = "axum's handlers are async")]
async fn serve_page(path: impl AsRef<str>, socket_path: Arc<str>, headers: HeaderMap) -> Response {
    let Some(mut file) = Files::get(path.as_ref()) else {
        return GONE.into_response();
    };
    let mut hash = random::to_hex(&file.metadata.sha256_hash()[..8]);
    if *socket_path != *SOCKET_PATH
        && let Ok(text) = str::from_utf8(&file.data)
        && text.contains(SOCKET_PATH)
    {
        file.data = text.replace(SOCKET_PATH, &socket_path).into_bytes().into();
        hash.push_str(&random::to_hex(socket_path.as_bytes()));
    }
    let content_type = match file.metadata.mimetype() {
        // Elsewhere `.ts` is a film.
        _ if path.as_ref().ends_with(".d.ts") => "text/plain; charset=utf-8".to_owned(),
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    answer(file, &headers, format!("W/\"{hash}\""), "no-cache", content_type)
}

/// As the Node.js server does it: the version is the tag, and a source map is JSON.
#[expect(clippy::unused_async, reason = "axum's handlers are async")]
async fn serve_client(path: impl AsRef<str>, headers: HeaderMap) -> Response {
    let Some(file) = Files::get(path.as_ref()) else {
        return GONE.into_response();
    };
    let kind = if path.as_ref().ends_with(".map") { "json" } else { "javascript" };
    let content_type = format!("application/{kind}; charset=utf-8");
    let tag = format!("\"{}\"", client_version());
    answer(file, &headers, tag, "public, max-age=0", content_type)
}

fn client_version() -> &'static str {
    include_str!("../../static/vendor/socket.io-client/VERSION").trim()
}

fn answer(
    file: EmbeddedFile,
    asked: &HeaderMap,
    tag: String,
    cache: &'static str,
    content_type: String,
) -> Response {
    let known = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|tags| is_among(&tag, tags));
    let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, cache.to_owned())];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, content_type)], file.data.into_owned()).into_response()
}

/// Whether an `If-None-Match` contains this tag. A proxy that compresses may have made it weak.
fn is_among(tag: &str, tags: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    tags.split(',').any(|one| one.trim() == "*" || opaque(one) == opaque(tag))
}

#[expect(clippy::unused_async, reason = "axum's handlers are async")]
async fn not_found(uri: Uri, chat: &str) -> Response {
    let words = format!("There is nothing at {}. The chat is at {chat}.\n", uri.path());
    (StatusCode::NOT_FOUND, NOSNIFF, words).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Method, Request},
    };
    use sha2::{Digest, Sha256};
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: Method, path: &str, headers: &[(&str, &str)]) -> (Response, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = routes(None, SOCKET_PATH).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1024 * 1024).await.unwrap();
        (Response::from_parts(parts, Body::empty()), body.to_vec())
    }

    async fn fetch(path: &str, headers: &[(&str, &str)]) -> (Response, Vec<u8>) {
        ask(Method::GET, path, headers).await
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn sha256(bytes: &[u8]) -> String {
        random::to_hex(&Sha256::digest(bytes))
    }

    #[tokio::test]
    async fn the_page_has_what_the_tutorials_taught() {
        let (response, body) = fetch("/", &[]).await;
        let html = String::from_utf8(body).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), "text/html; charset=utf-8");
        for id in ["messages", "message", "sendBtn"] {
            assert!(html.contains(&format!("id=\"{id}\"")), "#{id} is gone");
        }
    }

    #[tokio::test]
    async fn every_file_the_page_names_is_served() {
        let (_, body) = fetch("/", &[]).await;
        let html = String::from_utf8(body).unwrap();
        let named = ["href=\"", "src=\""].into_iter().flat_map(|name| html.split(name).skip(1));
        let named: Vec<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            let path = format!("/{}", name.trim_start_matches('/'));
            let (response, body) = fetch(&path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert!(!body.is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn the_page_runs_nothing_inline_and_says_so() {
        let (response, body) = fetch("/", &[]).await;
        let policy = header(&response, "content-security-policy");
        assert!(policy.contains("connect-src 'self' ws: wss:"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "referrer-policy"), "no-referrer");
        let html = String::from_utf8(body).unwrap();
        for inline in ["<style", " style=", " onclick=", "<script>"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }

    #[tokio::test]
    async fn an_unchanged_page_is_not_sent_again() {
        let (first, _) = fetch("/", &[]).await;
        let tag = header(&first, "etag").to_owned();
        assert!(tag.len() > 10, "{tag}");
        assert_eq!(header(&first, "cache-control"), "no-cache");
        for known in [tag.clone(), format!("\"other\", {tag}"), "*".into()] {
            let (again, body) = fetch("/", &[("if-none-match", &known)]).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(header(&again, "etag"), tag);
            assert!(body.is_empty());
        }
        let (changed, _) = fetch("/", &[("if-none-match", "W/\"0000000000000000\"")]).await;
        assert_eq!(changed.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn the_client_is_served_like_node_does() {
        for (name, content_type) in [
            ("socket.io.js", "application/javascript; charset=utf-8"),
            ("socket.io.js.map", "application/json; charset=utf-8"),
            ("socket.io.min.js", "application/javascript; charset=utf-8"),
            ("socket.io.min.js.map", "application/json; charset=utf-8"),
            ("socket.io.esm.min.js", "application/javascript; charset=utf-8"),
            ("socket.io.esm.min.js.map", "application/json; charset=utf-8"),
            ("socket.io.msgpack.min.js", "application/javascript; charset=utf-8"),
            ("socket.io.msgpack.min.js.map", "application/json; charset=utf-8"),
        ] {
            let path = format!("/socket.io/{name}");
            let (response, body) = fetch(&path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(header(&response, "content-type"), content_type, "{path}");
            assert_eq!(header(&response, "etag"), "\"4.8.4\"", "{path}");
            assert_eq!(header(&response, "cache-control"), "public, max-age=0", "{path}");
            assert!(body.len() > 10_000, "{path}");
            for tag in ["\"4.8.4\"", "W/\"4.8.4\""] {
                let (again, body) = fetch(&path, &[("if-none-match", tag)]).await;
                assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
                assert!(body.is_empty(), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn the_types_are_served_as_text_and_json() {
        for (path, content_type) in [
            ("/types/roomcast.d.ts", "text/plain; charset=utf-8"),
            ("/types/asyncapi.json", "application/json"),
        ] {
            let (response, body) = fetch(path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(header(&response, "content-type"), content_type, "{path}");
            assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
            assert!(body.len() > 10_000, "{path}");
        }
    }

    #[tokio::test]
    async fn what_is_large_goes_out_compressed_if_the_browser_can() {
        let path = "/socket.io/socket.io.js";
        let (plain, whole) = fetch(path, &[]).await;
        assert_eq!(header(&plain, "content-encoding"), "");
        let (packed, body) = fetch(path, &[("accept-encoding", "gzip, deflate, br")]).await;
        assert_eq!(header(&packed, "content-encoding"), "gzip");
        assert_eq!(header(&packed, "vary"), "accept-encoding");
        assert_eq!(body.get(..2), Some(&[0x1f, 0x8b][..]), "not a gzip header");
        assert!(body.len() * 3 < whole.len(), "{} of {}", body.len(), whole.len());
    }

    #[tokio::test]
    async fn head_answers_as_get_without_the_body() {
        for path in ["/", "/socket.io/socket.io.js"] {
            let (response, body) = ask(Method::HEAD, path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert!(!header(&response, "etag").is_empty(), "{path}");
            assert!(body.is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_in_words() {
        for path in ["/nothing", "/../Cargo.toml", "/vendor/socket.io-client/LICENSE", "/css"] {
            let (response, body) = fetch(path, &[]).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
            assert!(String::from_utf8(body).unwrap().contains("There is nothing at"), "{path}");
        }
        let (response, _) = ask(Method::POST, "/", &[]).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn the_client_is_the_official_one() {
        let file = |name: &str| Files::get(&format!("{CLIENT}{name}")).unwrap().data;
        let sums = String::from_utf8(file("SHA256SUMS").into_owned()).unwrap();
        let mut listed = vec!["SHA256SUMS".to_owned(), "VERSION".to_owned()];
        for line in sums.lines().filter(|line| !line.starts_with('#')) {
            let (sum, name) = line.split_once("  ").unwrap();
            assert_eq!(sha256(&file(name)), sum, "{name} was changed");
            listed.push(name.to_owned());
        }
        let mut present: Vec<String> =
            Files::iter().filter_map(|path| path.strip_prefix(CLIENT).map(str::to_owned)).collect();
        listed.sort();
        present.sort();
        assert_eq!(listed, present);
        let banner = format!("Socket.IO v{}", client_version());
        let bundle = String::from_utf8(file("socket.io.js").into_owned()).unwrap();
        assert!(bundle.contains(&banner), "the bundle is not of version {}", client_version());
    }
}

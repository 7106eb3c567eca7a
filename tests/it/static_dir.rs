//! `--static`: what the user's own directory serves, what it never serves, and what is refused.

use std::{fs, os::unix::fs::symlink, path::Path};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::harness::{
    http::{self, Response},
    node::Node,
};

fn site(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    dir
}

async fn serve(dir: &Path) -> Node {
    Node::start(&["--data", "memory", "--static", dir.to_str().expect("UTF-8")]).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.header(name).unwrap_or_default()
}

#[tokio::test]
async fn the_users_page_is_at_the_root_and_its_files_below() {
    let dir = site(&[
        ("index.html", "<h1>Mine: ä</h1>"),
        ("style.css", "h1 { color: red }"),
        ("js/app.js", "io()"),
        ("data/a b.json", "{}"),
        ("docs/index.html", "<h1>Docs</h1>"),
        ("noext", "\u{1}"),
    ]);
    let node = serve(dir.path()).await;
    for (path, kind, text) in [
        ("/", "text/html; charset=utf-8", "<h1>Mine: ä</h1>"),
        ("/index.html", "text/html; charset=utf-8", "<h1>Mine: ä</h1>"),
        ("/?room=attic", "text/html; charset=utf-8", "<h1>Mine: ä</h1>"),
        ("/style.css", "text/css; charset=utf-8", "h1 { color: red }"),
        ("/js/app.js", "text/javascript; charset=utf-8", "io()"),
        ("/data/a%20b.json", "application/json", "{}"),
        ("/docs/", "text/html; charset=utf-8", "<h1>Docs</h1>"),
        ("/noext", "application/octet-stream", "\u{1}"),
    ] {
        let response = node.get(path).await;
        assert_eq!((response.status, response.text().as_str()), (200, text), "{path}");
        assert_eq!(header(&response, "content-type"), kind, "{path}");
        assert_eq!(header(&response, "cache-control"), "no-cache", "{path}");
        assert_eq!(response.header("content-security-policy"), None, "{path}");

        let tag = [("If-None-Match", header(&response, "etag"))];
        let again = http::get(node.address, path, &tag).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        let head = http::request(node.address, "HEAD", path, &[]).await.expect("an answer");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    let docs = node.get("/docs").await;
    assert_eq!((docs.status, header(&docs, "location")), (307, "/docs/"));
    let post = http::request(node.address, "POST", "/", &[]).await.expect("an answer");
    assert_eq!(post.status, 405);
}

#[tokio::test]
async fn a_file_that_changed_is_sent_again() {
    let dir = site(&[("index.html", "first")]);
    let node = serve(dir.path()).await;
    let first = node.get("/").await;
    fs::write(dir.path().join("index.html"), "and second").expect("it can be written");
    let tag = [("If-None-Match", header(&first, "etag"))];
    let second = http::get(node.address, "/", &tag).await;
    assert_eq!((second.status, second.text().as_str()), (200, "and second"));
}

#[tokio::test]
async fn the_client_health_and_the_chat_page_stay_beside_it() {
    let dir = site(&[
        ("index.html", "mine"),
        ("healthz", "mine"),
        ("socket.io/socket.io.js", "mine"),
        ("socket.io/own.js", "mine"),
        ("roomcast/index.html", "mine"),
        ("types/roomcast.d.ts", "mine"),
        ("types/own.d.ts", "mine"),
    ]);
    let node = serve(dir.path()).await;
    assert_ne!(node.get("/healthz").await.text(), "mine");
    for name in ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.js.map"] {
        let bundle = node.get(&format!("/socket.io/{name}")).await;
        assert!(bundle.status == 200 && bundle.body.len() > 10_000, "{name}");
    }
    let types = node.get("/types/roomcast.d.ts").await;
    assert!(types.text().contains("interface ServerToClientEvents"), "{}", types.text());
    assert_eq!(node.get("/types/own.d.ts").await.text(), "mine");
    let polling = node.get("/socket.io/?EIO=4&transport=polling").await;
    assert!(polling.text().starts_with("0{\"sid\""), "{}", polling.text());

    let short = node.get("/roomcast").await;
    assert_eq!((short.status, header(&short, "location")), (307, "/roomcast/"));
    let page = node.get("/roomcast/").await;
    assert!(page.text().contains("<title>Roomcast</title>"), "{}", page.text());
    assert!(header(&page, "content-security-policy").contains("script-src 'self'"));
    for name in ["js/main.js", "css/tokens.css", "icon.svg"] {
        assert_eq!(node.get(&format!("/roomcast/{name}")).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn nothing_outside_of_the_directory_and_no_hidden_file_is_served() {
    let outside = site(&[("secret.txt", "secret"), ("sub/secret.txt", "secret")]);
    let dir = site(&[
        ("index.html", "mine"),
        (".env", "secret"),
        (".git/config", "secret"),
        ("sub/.htpasswd", "secret"),
        ("empty/.keep", "secret"),
        ("index/index.html/file", "secret"),
    ]);
    let at = |name: &str| dir.path().join(name);
    symlink(outside.path().join("secret.txt"), at("link.txt")).expect("a link");
    symlink(outside.path(), at("away")).expect("a link");
    symlink("../../../../../etc/passwd", at("sub/passwd")).expect("a link");
    symlink(".env", at("env.txt")).expect("a link");
    symlink("loop", at("loop")).expect("a link");
    symlink("index.html", at(".shown")).expect("a link");
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    let name = outside.path().file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let node = serve(dir.path()).await;
    let long = format!("/{}", "x".repeat(5_000));
    let sibling = format!("/..%2f{name}/secret.txt");
    for path in [
        "/link.txt",
        "/away",
        "/away/",
        "/away/secret.txt",
        "/sub/passwd",
        "/env.txt",
        "/loop",
        "/pipe",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git",
        "/.shown",
        "/sub/.htpasswd",
        "/empty/",
        "/index/",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/sub/../../secret.txt",
        "/..%5csecret.txt",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/etc%00/passwd",
        "/index.html%00.txt",
        "/index.html/x",
        "/index.html/",
        "/%ff",
        "/nothing",
        &long,
        &sibling,
    ] {
        let response = node.get(path).await;
        assert_eq!(response.status, 404, "{path}: {}", response.text());
        assert!(response.text().contains("The chat is at /roomcast/"), "{path}");
    }
}

#[tokio::test]
async fn a_link_that_stays_inside_is_followed_and_so_is_the_directory_itself() {
    let (old, new) = (site(&[("index.html", "old")]), site(&[("index.html", "new")]));
    symlink("index.html", old.path().join("home.html")).expect("a link");
    let links = tempfile::tempdir().expect("a temporary directory");
    let current = links.path().join("current");
    symlink(old.path(), &current).expect("a link");
    let node = serve(&current).await;
    assert_eq!(node.get("/home.html").await.text(), "old");

    fs::remove_file(&current).expect("it can be removed");
    symlink(new.path(), &current).expect("a link");
    assert_eq!(node.get("/").await.text(), "new");
}

#[tokio::test]
async fn a_wrong_directory_is_refused_at_start_with_the_reason() {
    let dir = site(&[("dist/index.html", "built"), ("src/app.js", "")]);
    let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    for (wrong, why) in [
        (at("nothing"), "No such file or directory"),
        (at("src/app.js"), "Not a directory"),
        (at("src"), "has no index.html"),
    ] {
        let (code, lines) = Node::run(&["--data", "memory", "--static", &wrong], &[]).await;
        let line = lines.last().expect("it says why");
        assert_eq!(code, 64, "{lines:?}");
        assert!(line.contains("--static") && line.contains(&wrong) && line.contains(why), "{line}");
    }
    let env = [("ROOMCAST_STATIC", at("src")), ("ROOMCAST_DATA", "memory".into())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(Node::run(&[], &env).await.0, 64);
}

//! Rules that the compiler does not check: which module may import which, and which files may use a
//! crate. ARCHITECTURE.md gives the reasons.

mod circles;

use std::{fs, path::Path};

/// Each top module of `src/` and what it may import. Leaves come last: every module may import
/// them.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["server"]),
    (
        "server",
        &["sockets", "http", "chat", "delivery", "dialects", "transport", "store", "domain"],
    ),
    ("sockets", &["chat", "delivery", "dialects", "transport", "store", "domain"]),
    ("http", &["chat", "dialects", "store", "domain"]),
    ("chat", &["delivery", "dialects", "transport", "store", "domain"]),
    ("delivery", &["dialects", "transport", "store", "domain"]),
    ("dialects", &["domain"]),
    ("transport", &[]),
    ("store", &["domain"]),
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("shutdown", &["domain"]),
    ("clock", &["domain"]),
    ("random", &["domain"]),
];
const LEAVES: &[&str] = &["config", "telemetry", "shutdown", "clock", "random"];
/// These modules may not use the leaves: they need no clock, configuration or task.
const WITHOUT_LEAVES: &[&str] = &["domain", "config", "telemetry", "shutdown", "clock", "random"];

/// Crates, and the path prefixes of the files that may use them.
const DOORS: &[(&str, &[&str])] = &[
    ("fred", &["src/store/redis"]),
    ("rusqlite", &["src/store/sqlite"]),
    ("socketioxide", &["src/sockets", "src/transport", "src/delivery/broadcaster.rs"]),
    (
        "socketioxide_core",
        &["src/sockets", "src/transport", "src/delivery/subscriptions.rs", "src/dialects/mod.rs"],
    ),
    ("engineioxide", &[]),
    ("socketioxide_parser_common", &["src/transport"]),
    ("axum", &["src/http", "src/server", "src/sockets"]),
    ("clap", &["src/config"]),
    ("toml", &["src/dialects/events"]),
    // Outside of `http` it derives schemas in tests only.
    (
        "utoipa",
        &[
            "src/http/api",
            "src/dialects",
            "src/domain/reject.rs",
            "src/sockets/answers.rs",
            "src/sockets/types",
        ],
    ),
];

/// Written in parts, so that this file does not break its own rule.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("C:", "\\"),
];

/// Folders with files from others, generated files, or files that are not committed.
const SKIPPED: &[&str] =
    &[".git", "target", "node_modules", "vendor", "data", "Cargo.lock", "package-lock.json"];

/// The rules that a file breaks; `path` is relative to the repository.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let rust = path.ends_with(".rs");
    if rust && !text.starts_with("//! ") {
        found.push("does not open with a `//!` heading".into());
    }
    if rust && path.starts_with("src/") {
        let code = without_comments(text);
        found.extend(forbidden_imports(path, &code));
        found.extend(closed_doors(path, &code));
    }
    for (number, line) in text.lines().enumerate() {
        let marker = MARKERS.iter().find(|marker| words(line).any(|word| word == **marker));
        let machine = MACHINE_PATHS.iter().find(|prefix| line.contains(**prefix));
        if let Some(what) = marker.or(machine) {
            found.push(format!("line {} has {what}", number + 1));
        }
    }
    found
}

fn forbidden_imports(path: &str, code: &str) -> Vec<String> {
    let own = layer(path);
    if own == "lib" {
        return Vec::new();
    }
    let Some((_, may)) = LAYERS.iter().find(|(layer, _)| *layer == own) else {
        return vec![format!("`{own}` is no layer: say in tidy.rs where it stands")];
    };
    let leaves = if WITHOUT_LEAVES.contains(&own) { &[] } else { LEAVES };
    imported(path, code)
        .into_iter()
        .filter(|name| LAYERS.iter().any(|(layer, _)| layer == name))
        .filter(|name| *name != own && !may.contains(name) && !leaves.contains(name))
        .map(|name| format!("`{own}` names `{name}`"))
        .collect()
}

fn closed_doors(path: &str, code: &str) -> Vec<String> {
    DOORS
        .iter()
        .filter(|(_, doors)| !doors.iter().any(|door| path.starts_with(door)))
        .filter(|(name, _)| names_crate(code, name))
        .map(|(name, doors)| format!("names the crate `{name}`, which stops at {doors:?}"))
        .collect()
}

/// The top module of a file.
fn layer(path: &str) -> &str {
    let inside = path.trim_start_matches("src/");
    let first = inside.split('/').next().unwrap_or(inside);
    first.trim_end_matches(".rs")
}

/// First segments of every path from the crate's root, in whatever form it is written.
fn imported<'a>(path: &str, code: &'a str) -> Vec<&'a str> {
    let depth = path.trim_end_matches("/mod.rs").matches('/').count();
    let up = "super::".repeat(depth);
    let mut names = Vec::new();
    for root in ["crate::", "roomcast::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code.get(..at).unwrap_or_default();
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = code.get(at + root.len()..).unwrap_or_default().trim_start();
            match rest.strip_prefix('{') {
                Some(group) => names.extend(group_heads(group)),
                None => names.extend(words(rest).next()),
            }
        }
    }
    names
}

/// The first words of the members of `{a::b, c::{d, e}}`, without the opening brace.
fn group_heads(group: &str) -> Vec<&str> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(words(group.get(start..at).unwrap_or_default()).next());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).unwrap_or_default();
        let after = code.get(at + name.len()..).unwrap_or_default();
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && (!before.ends_with("::") || before.ends_with(" ::"));
        let used =
            after.starts_with("::") || before.ends_with("use ") && after.starts_with([';', ' ']);
        begins && used
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Comments may name what code must not. This simple parser is enough for code that rustfmt has
/// written.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let line = if line.trim_start().starts_with("//") { "" } else { line };
        code.push_str(line.split_once(" // ").map_or(line, |(code, _comment)| code));
        code.push('\n');
    }
    code
}

/// Every text file of the repository, with its path.
fn files(directory: &Path, root: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() {
            files(&path, root, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let inside = path.strip_prefix(root).expect("below the root");
            found.push((inside.display().to_string(), text));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(root, root, &mut all);
    assert!(all.iter().any(|(path, _)| path == "src/lib.rs"), "the repository was not read");
    let found: Vec<String> = all
        .iter()
        .flat_map(|(path, text)| {
            violations(path, text).into_iter().map(move |what| format!("{path}: {what}"))
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_file_without_a_heading_is_found() {
    assert_eq!(violations("src/chat/mod.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(violations("tests/it/a.rs", "// Not a heading.\n").len(), 1);
    assert_eq!(violations("src/chat/mod.rs", "//! What it is for.\n"), Vec::<String>::new());
}

#[test]
fn an_import_that_goes_up_is_found_however_it_is_written() {
    for (path, code, wrong) in [
        ("src/domain/name.rs", "use crate::store::Store;", 1),
        ("src/domain/name.rs", "use crate::clock;", 1),
        ("src/store/redis.rs", "use crate::{domain::name::RoomName, delivery::relay};", 1),
        ("src/store/redis.rs", "use crate::{\n    domain::{a, b},\n    chat::{Chat, c},\n};", 1),
        ("src/store/redis.rs", "let a = super::super::sockets::wire::b();", 1),
        ("src/store/mod.rs", "use super::server;", 1),
        ("src/chat/mod.rs", "use super::sockets::User;", 1),
        ("src/sockets/mod.rs", "use crate::http::page;", 1),
        ("src/http/api.rs", "use crate::sockets;", 1),
        ("src/config.rs", "use crate::store::RetentionPolicy;", 1),
        ("src/main.rs", "use roomcast::{config::Config, chat::Chat, server};", 1),
        ("src/manager.rs", "", 1),
        ("src/store/redis.rs", "use crate::{domain::{store, chat}, clock};\nuse super::queue;", 0),
        ("src/sockets/mod.rs", "use crate::{config::Config, chat::Chat};", 0),
        ("src/delivery/relay.rs", "use crate::store::Delivery; // crate::server", 0),
        ("src/chat/mod.rs", "// Not crate::server.\nlet a = mycrate::server::b();", 0),
        ("src/lib.rs", "pub mod server;", 0),
    ] {
        let text = format!("//! A heading.\n{code}\n");
        assert_eq!(violations(path, &text).len(), wrong, "{path}: {code}");
    }
}

#[test]
fn a_crate_beyond_its_door_is_found() {
    for (path, code, wrong) in [
        ("src/chat/mod.rs", "use fred::prelude::Client;", 1),
        ("src/store/sqlite.rs", "fn a() -> fred::types::Value {", 1),
        ("src/store/mod.rs", "use rusqlite;", 1),
        ("src/http/mod.rs", "use socketioxide::SocketIo;", 1),
        ("src/store/mod.rs", "use axum::Router;", 1),
        ("src/transport/lane.rs", "let a: ::axum::Router = b;", 1),
        ("src/telemetry.rs", "#[derive(clap::Parser)]", 1),
        ("src/server.rs", "use socketioxide_core::adapter::Adapter;", 1),
        ("src/store/redis.rs", "use fred::prelude::Client;", 0),
        ("src/store/redis/scripts/pump.rs", "use fred::prelude::Client;", 0),
        ("src/transport/adapter.rs", "use socketioxide_core::adapter::Adapter;", 0),
        ("src/chat/mod.rs", "let fred = alfred::b(); let a = own::fred::b();", 0),
    ] {
        let text = format!("//! A heading.\n{code}\n");
        assert_eq!(violations(path, &text).len(), wrong, "{path}: {code}");
    }
}

#[test]
fn a_marker_or_a_path_of_a_machine_is_found() {
    for marker in MARKERS {
        assert_eq!(violations("README.md", &format!("a\n// {marker}: b\n")).len(), 1);
        assert_eq!(violations("README.md", &format!("MY{marker}S\n")).len(), 0);
    }
    for prefix in MACHINE_PATHS {
        assert_eq!(violations("Makefile", &format!("run {prefix}a\n")).len(), 1);
    }
}

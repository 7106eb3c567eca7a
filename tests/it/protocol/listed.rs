//! The list of the official cases: whole, and each counterpart is a test.

use std::{collections::HashSet, fs, path::Path};

/// How many cases the two official suites have.
const ENGINE_CASES: usize = 24;
const SOCKET_CASES: usize = 32;

#[derive(Debug, Default)]
struct Case {
    name: String,
    counterpart: Option<String>,
    reason: Option<String>,
}

/// The part of TOML that the list is written in: `[[engine]]`, `[[socket]]`, and `key = "text"`.
fn cases(text: &str) -> Vec<(String, Case)> {
    let mut cases: Vec<(String, Case)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        if let Some(suite) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            cases.push((suite.to_owned(), Case::default()));
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no pair: {line}"));
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let value = value.unwrap_or_else(|| panic!("no text: {line}")).to_owned();
        let (_, case) = cases.last_mut().expect("a case begins with its suite");
        match key {
            "name" => case.name = value,
            "counterpart" => case.counterpart = Some(value),
            "reason" => case.reason = Some(value),
            _ => panic!("unknown key: {line}"),
        }
    }
    cases
}

/// The source of every test in a folder.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("a file can be read"));
        }
    }
    all
}

#[test]
fn every_official_case_is_listed_with_its_counterpart_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("tests/protocol-suite.toml")).expect("the list");
    let cases = cases(&list);
    let of = |suite: &str| cases.iter().filter(|(of, _)| of == suite).count();
    assert_eq!((of("engine"), of("socket")), (ENGINE_CASES, SOCKET_CASES));
    assert_eq!(cases.len(), ENGINE_CASES + SOCKET_CASES, "a suite that there is not");

    let tests = sources(&root.join("tests/it"));
    let mut names = HashSet::new();
    for (suite, case) in &cases {
        assert!(names.insert((suite, &case.name)), "{suite}: {} is listed twice", case.name);
        assert!(case.counterpart.is_some() || case.reason.is_some(), "{}: no word", case.name);
        if let Some(counterpart) = &case.counterpart {
            let test = format!("async fn {counterpart}() {{");
            assert!(tests.contains(&test), "{}: there is no test {counterpart}", case.name);
        }
    }
}

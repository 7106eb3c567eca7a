//! Files must not import each other in a circle, and no two public types may share a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{files, without_comments};

/// Files that may import each other: mostly a module with shared declarations and its children.
/// `domain` has none.
const ONE_IDEA: &[&[&str]] = &[&[
    "chat",
    "chat::connection",
    "chat::cutover",
    "chat::events",
    "chat::memberships",
    "chat::messages",
    "chat::queries",
    "chat::sessions",
    "chat::users",
]];

/// The modules that each module imports. A module is its path in `src`, such as `store::log`.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// `(path, text)` of every source file, without comments and without inline tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(&root.join("src"), root, &mut all);
    all.retain(|(path, _)| path.ends_with(".rs"));
    assert!(all.iter().any(|(path, _)| path == "src/domain/mod.rs"), "the sources were not read");
    let code = |text: &str| {
        let code = without_comments(text);
        let end = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
        code.get(..end).unwrap_or_default().to_owned()
    };
    all.into_iter().map(|(path, text)| (path, code(&text))).collect()
}

/// The module of a file: `src/store/mod.rs` and `src/store.rs` are `store`.
fn module(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.replace('/', "::")
}

/// Every path that a use tree names: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        return vec![tree.chars().take_while(|c| is_path(*c)).collect()];
    };
    let (mut members, mut depth, mut member) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                member.push(c);
            }
        }
    }
    members.push(member);
    let inside = members.iter().filter(|member| !member.trim().is_empty());
    inside.flat_map(|member| expand(member)).map(|path| format!("{head}{path}")).collect()
}

/// The use tree, or the path, at the beginning of this code.
fn tree(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        let before = code.get(..at).unwrap_or_default();
        match c {
            '{' if depth > 0 || at == 0 || before.ends_with("::") => depth += 1,
            '}' if depth > 0 => depth -= 1,
            _ if depth > 0 || c.is_alphanumeric() || c == '_' || c == ':' => {}
            _ => return before,
        }
    }
    code
}

/// Paths from the root of the crate that a module's code names.
fn paths(module: &str, code: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut roots = vec![
        ("crate::".to_owned(), String::new()),
        ("super::".to_owned(), parent.to_owned()),
        ("self::".to_owned(), module.to_owned()),
    ];
    for line in code.lines() {
        let declared = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(child) = declared.and_then(|rest| rest.strip_suffix(';')) {
            roots.push((format!("{child}::"), format!("{module}::{child}")));
        }
    }
    let mut found = Vec::new();
    for (root, base) in roots {
        for (at, _) in code.match_indices(root.as_str()) {
            let before = code.get(..at).unwrap_or_default();
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = code.get(at + root.len()..).unwrap_or_default();
            let join = |path: String| [base.as_str(), path.as_str()].join("::");
            found.extend(expand(tree(rest)).into_iter().map(join));
        }
    }
    found
}

fn graph(sources: &[(String, String)]) -> Graph {
    let modules: BTreeSet<String> = sources.iter().map(|(path, _)| module(path)).collect();
    let target = |path: String| {
        let mut path = path.trim_start_matches("::");
        loop {
            if modules.contains(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let imports = |(path, code): &(String, String)| {
        let module = module(path);
        let targets = paths(&module, code).into_iter().filter_map(target);
        let targets = targets.filter(|target| *target != module).collect();
        (module, targets)
    };
    sources.iter().map(imports).collect()
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from.to_owned()];
    while let Some(module) = next.pop() {
        for target in graph.get(&module).into_iter().flatten() {
            if reached.insert(target.clone()) {
                next.push(target.clone());
            }
        }
    }
    reached
}

/// Every largest group of modules that import each other, directly or through others.
fn circles(graph: &Graph) -> BTreeSet<Vec<String>> {
    let reached: BTreeMap<&String, _> =
        graph.keys().map(|from| (from, reached(graph, from))).collect();
    let circle = |from: &String| {
        let together = reached[from].iter().filter(|to| reached[*to].contains(from));
        together.cloned().collect::<Vec<String>>()
    };
    graph.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found = circles(&graph(&sources()));
    let is_allowed = |circle: &&Vec<String>| {
        ONE_IDEA.iter().any(|idea| circle.iter().all(|module| idea.contains(&module.as_str())))
    };
    let found: Vec<_> = found.iter().filter(|circle| !is_allowed(circle)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_circle_is_found_however_it_is_imported() {
    let source = |path: &str, code: &str| (path.to_owned(), code.to_owned());
    for code in [
        "use crate::{\n    a::{two::X, three},\n    b,\n};",
        "use super::{two::X};",
        "fn f(x: crate::a::two::X) {}",
        "use crate::a::three;",
    ] {
        let sources = [
            source("src/a/mod.rs", "mod one;\nmod two;\nmod three;"),
            source("src/a/one.rs", code),
            source("src/a/two.rs", "use crate::a::one::Y;"),
            source("src/a/three.rs", "use super::two;"),
        ];
        let found = circles(&graph(&sources));
        assert_eq!(found.len(), 1, "{code}");
        assert!(found.iter().flatten().any(|module| module == "a::one"), "{code}");
    }
    let child = [
        source("src/a/mod.rs", "mod b;\nfn f() { b::g(); }"),
        source("src/a/b.rs", "use super::F;"),
    ];
    assert_eq!(circles(&graph(&child)), BTreeSet::from([vec!["a".into(), "a::b".into()]]));
    let tree = [source("src/a.rs", "use crate::b::B;"), source("src/b.rs", "use std::fmt;")];
    assert!(circles(&graph(&tree)).is_empty());
}

/// The names of the public types that a file declares.
fn public_types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let mut words = line.trim_start().strip_prefix("pub ")?.split(' ');
        let kind = words.next().filter(|kind| ["struct", "enum", "trait", "type"].contains(kind));
        let name = kind.and_then(|_| words.next())?;
        name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()
    })
}

#[test]
fn no_two_public_types_share_a_name() {
    let sources = sources();
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, code) in &sources {
        for name in public_types(code) {
            homes.entry(name).or_default().push(path);
        }
    }
    homes.retain(|_, paths| paths.len() > 1);
    assert!(homes.is_empty(), "{homes:#?}");
    let code = "pub struct A(u8);\n    pub enum B<T> {\npub type C = A;\nstruct D;\npub fn e() {}";
    assert!(public_types(code).eq(["A", "B", "C"]));
}

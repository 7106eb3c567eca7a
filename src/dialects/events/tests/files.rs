//! Files with rules: what they change, and how their mistakes are explained.

use super::super::table::Table;

fn mistakes(file: &str) -> String {
    Table::parse(file, "rules.toml").unwrap_err().to_string()
}

/// A file with one mistake, and its line with what is said of it.
const WRONG: &[(&str, &str)] = &[
    ("[om]", "rules.toml:1: a rule table has no field `om`; did you mean `on`?"),
    (
        "[on]\n\nx = { otu = [\"x\"] }",
        "rules.toml:3: a row has no field `otu`; did you mean `out`?",
    ),
    ("on.x = { exept = \"me\", out = [\"x\"] }", "did you mean `except`?"),
    ("on.x = { out = [\"x\", \"$mee\"] }", "`$mee` is no word; did you mean `$me`?"),
    ("on.x = { out = [\"x\", { a = [\"$tex\"] }] }", "did you mean `$text`?"),
    ("on.x = { out = [\"x\", \"$banana\"] }", "`$banana` is no word; known are $1, $2, $*"),
    ("on.x = { out = [\"x\", \"cost: 5 $\"] }", "`$$` is a dollar"),
    ("on.x = { out = [\"x\", \"$17\"] }", "`$17` is no argument: they are $1 to $16"),
    ("on.x = { out = [\"x\", \"$room.name\"] }", "`$room` has no members"),
    ("on.x = { room = \"$user\", out = [\"x\"] }", "`$user` has no value here: known here are $1"),
    ("say = [\"message\", \"$1\"]", "`$1` has no value here: known here are $room"),
    ("hello = [\"hi\", \"$user\"]", "`$user` has no value here: no words are known here"),
    ("on.x = { out = [\"connect\"] }", "'connect' is no event of its own"),
    ("every = [{ ms = 2000, out = [\"error\"] }]", "'error' is no event of its own"),
    ("hello = [[\"disconnect\"]]", "'disconnect' is no event of its own"),
    ("on.x = { out = [\"$1\"] }", "the name of an event is fixed"),
    ("on.x = { out = [\"\"] }", "1 to 128 bytes"),
    ("on.x = { out = [] }", "an event and its arguments"),
    (
        "on.x = { out = \"x\" }",
        "an event and its arguments, such as [\"message\", \"$1\"], or a list of such, not text",
    ),
    ("on.x = \"y\"", "a row is a table such as"),
    ("on.x = []", "a row is a table such as"),
    ("on = 1", "`on` is rows such as"),
    ("on.x = {}", "this row does nothing"),
    ("on.x = { room = \"$1\" }", "`room` is about what goes out, and this row has no `out`"),
    (
        "[on]\nx = [\n  { out = [\"x\"] },\n  { when = \"$1\", out = [\"y\"] },\n]",
        "rules.toml:4: this row is never done",
    ),
    ("on.x = { when = \"a $1\", out = [\"x\"] }", "`when` is one word"),
    ("on.x = { room = \"$1\", to = \"$2\", out = [\"x\"] }", "`room` or `to`, not both"),
    ("on.x = { lobby = true, out = [\"x\"] }", "this row has no `room`"),
    (
        "on.x = { lobby = \"yes\", room = \"$1\", out = [\"x\"] }",
        "true or false, without quotes, not text",
    ),
    ("on.x = { except = \"you\", out = [\"x\"] }", "`except` is \"me\""),
    ("on.x = { keep = false, id = \"$2\", out = [\"x\"] }", "`id` is of a message that is stored"),
    ("on.x = { join = 7 }", "`join` is text such as \"$1.room\", not a number"),
    ("on.x = { out = [\"x\", 2020-01-01] }", "JSON has no dates"),
    ("on.x = { out = [\"x\", nan] }", "cannot be written as JSON"),
    ("on.x = { out = [\"x\", { json = 1, b = 2 }] }", "`json` stands alone"),
    ("every = [{ ms = 1, out = [\"x\"] }]", "`ms` is a whole number from 100 to 86400000"),
    ("every = [{ out = [\"x\"] }]", "with `ms` and `out`"),
    ("every = { ms = 2000 }", "`every` is a list such as"),
    ("namespaces = [\"user\"]", "namespaces is a list of names such as"),
    ("namespaces = \"/user\"", "not text"),
    ("[profile.\"my profile\"]", "'my profile' is no name of a profile"),
    ("[profile.plain]", "'plain' is taken"),
    ("[profile]\nmine = 1", "rules.toml:2: a profile is a table"),
    ("[profile.mine]\norigins = {}", "rules.toml:2: a profile has no field `origins`"),
    (
        "[origins]\n\"http://a\" = \"trubo\"",
        "rules.toml:2: there is no profile 'trubo'; did you mean `turbo`?",
    ),
    ("[origins]\n\"localhost:3000\" = \"turbo\"", "is no origin: it is scheme and host"),
    ("[on]\nx = { ack = 1 }\nx = { ack = 2 }", "rules.toml:3: duplicate key: x"),
    ("[on\nx = 1", "rules.toml:1: unclosed table"),
];

#[test]
fn a_mistake_is_explained_with_its_line() {
    for (file, expected) in WRONG {
        let said = mistakes(file);
        assert!(said.contains(expected), "{file}\n  says: {said}\n  not: {expected}");
        assert!(said.starts_with("rules.toml:"), "{said}");
        assert_eq!(said.lines().count(), 1, "{file}\n  says: {said}");
    }
}

#[test]
fn too_many_of_anything_is_refused() {
    let rows = "{ when = \"$1\", ack = 1 }, ".repeat(17);
    assert!(mistakes(&format!("on.x = [{rows}]")).contains("at most 16 rows"));
    let outs = "[\"x\"], ".repeat(9);
    assert!(mistakes(&format!("on.x = {{ out = [{outs}] }}")).contains("at most 8 events"));
    let profiles: String = (0..32).map(|n| format!("[profile.p{n}]\n")).collect();
    assert!(mistakes(&profiles).contains("more than 32 profiles"));
    let spaces: Vec<String> = (0..64).map(|n| format!("\"/{n}\"")).collect();
    let said = mistakes(&format!("namespaces = [{}]", spaces.join(",")));
    assert!(said.contains("more than 64 namespaces"), "{said}");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let said =
        mistakes("onlin = 1\n[on]\na = { jion = \"$1\" }\nb = { out = [\"b\", \"$rom\"] }\n");
    let lines: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["rules.toml:1", "rules.toml:3", "rules.toml:4"], "{said}");
    let many = "x = 1\n".to_owned() + &"y = \n".repeat(30);
    let said = mistakes(&many);
    assert_eq!(said.lines().count(), 21, "{said}");
    assert!(said.ends_with("more"), "{said}");
}

#[test]
fn a_file_adds_rows_or_replaces_them() {
    let table = Table::parse(
        r#"
        namespaces = ["/b", "/a", "/b"]
        [on]
        "chat message" = { out = ["chat message", "$1", "$2"] }
        new = { out = ["new"] }
        [profile.turbo.on]
        new = { out = ["new"] }
        [profile.mine]
        [origins]
        "HTTP://Localhost:3000/" = "mine"
        "#,
        "rules.toml",
    )
    .unwrap();
    let built_in = Table::builtin();
    assert_eq!(table.rows(), built_in.rows() + 2);
    assert_eq!(table.namespaces(), ["/a", "/b", "/user"]);
    assert_eq!(table.profile_of_origin("http://localhost:3000"), Some("mine"));
    assert_eq!(table.profile_of_origin("http://localhost:3001"), None);
    let written = table.to_toml();
    assert!(
        written.contains(r#""chat message" = { out = ["chat message", "$1", "$2"] }"#),
        "{written}"
    );
    assert!(written.contains(r#""event:message" ="#));
    assert_ne!(table.digest(), built_in.digest());
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let page = include_str!("../../../../docs/events.md");
    let examples: Vec<_> = page.split("```toml").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let file = example.split("```").next().unwrap();
        Table::parse(file, "docs/events.md").unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_digest_is_of_the_meaning() {
    let digest = |file| Table::parse(file, "rules.toml").unwrap().digest();
    let one = digest("on.a = { out = [\"a\", { x = 1, y = 0x10 }] }\non.b = { ack = true }");
    let other = digest(
        "[on]\nb.ack = true # A comment.\n[on.a]\nkeep = true\nout = [[\"a\", { y = 16, x = 1 }]]",
    );
    assert_eq!(one, other);
    assert_eq!(one.len(), 16);
    assert_ne!(one, digest("on.a = { out = [\"a\", { x = 1, y = 17 }] }\non.b = { ack = true }"));
    assert_eq!(digest(""), Table::builtin().digest());
    assert_eq!(digest(&Table::builtin().to_toml()), Table::builtin().digest());
}

//! Templates and rows: what holds for every table and every event.

use proptest::prelude::*;
use serde_json::{Value, value::RawValue};

use super::{
    super::{
        table::Table,
        template::{Template, Vocabulary},
        values::Values,
    },
    BYTES_MAX, decided_by, heard, in_words, profile,
};
use crate::domain::{reject::Code, request::Delivery};

fn rendered(template: &str, args: &[&str], me: Option<&str>) -> String {
    let template = Template::parse(template, Vocabulary::Request).unwrap();
    let args: Vec<&RawValue> =
        args.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    let me: Option<&RawValue> = me.map(|json| serde_json::from_str(json).unwrap());
    template.render(&Values { args: &args, me, ..Values::default() })
}

#[test]
fn a_word_alone_keeps_its_type_and_within_text_it_is_inserted() {
    let args = [r#"{"a":{"b":[true,"x"]},"n":12345678901234567890,"t":"\"q\" \u00e9"}"#, "null"];
    for (template, json) in [
        ("$1.n", "12345678901234567890"),
        ("$1.a.b", r#"[true,"x"]"#),
        ("$1.a.b.1", r#""x""#),
        ("$1.t", r#""\"q\" \u00e9""#),
        ("$1.t.length", "null"),
        ("$2", "null"),
        ("$3", "null"),
        ("$me.name", r#""ann""#),
        ("$*", r#"[{"a":{"b":[true,"x"]},"n":12345678901234567890,"t":"\"q\" \u00e9"},null]"#),
        ("n: $1.n", r#""n: 12345678901234567890""#),
        ("<$1.t>", r#""<\"q\" é>""#),
        ("$1.a.b!", r#""[true,\"x\"]!""#),
        ("$me.name.", r#""ann.""#),
        ("$2$3|", r#""|""#),
        ("$$1 $$", r#""$1 $""#),
        ("$$$me.name", r#""$ann""#),
        ("", r#""""#),
    ] {
        assert_eq!(rendered(template, &args, Some(r#"{"name":"ann"}"#)), json, "{template}");
    }
}

#[test]
fn a_text_that_holds_json_is_never_looked_into() {
    assert_eq!(rendered("$1.room", &[r#""{\"room\":\"attic\"}""#], None), "null");
}

#[test]
fn words_of_a_message_have_its_values() {
    let plain = profile(
        r#"on.say = { room = "$1", text = "said: $2", user = "$me.name", out = [
             ["a", "$room", "$id", "$user", "$now", "$text", "at $now", 1, 0.5, true, [], {}],
             ["b", "$*", { json = ["$*", { all = "$*" }] }],
           ] }"#,
        "plain",
    );
    let packet = r#"["say","attic","x"]"#;
    let request = decided_by(&plain, packet, Some(r#"{"name":" Ann  B "}"#)).unwrap().unwrap();
    assert_eq!(in_words(&request), r#"store in attic: "said: x""#);
    let a = r#"["a","lobby","m1","guest ee8d01",1795,"said: x","at 1795",1,0.5,true,[],{}]"#;
    let b = r#"["b","attic","x","[[\"attic\",\"x\"],{\"all\":[\"attic\",\"x\"]}]"]"#;
    assert_eq!(heard(&plain, &plain, packet, None), format!("{a} {b}"));
    let Some(Delivery::Store(message)) = request.delivery else { panic!("a message") };
    assert_eq!(message.claimed_name.unwrap().as_str(), "Ann B");
}

#[test]
fn the_first_row_that_counts_is_done_and_zero_and_false_are_present() {
    let plain = profile(
        r#"on.x = [ { when = "$1.a", ack = "a" }, { when = "$me.b", ack = "b" }, { ack = "c" } ]"#,
        "plain",
    );
    let ack = |packet: &str, me| {
        in_words(&decided_by(&plain, packet, me).unwrap().unwrap()).replace("ack ", "")
    };
    for (argument, answer) in
        [("0", "a"), ("false", "a"), ("{}", "a"), ("null", "c"), ("\"\"", "c"), ("\" \"", "a")]
    {
        assert_eq!(ack(&format!(r#"["x",{{"a":{argument}}}]"#), None), format!("\"{answer}\""));
    }
    assert_eq!(ack(r#"["x"]"#, Some(r#"{"b":1}"#)), r#""b""#);
}

#[test]
fn a_room_made_of_text_needs_all_of_its_words() {
    let plain =
        profile(r#"on.x = { room = "chat-$1-$2", out = ["x"], ack = "$room $id" }"#, "plain");
    let request = decided_by(&plain, r#"["x","a",7]"#, None).unwrap().unwrap();
    assert_eq!(in_words(&request), r#"store in chat-a-7: "a"; ack "chat-a-7 fresh""#);
    for packet in [r#"["x","a"]"#, r#"["x","",7]"#, r#"["x",null,7]"#] {
        let reject = decided_by(&plain, packet, None).unwrap().unwrap_err();
        assert_eq!(reject.code, Code::BadRequest, "{packet}");
    }
}

#[test]
fn what_is_remembered_holds_for_the_same_row() {
    let plain = profile(r#"on.x = { me = "$1", join = "$me.room", out = ["x", "$me"] }"#, "plain");
    let packet = r#"["x",{"room":"attic"}]"#;
    let request = decided_by(&plain, packet, Some(r#"{"room":"cellar"}"#)).unwrap().unwrap();
    assert!(in_words(&request).contains("join attic"), "{}", in_words(&request));
    assert_eq!(heard(&plain, &plain, packet, None), r#"["x",{"room":"attic"}]"#);
    let long = format!(r#"["x",{{"room":"a","b":"{}"}}]"#, "b".repeat(1_024));
    let reject = decided_by(&plain, &long, None).unwrap().unwrap_err();
    assert_eq!(reject.code, Code::TooLarge);
}

#[test]
fn what_goes_out_is_bounded() {
    let outs = r#"["x", "$1", "$1", "$1", "$1"]"#;
    let plain = profile(
        &format!(
            r#"
            on.x = {{ out = [{outs}, {outs}, {outs}, {outs}] }}
            on.y = {{ out = ["y"], ack = "$1$1$1$1" }}
            "#
        ),
        "plain",
    );
    let code = |event: &str, bytes: usize| {
        let packet = format!(r#"["{event}","{}"]"#, "a".repeat(bytes));
        decided_by(&plain, &packet, None).unwrap().map_err(|reject| reject.code).err()
    };
    assert_eq!(code("x", BYTES_MAX / 16 - 16), None);
    assert_eq!(code("x", BYTES_MAX / 16), Some(Code::TooLarge));
    assert_eq!(code("y", BYTES_MAX / 4 - 16), None);
    assert_eq!(code("y", BYTES_MAX / 4), Some(Code::TooLarge));
    assert_eq!(code("y", BYTES_MAX), Some(Code::TooLarge));
}

#[test]
fn a_source_without_its_row_is_told_by_say() {
    let (with, without) =
        (profile(r#"on.x = { out = ["x", "$1"] }"#, "plain"), profile("", "plain"));
    assert_eq!(heard(&with, &with, r#"["x",{"msg":"hi"}]"#, None), r#"["x",{"msg":"hi"}]"#);
    assert_eq!(heard(&with, &without, r#"["x",{"msg":"hi"}]"#, None), r#"["message","hi"]"#);
    let passing = profile(r#"on.x = { keep = false, out = ["x", "$1"] }"#, "plain");
    assert_eq!(heard(&with, &passing, r#"["x","hi"]"#, None), r#"["message","hi"]"#);
    assert_eq!(heard(&passing, &with, r#"["x","hi"]"#, None), "", "no row passes it on");
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "(attic|[0-9a-f]{32}|dm:a:b)".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = "(room|roomId|roomid|message|to|text|[a-z$]{0,3})";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A template as TOML.
fn template() -> impl Strategy<Value = String> {
    let word =
        "(\\$1|\\$2\\.a|\\$\\*|\\$me|\\$me\\.name|\\$room|\\$id|\\$user|\\$now|\\$text|\\$\\$)";
    let text = prop::collection::vec(prop_oneof![word, "([ é\"\\\\\n\u{7f}][a-z]{0,2})?"], 0..4)
        .prop_map(|pieces| super::super::template::toml_text(&pieces.concat()));
    let leaf = prop_oneof![
        4 => text,
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => (-1e9..1e9).prop_map(|number: f64| format!("{number:?}")),
        1 => any::<bool>().prop_map(|value| value.to_string()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("{{ json = {inner} }}")),
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[a-i]{1,3}", inner, 0..3).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(n, v)| format!("\"{n}\" = {v}")).collect();
                format!("{{ {} }}", members.join(", "))
            }),
        ]
    })
}

fn file() -> impl Strategy<Value = String> {
    let row = (prop::collection::vec(template(), 0..4), any::<bool>(), any::<bool>()).prop_map(
        |(arguments, keep, except)| {
            let arguments: String =
                arguments.iter().map(|argument| format!(", {argument}")).collect();
            let except = if except { "except = \"me\", " } else { "" };
            format!("{{ keep = {keep}, {except}out = [\"e\"{arguments}] }}")
        },
    );
    prop::collection::btree_map("[a-z -]{1,8}", row, 0..4).prop_map(|rows| {
        let rows: Vec<String> =
            rows.iter().map(|(event, row)| format!("\"x{event}\" = {row}\n")).collect();
        let rows = rows.concat();
        format!("[on]\n{rows}[profile.mine]\n[profile.mine.on]\n{rows}")
    })
}

proptest! {
    #[test]
    fn a_table_is_read_as_it_was_written(file in file()) {
        let table = Table::parse(&file, "rules.toml").map_err(|error| {
            TestCaseError::fail(format!("{error}\n{file}"))
        })?;
        let written = table.to_toml();
        let read = Table::parse(&written, "written.toml").map_err(|error| {
            TestCaseError::fail(format!("{error}\n{written}"))
        })?;
        prop_assert_eq!(&read, &table);
        prop_assert_eq!(read.digest(), table.digest());
    }

    #[test]
    fn any_event_is_decided_and_told(
        file in file(),
        args in prop::collection::vec(json(), 0..4),
        me in prop::option::of(json()),
    ) {
        let table = Table::parse(&file, "rules.toml").unwrap();
        let me = me.map(|me| me.to_string());
        for profile in table.profiles() {
            for event in profile.on.keys() {
                let mut packet = vec![Value::from(&**event)];
                packet.extend(args.iter().cloned());
                let packet = Value::from(packet).to_string();
                if let Some(Ok(_)) = decided_by(profile, &packet, me.as_deref()) {
                    let told = heard(profile, profile, &packet, me.as_deref());
                    for event in serde_json::Deserializer::from_str(&told).into_iter::<Value>() {
                        prop_assert!(event.unwrap()[0].is_string());
                    }
                }
            }
        }
    }

    #[test]
    fn a_word_alone_is_the_same_json(value in json()) {
        let value = value.to_string();
        prop_assert_eq!(rendered("$1", &[&value], None), value.clone());
        let holding: Value = serde_json::from_str(&rendered("$1 ", &[&value], None)).unwrap();
        prop_assert!(holding.is_string());
    }

    #[test]
    fn no_text_breaks_the_parser(text in ".{0,64}") {
        if let Ok(template) = Template::parse(&text, Vocabulary::Out) {
            let read = template.to_string();
            prop_assert!(read.starts_with('"'));
        }
        let read = Table::parse(&text, "any.toml");
        prop_assert!(read.is_ok() || !read.unwrap_err().to_string().is_empty());
    }
}

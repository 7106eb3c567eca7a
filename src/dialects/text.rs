//! The text of a message whose body is any JSON.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of an object that hold its text, the first that is there first.
const TEXT_MEMBERS: [&str; 4] = ["message", "msg", "text", "content"];

/// What people read of a body: a text itself, nothing of `null`, the text in the first of the usual
/// members of an object, and of everything else the JSON.
pub fn text_of(json: &str) -> Cow<'_, str> {
    if json == "null" {
        return Cow::Borrowed("");
    }
    if let Some(text) = as_text(json) {
        return text;
    }
    let Some(body) = as_value(json) else { return Cow::Borrowed(json) };
    let texts = TEXT_MEMBERS.iter().filter_map(|name| as_text(member(body, name)?.get()));
    texts.into_iter().next().unwrap_or(Cow::Borrowed(json))
}

/// The text that a JSON string holds. `None`: the JSON is no string.
pub fn as_text(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    if !json.starts_with('"') {
        return None;
    }
    serde_json::from_str(json).ok().map(|Text(text)| text)
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written as JSON")
}

/// JSON as a value that can be looked into. `None`: it is no JSON.
pub fn as_value(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

/// The member of an object, or the element of a list with this number, from 0. Of two members with
/// the same name the last counts, as in JavaScript.
pub fn member<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let mut reader = serde_json::Deserializer::from_str(value.get());
    match value.get().as_bytes().first() {
        Some(b'{') => reader.deserialize_map(Member { name }).ok()?,
        Some(b'[') => reader.deserialize_seq(Element { index: name.parse().ok()? }).ok()?,
        _ => None,
    }
}

struct Member<'n> {
    name: &'n str,
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(KeyIs(self.name))? {
            if is_it {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct KeyIs<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

struct Element {
    index: usize,
}

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut index = 0;
        while let Some(element) = list.next_element()? {
            if index == self.index {
                found = Some(element);
            }
            index += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_body_is_what_people_read_of_it() {
        for (json, text) in [
            (r#""a \"b\" \u00e9""#, "a \"b\" é"),
            (r#""""#, ""),
            ("null", ""),
            ("7", "7"),
            (r#"["a"]"#, r#"["a"]"#),
            (r#"{"message":"a","text":"b"}"#, "a"),
            (r#"{"text":"b","msg":"c"}"#, "c"),
            (r#"{"message":{"a":1},"content":"d"}"#, "d"),
            (r#"{"text":""}"#, ""),
            (r#"{"user":"ann"}"#, r#"{"user":"ann"}"#),
            (r#"{"te\u0078t":"escaped"}"#, "escaped"),
        ] {
            assert_eq!(text_of(json), text, "{json}");
        }
    }

    #[test]
    fn a_member_is_found_by_its_name_and_an_element_by_its_number() {
        let found = |json, name| member(as_value(json).unwrap(), name).map(RawValue::get);
        assert_eq!(found(r#"{"a":1,"b":{"a":2},"a":3e400}"#, "a"), Some("3e400"));
        assert_eq!(found(r#"{"a":1}"#, "b"), None);
        assert_eq!(found("[4,[5],6]", "1"), Some("[5]"));
        assert_eq!(found("[4]", "1"), None);
        assert_eq!(found("[4]", "a"), None);
        assert_eq!(found(r#""{\"a\":1}""#, "a"), None, "a text is never looked into");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(found(&deep, "b"), None);
    }
}

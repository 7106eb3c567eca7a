//! Templates: the JSON that a row makes from the values of an event.
//!
//! A template renders to one JSON value, whatever JSON the client has sent.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde_json::value::RawValue;

use super::values::Values;
use crate::dialects::text::{as_text, member, quoted};

/// Arguments of an event that a template can name.
const ARGUMENTS_MAX: usize = 16;

/// Bytes of the longest value that is no argument and not `$me`: a room or a name, as JSON.
const NAME_BYTES_MAX: usize = 600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// A word alone, which keeps the type of its value.
    Value(Word),
    /// Text with words in it.
    Text(Vec<Piece>),
    /// A number, `true` or `false`, as JSON.
    Constant(String),
    /// `{ json = T }`: a text that holds the JSON of `T`.
    Json(Box<Template>),
    List(Vec<Template>),
    Object(BTreeMap<String, Template>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    Value(Word),
}

/// What stands behind a `$`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `$1`, `$1.a.b`: an argument, counted from 0 here, or a member of it.
    Argument {
        index: usize,
        path: Vec<String>,
    },
    /// `$*`: all arguments.
    All,
    /// `$me`, `$me.name`: what the session remembers.
    Me {
        path: Vec<String>,
    },
    Room,
    Id,
    User,
    Now,
    Text,
}

/// Which words have a value where a template stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// An event that came in: its arguments and `$me`.
    Request,
    /// The answer to it.
    Ack,
    /// An event that goes out because of another event.
    Out,
    /// An event for a message that no row has made.
    Say,
    /// An event that no message has caused.
    Fixed,
}

/// Why a text is no template, and what it may have been meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordError {
    pub why: String,
    /// What stands there, where a known word may have been meant.
    pub unknown: Option<String>,
}

impl Vocabulary {
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Request => &["$1", "$2", "$*", "$me"],
            Self::Ack => &["$1", "$2", "$*", "$me", "$room", "$id"],
            Self::Out => &["$1", "$2", "$*", "$me", "$room", "$id", "$user", "$now", "$text"],
            Self::Say => &["$room", "$id", "$user", "$now", "$text"],
            Self::Fixed => &[],
        }
    }

    fn has(self, word: &Word) -> bool {
        match word {
            Word::Argument { .. } | Word::All | Word::Me { .. } => {
                matches!(self, Self::Request | Self::Ack | Self::Out)
            }
            Word::Room | Word::Id => matches!(self, Self::Ack | Self::Out | Self::Say),
            Word::User | Word::Now | Word::Text => matches!(self, Self::Out | Self::Say),
        }
    }
}

impl Template {
    /// A text with words in it, where the words of `vocabulary` have a value.
    pub fn parse(text: &str, vocabulary: Vocabulary) -> Result<Self, WordError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let (word, after) = Word::parse(after)?;
            if !vocabulary.has(&word) {
                return Err(WordError::without_value(&word, vocabulary));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(word));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        match <[Piece; 1]>::try_from(pieces) {
            Ok([Piece::Value(word)]) => Ok(Self::Value(word)),
            Ok([literal]) => Ok(Self::Text(vec![literal])),
            Err(pieces) => Ok(Self::Text(pieces)),
        }
    }

    /// The value as an argument of an event.
    pub fn argument(&self, values: &Values<'_>) -> Box<RawValue> {
        let json = match self {
            Self::Value(word) => match word.value(values) {
                Some(Found::Received(value)) => return value.to_owned(),
                Some(Found::Made(json)) => json.into_owned(),
                None => "null".to_owned(),
            },
            template => template.render(values),
        };
        RawValue::from_string(json).expect("a template renders to one JSON value")
    }

    /// The value as JSON. What is missing is `null`, and nothing within text.
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut rendering = Rendering::default();
        self.write(values, &mut rendering);
        rendering.json
    }

    /// The value as JSON, if nothing of it is missing, `null` or `""`.
    pub fn render_present(&self, values: &Values<'_>) -> Option<String> {
        let mut rendering = Rendering::default();
        self.write(values, &mut rendering);
        (!rendering.lacks_something && is_present(&rendering.json)).then_some(rendering.json)
    }

    /// Bytes that the template cannot exceed when no argument is longer than `value_bytes`.
    pub fn bytes_max(&self, value_bytes: usize) -> usize {
        let value_bytes = value_bytes.max(NAME_BYTES_MAX);
        let all = |sizes: &mut dyn Iterator<Item = usize>| {
            sizes.fold(2, |sum: usize, size| sum.saturating_add(size).saturating_add(1))
        };
        match self {
            Self::Value(_) => value_bytes,
            Self::Constant(json) => json.len(),
            // In a JSON string one character takes up to six bytes, and a character that came as
            // JSON not more than twice what it took there.
            Self::Text(pieces) => all(&mut pieces.iter().map(|piece| match piece {
                Piece::Literal(text) => text.len().saturating_mul(6),
                Piece::Value(_) => value_bytes.saturating_mul(2),
            })),
            Self::Json(inner) => inner.bytes_max(value_bytes).saturating_mul(2).saturating_add(2),
            Self::List(items) => all(&mut items.iter().map(|item| item.bytes_max(value_bytes))),
            Self::Object(members) => all(&mut members.iter().map(|(name, member)| {
                member.bytes_max(value_bytes).saturating_add(name.len() * 6 + 3)
            })),
        }
    }

    fn write(&self, values: &Values<'_>, rendering: &mut Rendering) {
        match self {
            Self::Value(word) => match word.value(values) {
                Some(found) => rendering.json.push_str(found.json()),
                None => {
                    rendering.lacks_something = true;
                    rendering.json.push_str("null");
                }
            },
            Self::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(literal) => text.push_str(literal),
                        Piece::Value(word) => match word.inserted(values) {
                            Some(inserted) => text.push_str(&inserted),
                            None => rendering.lacks_something = true,
                        },
                    }
                }
                rendering.json.push_str(&quoted(&text));
            }
            Self::Constant(json) => rendering.json.push_str(json),
            Self::Json(inner) => {
                let start = rendering.json.len();
                inner.write(values, rendering);
                let json = rendering.json.split_off(start);
                rendering.json.push_str(&quoted(&json));
            }
            Self::List(items) => {
                rendering.json.push('[');
                for (place, item) in items.iter().enumerate() {
                    rendering.separate(place);
                    item.write(values, rendering);
                }
                rendering.json.push(']');
            }
            Self::Object(members) => {
                rendering.json.push('{');
                for (place, (name, member)) in members.iter().enumerate() {
                    rendering.separate(place);
                    rendering.json.push_str(&quoted(name));
                    rendering.json.push(':');
                    member.write(values, rendering);
                }
                rendering.json.push('}');
            }
        }
    }
}

#[derive(Default)]
struct Rendering {
    json: String,
    /// Whether a word has no value, or within text is `null` or `""`.
    lacks_something: bool,
}

impl Rendering {
    fn separate(&mut self, place: usize) {
        if place > 0 {
            self.json.push(',');
        }
    }
}

/// The value of a word.
enum Found<'a> {
    /// It came as JSON.
    Received(&'a RawValue),
    Made(Cow<'a, str>),
}

impl Found<'_> {
    fn json(&self) -> &str {
        match self {
            Self::Received(value) => value.get(),
            Self::Made(json) => json,
        }
    }
}

impl Word {
    /// The word behind a `$`, and the text behind the word.
    fn parse(text: &str) -> Result<(Self, &str), WordError> {
        if let Some(rest) = text.strip_prefix('*') {
            return Ok((Self::All, rest));
        }
        let number = split_where(text, |c| c.is_ascii_digit());
        if !number.0.is_empty() {
            let (digits, rest) = number;
            let index = digits.parse::<usize>().ok().filter(|n| (1..=ARGUMENTS_MAX).contains(n));
            let why = || format!("`${digits}` is no argument: they are $1 to ${ARGUMENTS_MAX}");
            let index = index.ok_or_else(|| WordError { why: why(), unknown: None })? - 1;
            let (path, rest) = path(rest);
            return Ok((Self::Argument { index, path }, rest));
        }
        let (name, rest) = split_where(text, |c| c.is_ascii_alphanumeric() || c == '_');
        let word = match name {
            "me" => {
                let (path, rest) = path(rest);
                return Ok((Self::Me { path }, rest));
            }
            "room" => Self::Room,
            "id" => Self::Id,
            "user" => Self::User,
            "now" => Self::Now,
            "text" => Self::Text,
            "" => {
                let why = "a `$` stands before a word; `$$` is a dollar".to_owned();
                return Err(WordError { why, unknown: None });
            }
            unknown => {
                let unknown = format!("${unknown}");
                let why = format!("`{unknown}` is no word");
                return Err(WordError { why, unknown: Some(unknown) });
            }
        };
        if !path(rest).0.is_empty() {
            let why = format!("`${name}` has no members; only `$1` .. and `$me` have");
            return Err(WordError { why, unknown: None });
        }
        Ok((word, rest))
    }

    /// Whether the value is there, not `null` and not `""`.
    pub fn is_present(&self, values: &Values<'_>) -> bool {
        self.value(values).is_some_and(|found| is_present(found.json()))
    }

    fn value<'a>(&self, values: &Values<'a>) -> Option<Found<'a>> {
        let quoted_name = |name: &str| Found::Made(Cow::Owned(quoted(name)));
        match self {
            Self::Argument { index, path } => {
                inside(values.args.get(*index).copied()?, path).map(Found::Received)
            }
            Self::Me { path } => inside(values.me?, path).map(Found::Received),
            Self::All => Some(Found::Made(Cow::Owned(array(values.args)))),
            Self::Room => values.room.map(quoted_name),
            Self::Id => values.id.map(quoted_name),
            Self::User => values.message.map(|message| quoted_name(&message.sender())),
            Self::Now => {
                values.message.map(|message| Found::Made(Cow::Owned(message.at.0.to_string())))
            }
            Self::Text => values.message.map(|message| Found::Made(message.text())),
        }
    }

    /// The value as it stands within text. `None`: there is nothing to insert.
    fn inserted(&self, values: &Values<'_>) -> Option<String> {
        let found = self.value(values)?;
        let json = found.json();
        is_present(json).then(|| as_text(json).map_or_else(|| json.to_owned(), Cow::into_owned))
    }
}

impl WordError {
    fn without_value(word: &Word, vocabulary: Vocabulary) -> Self {
        let known = match vocabulary.words() {
            [] => "no words are known here; `$$` is a dollar".to_owned(),
            words => format!("known here are {}", words.join(" ")),
        };
        Self { why: format!("`{word}` has no value here: {known}"), unknown: None }
    }
}

/// A JSON array of values.
pub fn array(values: &[&RawValue]) -> String {
    let bytes: usize = values.iter().map(|value| value.get().len() + 1).sum();
    let mut json = String::with_capacity(bytes + 2);
    json.push('[');
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            json.push(',');
        }
        json.push_str(value.get());
    }
    json.push(']');
    json
}

fn is_present(json: &str) -> bool {
    json != "null" && json != "\"\""
}

fn inside<'a>(value: &'a RawValue, path: &[String]) -> Option<&'a RawValue> {
    path.iter().try_fold(value, |value, name| member(value, name))
}

/// The members that a word names, `.a.b`, and the text behind them.
fn path(text: &str) -> (Vec<String>, &str) {
    let (mut path, mut rest) = (Vec::new(), text);
    while let Some(after) = rest.strip_prefix('.') {
        let (name, behind) = split_where(after, |c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() {
            break;
        }
        path.push(name.to_owned());
        rest = behind;
    }
    (path, rest)
}

fn split_where(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Argument { index, path } => {
                write!(f, "${}", index + 1)?;
                path
            }
            Self::Me { path } => {
                f.write_str("$me")?;
                path
            }
            Self::All => return f.write_str("$*"),
            Self::Room => return f.write_str("$room"),
            Self::Id => return f.write_str("$id"),
            Self::User => return f.write_str("$user"),
            Self::Now => return f.write_str("$now"),
            Self::Text => return f.write_str("$text"),
        };
        path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// The template as TOML.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(word) => write!(f, "\"{word}\""),
            Self::Text(pieces) => {
                let source = pieces.iter().fold(String::new(), |mut source, piece| {
                    match piece {
                        Piece::Literal(text) => source.push_str(&text.replace('$', "$$")),
                        Piece::Value(word) => source.push_str(&word.to_string()),
                    }
                    source
                });
                f.write_str(&toml_text(&source))
            }
            Self::Constant(json) => f.write_str(json),
            Self::Json(inner) => write!(f, "{{ json = {inner} }}"),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Object(members) if members.is_empty() => f.write_str("{}"),
            Self::Object(members) => {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, member)| format!("{} = {member}", toml_text(name)))
                    .collect();
                write!(f, "{{ {} }}", members.join(", "))
            }
        }
    }
}

/// A text as a TOML string. JSON's escapes are TOML's, but for one character.
pub fn toml_text(text: &str) -> String {
    quoted(text).replace('\u{7f}', "\\u007f")
}

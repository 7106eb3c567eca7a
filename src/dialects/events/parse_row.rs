//! From TOML to one row of the rule table, and to its templates.

use std::{ops::Range, sync::Arc, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    mistakes::{Parser, TomlValue},
    row::{Out, Row},
    table::Tick,
    template::{Template, Vocabulary, Word},
};

/// Rows of one event.
const ROWS_MAX: usize = 16;
/// Events that one row, or `hello`, sends.
const OUTS_MAX: usize = 8;
/// Longest name of an event, in bytes.
const EVENT_BYTES_MAX: usize = 128;
/// Shortest and longest period of `every`, in milliseconds.
const PERIOD_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
/// Names that socket.io-client keeps for itself, and `error`: older clients emit it themselves, and
/// Roomcast tells by it that a request is refused.
const RESERVED: [&str; 7] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
    "error",
];
const ROW_FIELDS: &[&str] = &[
    "when", "me", "join", "leave", "room", "to", "lobby", "except", "keep", "out", "id", "ack",
    "text", "user",
];
const ROW_SHAPE: &str = "a table such as { out = [\"message\", \"$1\"] }, or a list of such tables";
const OUT_SHAPE: &str = "an event and its arguments, such as [\"message\", \"$1\"]";

impl Parser<'_> {
    /// The rows of an event, in order.
    pub(super) fn rows(&mut self, node: &TomlValue<'_>) -> Vec<Row> {
        let nodes: Vec<&TomlValue<'_>> = match node.get_ref() {
            DeValue::Table(_) => vec![node],
            DeValue::Array(nodes) if !nodes.is_empty() => nodes.iter().collect(),
            _ => {
                self.wrong_type(node, "a row", ROW_SHAPE);
                return Vec::new();
            }
        };
        if nodes.len() > ROWS_MAX {
            self.mistake(&node.span(), format!("an event has at most {ROWS_MAX} rows"));
        }
        let mut rows: Vec<Row> = Vec::new();
        for node in nodes {
            if rows.last().is_some_and(|row| row.when.is_none()) {
                let what = "this row is never done: the row before it has no `when`, so it is the \
                            last; put the row without `when` at the end";
                self.mistake(&node.span(), what);
            }
            match node.get_ref().as_table() {
                Some(fields) => rows.push(self.row(fields, &node.span())),
                None => self.wrong_type(node, "a row", ROW_SHAPE),
            }
        }
        rows
    }

    fn row(&mut self, fields: &DeTable<'_>, span: &Range<usize>) -> Row {
        let is_known = self.only(fields, "a row", ROW_FIELDS);
        let row = Row {
            when: fields.get("when").and_then(|node| self.when(node)),
            me: self.field(fields, "me", Vocabulary::Request),
            join: self.field(fields, "join", Vocabulary::Request),
            leave: self.field(fields, "leave", Vocabulary::Request),
            room: self.field(fields, "room", Vocabulary::Request),
            to: self.field(fields, "to", Vocabulary::Request),
            lobby: self.flag(fields, "lobby", false),
            except_me: self.except(fields),
            keep: self.flag(fields, "keep", true),
            out: fields.get("out").map(|node| self.outs(node, Vocabulary::Out)).unwrap_or_default(),
            id: self.field(fields, "id", Vocabulary::Request),
            ack: self.field(fields, "ack", Vocabulary::Ack),
            text: self.field(fields, "text", Vocabulary::Request),
            user: self.field(fields, "user", Vocabulary::Request),
        };
        if is_known {
            self.check(fields, span, &row);
        }
        row
    }

    /// Fields that mean nothing beside each other.
    fn check(&mut self, fields: &DeTable<'_>, span: &Range<usize>, row: &Row) {
        if !fields.contains_key("out") {
            for name in ["room", "to", "lobby", "except", "id", "text", "user"] {
                if let Some(node) = fields.get(name) {
                    let what =
                        format!("`{name}` is about what goes out, and this row has no `out`");
                    self.mistake(&node.span(), what);
                }
            }
            let does = ["me", "join", "leave", "ack", "keep", "room", "to", "id", "text", "user"];
            if !does.iter().any(|name| fields.contains_key(*name)) {
                let what = "this row does nothing: it needs out, join, leave, me or ack, or \
                            keep = false to take the event and do nothing";
                self.mistake(span, what);
            }
        }
        if let (Some(_), Some(to)) = (&row.room, fields.get("to")) {
            self.mistake(&to.span(), "a row has `room` or `to`, not both");
        }
        if let (None, Some(lobby)) = (&row.room, fields.get("lobby")) {
            let what = "`lobby` says what a missing room means, and this row has no `room`";
            self.mistake(&lobby.span(), what);
        }
        if let (false, Some(id)) = (row.keep, fields.get("id")) {
            self.mistake(&id.span(), "`id` is of a message that is stored, and keep is false");
        }
    }

    fn when(&mut self, node: &TomlValue<'_>) -> Option<Word> {
        let template = self.template(node, Vocabulary::Request)?;
        match template {
            Template::Value(word) if word != Word::All => Some(word),
            _ => {
                self.mistake(&node.span(), "`when` is one word, such as \"$1.room\"");
                None
            }
        }
    }

    fn except(&mut self, fields: &DeTable<'_>) -> bool {
        let Some(node) = fields.get("except") else { return false };
        let is_me = node.get_ref().as_str() == Some("me");
        if !is_me {
            self.mistake(&node.span(), "`except` is \"me\": the sender is not told");
        }
        is_me
    }

    fn flag(&mut self, fields: &DeTable<'_>, name: &str, absent: bool) -> bool {
        let Some(node) = fields.get(name) else { return absent };
        node.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(node, &format!("`{name}`"), "true or false, without quotes");
            absent
        })
    }

    fn field(
        &mut self,
        fields: &DeTable<'_>,
        name: &str,
        vocabulary: Vocabulary,
    ) -> Option<Template> {
        let node = fields.get(name)?;
        let is_name = ["join", "leave", "room", "to", "id"].contains(&name);
        if is_name && !node.get_ref().is_str() {
            self.wrong_type(node, &format!("`{name}`"), "text such as \"$1.room\"");
            return None;
        }
        self.template(node, vocabulary)
    }

    /// One event, or a list of events.
    pub(super) fn outs(&mut self, node: &TomlValue<'_>, vocabulary: Vocabulary) -> Vec<Out> {
        let Some(nodes) = node.get_ref().as_array() else {
            self.wrong_type(node, "what is sent", &format!("{OUT_SHAPE}, or a list of such"));
            return Vec::new();
        };
        if !nodes.first().is_some_and(|first| first.get_ref().is_array()) {
            return self.out(node, vocabulary).into_iter().collect();
        }
        if nodes.len() > OUTS_MAX {
            self.mistake(&node.span(), format!("at most {OUTS_MAX} events stand here"));
        }
        nodes.iter().filter_map(|node| self.out(node, vocabulary)).collect()
    }

    pub(super) fn out(&mut self, node: &TomlValue<'_>, vocabulary: Vocabulary) -> Option<Out> {
        let Some([name, arguments @ ..]) = node.get_ref().as_array().map(|nodes| &**nodes) else {
            self.wrong_type(node, "what is sent", OUT_SHAPE);
            return None;
        };
        let event = self.event_name(name);
        let arguments: Vec<_> =
            arguments.iter().map(|node| self.template(node, vocabulary)).collect();
        Some(Out { event: event?, arguments: arguments.into_iter().collect::<Option<_>>()? })
    }

    /// The name of an event that goes out.
    pub(super) fn event_name(&mut self, node: &TomlValue<'_>) -> Option<Arc<str>> {
        let Some(name) = node.get_ref().as_str() else {
            self.wrong_type(node, "the name of an event", "text");
            return None;
        };
        if name.contains('$') {
            let what = "the name of an event is fixed: it has no words that begin with `$`";
            self.mistake(&node.span(), what);
            return None;
        }
        self.incoming_name(name, &node.span())
    }

    /// The name of an event that comes in.
    pub(super) fn incoming_name(&mut self, name: &str, span: &Range<usize>) -> Option<Arc<str>> {
        let what = if name.is_empty() || name.len() > EVENT_BYTES_MAX {
            format!("the name of an event has 1 to {EVENT_BYTES_MAX} bytes")
        } else if RESERVED.contains(&name) {
            format!("'{name}' is no event of its own: clients keep this name for themselves")
        } else {
            return Some(Arc::from(name));
        };
        self.mistake(span, what);
        None
    }

    pub(super) fn every(&mut self, node: &TomlValue<'_>) -> Vec<Tick> {
        let shape = "a list such as [ { ms = 2000, out = [\"tick\"] } ]";
        let Some(nodes) = node.get_ref().as_array() else {
            self.wrong_type(node, "`every`", shape);
            return Vec::new();
        };
        if nodes.len() > OUTS_MAX {
            self.mistake(&node.span(), format!("`every` has at most {OUTS_MAX} events"));
        }
        nodes.iter().filter_map(|node| self.tick(node, shape)).collect()
    }

    fn tick(&mut self, node: &TomlValue<'_>, shape: &str) -> Option<Tick> {
        let Some(fields) = node.get_ref().as_table() else {
            self.wrong_type(node, "`every`", shape);
            return None;
        };
        self.only(fields, "an event of `every`", &["ms", "out"]);
        let (Some(ms), Some(out)) = (fields.get("ms"), fields.get("out")) else {
            self.mistake(&node.span(), format!("`every` is {shape}, with `ms` and `out`"));
            return None;
        };
        let period = integer(ms.get_ref()).and_then(|ms| u64::try_from(ms).ok());
        let period = period.filter(|ms| PERIOD_MS.contains(ms));
        if period.is_none() {
            let (least, most) = (PERIOD_MS.start(), PERIOD_MS.end());
            self.mistake(&ms.span(), format!("`ms` is a whole number from {least} to {most}"));
        }
        let out = self.out(out, Vocabulary::Fixed)?;
        Some(Tick { period: Duration::from_millis(period?), out })
    }

    fn template(&mut self, node: &TomlValue<'_>, vocabulary: Vocabulary) -> Option<Template> {
        match node.get_ref() {
            DeValue::String(text) => self.text(text, &node.span(), vocabulary),
            DeValue::Boolean(value) => Some(Template::Constant(value.to_string())),
            DeValue::Array(nodes) => {
                let items: Vec<_> =
                    nodes.iter().map(|node| self.template(node, vocabulary)).collect();
                items.into_iter().collect::<Option<_>>().map(Template::List)
            }
            DeValue::Table(members) => self.object(members, &node.span(), vocabulary),
            DeValue::Integer(_) | DeValue::Float(_) => {
                let number = number(node.get_ref());
                if number.is_none() {
                    self.mistake(&node.span(), "this number cannot be written as JSON");
                }
                number.map(Template::Constant)
            }
            DeValue::Datetime(_) => {
                self.mistake(&node.span(), "JSON has no dates: write it as text, in quotes");
                None
            }
        }
    }

    fn text(
        &mut self,
        text: &str,
        span: &Range<usize>,
        vocabulary: Vocabulary,
    ) -> Option<Template> {
        match Template::parse(text, vocabulary) {
            Ok(template) => Some(template),
            Err(error) => {
                match error.unknown {
                    Some(unknown) => {
                        self.unknown(span, &error.why, &unknown, vocabulary.words());
                    }
                    None => self.mistake(span, error.why),
                }
                None
            }
        }
    }

    fn object(
        &mut self,
        members: &DeTable<'_>,
        span: &Range<usize>,
        vocabulary: Vocabulary,
    ) -> Option<Template> {
        if let Some(inner) = members.get("json") {
            if members.len() > 1 {
                let what = "`json` stands alone: { json = .. } is a text that holds the JSON";
                self.mistake(span, what);
                return None;
            }
            let inner = self.template(inner, vocabulary)?;
            return Some(Template::Json(Box::new(inner)));
        }
        let members: Vec<_> = members
            .iter()
            .map(|(name, node)| {
                Some((name.get_ref().to_string(), self.template(node, vocabulary)?))
            })
            .collect();
        members.into_iter().collect::<Option<_>>().map(Template::Object)
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A number as JSON.
fn number(value: &DeValue<'_>) -> Option<String> {
    match value.as_float() {
        Some(float) => {
            let float: f64 = float.as_str().parse().ok()?;
            serde_json::Number::from_f64(float).map(|number| number.to_string())
        }
        None => integer(value).map(|integer| integer.to_string()),
    }
}

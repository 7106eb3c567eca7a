//! From TOML to a rule table. All mistakes are found at once, each with its line.

use std::{collections::BTreeMap, sync::Arc};

use toml::{
    Spanned,
    de::{DeString, DeTable},
};

use super::{
    mistakes::{Parser, TableError, TomlValue},
    row::Out,
    table::{DEFAULT_PROFILE, Profile, Table},
    template::{Template, Vocabulary, Word},
};

const BUILT_IN: &str = include_str!("builtin.toml");
/// Every message is rendered once per profile.
const PROFILES_MAX: usize = 32;
const PROFILE_CHARS_MAX: usize = 32;
const NAMESPACES_MAX: usize = 64;
const PROFILE_FIELDS: &[&str] = &["say", "on", "hello", "every"];
const FILE_FIELDS: &[&str] = &["say", "on", "hello", "every", "namespaces", "profile", "origins"];

impl Table {
    pub fn builtin() -> Self {
        Self::extended(Self::empty(), BUILT_IN, "the built-in table").expect("it has no mistake")
    }

    /// The built-in table, with the rows of a file added or in the place of its own. `name` is the
    /// file's, for errors.
    pub fn parse(text: &str, name: &str) -> Result<Self, TableError> {
        Self::extended(Self::builtin(), text, name)
    }

    fn empty() -> Self {
        let text = Template::Value(Word::Text);
        let say = Out { event: Arc::from("message"), arguments: vec![text] };
        let default = Profile::new(DEFAULT_PROFILE, say);
        let (others, origins) = (BTreeMap::new(), BTreeMap::new());
        Self { default, others, origins, namespaces: Vec::new() }
    }

    fn extended(mut self, text: &str, name: &str) -> Result<Self, TableError> {
        let mut parser = Parser::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or_default();
            let what = match text.get(span.clone()) {
                Some(at) if !at.trim().is_empty() => format!("{}: {at}", error.message()),
                _ => error.message().to_owned(),
            };
            parser.mistake(&span, what);
        }
        // What follows a broken line is often not what was meant.
        if parser.is_content() {
            parser.file(root.get_ref(), &mut self);
        }
        parser.finish(name)?;
        Ok(self)
    }
}

impl Profile {
    fn new(name: &str, say: Out) -> Self {
        let (on, hello, every) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { name: Arc::from(name), say, on, hello, every }
    }
}

impl Parser<'_> {
    fn file(&mut self, root: &DeTable<'_>, table: &mut Table) {
        self.only(root, "a rule table", FILE_FIELDS);
        self.profile(root, &mut table.default);
        if let Some(profiles) = self.table(root, "profile", "tables such as [profile.mine]") {
            for (name, value) in profiles {
                self.named_profile(name, value, table);
            }
        }
        if let Some(namespaces) = root.get("namespaces") {
            self.namespaces(namespaces, table);
        }
        if let Some(origins) = self.table(root, "origins", "lines of \"http://host\" = \"profile\"")
        {
            for (origin, profile) in origins {
                self.origin(origin, profile, table);
            }
        }
    }

    fn named_profile(
        &mut self,
        name: &Spanned<DeString<'_>>,
        value: &TomlValue<'_>,
        table: &mut Table,
    ) {
        let (span, name) = (name.span(), name.get_ref());
        let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > PROFILE_CHARS_MAX || !name.chars().all(is_fine) {
            let what = format!(
                "'{name}' is no name of a profile: 1 to {PROFILE_CHARS_MAX} letters, digits, - or _"
            );
            return self.mistake(&span, what);
        }
        if [DEFAULT_PROFILE, "native", "mern"].contains(&&**name) {
            let what = format!("'{name}' is taken; the rows of the default profile stand in [on]");
            return self.mistake(&span, what);
        }
        let Some(fields) = value.get_ref().as_table() else {
            return self.wrong_type(value, "a profile", "a table: [profile.mine]");
        };
        self.only(fields, "a profile", PROFILE_FIELDS);
        let say = table.default.say.clone();
        let new = || Profile::new(name, say);
        let profile = table.others.entry(Arc::from(&**name)).or_insert_with(new);
        self.profile(fields, profile);
        if table.others.len() >= PROFILES_MAX {
            self.mistake(&span, format!("there are more than {PROFILES_MAX} profiles"));
        }
    }

    fn profile(&mut self, fields: &DeTable<'_>, profile: &mut Profile) {
        if let Some(say) = fields.get("say").and_then(|say| self.out(say, Vocabulary::Say)) {
            profile.say = say;
        }
        if let Some(hello) = fields.get("hello") {
            profile.hello = self.outs(hello, Vocabulary::Fixed);
        }
        if let Some(every) = fields.get("every") {
            profile.every = self.every(every);
        }
        if let Some(on) = self.table(fields, "on", "rows such as \"event\" = { out = [..] }") {
            for (event, rows) in on {
                if let Some(name) = self.incoming_name(event.get_ref(), &event.span()) {
                    let rows = self.rows(rows);
                    profile.on.insert(name, rows);
                }
            }
        }
    }

    fn namespaces(&mut self, list: &TomlValue<'_>, table: &mut Table) {
        let shape = "a list of names such as [\"/user\"]";
        let Some(names) = list.get_ref().as_array() else {
            return self.wrong_type(list, "namespaces", shape);
        };
        for node in names {
            let name = node.get_ref().as_str();
            let is_fine = |name: &&str| {
                name.len() > 1 && name.len() <= 64 && name.starts_with('/') && !name.contains(',')
            };
            match name.filter(is_fine) {
                Some(name) if table.namespaces.iter().any(|known| known == name) => {}
                Some(name) => table.namespaces.push(name.to_owned()),
                None => self
                    .mistake(&node.span(), format!("namespaces is {shape}; `/` is always there")),
            }
        }
        table.namespaces.sort();
        if table.namespaces.len() > NAMESPACES_MAX {
            self.mistake(&list.span(), format!("there are more than {NAMESPACES_MAX} namespaces"));
        }
    }

    fn origin(
        &mut self,
        origin: &Spanned<DeString<'_>>,
        profile: &TomlValue<'_>,
        table: &mut Table,
    ) {
        let text = origin.get_ref().trim_end_matches('/').to_ascii_lowercase();
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
            let what = format!(
                "'{}' is no origin: it is scheme and host, such as http://localhost:3000",
                origin.get_ref()
            );
            return self.mistake(&origin.span(), what);
        }
        let Some(name) = profile.get_ref().as_str() else {
            return self.wrong_type(profile, "an origin", "the name of a profile, as text");
        };
        let known: Vec<&str> = table.profiles().map(Profile::name).collect();
        if !known.contains(&name) {
            let why = format!("there is no profile '{name}'");
            return self.unknown(&profile.span(), &why, name, &known);
        }
        table.origins.insert(text, Arc::from(name));
    }
}

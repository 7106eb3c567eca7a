//! The mistakes in a file with rules: each has its line, and where a known word may have been meant,
//! that word.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Mistakes that are shown of one file.
const MISTAKES_MAX: usize = 20;

/// Every mistake of a file, one per line: `file:line: what is wrong; did you mean '..'?`
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TableError {
    name: String,
    mistakes: Vec<Mistake>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    line: usize,
    what: String,
}

/// One reading of a file. The functions that read return `None` where they found a mistake.
#[derive(Debug)]
pub struct Parser<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

/// A value with its place in the file.
pub type TomlValue<'a> = Spanned<DeValue<'a>>;

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, mistakes: Vec::new() }
    }

    /// Whether no mistake was found yet.
    pub fn is_content(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub fn finish(mut self, name: &str) -> Result<(), TableError> {
        if self.mistakes.is_empty() {
            return Ok(());
        }
        self.mistakes.sort_by_key(|mistake| mistake.line);
        let name = name.to_owned();
        Err(TableError { name, mistakes: self.mistakes })
    }

    pub fn mistake(&mut self, span: &Range<usize>, what: impl Into<String>) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.mistakes.push(Mistake { line, what: what.into() });
    }

    /// A word that is not known, with the known word that is most like it.
    pub fn unknown(&mut self, span: &Range<usize>, why: &str, word: &str, known: &[&str]) {
        let what = match nearest(word, known) {
            Some(near) => format!("{why}; did you mean `{near}`?"),
            None if known.is_empty() => why.to_owned(),
            None => format!("{why}; known are {}", known.join(", ")),
        };
        self.mistake(span, what);
    }

    /// The table in a field. `None`: there is none, or it is no table.
    pub fn table<'t, 'i>(
        &mut self,
        fields: &'t DeTable<'i>,
        name: &str,
        shape: &str,
    ) -> Option<&'t DeTable<'i>> {
        let node = fields.get(name)?;
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(node, &format!("`{name}`"), shape);
        }
        table
    }

    /// Refuses fields that are not known. `true`: there are none.
    pub fn only(&mut self, fields: &DeTable<'_>, owner: &str, known: &[&str]) -> bool {
        let before = self.mistakes.len();
        for name in fields.keys() {
            let text: &str = name.get_ref();
            if !known.contains(&text) {
                let why = format!("{owner} has no field `{text}`");
                self.unknown(&name.span(), &why, text, known);
            }
        }
        self.mistakes.len() == before
    }

    pub fn wrong_type(&mut self, node: &TomlValue<'_>, owner: &str, shape: &str) {
        let found = match node.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.mistake(&node.span(), format!("{owner} is {shape}, not {found}"));
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Mistake { line, what }) in self.mistakes.iter().take(MISTAKES_MAX).enumerate() {
            let separator = if place == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}: {what}", self.name)?;
        }
        match self.mistakes.len().saturating_sub(MISTAKES_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.name),
        }
    }
}

/// The known word that a person most likely meant: at most a third of its letters differ.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|known| (distance(word, known), *known)).min()?;
    (near.0 <= (near.1.chars().count() / 3).max(1)).then_some(near.1)
}

/// Letters to insert, remove, replace or swap with their neighbour, from one word to another.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.to_lowercase().chars().collect();
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = row[j] + usize::from(a != b);
            let mut least = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[other.len()]
}

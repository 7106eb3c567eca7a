//! What a search looks for, and which words a text has. Every store uses this one rule.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use crate::domain::room::RoomName;

/// Longest text to look for, in characters.
pub const QUERY_CHARS_MAX: usize = 100;
/// Different words to look for at once.
pub const QUERY_WORDS_MAX: usize = 20;
/// Longest word, in bytes. A longer one cannot be searched for, and no index keeps it.
const WORD_BYTES_MAX: usize = 4 * QUERY_CHARS_MAX;

/// A search for the newest `limit` messages of a room that contain all words of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    pub room: RoomName,
    pub query: Query,
    /// Only messages with a smaller `seq`.
    pub before: Option<u64>,
    pub limit: u32,
}

/// Different words, all of which a message must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query(Vec<String>);

/// Why a text is not a query. The client is shown this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("text is longer than {QUERY_CHARS_MAX} characters")]
    TooLong,
    #[error("text has no word to look for: letters or digits")]
    NoWord,
    #[error("text has more than {QUERY_WORDS_MAX} words")]
    TooManyWords,
}

impl Query {
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        if text.chars().count() > QUERY_CHARS_MAX {
            return Err(QueryError::TooLong);
        }
        let mut query = words(text);
        query.sort_unstable();
        query.dedup();
        match query.len() {
            0 => Err(QueryError::NoWord),
            1..=QUERY_WORDS_MAX => Ok(Self(query)),
            _ => Err(QueryError::TooManyWords),
        }
    }

    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// Whether all words of the query are among the words of a message.
    pub fn is_in(&self, words: &[String]) -> bool {
        self.0.iter().all(|word| words.contains(word))
    }
}

/// The words of a text in the form in which they are compared. A word is a run of letters, digits
/// and their marks; differences of case, width and composition are removed. In scripts that put no
/// spaces between words, each character is a word.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for run in folded(text).split(|c: char| !c.is_alphanumeric() && !is_mark(c)) {
        let mut word = String::new();
        let mut last = None;
        for c in run.trim_start_matches(is_mark).chars() {
            if !is_mark(c) {
                if last.is_some_and(stands_alone) || stands_alone(c) {
                    words.push(std::mem::take(&mut word));
                }
                last = Some(c);
            }
            word.push(c);
        }
        words.push(word);
    }
    words.retain(|word| (1..=WORD_BYTES_MAX).contains(&word.len()));
    words
}

/// Upper case comes first: only then `ß` and `SS`, or the two small sigmas, become the same.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect()
}

fn is_mark(c: char) -> bool {
    !c.is_ascii() && is_combining_mark(c)
}

/// Thai, Lao, Burmese, Khmer, Japanese and Chinese; and Korean, whose particles join their words.
fn stands_alone(c: char) -> bool {
    matches!(
        c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
            | '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
            | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn a_text_is_split_into_words() {
        for (text, expected) in [
            ("Hello, World!", vec!["hello", "world"]),
            ("don't a_b-c 4.2", vec!["don", "t", "a", "b", "c", "4", "2"]),
            ("\"a\" OR b* NEAR(c) -d ^e {f}: +", vec!["a", "or", "b", "near", "c", "d", "e", "f"]),
            ("KÖLN ko\u{308}ln", vec!["köln", "köln"]),
            ("Straße ΟΔΟΣ", vec!["strasse", "οδοσ"]),
            ("ｗｉｄｅ ﬁn", vec!["wide", "fin"]),
            ("हिन्दी", vec!["हिन्दी"]),
            ("東京a b", vec!["東", "京", "a", "b"]),
            ("กี่", vec!["กี่"]),
            ("\u{301}a \u{e000}1 🎉", vec!["a", "1"]),
            ("", vec![]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
        assert_eq!(words(&format!("{} {}", "x".repeat(400), "y".repeat(401))), ["x".repeat(400)]);
    }

    #[test]
    fn all_words_of_a_query_must_be_found() {
        let found = |query: &str, text: &str| Query::parse(query).unwrap().is_in(&words(text));
        assert!(found("b A", "a, b and c"));
        assert!(!found("a d", "a, b and c"));
        assert!(!found("an", "and"), "a part of a word is not found");
    }

    #[test]
    fn a_query_is_bounded() {
        assert_eq!(Query::parse(" \"*-🎉"), Err(QueryError::NoWord));
        assert_eq!(Query::parse(&"x".repeat(101)), Err(QueryError::TooLong));
        assert!(Query::parse(&"ö".repeat(100)).is_ok() && Query::parse(&"x ".repeat(50)).is_ok());
        let many = ('a'..='u').map(|c| format!("{c} ")).collect::<String>();
        assert_eq!(Query::parse(&many), Err(QueryError::TooManyWords));
    }

    proptest! {
        /// An index that keeps these words needs no rule of its own.
        #[test]
        fn splitting_a_word_gives_the_same_word(text in "\\PC*") {
            for word in words(&text) {
                prop_assert!(word.chars().all(|c| c.is_alphanumeric() || is_mark(c)), "{word:?}");
                prop_assert_eq!(words(&word), [word.clone()]);
            }
        }
    }
}

//! Splits a text into words. Every character of a word keeps its column in the text.
//!
//! Words are separated by white space. Double quotes (also “ and ”, which chat clients make of
//! them) and single quotes hold a word together, also in its middle: `reason="a b"`. A backslash
//! takes the next character as it is, except in single quotes. Line breaks and tabs count as
//! spaces; other control characters, and characters that change the direction of text so that it
//! reads differently from what it says, are refused wherever they stand.

use super::error::{CommandError, CommandProblem};

/// Character with its column, which counts from 1.
pub(super) type Mark = (char, usize);

/// Word without its quotes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    pub marks: Vec<Mark>,
    /// Column of the first character, opening quote included.
    pub column: usize,
    /// Index in `marks` of the first `=` outside quotes.
    pub equals: Option<usize>,
}

impl Word {
    pub(super) fn text(&self) -> String {
        text(&self.marks)
    }
}

pub(super) fn text(marks: &[Mark]) -> String {
    marks.iter().map(|(c, _)| c).collect()
}

/// Characters of a text with their columns; an error if one of them is not allowed.
pub(super) fn marks(text: &str, most: usize) -> Result<Vec<Mark>, CommandError> {
    if text.len() > most {
        return Err(CommandProblem::TextTooLong { bytes: text.len(), most }.nowhere());
    }
    text.chars()
        .zip(1..)
        .map(|(c, column)| match c {
            '\n' | '\r' | '\t' => Ok((' ', column)),
            c if turns_text(c) => Err(CommandProblem::DirectionCharacter(c).at(column)),
            c if c.is_control() => Err(CommandProblem::ControlCharacter(c).at(column)),
            c => Ok((c, column)),
        })
        .collect()
}

/// True for the characters of Unicode's bidirectional algorithm (UAX #9) that change direction.
pub(super) fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Splits characters into words.
pub(super) fn words(marks: &[Mark]) -> Result<Vec<Word>, CommandError> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&(c, column)) = marks.get(at) {
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let mut word = Word { marks: Vec::new(), column, equals: None };
        at = read_word(marks, at, &mut word)?;
        words.push(word);
    }
    Ok(words)
}

/// Reads one word that starts at `at`; returns the index of its end.
fn read_word(marks: &[Mark], mut at: usize, word: &mut Word) -> Result<usize, CommandError> {
    let mut quote: Option<Mark> = None;
    while let Some(&(c, column)) = marks.get(at) {
        at += 1;
        match quote {
            None if c.is_whitespace() => return Ok(at - 1),
            None if is_quote(c) => quote = Some((c, column)),
            Some((open, _)) if closes(open, c) => quote = None,
            _ if c == '\\' && quote.is_none_or(|(open, _)| open != '\'') => {
                let Some(&(next, _)) = marks.get(at) else {
                    return Err(CommandProblem::TrailingBackslash.at(column));
                };
                at += 1;
                word.marks.push((next, column));
            }
            _ => {
                if c == '=' && quote.is_none() && word.equals.is_none() {
                    word.equals = Some(word.marks.len());
                }
                word.marks.push((c, column));
            }
        }
    }
    match quote {
        Some((_, column)) => Err(CommandProblem::UnclosedQuote.at(column)),
        None => Ok(at),
    }
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '“' | '”')
}

fn closes(open: char, c: char) -> bool {
    match open {
        // Each closes the other, because a client may convert only one quote of a pair.
        '“' | '”' => matches!(c, '“' | '”' | '"'),
        open => c == open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Result<Vec<(String, usize)>, CommandError> {
        let words = words(&marks(text, 1000)?)?;
        Ok(words.iter().map(|word| (word.text(), word.column)).collect())
    }

    #[test]
    fn quotes_hold_words_together() {
        for (typed, expected) in [
            ("", vec![]),
            (" a\tb\r\nc ", vec![("a", 2), ("b", 4), ("c", 7)]),
            (r#"x "a b"c 'd\e'"#, vec![("x", 1), ("a bc", 3), (r"d\e", 10)]),
            (r#"a\ b "\"" \\"#, vec![("a b", 1), ("\"", 6), ("\\", 11)]),
            ("“a b” ”c d\" \"“\"", vec![("a b", 1), ("c d", 7), ("“", 13)]),
            ("\"\"", vec![("", 1)]),
            ("ä\u{a0}b", vec![("ä", 1), ("b", 3)]),
        ] {
            let expected: Vec<(String, usize)> =
                expected.into_iter().map(|(word, at)| (word.to_owned(), at)).collect();
            assert_eq!(lex(typed), Ok(expected), "{typed:?}");
        }
    }

    #[test]
    fn only_an_equals_sign_outside_quotes_splits() {
        let equals = |text: &str| words(&marks(text, 100).unwrap()).unwrap()[0].equals;
        assert_eq!(equals("ab=c=d"), Some(2));
        assert_eq!(equals("\"a=b\""), None);
        assert_eq!(equals("\"a=b\"=c"), Some(3));
        assert_eq!(equals(r"a\=b"), None);
    }

    #[test]
    fn errors_name_the_column() {
        for (typed, problem, column) in [
            ("ä \"b", CommandProblem::UnclosedQuote, 3),
            ("a 'b\"", CommandProblem::UnclosedQuote, 3),
            ("a\\", CommandProblem::TrailingBackslash, 2),
            ("ab\u{0}", CommandProblem::ControlCharacter('\u{0}'), 3),
            ("a\u{7f}", CommandProblem::ControlCharacter('\u{7f}'), 2),
            ("ä\u{85}", CommandProblem::ControlCharacter('\u{85}'), 2),
            ("\"a\u{202e}\"", CommandProblem::DirectionCharacter('\u{202e}'), 3),
            ("\u{2066}", CommandProblem::DirectionCharacter('\u{2066}'), 1),
            ("\u{200f}", CommandProblem::DirectionCharacter('\u{200f}'), 1),
        ] {
            assert_eq!(lex(typed), Err(problem.at(column)), "{typed:?}");
        }
        let long = CommandProblem::TextTooLong { bytes: 1002, most: 1000 }.nowhere();
        assert_eq!(lex(&"ä".repeat(501)), Err(long));
    }
}

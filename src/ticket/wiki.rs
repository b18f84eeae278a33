//! Jira's wiki text (Data Center): how foreign text is made harmless, and the two markers that we
//! write ourselves, mentions and links.
//!
//! Invariant: what [`escape`] returns holds no marker that Jira would act on. Characters that could
//! be one become numeric character references, which Jira's renderer passes through to the browser
//! without reading them again. A backslash is not used: it does not stop bare addresses, issue keys
//! or emoticons, and two of them are a line break.
//!
//! Source: Jira's "Text Formatting Notation Help" page (`WikiRendererHelpAction`).

use std::fmt::Write as _;

/// Makes foreign text show as it was typed, in one line: no markup, macro, mention, link, issue
/// key, image, emoticon or list can come out of it. Line breaks become spaces; other control and
/// bidirectional characters are dropped.
pub fn escape(text: &str) -> String {
    let chars: Vec<char> = text.chars().filter_map(visible).collect();
    let start = chars.iter().position(|c| !c.is_whitespace()).unwrap_or(0);
    let mut out = String::with_capacity(text.len() + 16);
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|i| chars[i]);
        let after = chars.get(at + 1).copied();
        if is_plain(c, before, after, chars.get(start..at).unwrap_or_default()) {
            out.push(c);
        } else {
            push_reference(&mut out, c);
        }
    }
    out
}

/// A mention, which also notifies: `[~account]`. An account name that Jira could read differently
/// is returned as escaped text, so that it names the person but cannot mention anybody else.
pub fn mention(account: &str) -> String {
    if is_account(account) { format!("[~{account}]") } else { escape(account) }
}

/// A link that shows `text`. An address that is not plain `http` or `https` is not linked.
pub fn link(text: &str, url: &str) -> String {
    let web = url.starts_with("https://") || url.starts_with("http://");
    let unsafe_in_link = |c: char| {
        c.is_whitespace() || c.is_control() || !c.is_ascii() || r#"|[]{}\^"<>!*"#.contains(c)
    };
    if web && !url.contains(unsafe_in_link) {
        format!("[{}|{url}]", escape(text))
    } else {
        escape(text)
    }
}

/// Whether Jira would read the name as one account in a mention.
pub fn is_account(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@+".contains(c))
}

/// The character as it may stand in a ticket, if at all.
fn visible(c: char) -> Option<char> {
    match c {
        '\n' | '\r' | '\t' | '\u{0b}' | '\u{0c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{061c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' => None,
        '\u{feff}' => None,
        c if c.is_control() => None,
        c => Some(c),
    }
}

/// Whether the character means nothing to Jira at this place. `head` is the line up to it.
fn is_plain(c: char, before: Option<char>, after: Option<char>, head: &[char]) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    match c {
        // Inside a word these mark nothing, and host names and error kinds are full of them. A
        // hyphen between capitals and a digit would make an issue key: OPS-1.
        '_' => word(before) && word(after),
        '-' => {
            let key_part = |c: &&char| c.is_ascii_uppercase() || c.is_ascii_digit() || **c == '_';
            let key = digit(after)
                && head.iter().rev().take_while(key_part).any(char::is_ascii_uppercase);
            word(before) && word(after) && !key
        }
        // Schemes, emoticons such as :D and :).
        ':' => after == Some(' ') || (digit(before) && digit(after)),
        // `h1.` and `bq.` mark a line by their dot.
        '.' => !(head == ['b', 'q'] || (head.len() == 2 && head[0] == 'h' && digit(before))),
        '&' | '<' | '>' | '{' | '}' | '[' | ']' | '(' | ')' | '|' | '\\' | '*' | '+' | '^'
        | '~' | '?' | '!' | '#' | '@' | '%' | '"' | '\'' | '`' => false,
        _ => true,
    }
}

fn push_reference(out: &mut String, c: char) {
    write!(out, "&#{};", u32::from(c)).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads character references back: what a person would see.
    fn shown(escaped: &str) -> String {
        let mut out = String::new();
        let mut rest = escaped;
        while let Some(start) = rest.find("&#") {
            let end = start + rest[start..].find(';').expect("a reference ends");
            out.push_str(&rest[..start]);
            let code: u32 = rest[start + 2..end].parse().expect("a number");
            out.push(char::from_u32(code).expect("a character"));
            rest = &rest[end + 1..];
        }
        out + rest
    }

    /// The text with its references taken out: all that Jira's renderer looks at.
    fn seen_by_jira(escaped: &str) -> String {
        let mut out = String::new();
        let mut rest = escaped;
        while let Some(start) = rest.find('&') {
            let end = start + rest[start..].find(';').expect("only whole references");
            assert!(rest[start..end].starts_with("&#"), "{escaped}");
            out.push_str(&rest[..start]);
            out.push('\u{1}');
            rest = &rest[end + 1..];
        }
        out + rest
    }

    #[test]
    fn markup_becomes_text() {
        for text in [
            "{code}rm -rf{code}",
            "{html}<script>{html}",
            "[~bob] look",
            "[click|https://evil.example]",
            "https://evil.example/x",
            "!http://evil.example/a.png!",
            "|a||b|",
            "*bold* _it_ -del- +ins+ ^up^ ~low~ ??cite??",
            r"back\\slash \[x\]",
            "h1. Title",
            "bq. quote",
            "# one",
            "OPS-1 and CVE-2026-1",
            "(x) :) ;) :D",
            "&#91;~bob&#93; &amp;",
        ] {
            let escaped = escape(text);
            assert_eq!(shown(&escaped), text);
            assert_ne!(escaped, text);
        }
    }

    #[test]
    fn ordinary_words_stay_readable() {
        for text in ["web-01.fra1.example.com", "bmc_unreachable", "fans: 3, at 12:30", "10.0.0.1"]
        {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn one_line_comes_out() {
        assert_eq!(escape("a\nh1. b\r\n\u{202e}c\u{0}"), "a h1. b  c");
    }

    #[test]
    fn a_mention_names_one_account_or_nobody() {
        assert_eq!(mention("alice"), "[~alice]");
        assert_eq!(mention("a.b+c@example.com"), "[~a.b+c@example.com]");
        assert_eq!(mention("x] [~bob"), "x&#93; &#91;&#126;bob");
        assert!(!mention("").contains('['));
        assert!(!mention("a|b").contains('['));
    }

    #[test]
    fn a_link_goes_to_the_web_or_nowhere() {
        assert_eq!(link("#42", "https://m.example/b/42"), "[&#35;42|https://m.example/b/42]");
        assert_eq!(link("x", "javascript:alert(1)"), "x");
        assert_eq!(link("x", "https://a/] [~bob"), "x");
    }

    proptest! {
        /// No marker is left, and nothing is lost but control characters.
        #[test]
        fn escaped_text_holds_no_marker(
            text in r#"([{}\[\]()|*_+^~?!#@\\&<>;:.\-/ \nhbq1A]|\PC|[a-z]{1,4}|https?://|OPS-1|bq\. |h1\. ){0,40}"#,
        ) {
            let escaped = escape(&text);
            let seen = seen_by_jira(&escaped);
            prop_assert!(!seen.contains(
                |c: char| "{}[]()|*+^~?!#@\\<>\n\r".contains(c)), "{}", seen);
            prop_assert!(!seen.contains("://") && !seen.contains("mailto:"), "{}", seen);
            let line = seen.trim_start();
            prop_assert!(!line.starts_with("bq."), "{}", seen);
            prop_assert!(!(line.starts_with('h')
                && line.chars().nth(2) == Some('.')
                && line.chars().nth(1).is_some_and(|c| c.is_ascii_digit())), "{}", seen);
            let chars: Vec<char> = seen.chars().collect();
            for (at, c) in chars.iter().enumerate().filter(|(_, c)| "_-".contains(**c)) {
                // A phrase marker needs an outer edge; between two word characters there is none.
                prop_assert!(at > 0 && chars[at - 1].is_ascii_alphanumeric(), "{}", seen);
                prop_assert!(chars.get(at + 1).is_some_and(char::is_ascii_alphanumeric), "{}", seen);
                if *c == '-' && chars[at + 1].is_ascii_digit() {
                    let word = chars[..at].rsplit(|c| !c.is_ascii_uppercase() && !c.is_ascii_digit());
                    let last = word.into_iter().next().unwrap_or_default();
                    prop_assert!(!last.iter().any(char::is_ascii_uppercase), "issue key: {}", seen);
                }
            }
            let wanted: String = text.chars().filter_map(visible).collect();
            prop_assert_eq!(shown(&escaped), wanted);
        }

        /// What Jira gets as a mention is one bracket pair around a plain name.
        #[test]
        fn mentions_cannot_be_widened(account in r"[a-z\[\]~|\\ {}.@]{0,12}") {
            let text = mention(&account);
            if let Some(inner) = text.strip_prefix("[~") {
                prop_assert_eq!(inner.strip_suffix(']'), Some(account.as_str()));
                prop_assert!(is_account(&account));
            } else {
                prop_assert_eq!(text, escape(&account));
            }
        }
    }
}

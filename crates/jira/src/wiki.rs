//! Wiki text, the form of a body on Jira Data Center.
//!
//! Invariant: text of a body holds no marker that Jira would act on. Characters that could be one
//! become numeric character references, which Jira's renderer passes through to the browser without
//! reading them again. A backslash is not used: it does not stop bare addresses, issue keys or
//! emoticons, and two of them are a line break. Nor is `{noformat}`, whose text could end it.
//!
//! Source: Jira's "Text Formatting Notation Help" page (`WikiRendererHelpAction`).

use super::body::{Block, Inline, Style, fit, is_web, push_reference, visible};

/// Wiki text of the blocks, no longer than Jira takes.
pub(super) fn text(blocks: Vec<Block>) -> String {
    fit(blocks, draw, |text| text.encode_utf16().count())
}

fn draw(blocks: &[Block]) -> String {
    let mut out = String::new();
    for (at, block) in blocks.iter().enumerate() {
        // A heading stands close to what it heads.
        out.push_str(match at.checked_sub(1).map(|before| &blocks[before]) {
            None => "",
            Some(Block::Heading(..)) => "\n",
            Some(_) => "\n\n",
        });
        out.push_str(&draw_block(block));
    }
    out
}

fn draw_block(block: &Block) -> String {
    match block {
        Block::Heading(level, text) => format!("h{level}. {}", line(text, " ")),
        Block::Paragraph(text) => line(text, "\n"),
        Block::List { first, items } => {
            let mut out = Vec::new();
            draw_list(first.is_some(), items, "", &mut out);
            out.join("\n")
        }
        Block::Table { head, rows } => {
            let row = |bar: &str, cells: &[Vec<Inline>]| {
                // A cell without even a blank would join its bars to a heading's.
                let cells: Vec<String> =
                    cells.iter().map(|cell| format!(" {} ", line(cell, " "))).collect();
                format!("{bar}{}{bar}", cells.join(bar))
            };
            let rows = rows.iter().map(|cells| row("|", cells));
            std::iter::once(row("||", head)).chain(rows).collect::<Vec<_>>().join("\n")
        }
        Block::Code(text) => code(text),
        Block::Quote(blocks) => {
            let quoted = blocks.iter().map(|block| match block {
                Block::Paragraph(text) => format!("bq. {}", line(text, " ")),
                block => draw_block(block),
            });
            quoted.collect::<Vec<_>>().join("\n\n")
        }
        Block::Rule => "----".into(),
    }
}

/// One line for each item: a blank line would end the list.
fn draw_list(numbered: bool, items: &[Vec<Block>], outer: &str, out: &mut Vec<String>) {
    let bullets = format!("{outer}{}", if numbered { '#' } else { '*' });
    for item in items {
        let mut own = Vec::new();
        let mut inner = Vec::new();
        for block in item {
            match block {
                Block::List { first, items } => {
                    draw_list(first.is_some(), items, &bullets, &mut inner)
                }
                block => lines_of(block, &mut own),
            }
        }
        let own = own.join(" ");
        out.push(format!("{bullets} {}", if own.is_empty() { "&#160;" } else { &own }));
        out.append(&mut inner);
    }
}

/// Text of a block, without what cannot stand inside an item.
fn lines_of(block: &Block, out: &mut Vec<String>) {
    match block {
        Block::Heading(_, text) | Block::Paragraph(text) => out.push(line(text, " ")),
        Block::Code(text) => out.extend(text.lines().map(mono_line)),
        Block::Quote(blocks) => blocks.iter().for_each(|block| lines_of(block, out)),
        Block::List { items, .. } => items.iter().flatten().for_each(|block| lines_of(block, out)),
        Block::Table { head, rows } => {
            for row in std::iter::once(head).chain(rows) {
                let cells: Vec<String> = row.iter().map(|cell| line(cell, " ")).collect();
                out.push(cells.join(", "));
            }
        }
        Block::Rule => {}
    }
}

/// Lines of fixed width that keep their blanks.
fn code(text: &str) -> String {
    text.lines().map(mono_line).collect::<Vec<_>>().join("\n")
}

fn mono_line(text: &str) -> String {
    let text = escape(text).replace(' ', "&#160;");
    format!("{{{{{}}}}}", if text.is_empty() { "&#160;" } else { &text })
}

fn line(text: &[Inline], line_break: &str) -> String {
    let mut out = String::new();
    for (at, inline) in text.iter().enumerate() {
        match inline {
            Inline::Text(words, style) => {
                let next = match text.get(at + 1) {
                    Some(Inline::Text(next, _)) => next.chars().next(),
                    _ => None,
                };
                span(&mut out, words, style, next);
            }
            Inline::Mention { account, name } => out.push_str(&mention(account, name)),
            Inline::Break => out.push_str(line_break),
        }
    }
    out
}

/// Writes text with the marks of its style. `next` follows it.
fn span(out: &mut String, text: &str, style: &Style, next: Option<char>) {
    let core = text.trim();
    if core.is_empty() || *style == Style::default() {
        out.push_str(&escape(text));
        return;
    }
    let (lead, rest) = text.split_at(text.len() - text.trim_start().len());
    let tail = &rest[core.len()..];
    out.push_str(&escape(lead));
    // A mark that touches a word counts only in braces.
    let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let inside = word(out.chars().next_back()) || (tail.is_empty() && word(next));
    let mut marked = escape(core);
    if style.code {
        marked = format!("{{{{{marked}}}}}");
    }
    for (on, mark) in [(style.strike, '-'), (style.emphasis, '_'), (style.strong, '*')] {
        marked = match (on, inside) {
            (false, _) => marked,
            (true, false) => format!("{mark}{marked}{mark}"),
            (true, true) => format!("{{{mark}}}{marked}{{{mark}}}"),
        };
    }
    match style.link.as_deref().filter(|url| is_linkable(url)) {
        Some(url) => out.push_str(&format!("[{marked}|{url}]")),
        None => out.push_str(&marked),
    }
    out.push_str(&escape(tail));
}

/// Makes foreign text show as it was typed, in one line: no markup, macro, mention, link, issue
/// key, image, emoticon or list can come out of it. Line breaks become spaces; other control and
/// bidirectional characters are dropped.
fn escape(text: &str) -> String {
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
/// is not mentioned: the person is named, and nobody else can be meant.
fn mention(account: &str, name: &str) -> String {
    if is_account(account) { format!("[~{account}]") } else { escape(name) }
}

/// Returns whether the address can stand in a link without ending it.
fn is_linkable(url: &str) -> bool {
    let unsafe_in_link = |c: char| {
        c.is_whitespace() || c.is_control() || !c.is_ascii() || r#"|[]{}\^"<>!*"#.contains(c)
    };
    is_web(url) && !url.contains(unsafe_in_link)
}

/// Returns whether Jira would read the name as one account in a mention.
pub(super) fn is_account(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@+".contains(c))
}

/// Returns whether the character has no meaning for Jira at this place. `head` is the line up to it.
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
        // Two of them begin a citation.
        '?' => before != Some('?') && after != Some('?'),
        '\'' => word(before) && word(after),
        // Schemes, emoticons such as :D and :).
        ':' => after == Some(' ') || (digit(before) && digit(after)),
        // `h1.` and `bq.` mark a line by their dot.
        '.' => !(head == ['b', 'q'] || (head.len() == 2 && head[0] == 'h' && digit(before))),
        '&' | '<' | '>' | '{' | '}' | '[' | ']' | '(' | ')' | '|' | '\\' | '*' | '+' | '^'
        | '~' | '!' | '#' | '@' | '%' | '"' | '`' => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::body::{self, Body};
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

    fn wiki(markdown: &str) -> String {
        text(Body::markdown(markdown).blocks())
    }

    #[test]
    fn a_mention_names_one_account_or_nobody() {
        assert_eq!(wiki("[Al](mention:alice)"), "[~alice]");
        assert_eq!(wiki("[Al](<mention:a.b%2Bc%40example.com>)"), "[~a.b+c@example.com]");
        assert_eq!(wiki("[Al \\[](<mention:x%5D%20%5B~bob>)"), "Al &#91;");
        assert_eq!(wiki("[Al](mention:)"), "Al");
    }

    #[test]
    fn a_link_goes_to_the_web_or_nowhere() {
        assert_eq!(wiki("[#42](https://m.example/b/42)"), "[&#35;42|https://m.example/b/42]");
        assert_eq!(wiki("[x](javascript:alert(1))"), "x");
        assert_eq!(wiki("[x](<https://a/] [~bob>)"), "x");
    }

    #[test]
    fn every_construct_has_its_wiki_form() {
        let markdown = "\
## Head *line*

one **two** ~~three~~ `four_4` mid**dle**word
next\\
line

- a
  - b

    1. c
- `d`

| A | B |
|---|---|
| 1 | |
| x\\|y | [l](https://h/) |

```
raw [~bob] {code}
  two
```

> quoted

---
<b>html</b>";
        insta::assert_snapshot!(wiki(markdown), @"
        h2. Head _line_
        one *two* -three- {{four_4}} mid{*}dle{*}word next
        line

        * a
        ** b
        **# c
        * {{d}}

        || A || B ||
        | 1 |  |
        | x&#124;y | [l|https://h/] |

        {{raw&#160;&#91;&#126;bob&#93;&#160;&#123;code&#125;}}
        {{&#160;&#160;two}}

        bq. quoted

        ----

        &#60;b&#62;html&#60;/b&#62;
        ");
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
                |c: char| "{}[]()|*+^~!#@\\<>\n\r".contains(c)), "{}", seen);
            prop_assert!(!seen.contains("??"), "{}", seen);
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
            let text = mention(&account, "name");
            if let Some(inner) = text.strip_prefix("[~") {
                prop_assert_eq!(inner.strip_suffix(']'), Some(account.as_str()));
                prop_assert!(is_account(&account));
            } else {
                prop_assert_eq!(text, "name");
            }
        }

        /// Whatever a user typed, in whatever place of a template, shows as typed and does nothing.
        #[test]
        fn foreign_text_does_nothing_in_a_template(
            text in r#"([{}\[\]()|*_+^~?!#@\\&<>;:.\-/ `=\nhbq1A]|\PC|[a-z]{1,4}|https?://|OPS-1|mention:bob){0,30}"#,
        ) {
            let value = body::escape(&text);
            let expected: Vec<String> = text.chars().filter_map(visible).collect::<String>()
                .split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
            for (template, parts) in [
                (value.to_string(), 1),
                (format!("- {value}\n- quite another item"), 1),
                (format!("### {value}"), 1),
                (format!("say **{value}** now"), 1),
                (format!("| A | B |\n|---|---|\n| {value} | {value} |"), 2),
                (format!("[{value}](https://m.example/)"), 1),
            ] {
                let seen: Vec<String> = plain(&Body::markdown(template.clone()).blocks());
                let words = expected.join(" ");
                let found = seen.iter().filter(|one| **one == words).count();
                prop_assert!(words.is_empty() || found == parts, "{:?} {:?} {:?}", template, seen, words);
                let out = seen_by_jira(&wiki(&template));
                prop_assert!(!out.contains("[~") && !out.contains("{code") && !out.contains("!"), "{}", out);
                prop_assert!(out.matches("://").count() <= 1, "{}", out);
            }
        }
    }

    /// The texts of a body, one of each style and cell.
    fn plain(blocks: &[Block]) -> Vec<String> {
        let texts = |line: &[Inline]| {
            line.iter()
                .filter_map(|inline| match inline {
                    Inline::Text(text, _) => Some(text.clone()),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        blocks
            .iter()
            .flat_map(|block| match block {
                Block::Heading(_, text) | Block::Paragraph(text) => texts(text),
                Block::List { items, .. } => items.iter().flat_map(|item| plain(item)).collect(),
                Block::Table { rows, .. } => {
                    rows.iter().flatten().flat_map(|cell| texts(cell)).collect()
                }
                other => vec![format!("{other:?}")],
            })
            .collect()
    }
}

//! Conversion of CommonMark to Slack's mrkdwn
//! (<https://docs.slack.dev/messaging/formatting-message-text>).
//!
//! Invariant: text stays text. `& < >` are escaped, so that no text can become a mention or a link
//! that is not made here; a character that mrkdwn would take for markup is followed
//! by a space of no width, because mrkdwn has no way to escape it.

use crate::chat::MENTION;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd, TextMergeStream};

/// Longest text of one run, in characters: longer ones are cut where a host list may be cut.
const LONGEST_RUN: usize = 1_200;
/// Longest block of code, in characters.
const LONGEST_CODE: usize = 2_400;

/// One paragraph, list item or block of code, in runs that cannot be divided.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unit {
    pub runs: Vec<String>,
    /// True if some text was left out.
    pub cut: bool,
}

impl Unit {
    /// Length in characters.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.chars().count()).sum()
    }
}

/// Returns the units of a text, in order.
pub fn units(markdown: &str) -> Vec<Unit> {
    let mut writer = Writer::default();
    for event in TextMergeStream::new(Parser::new(markdown)) {
        writer.take(event);
    }
    writer.end_unit();
    writer.units
}

/// Returns the whole text without any markup.
pub fn plain(markdown: &str) -> String {
    let mut out = String::new();
    for event in Parser::new(markdown) {
        match event {
            Event::Text(text) | Event::Code(text) | Event::Html(text) | Event::InlineHtml(text) => {
                out += &text;
            }
            Event::SoftBreak => out.push(' '),
            Event::HardBreak | Event::End(TagEnd::Item) => out.push('\n'),
            Event::Start(Tag::Item) => out += "- ",
            Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::CodeBlock) => {
                out += "\n";
            }
            _ => {}
        }
    }
    out.trim().to_owned()
}

/// Escapes a text, so that nothing in it is a mention, a link or an entity.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[derive(Default)]
struct Writer {
    units: Vec<Unit>,
    unit: Unit,
    strong: usize,
    emphasis: usize,
    struck: usize,
    /// The number of the next item of each open list; `None` for one without numbers.
    lists: Vec<Option<u64>>,
    link: Option<String>,
    /// Name of the person or group that the open link mentions.
    mention: Option<String>,
    link_text: String,
    code: Option<String>,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => {
                if let Some(code) = &mut self.code {
                    *code += &text;
                } else {
                    self.text(&text);
                }
            }
            Event::Code(text) => {
                let (text, cut) = shortened(&text, LONGEST_RUN);
                self.unit.cut |= cut;
                // A backtick would end the code; mrkdwn cannot escape it.
                let code = escape(&text).replace('`', "\u{2cb}");
                self.push(if code.trim().is_empty() { code } else { format!("`{code}`") });
            }
            Event::SoftBreak => self.push(" ".into()),
            Event::HardBreak => self.push("\n".into()),
            Event::Rule => self.push("———".into()),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Strong => self.strong += 1,
            Tag::Emphasis => self.emphasis += 1,
            Tag::Strikethrough => self.struck += 1,
            Tag::Heading { .. } => {
                self.end_unit();
                self.strong += 1;
            }
            Tag::Paragraph if self.lists.is_empty() => self.end_unit(),
            Tag::List(first) => self.lists.push(first),
            Tag::Item => {
                self.end_unit();
                let indent = "    ".repeat(self.lists.len().saturating_sub(1));
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}.", *number - 1)
                    }
                    _ => "•".into(),
                };
                self.push(format!("{indent}{mark} "));
            }
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                self.end_unit();
                self.code = Some(String::new());
            }
            Tag::Link { dest_url, .. } if dest_url.starts_with(MENTION) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
                let name = dest_url[MENTION.len()..].chars().filter(|c| fits(*c)).collect();
                self.mention = Some(name);
            }
            Tag::Link { dest_url, .. } => {
                let known = ["https://", "http://", "mailto:"];
                if known.iter().any(|scheme| dest_url.starts_with(scheme)) {
                    let address = escape(&dest_url).replace('|', "%7C");
                    self.link = Some(address);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong => self.strong -= 1,
            TagEnd::Emphasis => self.emphasis -= 1,
            TagEnd::Strikethrough => self.struck -= 1,
            TagEnd::Heading(_) => {
                self.strong -= 1;
                self.end_unit();
            }
            TagEnd::Paragraph if self.lists.is_empty() => self.end_unit(),
            TagEnd::Item => self.end_unit(),
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::CodeBlock => {
                if let Some(code) = self.code.take() {
                    let (code, cut) = shortened(code.trim_end(), LONGEST_CODE);
                    self.unit.cut |= cut;
                    let code = escape(&code).replace("```", "`\u{200b}`\u{200b}`");
                    self.push(format!("```\n{code}\n```"));
                    self.end_unit();
                }
            }
            TagEnd::Link if self.mention.is_some() => {
                if let Some(name) = self.mention.take() {
                    self.push(format!("<{MENTION}{name}>"));
                }
            }
            TagEnd::Link => {
                if let Some(address) = self.link.take() {
                    let text = std::mem::take(&mut self.link_text).replace('|', "\u{2502}");
                    self.push(format!("<{address}|{text}>"));
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.mention.is_some() {
            return;
        }
        let (text, cut) = shortened(text, LONGEST_RUN);
        self.unit.cut |= cut;
        let shown = shown_as_is(&text);
        if self.link.is_some() {
            self.link_text += &shown;
            return;
        }
        // mrkdwn needs its marks next to the text, so spaces stay outside of them.
        let inner = shown.trim();
        if inner.is_empty() {
            return self.push(shown);
        }
        let marks: String = [(self.strong, '*'), (self.emphasis, '_'), (self.struck, '~')]
            .iter()
            .filter(|(depth, _)| *depth > 0)
            .map(|(_, mark)| *mark)
            .collect();
        let back: String = marks.chars().rev().collect();
        let (before, after) = shown.split_once(inner).unwrap_or_default();
        let run = format!("{before}{marks}{inner}{back}{after}");
        self.push(run);
    }

    fn push(&mut self, run: String) {
        self.unit.runs.push(run);
    }

    fn end_unit(&mut self) {
        let unit = std::mem::take(&mut self.unit);
        if unit.runs.iter().any(|run| !run.trim().is_empty()) {
            self.units.push(unit);
        }
    }
}

/// Escapes a text, so that no character of it makes markup.
fn shown_as_is(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            // Within a word they are ordinary characters: `max_fail`.
            '*' | '_' | '~' | '`' => {
                let word = |at: Option<usize>| {
                    at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphanumeric())
                };
                out.push(c);
                if c == '`' || !(word(at.checked_sub(1)) && word(Some(at + 1))) {
                    out.push('\u{200b}');
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Cuts a text that is too long, at a comma or the end of a line if possible; `true` if it was cut.
fn shortened(text: &str, most: usize) -> (String, bool) {
    let Some((end, _)) = text.char_indices().nth(most) else { return (text.to_owned(), false) };
    let kept = &text[..end];
    let kept = kept.rfind([',', '\n']).filter(|at| *at > end / 2).map_or(kept, |at| &kept[..at]);
    (format!("{kept} …"), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mrkdwn(markdown: &str) -> String {
        let units: Vec<String> = units(markdown).iter().map(|unit| unit.runs.concat()).collect();
        units.join("\n")
    }

    #[test]
    fn markdown_becomes_mrkdwn() {
        let table = [
            ("**#1 reboot** · 3 hosts", "*#1 reboot* · 3 hosts"),
            ("a *b* **c** `d`", "a _b_ *c* `d`"),
            ("one\n\ntwo\nthree", "one\ntwo three"),
            ("- a\n- b `c`\n", "• a\n• b `c`"),
            ("1. a\n2. b\n   - c", "1. a\n2. b\n    • c"),
            ("# Title\n\ntext", "*Title*\ntext"),
            ("```\na < b\n  c\n```", "```\na &lt; b\n  c\n```"),
            (
                "[OPS-1](https://j.example.org/browse/OPS-1?a=1&b=2)",
                "<https://j.example.org/browse/OPS-1?a=1&amp;b=2|OPS-1>",
            ),
            ("[x](javascript:alert)", "x"),
            ("max_fail and max\\_fail", "max_fail and max_fail"),
        ];
        for (markdown, expected) in table {
            assert_eq!(mrkdwn(markdown), expected, "{markdown}");
        }
    }

    #[test]
    fn nothing_that_was_typed_is_a_ping_or_markup() {
        let typed = "\\<!channel\\> \\<@U1\\> \\& \\*b\\* \\`c\\` \\~d\\~ \\_e\\_";
        let shown = mrkdwn(typed);
        assert_eq!(
            shown.replace('\u{200b}', ""),
            "&lt;!channel&gt; &lt;@U1&gt; &amp; *b* `c` ~d~ _e_"
        );
        for mark in ["*b*", "`c`", "~d~", "_e_"] {
            assert!(!shown.contains(mark), "{shown:?}");
        }
        assert_eq!(mrkdwn("`<!here>` ``a`b``"), "`&lt;!here&gt;` `a\u{2cb}b`");
        assert_eq!(mrkdwn("<!channel> raw"), "&lt;!channel&gt; raw");
        assert_eq!(
            mrkdwn("[a|b](https://e.org/|<!here>)"),
            mrkdwn("[a|b](https://e.org/|<!here>)")
        );
        assert!(!mrkdwn("[<!here>](https://e.org/)").contains("<!here"));
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_comma() {
        let hosts: Vec<String> = (0..1000).map(|n| format!("x{n}")).collect();
        let units = units(&format!("`{}` end", hosts.join(",")));
        assert!(units[0].cut && units[0].len() < 1_300);
        let shown = units[0].runs.concat();
        assert!(shown.starts_with("`x0,x1,") && shown.ends_with(" …` end"), "{shown}");
        assert!(plain(&format!("`{}`", hosts.join(","))).ends_with("x999"), "whole");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_an_angle_bracket(text in "\\PC{0,80}") {
            // Only links that are made here contain an unescaped `<`.
            let escaped = crate::chat::slack::mrkdwn::shown_as_is(&text);
            proptest::prop_assert!(!escaped.contains(['<', '>']));
        }
    }
}

//! The text of a ticket or comment, in Markdown (CommonMark with tables and strikethrough), before
//! a dialect gives it its own form.
//!
//! A link to `mention:<account>` is a mention, which notifies the person; other links go to the web
//! or are text. HTML is text.
//!
//! Invariant: foreign text that went through [`escape`] is one run of plain text in whatever is
//! made of the body.

use std::fmt::Write as _;

use pulldown_cmark::{Event, Options, Parser, Tag};

/// Longest description or comment that Jira takes by default, in UTF-16 units.
pub const MAX_TEXT: usize = 32_767;
/// Lists and quotes inside each other; deeper ones are drawn at this depth.
const MAX_DEPTH: usize = 6;
const TOO_LONG: &str = "(The rest was too long for Jira.)";

/// Text of a ticket or comment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body(String);

impl Body {
    /// Markdown of ours, such as a rendered template: every foreign value in it is escaped.
    pub fn markdown(text: impl Into<String>) -> Body {
        Body(text.into())
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        Reader { events: Parser::new_ext(&self.0, options), depth: 0 }.blocks()
    }
}

/// Makes foreign text show as it was typed, in one line: no markup, link or mention can come out of
/// it, wherever in a line it stands. Line breaks become spaces; other control and bidirectional
/// characters are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars().filter_map(visible) {
        match c {
            // Tables are split at bars before a backslash is looked at.
            '|' | '\\' => push_reference(&mut out, c),
            // Markdown drops or counts blanks at the edges of a line.
            ' ' if out.is_empty() || out.ends_with(' ') => {}
            c if c.is_ascii_punctuation() => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end_matches(' ').len());
    out
}

/// A mention of the account, shown by name where Jira does not show the account's own.
pub fn mention(account: &str, name: &str) -> String {
    let mut address = String::new();
    for byte in account.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => {
                address.push(char::from(byte))
            }
            _ => write!(address, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    format!("[{}](<mention:{address}>)", escape(name))
}

/// A link that shows `text`. An address that is not plain `http` or `https` is not linked.
pub fn link(text: &str, url: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !"<>\\\"|&".contains(c);
    if is_web(url) && url.chars().all(|c| plain(c) || c == '&') {
        format!("[{}](<{}>)", escape(text), url.replace('&', "&amp;"))
    } else {
        escape(text)
    }
}

/// Text of fixed width; plain where Markdown cannot express it, and nothing where there is no text.
pub fn mono(text: &str) -> String {
    let text: String = text.chars().filter_map(visible).collect();
    let text = text.trim();
    match text.contains(['`', '|', '\\']) || text.is_empty() {
        true => escape(text),
        false => format!("`{text}`"),
    }
}

/// A block of fixed width that keeps its lines; it has to begin a line.
pub fn code_block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0).max(2);
    let fence = "`".repeat(longest + 1);
    let lines: Vec<String> =
        text.lines().map(|line| line.chars().filter_map(visible).collect()).collect();
    format!("{fence}\n{}\n{fence}", lines.join("\n"))
}

pub(super) fn is_web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// The character as it may stand in a ticket, if at all.
pub(super) fn visible(c: char) -> Option<char> {
    match c {
        c if c.is_whitespace() => Some(' '),
        '\u{061c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => None,
        c if c.is_control() => None,
        c => Some(c),
    }
}

pub(super) fn push_reference(out: &mut String, c: char) {
    write!(out, "&#{};", u32::from(c)).expect("writing to a String cannot fail");
}

/// Part of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Block {
    /// Level 1 to 6.
    Heading(u8, Vec<Inline>),
    Paragraph(Vec<Inline>),
    /// With its first number when it is a numbered one.
    List {
        first: Option<u64>,
        items: Vec<Vec<Block>>,
    },
    /// Every row has as many cells as the head.
    Table {
        head: Vec<Vec<Inline>>,
        rows: Vec<Vec<Vec<Inline>>>,
    },
    Code(String),
    Quote(Vec<Block>),
    Rule,
}

/// Part of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Inline {
    Text(String, Style),
    Mention { account: String, name: String },
    Break,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Style {
    pub strong: bool,
    pub emphasis: bool,
    pub strike: bool,
    pub code: bool,
    pub link: Option<String>,
}

struct Reader<'a> {
    events: Parser<'a>,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Up to the end of the element that we are in.
    fn blocks(&mut self) -> Vec<Block> {
        let mut out = Vec::new();
        // The text of a tight list's item has no paragraph around it.
        let mut loose = Vec::new();
        self.depth += 1;
        while let Some(event) = self.events.next() {
            let blocks = match event {
                Event::End(_) => break,
                Event::Rule => vec![Block::Rule],
                Event::Start(tag) if is_block(&tag) => self.block(tag),
                event => {
                    self.inline(event, &Style::default(), &mut loose);
                    continue;
                }
            };
            flush(&mut loose, &mut out);
            out.extend(blocks);
        }
        self.depth -= 1;
        flush(&mut loose, &mut out);
        out
    }

    fn block(&mut self, tag: Tag<'a>) -> Vec<Block> {
        let deep = self.depth > MAX_DEPTH;
        match tag {
            Tag::Heading { level, .. } => vec![Block::Heading(level as u8, self.inlines())],
            Tag::BlockQuote(_) if deep => self.blocks(),
            Tag::BlockQuote(_) => vec![Block::Quote(self.blocks())],
            Tag::CodeBlock(_) => vec![Block::Code(self.plain().trim_end().to_owned())],
            Tag::List(first) => {
                let mut items = Vec::new();
                while let Some(Event::Start(_)) = self.events.next() {
                    items.push(self.blocks());
                }
                match deep {
                    true => items.into_iter().flatten().collect(),
                    false => vec![Block::List { first, items }],
                }
            }
            Tag::Table(_) => vec![self.table()],
            // A paragraph; what is no block of Markdown's core is not enabled.
            _ => vec![Block::Paragraph(self.inlines())],
        }
    }

    fn table(&mut self) -> Block {
        let (mut head, mut rows) = (Vec::new(), Vec::new());
        while let Some(Event::Start(tag)) = self.events.next() {
            let mut cells = Vec::new();
            while let Some(Event::Start(_)) = self.events.next() {
                cells.push(self.inlines());
            }
            match tag {
                Tag::TableHead => head = cells,
                _ => rows.push(cells),
            }
        }
        Block::Table { head, rows }
    }

    fn inlines(&mut self) -> Vec<Inline> {
        let mut out = Vec::new();
        self.styled(&Style::default(), &mut out);
        out
    }

    fn styled(&mut self, style: &Style, out: &mut Vec<Inline>) {
        while let Some(event) = self.events.next() {
            match event {
                Event::End(_) => break,
                event => self.inline(event, style, out),
            }
        }
    }

    fn inline(&mut self, event: Event<'a>, style: &Style, out: &mut Vec<Inline>) {
        match event {
            Event::Text(text) => push_text(out, &text, style),
            Event::Html(text) | Event::InlineHtml(text) => {
                push_text(out, &text.replace('\n', " "), style)
            }
            Event::Code(text) => push_text(out, &text, &Style { code: true, ..style.clone() }),
            Event::SoftBreak => push_text(out, " ", style),
            Event::HardBreak => out.push(Inline::Break),
            Event::Start(tag) => match tag {
                Tag::Strong => self.styled(&Style { strong: true, ..style.clone() }, out),
                Tag::Emphasis => self.styled(&Style { emphasis: true, ..style.clone() }, out),
                Tag::Strikethrough => self.styled(&Style { strike: true, ..style.clone() }, out),
                Tag::Link { dest_url, .. } => match dest_url.strip_prefix("mention:") {
                    Some(account) => {
                        let account = decode(account);
                        let name = self.plain();
                        out.push(Inline::Mention { account, name });
                    }
                    None => {
                        let link = is_web(&dest_url).then(|| dest_url.to_string());
                        self.styled(&Style { link, ..style.clone() }, out);
                    }
                },
                // An image's alternative text; a picture cannot be fetched from anywhere.
                _ => self.styled(style, out),
            },
            _ => {}
        }
    }

    /// The text alone.
    fn plain(&mut self) -> String {
        let mut out = Vec::new();
        self.styled(&Style::default(), &mut out);
        let text = out.iter().map(|inline| match inline {
            Inline::Text(text, _) => text.as_str(),
            Inline::Mention { name, .. } => name.as_str(),
            Inline::Break => "\n",
        });
        text.collect()
    }
}

fn flush(loose: &mut Vec<Inline>, out: &mut Vec<Block>) {
    if !loose.is_empty() {
        out.push(Block::Paragraph(std::mem::take(loose)));
    }
}

fn is_block(tag: &Tag<'_>) -> bool {
    matches!(
        tag,
        Tag::Paragraph
            | Tag::Heading { .. }
            | Tag::BlockQuote(_)
            | Tag::CodeBlock(_)
            | Tag::HtmlBlock
            | Tag::List(_)
            | Tag::Table(_)
    )
}

/// Neighbours of one style become one text.
fn push_text(out: &mut Vec<Inline>, text: &str, style: &Style) {
    match out.last_mut() {
        Some(Inline::Text(before, same)) if same == style => before.push_str(text),
        _ if text.is_empty() => {}
        _ => out.push(Inline::Text(text.to_owned(), style.clone())),
    }
}

/// Percent-decoding; what is not UTF-8 then is nobody's account.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = if hex.is_some() { &after[2..] } else { after };
        bytes.push(hex.unwrap_or(byte));
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Result of `draw` for the blocks, or for as much of their beginning as `size` finds no longer than
/// [`MAX_TEXT`], with a note. Only text is cut: rows, mentions and links stay whole.
pub(super) fn fit<T>(
    blocks: Vec<Block>,
    draw: impl Fn(&[Block]) -> T,
    size: impl Fn(&T) -> usize,
) -> T {
    let whole = draw(&blocks);
    if size(&whole) <= MAX_TEXT {
        return whole;
    }
    let shortened = |characters: usize| {
        let mut left = characters;
        let mut head = take_blocks(&blocks, &mut left);
        head.push(Block::Paragraph(vec![Inline::Text(TOO_LONG.into(), Style::default())]));
        draw(&head)
    };
    // More characters than fit and none at all: the note always fits.
    let (mut fits, mut too_long) = (0, MAX_TEXT);
    while too_long - fits > 1 {
        let middle = fits + (too_long - fits) / 2;
        match size(&shortened(middle)) <= MAX_TEXT {
            true => fits = middle,
            false => too_long = middle,
        }
    }
    shortened(fits)
}

fn take_blocks(blocks: &[Block], left: &mut usize) -> Vec<Block> {
    let mut out = Vec::new();
    for block in blocks {
        if *left == 0 {
            break;
        }
        *left -= 1;
        out.push(match block {
            Block::Heading(level, text) => Block::Heading(*level, take_inlines(text, left)),
            Block::Paragraph(text) => Block::Paragraph(take_inlines(text, left)),
            Block::List { first, items } => {
                let mut kept = Vec::new();
                for item in items.iter() {
                    if *left == 0 {
                        break;
                    }
                    kept.push(take_blocks(item, left));
                }
                Block::List { first: *first, items: kept }
            }
            Block::Table { head, rows } => {
                let mut kept = Vec::new();
                for row in rows {
                    let length: usize = row.iter().map(|cell| length(cell) + 1).sum();
                    if length > *left {
                        *left = 0;
                        break;
                    }
                    *left -= length;
                    kept.push(row.clone());
                }
                Block::Table { head: head.clone(), rows: kept }
            }
            Block::Code(text) => Block::Code(take_lines(text, left)),
            Block::Quote(blocks) => Block::Quote(take_blocks(blocks, left)),
            Block::Rule => Block::Rule,
        });
    }
    out.retain(|block| !matches!(block, Block::List { items, .. } if items.is_empty()));
    out
}

fn take_inlines(text: &[Inline], left: &mut usize) -> Vec<Inline> {
    let mut out = Vec::new();
    for inline in text {
        let length = length(std::slice::from_ref(inline));
        if length <= *left {
            *left -= length;
            out.push(inline.clone());
            continue;
        }
        if let Inline::Text(text, style) = inline {
            let head: String = text.chars().take(*left).collect();
            push_text(&mut out, &format!("{}…", head.trim_end()), style);
        }
        *left = 0;
        break;
    }
    out
}

fn take_lines(text: &str, left: &mut usize) -> String {
    let mut out = Vec::new();
    for line in text.lines() {
        let length = line.chars().count() + 1;
        if length > *left {
            *left = 0;
            out.push("…");
            break;
        }
        *left -= length;
        out.push(line);
    }
    out.join("\n")
}

fn length(text: &[Inline]) -> usize {
    let one = |inline: &Inline| match inline {
        Inline::Text(text, _) => text.chars().count(),
        Inline::Mention { name, .. } => name.chars().count() + 1,
        Inline::Break => 1,
    };
    text.iter().map(one).sum()
}

//! Renders the wiki text of a ticket as HTML, as far as people need to read it: headings, bullets,
//! quotes, tables, rules, bold, italic, fixed width, mentions and links.
//!
//! Invariant: every character of the text is escaped; all tags are from this module.

/// HTML of a whole text.
pub(super) fn to_html(text: &str) -> String {
    let mut out = String::new();
    let mut open = Block::None;
    for line in text.lines() {
        let line = line.trim();
        let block = block_of(line);
        if block != open || block == Block::None {
            out.push_str(open.end());
            out.push_str(block.start());
        }
        open = block;
        match block {
            Block::None => lone_line(&mut out, line),
            Block::Bullets | Block::Numbers => {
                let item = line.trim_start_matches(['*', '#', '-']).trim_start();
                out.push_str(&format!("<li>{}</li>\n", inline(item)));
            }
            Block::Table => row(&mut out, line),
            Block::Paragraph => {
                out.push_str(&inline(line));
                out.push_str("<br>\n");
            }
        }
    }
    out.push_str(open.end());
    out
}

/// Escapes text for an element or a quoted attribute.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut out, c));
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Blank line, heading, rule or quote.
    None,
    Bullets,
    Numbers,
    Table,
    Paragraph,
}

impl Block {
    fn start(self) -> &'static str {
        match self {
            Block::None => "",
            Block::Bullets => "<ul>\n",
            Block::Numbers => "<ol>\n",
            Block::Table => "<div class=\"wide\"><table>\n",
            Block::Paragraph => "<p>",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Block::None => "",
            Block::Bullets => "</ul>\n",
            Block::Numbers => "</ol>\n",
            Block::Table => "</table></div>\n",
            Block::Paragraph => "</p>\n",
        }
    }
}

fn block_of(line: &str) -> Block {
    if line.is_empty() || line == "----" || line.starts_with("bq. ") || heading(line).is_some() {
        Block::None
    } else if line.starts_with("* ") || line.starts_with("- ") {
        Block::Bullets
    } else if line.starts_with("# ") {
        Block::Numbers
    } else if line.starts_with('|') {
        Block::Table
    } else {
        Block::Paragraph
    }
}

/// Level and text of `h3. Title`.
fn heading(line: &str) -> Option<(char, &str)> {
    let (mark, text) = line.split_once(". ")?;
    let level = mark.strip_prefix('h')?;
    let level = level.chars().next().filter(|c| level.len() == 1 && ('1'..='6').contains(c))?;
    Some((level, text))
}

fn lone_line(out: &mut String, line: &str) {
    if let Some((level, text)) = heading(line) {
        out.push_str(&format!("<h{level}>{}</h{level}>\n", inline(text)));
    } else if let Some(text) = line.strip_prefix("bq. ") {
        out.push_str(&format!("<blockquote>{}</blockquote>\n", inline(text)));
    } else if line == "----" {
        out.push_str("<hr>\n");
    }
}

/// One table row: `||head||` or `|cell|`. A `|` inside a link belongs to the link.
fn row(out: &mut String, line: &str) {
    let (tag, bar) = if line.starts_with("||") { ("th", "||") } else { ("td", "|") };
    let line = line.strip_prefix(bar).unwrap_or(line);
    let line = line.strip_suffix(bar).unwrap_or(line);
    let mut cells = vec![String::new()];
    let mut in_link = false;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if !in_link && rest.starts_with(bar) {
            cells.push(String::new());
            rest = &rest[bar.len()..];
            continue;
        }
        in_link = (in_link || c == '[') && c != ']';
        if let Some(cell) = cells.last_mut() {
            cell.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push_str("<tr>");
    for cell in cells {
        out.push_str(&format!("<{tag}>{}</{tag}>", inline(cell.trim())));
    }
    out.push_str("</tr>\n");
}

/// Phrases inside a line.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let edge = !before.is_alphanumeric();
        let taken = match c {
            '[' => bracket(&mut out, rest),
            '{' if rest.starts_with("{{") => phrase(&mut out, rest, "{{", "}}", "code"),
            '*' if edge => phrase(&mut out, rest, "*", "*", "strong"),
            '_' if edge => phrase(&mut out, rest, "_", "_", "em"),
            '&' => reference(&mut out, rest),
            _ => None,
        };
        let taken = taken.unwrap_or_else(|| {
            push(&mut out, c);
            c.len_utf8()
        });
        before = rest[..taken].chars().next_back().unwrap_or(' ');
        rest = &rest[taken..];
    }
    out
}

/// Renders `*bold*` and similar phrases; returns the number of bytes read, as do the functions
/// below.
fn phrase(out: &mut String, text: &str, open: &str, close: &str, tag: &str) -> Option<usize> {
    let inner = text.strip_prefix(open)?;
    let end = inner.find(close).filter(|end| *end > 0)?;
    let body = &inner[..end];
    if body.starts_with(' ') || body.ends_with(' ') {
        return None;
    }
    out.push_str(&format!("<{tag}>{}</{tag}>", inline(body)));
    Some(open.len() + end + close.len())
}

/// Renders `[~name]`, `[text|https://...]` or `[https://...]`.
fn bracket(out: &mut String, text: &str) -> Option<usize> {
    let end = text.find(']')?;
    let body = &text[1..end];
    if let Some(name) = body.strip_prefix('~').filter(|name| !name.is_empty()) {
        out.push_str(&format!("<span class=\"who\">@{}</span>", html(name)));
        return Some(end + 1);
    }
    let (label, url) = body.split_once('|').unwrap_or((body, body));
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return None;
    }
    out.push_str(&format!("<a href=\"{}\" rel=\"noreferrer\">{}</a>", html(url), inline(label)));
    Some(end + 1)
}

/// Renders a numeric character reference as its character.
fn reference(out: &mut String, text: &str) -> Option<usize> {
    let inner = text.strip_prefix("&#")?;
    let end = inner.find(';').filter(|end| (1..=7).contains(end))?;
    let c = inner[..end].parse().ok().and_then(char::from_u32)?;
    push(out, c);
    Some(2 + end + 1)
}

fn push(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_of_our_tickets_are_shown() {
        assert_eq!(to_html("h3. What *failed*"), "<h3>What <strong>failed</strong></h3>\n");
        assert_eq!(
            to_html("* a\n* [~bob]\n\nb"),
            "<ul>\n<li>a</li>\n<li><span class=\"who\">@bob</span></li>\n</ul>\n<p>b<br>\n</p>\n"
        );
        assert_eq!(
            to_html("||A||B||\n| [x|https://y/] |  |"),
            "<div class=\"wide\"><table>\n<tr><th>A</th><th>B</th></tr>\n<tr><td>\
             <a href=\"https://y/\" rel=\"noreferrer\">x</a></td><td></td></tr>\n</table></div>\n"
        );
        assert_eq!(to_html("{{a_b_c}} &#91;x&#93;"), "<p><code>a_b_c</code> [x]<br>\n</p>\n");
    }

    #[test]
    fn nothing_becomes_a_tag() {
        for text in [
            "<script>alert(1)</script>",
            "&#60;script&#62;",
            "[x\"onclick=\"y|https://a\"b]",
            "[x|javascript:alert(1)]",
            "h1. <b>",
            "|<td>|",
            "[~<i>]",
            "{{<u>}}",
        ] {
            let shown = to_html(text);
            for tag in ["<script", "<b>", "<i>", "<u>", "<td><td>", "javascript:alert(1)\"", "\"b"]
            {
                assert!(!shown.contains(tag), "{shown}");
            }
        }
    }
}

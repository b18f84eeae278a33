//! Atlassian Document Format: what a body becomes on Jira Cloud.
//!
//! Text in ADF is data, not markup, so nothing in it can act. What has to be right is the structure:
//! Cloud refuses a whole ticket for a node where it may not stand.
//!
//! Invariant: whatever the body, the document keeps to the part of the format's JSON schema that
//! Jira supports; what may not stand in a place becomes paragraphs.
//!
//! Source: Atlassian Document Format, "Structure" and its JSON schema (`adf-schema`, version 1).

use serde_json::{Map, Value, json};

use super::body::{Block, Inline, Style, fit};

/// The document of the blocks; its JSON text is no longer than Jira takes.
pub(super) fn document(blocks: Vec<Block>) -> Value {
    let draw = |blocks: &[Block]| {
        let mut content: Vec<Value> = blocks.iter().map(node).collect();
        if content.is_empty() {
            content.push(paragraph(&[]));
        }
        json!({ "version": 1, "type": "doc", "content": content })
    };
    fit(blocks, draw, |document| document.to_string().encode_utf16().count())
}

/// Whether it can be an account id of Cloud.
pub(super) fn is_account(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || ":-_".contains(c))
}

fn node(block: &Block) -> Value {
    match block {
        Block::Heading(level, text) => {
            json!({ "type": "heading", "attrs": { "level": level }, "content": inlines(text) })
        }
        Block::Paragraph(text) => paragraph(text),
        Block::List { first, items } => list(*first, items),
        Block::Table { head, rows } => {
            let row = |kind: &str, cells: &[Vec<Inline>]| {
                let cells = cells
                    .iter()
                    .map(|text| json!({ "type": kind, "attrs": {}, "content": [paragraph(text)] }));
                json!({ "type": "tableRow", "content": cells.collect::<Value>() })
            };
            let rows = rows.iter().map(|cells| row("tableCell", cells));
            let rows: Value = std::iter::once(row("tableHeader", head)).chain(rows).collect();
            json!({ "type": "table", "content": rows })
        }
        Block::Code(text) => code(text),
        Block::Quote(blocks) => {
            let mut content = Vec::new();
            blocks.iter().for_each(|block| paragraphs(block, &mut content));
            if content.is_empty() {
                content.push(paragraph(&[]));
            }
            json!({ "type": "blockquote", "content": content })
        }
        Block::Rule => json!({ "type": "rule" }),
    }
}

fn paragraph(text: &[Inline]) -> Value {
    json!({ "type": "paragraph", "content": inlines(text) })
}

fn code(text: &str) -> Value {
    match text.is_empty() {
        true => json!({ "type": "codeBlock" }),
        false => json!({ "type": "codeBlock", "content": [{ "type": "text", "text": text }] }),
    }
}

fn list(first: Option<u64>, items: &[Vec<Block>]) -> Value {
    let items: Value = items.iter().map(|blocks| item(blocks)).collect();
    match first {
        Some(first) => {
            json!({ "type": "orderedList", "attrs": { "order": first }, "content": items })
        }
        None => json!({ "type": "bulletList", "content": items }),
    }
}

/// An item begins with a paragraph or with code, and holds these and lists.
fn item(blocks: &[Block]) -> Value {
    let mut content = Vec::new();
    for block in blocks {
        match block {
            Block::List { .. } if content.is_empty() => {
                content.push(paragraph(&[]));
                content.push(node(block));
            }
            Block::List { .. } | Block::Code(_) => content.push(node(block)),
            block => paragraphs(block, &mut content),
        }
    }
    if content.is_empty() {
        content.push(paragraph(&[]));
    }
    json!({ "type": "listItem", "content": content })
}

/// What a block says, as paragraphs.
fn paragraphs(block: &Block, out: &mut Vec<Value>) {
    match block {
        Block::Heading(_, text) | Block::Paragraph(text) => out.push(paragraph(text)),
        Block::List { items, .. } => items.iter().flatten().for_each(|one| paragraphs(one, out)),
        Block::Table { head, rows } => {
            for row in std::iter::once(head).chain(rows) {
                let comma = [Inline::Text(", ".into(), Style::default())];
                out.push(paragraph(&row.join(&comma[..])));
            }
        }
        Block::Code(text) => {
            let style = Style { code: true, ..Style::default() };
            let lines = text.lines().map(|line| [Inline::Text(line.into(), style.clone())]);
            out.extend(lines.map(|line| paragraph(&line)));
        }
        Block::Quote(blocks) => blocks.iter().for_each(|block| paragraphs(block, out)),
        Block::Rule => {}
    }
}

fn inlines(text: &[Inline]) -> Value {
    text.iter().filter_map(inline).collect()
}

fn inline(inline: &Inline) -> Option<Value> {
    Some(match inline {
        // The schema has no empty text.
        Inline::Text(text, _) if text.is_empty() => return None,
        Inline::Text(text, style) => {
            let mut node = Map::from_iter([
                ("type".to_owned(), "text".into()),
                ("text".to_owned(), text.as_str().into()),
            ]);
            let marks = marks(style);
            if !marks.is_empty() {
                node.insert("marks".into(), marks.into());
            }
            Value::Object(node)
        }
        Inline::Mention { account, name } if is_account(account) => {
            json!({ "type": "mention", "attrs": { "id": account, "text": format!("@{name}") } })
        }
        Inline::Mention { name, .. } => json!({ "type": "text", "text": named(name) }),
        Inline::Break => json!({ "type": "hardBreak" }),
    })
}

fn named(name: &str) -> &str {
    if name.is_empty() { "?" } else { name }
}

/// Code goes together with a link only.
fn marks(style: &Style) -> Vec<Value> {
    let plain = [
        (style.code, "code"),
        (style.strong && !style.code, "strong"),
        (style.emphasis && !style.code, "em"),
        (style.strike && !style.code, "strike"),
    ];
    let plain = plain.into_iter().filter(|(on, _)| *on).map(|(_, kind)| json!({ "type": kind }));
    let link = style.link.iter().map(|url| json!({ "type": "link", "attrs": { "href": url } }));
    plain.chain(link).collect()
}

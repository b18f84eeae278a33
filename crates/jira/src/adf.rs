//! Atlassian Document Format, the form of a body on Jira Cloud.
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

/// Returns whether the text can be an account id of Cloud.
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

/// Text of a block, as paragraphs.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::body::{Body, MAX_TEXT, escape, mention};
    use super::*;
    use metalbot_sim::jira::check_document;

    fn adf(markdown: &str) -> Value {
        document(Body::markdown(markdown).blocks())
    }

    /// Every node of a kind, wherever it is.
    fn nodes<'a>(node: &'a Value, kind: &str, out: &mut Vec<&'a Value>) {
        if node["type"] == kind {
            out.push(node);
        }
        node["content"].as_array().into_iter().flatten().for_each(|child| nodes(child, kind, out));
    }

    fn all<'a>(node: &'a Value, kind: &str) -> Vec<&'a Value> {
        let mut out = Vec::new();
        nodes(node, kind, &mut out);
        out
    }

    #[test]
    fn every_construct_has_its_node() {
        let document = adf("\
## Head
**two** `four` [l](https://h/) [Al](<mention:5b10ac8d%3A1>) [No](<mention:a%20b>)

3. c
   - d

| A |
|---|
| 1 |

```
raw
```");
        assert_eq!(check_document(&document), Ok(()));
        let blocks: Vec<String> =
            document["content"].as_array().unwrap().iter().map(Value::to_string).collect();
        insta::assert_snapshot!(blocks.join("\n"), @r#"
        {"attrs":{"level":2},"content":[{"text":"Head","type":"text"}],"type":"heading"}
        {"content":[{"marks":[{"type":"strong"}],"text":"two","type":"text"},{"text":" ","type":"text"},{"marks":[{"type":"code"}],"text":"four","type":"text"},{"text":" ","type":"text"},{"marks":[{"attrs":{"href":"https://h/"},"type":"link"}],"text":"l","type":"text"},{"text":" ","type":"text"},{"attrs":{"id":"5b10ac8d:1","text":"@Al"},"type":"mention"},{"text":" ","type":"text"},{"text":"No","type":"text"}],"type":"paragraph"}
        {"attrs":{"order":3},"content":[{"content":[{"content":[{"text":"c","type":"text"}],"type":"paragraph"},{"content":[{"content":[{"content":[{"text":"d","type":"text"}],"type":"paragraph"}],"type":"listItem"}],"type":"bulletList"}],"type":"listItem"}],"type":"orderedList"}
        {"content":[{"content":[{"attrs":{},"content":[{"content":[{"text":"A","type":"text"}],"type":"paragraph"}],"type":"tableHeader"}],"type":"tableRow"},{"content":[{"attrs":{},"content":[{"content":[{"text":"1","type":"text"}],"type":"paragraph"}],"type":"tableCell"}],"type":"tableRow"}],"type":"table"}
        {"content":[{"text":"raw","type":"text"}],"type":"codeBlock"}
        "#);
    }

    #[test]
    fn long_documents_are_cut_between_constructs() {
        let row =
            format!("| {} | {} |\n", mention("5b10:1", "Al \"x\""), escape(&"\"[|]".repeat(20)));
        let table = format!("| A | B |\n|---|---|\n{}", row.repeat(400));
        for markdown in
            [table, "word ".repeat(20_000), "- item\n".repeat(9_000), "a\n\n".repeat(9_000)]
        {
            let document = adf(&markdown);
            assert_eq!(check_document(&document), Ok(()));
            let length = document.to_string().encode_utf16().count();
            assert!(length <= MAX_TEXT && length > MAX_TEXT - 2_000, "{length}");
            assert!(document.to_string().contains("too long for Jira"));
        }
    }

    proptest! {
        /// Whatever Markdown a site's template makes, Cloud takes the document.
        #[test]
        fn any_markdown_is_a_valid_document(
            text in r#"([-*+>#|`~_\[\]()<>!:\\&;.\n 1ax]|\n\n|\n- |\n1\. |\n> |```|\*\*|~~|\|---\||<b>|https://h/|mention:a|\PC){0,60}"#,
        ) {
            prop_assert_eq!(check_document(&adf(&text)), Ok(()), "{:?}", text);
        }

        /// Whatever a user typed is one text without marks, and mentions nobody.
        #[test]
        fn foreign_text_stays_text(
            text in r#"([{}\[\]()|*_+^~?!#@\\&<>;:.\-/ `=\nhbq1A]|\PC|https?://|mention:bob|\]\(){0,30}"#,
        ) {
            let value = escape(&text);
            for template in [
                value.clone(),
                format!("- {value}"),
                format!("> {value}"),
                format!("| A |\n|---|\n| {value} |"),
            ] {
                let document = adf(&template);
                prop_assert_eq!(check_document(&document), Ok(()));
                prop_assert!(all(&document, "mention").is_empty());
                for node in all(&document, "text") {
                    prop_assert!(node.get("marks").is_none(), "{}", document);
                }
                for kind in ["heading", "rule", "codeBlock", "hardBreak"] {
                    prop_assert!(all(&document, kind).is_empty(), "{}", document);
                }
            }
        }

        #[test]
        fn a_mention_is_of_that_account(account in r"[A-Za-z0-9:_-]{1,40}", name in r"\PC{0,10}") {
            let document = adf(&format!("Hi {}!", mention(&account, &name)));
            prop_assert_eq!(check_document(&document), Ok(()));
            let mentions = all(&document, "mention");
            prop_assert_eq!(mentions.len(), 1);
            prop_assert_eq!(mentions[0]["attrs"]["id"].as_str(), Some(account.as_str()));
        }
    }
}

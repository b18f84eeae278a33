//! Atlassian Document Format: checks a document as Cloud does, and renders it as HTML.
//!
//! Invariant: everything that is not known to be right is refused, with the place of the mistake;
//! in the HTML every character of the text is escaped, and all tags are from this module.
//!
//! Source: the format's JSON schema (`adf-schema`, version 1). Supported are the nodes of texts: no
//! media, cards, panels or extensions.

use serde_json::Value;

use super::wiki::html;

const BLOCKS: &[&str] = &[
    "paragraph",
    "heading",
    "bulletList",
    "orderedList",
    "table",
    "codeBlock",
    "blockquote",
    "rule",
];
const INLINES: &[&str] = &["text", "hardBreak", "mention"];

/// Rule for a node: its allowed content, the least number of children, and its attributes.
struct Rule {
    content: &'static [&'static str],
    least: usize,
    required: &'static [&'static str],
    optional: &'static [&'static str],
}

fn rule(kind: &str) -> Option<Rule> {
    let rule = |content, least, required, optional| Rule { content, least, required, optional };
    Some(match kind {
        "doc" => rule(BLOCKS, 0, &[], &[]),
        "paragraph" => rule(INLINES, 0, &[], &["localId"]),
        "heading" => rule(INLINES, 0, &["level"], &["localId"]),
        "bulletList" => rule(&["listItem"], 1, &[], &[]),
        "orderedList" => rule(&["listItem"], 1, &[], &["order"]),
        "listItem" => {
            rule(&["paragraph", "bulletList", "orderedList", "codeBlock"], 1, &[], &["localId"])
        }
        "table" => rule(&["tableRow"], 1, &[], &["isNumberColumnEnabled", "layout"]),
        "tableRow" => rule(&["tableCell", "tableHeader"], 1, &[], &[]),
        "tableCell" | "tableHeader" => rule(
            &[
                "paragraph",
                "bulletList",
                "orderedList",
                "heading",
                "codeBlock",
                "blockquote",
                "rule",
            ],
            1,
            &[],
            &["colspan", "rowspan", "colwidth", "background"],
        ),
        "codeBlock" => rule(&["text"], 0, &[], &["language", "uniqueId"]),
        "blockquote" => {
            rule(&["paragraph", "bulletList", "orderedList", "codeBlock"], 1, &[], &["localId"])
        }
        "rule" | "hardBreak" => rule(&[], 0, &[], &["text"]),
        "text" => rule(&[], 0, &[], &[]),
        "mention" => rule(&[], 0, &["id"], &["text", "accessLevel", "userType", "localId"]),
        _ => return None,
    })
}

/// First mistake of a document.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct DocumentError {
    /// Path of the node from `doc`, such as `doc/0:paragraph`.
    pub place: String,
    pub problem: String,
}

/// Checks a document against the format. The error is its first mistake.
pub fn check(document: &Value) -> Result<(), DocumentError> {
    if document["type"] != "doc" || document["version"] != 1 {
        return mistake("doc", "it is no document of version 1");
    }
    if !document["content"].is_array() {
        return mistake("doc", "content is missing");
    }
    check_node(document, "doc")
}

fn mistake(place: &str, problem: &str) -> Result<(), DocumentError> {
    Err(DocumentError { place: place.to_owned(), problem: problem.to_owned() })
}

fn check_node(node: &Value, place: &str) -> Result<(), DocumentError> {
    let wrong = |why: &str| mistake(place, why);
    let Some(object) = node.as_object() else { return wrong("not an object") };
    let kind = node["type"].as_str().unwrap_or_default();
    let Some(rule) = rule(kind) else { return wrong("unknown type") };
    for key in object.keys() {
        let known = match key.as_str() {
            "type" => true,
            "version" => kind == "doc",
            "content" => !rule.content.is_empty(),
            "attrs" => !(rule.required.is_empty() && rule.optional.is_empty()),
            "text" | "marks" => kind == "text",
            _ => false,
        };
        if !known {
            return wrong(&format!("{key} may not be there"));
        }
    }
    let attrs = node["attrs"].as_object();
    for required in rule.required {
        if attrs.is_none_or(|attrs| !attrs.contains_key(*required)) {
            return wrong(&format!("attribute {required} is missing"));
        }
    }
    for attribute in attrs.into_iter().flat_map(|attrs| attrs.keys()) {
        if !rule.required.iter().chain(rule.optional).any(|known| known == attribute) {
            return wrong(&format!("attribute {attribute} is unknown"));
        }
    }
    match kind {
        "text" => check_text(node, place)?,
        "heading" if !node["attrs"]["level"].as_u64().is_some_and(|l| (1..=6).contains(&l)) => {
            return wrong("level is not 1 to 6");
        }
        "orderedList" if attrs.is_some() && node["attrs"]["order"].as_u64().is_none() => {
            return wrong("order is no number");
        }
        "mention" if node["attrs"]["id"].as_str().is_none_or(str::is_empty) => {
            return wrong("id is empty");
        }
        _ => {}
    }
    let content = node["content"].as_array().map_or(&[][..], Vec::as_slice);
    if node.get("content").is_some_and(|content| !content.is_array()) || content.len() < rule.least
    {
        return wrong("content is too short");
    }
    for (at, child) in content.iter().enumerate() {
        let inner = child["type"].as_str().unwrap_or_default();
        if !rule.content.contains(&inner) {
            return wrong(&format!("{inner} may not stand here"));
        }
        if kind == "listItem" && at == 0 && !["paragraph", "codeBlock"].contains(&inner) {
            return wrong(&format!("an item cannot begin with {inner}"));
        }
        if kind == "codeBlock" && child.get("marks").is_some() {
            return wrong("code has no marks");
        }
        check_node(child, &format!("{place}/{at}:{inner}"))?;
    }
    Ok(())
}

fn check_text(node: &Value, place: &str) -> Result<(), DocumentError> {
    if node["text"].as_str().is_none_or(str::is_empty) {
        return mistake(place, "text is empty");
    }
    let marks = node["marks"].as_array().map_or(&[][..], Vec::as_slice);
    let kinds: Vec<&str> = marks.iter().map(|mark| mark["type"].as_str().unwrap_or("")).collect();
    for (at, mark) in marks.iter().enumerate() {
        let fits = match kinds[at] {
            "link" => mark["attrs"]["href"].as_str().is_some_and(|href| !href.is_empty()),
            "strong" | "em" | "strike" | "underline" | "code" => mark.get("attrs").is_none(),
            _ => false,
        };
        let twice = kinds[..at].contains(&kinds[at]);
        let alone = kinds[at] == "code" && kinds.iter().any(|k| *k != "code" && *k != "link");
        if !fits || twice || alone {
            return mistake(place, &format!("mark {} may not be there", kinds[at]));
        }
    }
    Ok(())
}

/// HTML of a document as JSON text.
pub(super) fn to_html(text: &str) -> String {
    let mut out = String::new();
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    children(&mut out, &document);
    out
}

fn children(out: &mut String, node: &Value) {
    node["content"].as_array().into_iter().flatten().for_each(|child| show(out, child));
}

fn show(out: &mut String, node: &Value) {
    let tag = match node["type"].as_str().unwrap_or_default() {
        "text" => return show_text(out, node),
        "mention" => {
            let shown = node["attrs"]["text"].as_str().or(node["attrs"]["id"].as_str());
            out.push_str(&format!("<span class=\"who\">{}</span>", html(shown.unwrap_or("?"))));
            return;
        }
        "hardBreak" => return out.push_str("<br>"),
        "rule" => return out.push_str("<hr>\n"),
        "heading" => ["h1", "h2", "h3", "h4", "h5", "h6"]
            [node["attrs"]["level"].as_u64().unwrap_or(1).clamp(1, 6) as usize - 1],
        "bulletList" => "ul",
        "orderedList" => "ol",
        "listItem" => "li",
        "table" => "table",
        "tableRow" => "tr",
        "tableHeader" => "th",
        "tableCell" => "td",
        "codeBlock" => "pre",
        "blockquote" => "blockquote",
        _ => "p",
    };
    out.push_str(&format!("<{tag}>"));
    children(out, node);
    out.push_str(&format!("</{tag}>\n"));
}

fn show_text(out: &mut String, node: &Value) {
    let mut text = html(node["text"].as_str().unwrap_or_default());
    for mark in node["marks"].as_array().into_iter().flatten() {
        text = match mark["type"].as_str().unwrap_or_default() {
            "strong" => format!("<strong>{text}</strong>"),
            "em" => format!("<em>{text}</em>"),
            "strike" => format!("<s>{text}</s>"),
            "code" => format!("<code>{text}</code>"),
            "link" => {
                let href = mark["attrs"]["href"].as_str().unwrap_or_default();
                match href.starts_with("https://") || href.starts_with("http://") {
                    true => format!("<a href=\"{}\" rel=\"noreferrer\">{text}</a>", html(href)),
                    false => text,
                }
            }
            _ => text,
        };
    }
    out.push_str(&text);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn doc(content: Value) -> Value {
        json!({ "version": 1, "type": "doc", "content": [content] })
    }

    fn text(text: &str) -> Value {
        json!({ "type": "text", "text": text })
    }

    #[test]
    fn what_cloud_refuses_is_refused() {
        let paragraph = |inner: Value| json!({ "type": "paragraph", "content": [inner] });
        assert_eq!(check(&doc(paragraph(text("a")))), Ok(()));
        for (wrong, why) in [
            (json!("text"), "no document"),
            (json!({ "type": "doc", "version": 1 }), "content is missing"),
            (doc(text("a")), "text may not stand here"),
            (doc(paragraph(text(""))), "text is empty"),
            (doc(json!({ "type": "panel" })), "panel may not stand"),
            (doc(json!({ "type": "heading", "content": [] })), "level is missing"),
            (doc(json!({ "type": "heading", "attrs": { "level": 7 } })), "not 1 to 6"),
            (doc(json!({ "type": "bulletList", "content": [] })), "too short"),
            (
                doc(json!({ "type": "bulletList", "content": [{ "type": "listItem", "content":
                [{ "type": "bulletList", "content": [] }] }] })),
                "cannot begin with bulletList",
            ),
            (doc(paragraph(json!({ "type": "mention", "attrs": { "text": "@a" } }))), "id is miss"),
            (
                doc(paragraph(json!({ "type": "text", "text": "a", "marks":
                [{ "type": "code" }, { "type": "strong" }] }))),
                "mark code",
            ),
            (
                doc(
                    json!({ "type": "codeBlock", "content": [{ "type": "text", "text": "a", "marks":
                [{ "type": "strong" }] }] }),
                ),
                "code has no marks",
            ),
            (doc(json!({ "type": "paragraph", "content": [], "style": "x" })), "style may not"),
        ] {
            let said = check(&wrong).expect_err(why);
            assert!(said.to_string().contains(why), "{said} / {why}");
        }
    }

    #[test]
    fn nothing_becomes_a_tag() {
        let link = json!([{ "type": "link", "attrs": { "href": "javascript:alert(1)" } }]);
        let inner = json!({ "type": "text", "text": "<script>", "marks": link });
        let shown = to_html(&doc(json!({ "type": "paragraph", "content": [inner] })).to_string());
        assert_eq!(shown, "<p>&lt;script&gt;</p>\n");
    }
}

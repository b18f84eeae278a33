//! Checks of messages and views, with Slack's refusals.
//! <https://docs.slack.dev/reference/block-kit/blocks>

use std::collections::BTreeSet;

use serde_json::{Map, Value};

type Refusal = Result<(), &'static str>;

/// Largest number of characters in a message's blocks; measured, not documented.
const MOST_IN_MESSAGE: usize = 13_200;

/// Checks the content of a message.
pub fn content(args: &Map<String, Value>) -> Refusal {
    let text = args.get("text").and_then(Value::as_str).unwrap_or_default();
    let blocks = args.get("blocks").and_then(Value::as_array);
    if text.is_empty() && blocks.is_none_or(Vec::is_empty) {
        return Err("no_text");
    }
    if length(text) > 40_000 {
        return Err("msg_too_long");
    }
    if let Some(metadata) = args.get("metadata")
        && !(metadata["event_type"].is_string() && metadata["event_payload"].is_object())
    {
        return Err("invalid_metadata_format");
    }
    let Some(blocks) = blocks else { return Ok(()) };
    if blocks.len() > 50 {
        return Err("invalid_blocks");
    }
    let all: usize = blocks.iter().map(all_text).sum();
    if all > MOST_IN_MESSAGE {
        return Err("msg_blocks_too_long");
    }
    let input = |block: &Value| block["type"] == "input";
    if blocks.iter().any(|block| input(block) || !is_block(block)) {
        return Err("invalid_blocks");
    }
    Ok(())
}

/// Checks a modal or the app's home.
pub fn view(view: &Value, kind: &str) -> Refusal {
    let known = [
        "type",
        "title",
        "submit",
        "close",
        "blocks",
        "private_metadata",
        "callback_id",
        "clear_on_close",
        "notify_on_close",
        "external_id",
    ];
    let fits = only(view, &known)
        && view["type"] == kind
        && view["blocks"].as_array().is_some_and(|blocks| {
            blocks.len() <= 100 && blocks.iter().all(is_block) && ids_differ(blocks)
        })
        && (kind == "home" || plain(&view["title"], 24))
        && ["submit", "close"].iter().all(|key| absent(view, key) || plain(&view[*key], 24))
        && length(view["private_metadata"].as_str().unwrap_or_default()) <= 3_000
        && length(view["callback_id"].as_str().unwrap_or_default()) <= 255;
    let needs_submit = view["blocks"]
        .as_array()
        .is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "input"));
    if fits && (kind == "home" || !needs_submit || view["submit"].is_object()) {
        Ok(())
    } else {
        Err("invalid_arguments")
    }
}

fn ids_differ(blocks: &[Value]) -> bool {
    let ids: Vec<&str> = blocks.iter().filter_map(|block| block["block_id"].as_str()).collect();
    ids.len() == ids.iter().collect::<BTreeSet<_>>().len()
}

fn is_block(block: &Value) -> bool {
    let id = length(block["block_id"].as_str().unwrap_or_default()) <= 255;
    let fits = match block["type"].as_str().unwrap_or_default() {
        "section" => {
            only(block, &["type", "block_id", "text", "fields", "accessory", "expand"])
                && (absent(block, "text") || text(&block["text"], 3_000))
                && (absent(block, "fields") || all(&block["fields"], 10, |f| text(f, 2_000)))
                && (absent(block, "accessory") || element(&block["accessory"]))
                && !(absent(block, "text") && absent(block, "fields"))
        }
        "context" => {
            only(block, &["type", "block_id", "elements"])
                && all(&block["elements"], 10, |e| text(e, 3_000))
        }
        "actions" => {
            only(block, &["type", "block_id", "elements"])
                && all(&block["elements"], 25, element)
                && actions_differ(&block["elements"])
        }
        "header" => only(block, &["type", "block_id", "text"]) && plain(&block["text"], 150),
        "divider" => only(block, &["type", "block_id"]),
        "input" => {
            let known =
                ["type", "block_id", "label", "element", "hint", "optional", "dispatch_action"];
            only(block, &known)
                && plain(&block["label"], 2_000)
                && (absent(block, "hint") || plain(&block["hint"], 2_000))
                && element(&block["element"])
        }
        _ => false,
    };
    id && fits
}

fn actions_differ(elements: &Value) -> bool {
    let elements = elements.as_array().into_iter().flatten();
    let ids: Vec<&str> = elements.filter_map(|element| element["action_id"].as_str()).collect();
    ids.len() == ids.iter().collect::<BTreeSet<_>>().len()
}

fn element(element: &Value) -> bool {
    let id = length(element["action_id"].as_str().unwrap_or_default()) <= 255;
    let confirm = absent(element, "confirm") || is_confirm(&element["confirm"]);
    let placeholder = absent(element, "placeholder") || plain(&element["placeholder"], 150);
    let common = ["type", "action_id", "confirm", "placeholder", "focus_on_load"];
    let with = |more: &[&str]| only(element, &[&common[..], more].concat());
    let fits = match element["type"].as_str().unwrap_or_default() {
        "button" => {
            with(&["text", "value", "url", "style", "accessibility_label"])
                && plain(&element["text"], 75)
                && length(element["value"].as_str().unwrap_or_default()) <= 2_000
                && (absent(element, "style")
                    || element["style"] == "primary"
                    || element["style"] == "danger")
        }
        "plain_text_input" => {
            with(&[
                "initial_value",
                "multiline",
                "min_length",
                "max_length",
                "dispatch_action_config",
            ]) && element["max_length"].as_u64().unwrap_or(1) <= 3_000
                && length(element["initial_value"].as_str().unwrap_or_default()) <= 3_000
        }
        "static_select" | "radio_buttons" | "checkboxes" | "multi_static_select" => {
            with(&[
                "options",
                "initial_option",
                "initial_options",
                "option_groups",
                "max_selected_items",
            ]) && (!absent(element, "option_groups") || all(&element["options"], 100, option))
        }
        "conversations_select" => {
            with(&["default_to_current_conversation", "filter", "initial_conversation"])
        }
        "file_input" => with(&["filetypes", "max_files"]),
        "number_input" => with(&["is_decimal_allowed", "initial_value", "min_value", "max_value"]),
        "overflow" => with(&["options"]) && all(&element["options"], 5, option),
        _ => false,
    };
    id && confirm && placeholder && fits
}

fn option(option: &Value) -> bool {
    only(option, &["text", "value", "description", "url"])
        && text(&option["text"], 75)
        && option["value"].as_str().is_some_and(|value| length(value) <= 150)
        && (absent(option, "description") || text(&option["description"], 75))
}

fn is_confirm(confirm: &Value) -> bool {
    only(confirm, &["title", "text", "confirm", "deny", "style"])
        && plain(&confirm["title"], 100)
        && text(&confirm["text"], 300)
        && plain(&confirm["confirm"], 30)
        && plain(&confirm["deny"], 30)
}

fn plain(value: &Value, most: usize) -> bool {
    value["type"] == "plain_text" && text(value, most)
}

fn text(value: &Value, most: usize) -> bool {
    let shape = match value["type"].as_str() {
        Some("plain_text") => only(value, &["type", "text", "emoji"]),
        Some("mrkdwn") => only(value, &["type", "text", "verbatim"]),
        _ => false,
    };
    let length = length(value["text"].as_str().unwrap_or_default());
    shape && length >= 1 && length <= most
}

fn all(list: &Value, most: usize, fits: impl Fn(&Value) -> bool) -> bool {
    list.as_array()
        .is_some_and(|list| !list.is_empty() && list.len() <= most && list.iter().all(fits))
}

fn only(value: &Value, known: &[&str]) -> bool {
    value.as_object().is_some_and(|map| map.keys().all(|key| known.contains(&key.as_str())))
}

fn absent(value: &Value, key: &str) -> bool {
    value.get(key).is_none()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Number of characters of all texts in a block.
fn all_text(value: &Value) -> usize {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value.as_str() {
                Some(text) if key == "text" || key == "value" => length(text),
                _ => all_text(value),
            })
            .sum(),
        Value::Array(list) => list.iter().map(all_text).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(blocks: Value) -> Refusal {
        content(json!({ "text": "t", "blocks": blocks }).as_object().unwrap())
    }

    #[test]
    fn it_refuses_what_slack_refuses() {
        let section = |n: usize| {
            json!({
                "type": "section", "text": { "type": "mrkdwn", "text": "x".repeat(n) },
            })
        };
        let button = |text: usize, value: usize| {
            json!({ "type": "actions", "elements": [{
            "type": "button", "action_id": "a", "value": "v".repeat(value),
            "text": { "type": "plain_text", "text": "t".repeat(text) },
        }] })
        };
        assert_eq!(says(json!([section(3_000), button(75, 2_000)])), Ok(()));
        for wrong in [
            json!([section(3_001)]),
            json!([section(0)]),
            json!([button(76, 1)]),
            json!([button(1, 2_001)]),
            Value::Array(vec![section(1); 51]),
            json!([{ "type": "section", "text": { "type": "mrkdwn", "text": "x" }, "colour": 1 }]),
            json!([{ "type": "fancy" }]),
        ] {
            assert_eq!(says(wrong.clone()), Err("invalid_blocks"), "{wrong}");
        }
        assert_eq!(says(Value::Array(vec![section(2_900); 5])), Err("msg_blocks_too_long"));
        assert_eq!(content(&Map::new()), Err("no_text"));
    }
}

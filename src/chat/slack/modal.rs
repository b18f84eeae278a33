//! Views of forms: their layout, and the reading of a person's entries.
//!
//! Fields are blocks named `action`, `hosts`, `file`, `channel`, the names of the parameters of all
//! actions, and `arg:ACTION:NAME` for an action's own, so that text typed for one action is not
//! taken for another's. Each block's element is named `v`, except the action's (`choose_action`),
//! of whose changes Slack notifies us. <https://docs.slack.dev/surfaces/modals>,
//! <https://docs.slack.dev/reference/views>

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mrkdwn::escape;
use crate::app::form::Field;
use metalbot_core::command::{
    ActionSpec, ArgKind, ArgSpec, COMMON_KEYS, Catalog, CommandLimits, MAX_REASON,
};

/// Names of the forms.
pub const NEW: &str = "new";
pub const PREVIEW: &str = "preview";
pub const ASK: &str = "ask";
/// `action_id` of the element by which an action is chosen.
pub const CHOOSE: &str = "choose_action";

/// Longest text of a field, in characters, which is also Slack's limit.
const MOST_TEXT: usize = 3_000;
const MOST_OPTION: usize = 75;
const MOST_OPTIONS: usize = 100;

/// Data of a form besides its fields; Slack keeps it in `private_metadata`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Slack's id of the channel where the form was opened.
    pub channel: Option<String>,
    /// The draft that a preview shows.
    pub draft: Option<String>,
    /// The button whose question the form asks.
    pub button: Option<Pressed>,
}

/// A button that asks something before it counts as pressed. Its channel is an id of ours, with the
/// installation; its thread and message are Slack's own ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pressed {
    pub channel: String,
    pub thread: Option<String>,
    pub message: String,
    pub value: String,
}

impl Meta {
    /// Reads the data from a view that Slack sends.
    pub fn of(view: &Value) -> Meta {
        let text = view["private_metadata"].as_str().unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("it holds only texts")
    }
}

/// Builds the form for a new batch, with the fields of the chosen action.
pub fn new(catalog: &Catalog, limits: &CommandLimits, action: Option<&str>, meta: &Meta) -> Value {
    let chosen = action.and_then(|name| catalog.get(name)).or_else(|| catalog.actions().next());
    let mut blocks = vec![choose(catalog, chosen)];
    let hosts = json!({
        "type": "plain_text_input", "action_id": "v", "multiline": true, "max_length": MOST_TEXT,
        "placeholder": plain("web[01-12] @db!db03, or a list, one host a line"),
    });
    blocks.push(input("hosts", "Hosts", hosts, Some("A longer list goes into a file."), true));
    let file = json!({
        "type": "file_input", "action_id": "v", "filetypes": ["csv", "txt", "text"], "max_files": 1,
    });
    let hint = "One host a line, or a CSV file with a column \"host\".";
    blocks.push(input("file", "Hosts from a file", file, Some(hint), true));
    if let Some(action) = chosen {
        for (name, spec) in &action.args {
            blocks.push(argument(action, name, spec));
        }
    }
    for key in COMMON_KEYS {
        let most = if key.name == "reason" { MAX_REASON } else { 100 };
        let element = json!({ "type": "plain_text_input", "action_id": "v", "max_length": most });
        let optional = !(key.name == "reason" && limits.reason_required);
        let hint = format!("{}: {}", key.help, key.expected);
        blocks.push(input(key.name, &label(key.name), element, Some(&hint), optional));
    }
    if meta.channel.is_none() {
        let element = json!({
            "type": "conversations_select", "action_id": "v",
            "default_to_current_conversation": true,
            "filter": { "include": ["public", "private"], "exclude_bot_users": true },
        });
        blocks.push(input("channel", "Channel", element, Some("Where the batch is shown."), false));
    }
    json!({
        "type": "modal", "callback_id": NEW, "title": plain("New batch"),
        "submit": plain("Preview"), "close": plain("Close"), "blocks": blocks,
        "private_metadata": meta.text(),
    })
}

fn choose(catalog: &Catalog, chosen: Option<&ActionSpec>) -> Value {
    let option = |action: &ActionSpec| {
        let text = format!("{}: {}", action.name, action.summary);
        json!({ "text": plain(&beginning(&text, MOST_OPTION)), "value": action.name })
    };
    let options: Vec<Value> = catalog.actions().take(MOST_OPTIONS).map(option).collect();
    let mut element = json!({ "type": "static_select", "action_id": CHOOSE, "options": options });
    if let Some(action) = chosen {
        element["initial_option"] = option(action);
    }
    let mut block = input("action", "Action", element, None, false);
    block["dispatch_action"] = true.into();
    block
}

fn argument(action: &ActionSpec, name: &str, spec: &ArgSpec) -> Value {
    let flag = (spec.kind == ArgKind::Flag).then(|| "false".to_owned());
    let default = spec.default.clone().or(flag);
    let choices: Vec<String> = match spec.kind {
        ArgKind::Choice => spec.choices.clone(),
        ArgKind::Flag => vec!["true".into(), "false".into()],
        ArgKind::Duration | ArgKind::Count => Vec::new(),
    };
    let element = if choices.is_empty() {
        let mut element =
            json!({ "type": "plain_text_input", "action_id": "v", "max_length": 100 });
        if let Some(default) = &default {
            element["initial_value"] = default.as_str().into();
        }
        element
    } else {
        let option = |value: &str| {
            let shown = match (spec.kind, value) {
                (ArgKind::Flag, "true") => "yes",
                (ArgKind::Flag, _) => "no",
                (_, value) => value,
            };
            json!({ "text": plain(&beginning(shown, MOST_OPTION)), "value": value })
        };
        let options: Vec<Value> =
            choices.iter().take(MOST_OPTIONS).map(|choice| option(choice)).collect();
        let mut element = json!({ "type": "static_select", "action_id": "v", "options": options });
        if let Some(default) = &default {
            element["initial_option"] = option(default);
        }
        element
    };
    let hint = match spec.kind {
        ArgKind::Duration | ArgKind::Count => format!("{}: {}", spec.help, spec.expected()),
        ArgKind::Choice | ArgKind::Flag => spec.help.clone(),
    };
    let block = format!("arg:{}:{name}", action.name);
    input(&block, &label(name), element, Some(&hint), default.is_some())
}

/// Returns the name of the block of a field, in the form for this action.
pub fn block_of(field: &Field, action: &str) -> String {
    match field {
        Field::Action => "action".into(),
        Field::Hosts => "hosts".into(),
        Field::Param(name) if COMMON_KEYS.iter().any(|key| key.name == name) => name.clone(),
        Field::Param(name) => format!("arg:{action}:{name}"),
    }
}

/// Entries of a person in the form for a new batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filled {
    pub action: String,
    /// Hosts as they were pasted.
    pub hosts: String,
    /// Parameters that have a value.
    pub params: Vec<(String, String)>,
    /// Name and address of the file.
    pub file: Option<(String, String)>,
    /// Slack's id of the chosen channel.
    pub channel: Option<String>,
}

/// Reads the fields of the form for a new batch.
pub fn filled(view: &Value) -> Filled {
    let mut filled = Filled { action: chosen(view).unwrap_or_default(), ..Filled::default() };
    let own = format!("arg:{}:", filled.action);
    for (block, elements) in view["state"]["values"].as_object().into_iter().flatten() {
        let element = &elements["v"];
        let selected = element["selected_option"]["value"].as_str();
        let text = element["value"].as_str().or(selected).unwrap_or_default();
        match block.as_str() {
            "action" => {}
            "hosts" => filled.hosts = text.to_owned(),
            "channel" => {
                filled.channel = element["selected_conversation"].as_str().map(str::to_owned);
            }
            "file" => {
                let file = &element["files"][0];
                let url = file["url_private_download"].as_str().or(file["url_private"].as_str());
                let name = file["name"].as_str().unwrap_or_default();
                filled.file = url.map(|url| (name.to_owned(), url.to_owned()));
            }
            name => {
                let name = match name.strip_prefix(&own) {
                    Some(name) => name,
                    // A field of an action that was chosen before.
                    None if name.starts_with("arg:") => continue,
                    None => name,
                };
                if !text.trim().is_empty() {
                    filled.params.push((name.to_owned(), text.trim().to_owned()));
                }
            }
        }
    }
    filled
}

/// Reads the action that is chosen in a form.
pub fn chosen(view: &Value) -> Option<String> {
    let option = &view["state"]["values"]["action"][CHOOSE]["selected_option"];
    option["value"].as_str().map(str::to_owned)
}

/// Builds the preview of a form from the blocks of a message; if `may` is true it can be submitted.
pub fn preview(blocks: Value, may: bool, meta: &Meta) -> Value {
    let mut view = json!({
        "type": "modal", "callback_id": PREVIEW, "title": plain("Preview"),
        "close": plain("Back"), "blocks": blocks, "private_metadata": meta.text(),
    });
    if may {
        view["submit"] = plain("Submit");
    }
    view
}

/// Builds the form that asks a button's question.
pub fn ask(label: &str, question: &str, meta: &Meta) -> Value {
    let element = json!({
        "type": "plain_text_input", "action_id": "v", "multiline": true, "max_length": MAX_REASON,
    });
    json!({
        "type": "modal", "callback_id": ASK, "title": plain(&beginning(label, 24)),
        "submit": plain(&beginning(label, 24)), "close": plain("Back"),
        "blocks": [input("answer", question, element, None, true)],
        "private_metadata": meta.text(),
    })
}

/// Reads a person's answer to a button's question; `None` if it is empty.
pub fn answer(view: &Value) -> Option<String> {
    let typed = view["state"]["values"]["answer"]["v"]["value"].as_str()?.trim();
    (!typed.is_empty()).then(|| typed.to_owned())
}

/// Builds a view that only shows a text.
pub fn notice(title: &str, blocks: Value) -> Value {
    json!({
        "type": "modal", "title": plain(&beginning(title, 24)), "close": plain("Close"),
        "blocks": blocks,
    })
}

/// Builds a block with a paragraph of plain text.
pub fn paragraph(text: &str) -> Value {
    let text = beginning(&escape(text), MOST_TEXT);
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } })
}

fn input(block: &str, label: &str, element: Value, hint: Option<&str>, optional: bool) -> Value {
    let mut input = json!({
        "type": "input", "block_id": block, "label": plain(label), "element": element,
        "optional": optional,
    });
    if let Some(hint) = hint {
        input["hint"] = plain(&beginning(hint, 2_000));
    }
    input
}

/// Turns a name such as `max-fail` into a label: `Max fail`.
fn label(name: &str) -> String {
    let mut letters = name.replace('-', " ").chars().collect::<Vec<char>>().into_iter();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text })
}

fn beginning(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_follow_from_the_action() {
        let catalog = Catalog::load(None).unwrap();
        let meta = Meta { channel: Some("C1".into()), ..Meta::default() };
        let ids = |action: Option<&str>| -> Vec<String> {
            let view = new(&catalog, &CommandLimits::default(), action, &meta);
            let blocks = view["blocks"].as_array().unwrap().iter();
            blocks.map(|block| block["block_id"].as_str().unwrap().to_owned()).collect()
        };
        let common =
            ["reason", "wave", "wave-pause", "max-concurrent", "max-fail", "at", "not-before"];
        let expected = |own: &[&'static str]| [&["action", "hosts", "file"], own, &common].concat();
        assert_eq!(ids(Some("power-on")), expected(&[]));
        assert_eq!(ids(Some("identify")), expected(&["arg:identify:for"]));
        assert_eq!(ids(None), expected(&["arg:identify:for"]), "the first");
        let reboot = ["arg:reboot:force", "arg:reboot:mode", "arg:reboot:wait"];
        assert_eq!(ids(Some("reboot")), expected(&reboot));
        let view = new(&catalog, &CommandLimits::default(), Some("reboot"), &Meta::default());
        let last = view["blocks"].as_array().unwrap().last().unwrap();
        assert_eq!(last["element"]["type"], "conversations_select");
        assert_eq!(Meta::of(&view), Meta::default());
    }

    #[test]
    fn what_was_filled_in_is_read() {
        let select = |value: &str| json!({ "selected_option": { "value": value } });
        let view = json!({ "state": { "values": {
            "action": { "choose_action": select("reboot") },
            "hosts": { "v": { "value": "web01\nweb02" } },
            "file": { "v": { "files": [{ "name": "a.csv", "url_private_download": "https://f" }] } },
            "arg:reboot:mode": { "v": select("soft") },
            "arg:reboot:wait": { "v": { "value": " 10m " } },
            "arg:identify:for": { "v": { "value": "9s" } },
            "reason": { "v": { "value": null } },
            "wave": { "v": { "value": "1,50%" } },
            "channel": { "v": { "selected_conversation": "C9" } },
        } } });
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            filled(&view),
            Filled {
                action: "reboot".into(),
                hosts: "web01\nweb02".into(),
                params: vec![pair("mode", "soft"), pair("wait", "10m"), pair("wave", "1,50%")],
                file: Some(pair("a.csv", "https://f")),
                channel: Some("C9".into()),
            }
        );
        assert_eq!(filled(&json!({})), Filled::default());
        assert_eq!(block_of(&Field::Param("wait".into()), "reboot"), "arg:reboot:wait");
        assert_eq!(block_of(&Field::Param("wave".into()), "reboot"), "wave");
    }
}

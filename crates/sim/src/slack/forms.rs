//! Acts of people in forms and on the app's home, in Slack's documented shapes, and Slack's
//! reaction to the app's answer. <https://docs.slack.dev/surfaces/modals#updating_views>

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::SimSlack;
use super::check;
use super::deliver::UserAction;
use super::state::{File, State};

impl SimSlack {
    /// Calls a global shortcut of the app.
    pub async fn shortcut(&self, who: &str, callback: &str) -> anyhow::Result<Option<Value>> {
        let act = self.world.lock().shortcut(who, callback)?;
        self.deliver(act).await
    }

    /// Chooses an option in the open view, of a menu that sends each choice to the app at once.
    pub async fn choose(&self, who: &str, block: &str, value: &str) -> anyhow::Result<()> {
        let act = self.world.lock().choose(who, block, value)?;
        self.deliver(act).await.map(drop)
    }

    /// Presses the first button with this label on the app's home.
    pub async fn click_home(&self, who: &str, label: &str) -> anyhow::Result<()> {
        let act = self.world.lock().click_home(who, label)?;
        self.deliver(act).await.map(drop)
    }

    /// Value of a file field in a form, after somebody has chosen this file.
    pub fn choose_file(&self, name: &str, content: &str) -> Value {
        let mut state = self.world.lock();
        let id = format!("F{:08}", state.next());
        let (length, content) = (content.len(), content.to_owned());
        let (name, id_of) = (name.to_owned(), id.clone());
        state.files.push(File { id: id_of, name, length, content, channel: None, thread: None });
        let name = &state.files.last().expect("it was just put there").name;
        let url = format!("http://{}/files/{id}", self.world.api);
        json!({ "id": id, "name": name, "filetype": "text", "url_private_download": url })
    }
}

impl State {
    /// Applies the app's answer to a form that was sent.
    pub fn answered(&mut self, who: &str, answer: Option<&Value>) -> anyhow::Result<()> {
        let user = self.user(who)?.id.clone();
        let next = |state: &mut State, view: &Value| -> anyhow::Result<Value> {
            if let Err(code) = check::view(view, "modal") {
                bail!("{code}: {view}");
            }
            let mut view = view.clone();
            view["id"] = format!("V{:08}", state.next()).into();
            view["hash"] = format!("{}.hash", state.next()).into();
            view["team_id"] = state.team.as_str().into();
            Ok(view)
        };
        let action = answer.and_then(|answer| answer["response_action"].as_str());
        let view = answer.map(|answer| &answer["view"]).unwrap_or(&Value::Null);
        match action {
            None => drop(self.views.entry(user).or_default().pop()),
            Some("clear") => self.views.entry(user).or_default().clear(),
            Some("errors") => {
                let open = self.views.get(&user).and_then(|views| views.last());
                let blocks = open.context("no view is open")?["blocks"].as_array();
                let named = answer.and_then(|answer| answer["errors"].as_object());
                for block in named.context("no errors")?.keys() {
                    let is =
                        |one: &Value| one["block_id"] == block.as_str() && one["type"] == "input";
                    if !blocks.is_some_and(|blocks| blocks.iter().any(is)) {
                        bail!("an error at {block}, which is no field");
                    }
                }
            }
            Some("push") => {
                let view = next(self, view)?;
                self.views.entry(user).or_default().push(view);
            }
            Some("update") => {
                let view = next(self, view)?;
                let views = self.views.entry(user).or_default();
                views.pop();
                views.push(view);
            }
            Some(other) => bail!("unknown response_action {other}"),
        }
        Ok(())
    }

    /// Payload of a global shortcut.
    /// <https://docs.slack.dev/reference/interaction-payloads/shortcuts-interaction-payload>
    fn shortcut(&mut self, who: &str, callback: &str) -> anyhow::Result<UserAction> {
        let user = self.user(who)?.id.clone();
        let (trigger, stamp) = (self.trigger(&user), self.next_ts());
        let payload = json!({
            "type": "shortcut", "token": "legacy", "action_ts": stamp, "callback_id": callback,
            "team": { "id": self.team, "domain": "metal" }, "trigger_id": trigger,
            "user": { "id": user, "username": who, "team_id": self.team },
            "is_enterprise_install": false, "enterprise": null,
        });
        Ok(self.installed("interactive", payload))
    }

    /// Closes the topmost view.
    pub fn close_view(&mut self, who: &str) -> anyhow::Result<()> {
        let user = self.user(who)?.id.clone();
        self.views.entry(user).or_default().pop();
        Ok(())
    }

    pub fn choose(&mut self, who: &str, block: &str, value: &str) -> anyhow::Result<UserAction> {
        let user = self.user(who)?.id.clone();
        let (trigger, stamp) = (self.trigger(&user), self.next_ts());
        let view = self.view(who).with_context(|| format!("{who} has no view open"))?.clone();
        let blocks = view["blocks"].as_array().into_iter().flatten();
        let mut found =
            blocks.filter(|one| one["block_id"] == block && one["dispatch_action"] == true);
        let element = &found.next().with_context(|| format!("no {block} that tells"))?["element"];
        let options = element["options"].as_array().into_iter().flatten();
        let option = options.into_iter().find(|option| option["value"] == value);
        let option = option.with_context(|| format!("{block} has no {value}"))?;
        let payload = json!({
            "type": "block_actions",
            "user": { "id": user, "username": who, "name": who, "team_id": self.team },
            "api_app_id": "A0METAL", "token": "legacy", "trigger_id": trigger,
            "container": { "type": "view", "view_id": view["id"] },
            "team": { "id": self.team, "domain": "metal" }, "enterprise": null,
            "is_enterprise_install": false, "view": view,
            "actions": [{
                "type": "static_select", "action_id": element["action_id"], "block_id": block,
                "selected_option": option, "action_ts": stamp,
            }],
        });
        Ok(self.installed("interactive", payload))
    }

    fn click_home(&mut self, who: &str, label: &str) -> anyhow::Result<UserAction> {
        let user = self.user(who)?.id.clone();
        let (trigger, stamp) = (self.trigger(&user), self.next_ts());
        let view = self.homes.get(&user).with_context(|| format!("{who} sees no home"))?.clone();
        let blocks = view["blocks"].as_array().into_iter().flatten();
        let mut elements =
            blocks.flat_map(|block| block["elements"].as_array().into_iter().flatten());
        let button = elements.find(|element| element["text"]["text"] == label);
        let mut button = button.with_context(|| format!("no {label}: {view}"))?.clone();
        button["block_id"] = "b1".into();
        button["action_ts"] = stamp.into();
        let payload = json!({
            "type": "block_actions",
            "user": { "id": user, "username": who, "name": who, "team_id": self.team },
            "api_app_id": "A0METAL", "token": "legacy", "trigger_id": trigger,
            "container": { "type": "view", "view_id": view["id"] },
            "team": { "id": self.team, "domain": "metal" }, "enterprise": null,
            "is_enterprise_install": false, "view": view, "actions": [button],
        });
        Ok(self.installed("interactive", payload))
    }
}

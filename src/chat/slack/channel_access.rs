//! Access of the bot to Slack's channels: people see its messages only in channels that it was
//! invited to.
//!
//! Slash commands come from everywhere, also from channels and conversations that the bot is not in
//! and can neither write to nor read.

use serde_json::json;

use super::web_api::{ApiError, WebApi};
use super::{own_id, scope};
use metalbot_core::domain::inbound::ChatLocation;

const NOT_INVITED: &str = "I am not in that channel: type `/invite @metalbot` there first";
const ARCHIVED: &str = "that channel is archived: choose another one, or have it unarchived";
const PRIVATE: &str = "nobody else sees what is said there: ask in a channel that I was invited to";

/// Returns what people have to do before a channel takes messages, by Slack's code of a refusal;
/// `None` for a refusal with another cause.
pub(super) fn closed_by(code: &str) -> Option<&'static str> {
    match code {
        // A private channel that the bot is not in does not exist for it.
        "not_in_channel" | "channel_not_found" => Some(NOT_INVITED),
        "is_archived" => Some(ARCHIVED),
        _ => None,
    }
}

/// Asks Slack whether the bot is in a channel; needs the scopes `channels:read` and `groups:read`.
pub async fn closed(api: &WebApi, location: &ChatLocation) -> Result<Option<String>, ApiError> {
    let channel = own_id(&location.channel);
    if channel.starts_with('D') {
        return Ok(Some(PRIVATE.into()));
    }
    let params = [("channel", channel.to_owned())];
    let why = match api.get("conversations.info", scope(&location.channel), channel, &params).await
    {
        Ok(answer) if answer["channel"]["is_archived"] == true => Some(ARCHIVED),
        Ok(answer) if answer["channel"]["is_member"] == false => Some(NOT_INVITED),
        Ok(_) => None,
        Err(ApiError::Refused(code)) => closed_by(&code),
        Err(error) => return Err(error),
    };
    Ok(why.map(str::to_owned))
}

/// Opens the bot's conversation with one user alone, and returns its id, which is always the same;
/// needs the scope `im:write`.
/// <https://docs.slack.dev/reference/methods/conversations.open>
pub(super) async fn open_conversation(api: &WebApi, user: &str) -> Result<String, ApiError> {
    let request = json!({ "users": own_id(user) });
    let answer = api.post("conversations.open", scope(user), "", &request).await?;
    let id = answer["channel"]["id"].as_str().filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| ApiError::Unknown("it opened no conversation".into()))?;
    Ok(format!("{}/{id}", scope(user)))
}

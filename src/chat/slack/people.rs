//! Addresses of Slack users, by which the directory knows them: only addresses that the user's own
//! workspace has verified.
//!
//! Invariant: only the installation's own people count. A user from another workspace, who comes in
//! through a shared channel, may have any address there. Guests, bots, people who have not accepted their
//! invitation, and closed accounts do not count either.
//! <https://docs.slack.dev/reference/objects/user-object>

use serde_json::Value;

use super::web_api::{ApiError, WebApi};
use super::{own_id, scope};
use metalbot_core::domain::inbound::PlatformUser;

/// Asks Slack for a user's verified address; needs the scopes `users:read` and `users:read.email`.
pub async fn verified_email(api: &WebApi, user: &PlatformUser) -> Result<Option<String>, ApiError> {
    let params = [("user", own_id(&user.id).to_owned())];
    match api.get("users.info", scope(&user.id), "", &params).await {
        Ok(answer) => Ok(email_of(&answer["user"], scope(&user.id)).map(str::to_owned)),
        Err(ApiError::Refused(code)) => {
            tracing::warn!(
                code,
                user = user.id,
                "Slack refuses to name the address of a user; taken as unknown"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks Slack for the user of an installation who has this verified address.
pub async fn user_by_email(
    api: &WebApi,
    scope: &str,
    email: &str,
) -> Result<Option<String>, ApiError> {
    let params = [("email", email.to_owned())];
    let user = match api.get("users.lookupByEmail", scope, "", &params).await {
        Ok(answer) => answer["user"].clone(),
        Err(ApiError::Refused(code)) if code == "users_not_found" => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = email_of(&user, scope).is_some_and(|own| own.eq_ignore_ascii_case(email));
    let id = user["id"].as_str().filter(|_| same);
    Ok(id.map(|id| format!("{scope}/{id}")))
}

/// Returns the verified address of a user, if they are one of this installation's own people.
fn email_of<'a>(user: &'a Value, scope: &str) -> Option<&'a str> {
    let is = |flag: &str| user[flag] == true;
    let own = user["team_id"] == scope || user["enterprise_user"]["enterprise_id"] == scope;
    let guest = is("is_restricted") || is("is_ultra_restricted");
    let person = !is("is_bot") && !is("deleted") && !is("is_stranger") && !is("is_invited_user");
    let email = user["profile"]["email"].as_str().filter(|email| !email.is_empty())?;
    (own && person && !guest && is("is_email_confirmed")).then_some(email)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_addresses_of_our_own_people_that_are_verified_count() {
        let user = |change: Value| {
            let mut user = json!({
                "id": "U1", "team_id": "T1", "deleted": false, "is_bot": false,
                "is_email_confirmed": true, "profile": { "email": "a@example.org" },
            });
            for (key, value) in change.as_object().unwrap() {
                user[key] = value.clone();
            }
            email_of(&user, "T1").map(str::to_owned)
        };
        let ours = Some("a@example.org".to_owned());
        assert_eq!(user(json!({})), ours);
        let grid = json!({ "team_id": "T9", "enterprise_user": { "enterprise_id": "T1" } });
        assert_eq!(user(grid), ours);
        for change in [
            json!({ "is_email_confirmed": false }),
            json!({ "is_email_confirmed": null }),
            json!({ "team_id": "T2" }),
            json!({ "is_stranger": true }),
            json!({ "is_restricted": true }),
            json!({ "is_ultra_restricted": true }),
            json!({ "is_bot": true }),
            json!({ "deleted": true }),
            json!({ "is_invited_user": true }),
            json!({ "profile": {} }),
            json!({ "profile": { "email": "" } }),
        ] {
            assert_eq!(user(change.clone()), None, "{change}");
        }
    }
}

//! Tests with payloads as Slack documents them, and with differences that were seen.

use serde_json::{Value, json};

use super::*;

fn slash_with(change: Value) -> Value {
    let mut payload = json!({
        "token": "t", "team_id": "T1", "team_domain": "d", "channel_id": "C1",
        "channel_name": "metal", "user_id": "U1", "user_name": "a", "command": "/metal",
        "text": "reboot web01", "api_app_id": "A1", "is_enterprise_install": "false",
        "response_url": "https://hooks.slack.test/1", "trigger_id": "1.2.3",
    });
    change_all(&mut payload, &change);
    json!({ "envelope_id": "e", "type": "slash_commands", "payload": payload })
}

fn click_with(change: Value) -> Value {
    let mut payload = json!({
        "type": "block_actions", "user": { "id": "U1", "team_id": "T1" }, "api_app_id": "A1",
        "container": { "type": "message", "message_ts": "1.1", "channel_id": "C1" },
        "trigger_id": "1.2.3", "team": { "id": "T1", "domain": "d" }, "enterprise": null,
        "is_enterprise_install": false, "channel": { "id": "C1", "name": "metal" },
        "message": { "type": "message", "user": "UB", "ts": "1.1", "text": "x" },
        "actions": [{
            "action_id": "card:0", "block_id": "b", "type": "button", "value": "approve 1 abc",
            "action_ts": "2.2", "text": { "type": "plain_text", "text": "Approve" },
        }],
    });
    change_all(&mut payload, &change);
    json!({ "envelope_id": "e", "type": "interactive", "payload": payload })
}

fn event(event: Value) -> Value {
    json!({ "envelope_id": "e", "type": "events_api", "payload": {
        "team_id": "T1", "api_app_id": "A1", "type": "event_callback", "event_id": "Ev1",
        "authorizations": [{
            "enterprise_id": null, "team_id": "T1", "user_id": "UB", "is_bot": true,
            "is_enterprise_install": false,
        }],
        "event": event,
    } })
}

fn message_with(change: Value) -> Value {
    let mut message = json!({
        "type": "message", "user": "U1", "ts": "3.3", "text": "approve", "team": "T1",
        "thread_ts": "1.1", "parent_user_id": "UB", "channel": "C1", "event_ts": "3.3",
        "channel_type": "channel",
    });
    change_all(&mut message, &change);
    event(message)
}

fn reaction_with(change: Value) -> Value {
    let mut reaction = json!({
        "type": "reaction_added", "user": "U1", "reaction": "+1", "item_user": "UB",
        "item": { "type": "message", "channel": "C1", "ts": "1.1" }, "event_ts": "4.4",
    });
    change_all(&mut reaction, &change);
    event(reaction)
}

fn change_all(value: &mut Value, change: &Value) {
    for (key, new) in change.as_object().unwrap() {
        value[key] = new.clone();
    }
}

fn meant(body: &Value) -> Inbound {
    read(body).unwrap().unwrap_or_else(|| panic!("it asks for nothing: {body}"))
}

#[test]
fn a_slash_command_is_a_command() {
    let inbound = meant(&slash_with(json!({ "text": " reboot  web01 reason=\"a &amp; b\" " })));
    assert_eq!(
        inbound.body,
        InboundBody::Command { text: "reboot  web01 reason=\"a & b\"".into() }
    );
    assert_eq!(inbound.user.id, "T1/U1");
    assert_eq!((&*inbound.location.channel, inbound.location.thread), ("T1/C1", None));
    assert_eq!(inbound.delivery, "slash:T1:1.2.3");
    let empty = meant(&slash_with(json!({ "text": null })));
    assert_eq!(empty.body, InboundBody::Command { text: String::new() });
}

#[test]
fn a_press_of_a_button_names_message_and_value() {
    let inbound = meant(&click_with(json!({})));
    let value = "approve 1 abc".to_owned();
    assert_eq!(inbound.body, InboundBody::Button { message: "1.1".into(), value, answer: None });
    assert_eq!((&*inbound.location.channel, &*inbound.user.id), ("T1/C1", "T1/U1"));
    assert_ne!(
        inbound.delivery,
        meant(&click_with(json!({ "user": { "id": "U2" } }))).delivery,
        "another person's press is another one"
    );
    let of_a_view = json!({ "container": { "type": "view", "view_id": "V1" }, "channel": null });
    assert_eq!(read(&click_with(of_a_view)), Ok(None));
}

#[test]
fn the_same_ids_of_two_workspaces_are_two_deliveries() {
    let other = |mut body: Value| {
        body["payload"]["team_id"] = json!("T2");
        body["payload"]["team"] = json!({ "id": "T2" });
        if body["type"] == "events_api" {
            body["payload"]["authorizations"][0]["team_id"] = json!("T2");
        }
        body
    };
    for body in [
        slash_with(json!({})),
        click_with(json!({})),
        message_with(json!({})),
        reaction_with(json!({})),
    ] {
        assert_ne!(meant(&body).delivery, meant(&other(body.clone())).delivery, "{body}");
    }
}

#[test]
fn only_the_bot_itself_is_let_in() {
    let joined = |user: &str| {
        event(json!({
            "type": "member_joined_channel", "user": user, "channel": "C1", "channel_type": "C",
            "team": "T1", "inviter": "U1",
        }))
    };
    assert_eq!(let_in(&joined("UB")).unwrap().unwrap().channel, "T1/C1");
    assert_eq!(let_in(&joined("U1")), Ok(None));
    assert_eq!(let_in(&message_with(json!({ "user": "UB" }))), Ok(None));
    assert_eq!(read(&joined("U1")), Ok(None));
}

#[test]
fn an_installation_for_a_whole_organisation_can_be_read() {
    let org = json!({ "team": null, "enterprise": { "id": "E1", "name": "x" },
        "is_enterprise_install": true, "user": { "id": "W1" } });
    let inbound = meant(&click_with(org));
    assert_eq!((&*inbound.user.id, &*inbound.location.channel), ("E1/W1", "E1/C1"));
    // The channel is the same in every workspace of the organisation.
    let org = json!({ "team": { "id": "T9" }, "enterprise": { "id": "E1" },
        "is_enterprise_install": true });
    assert_eq!(meant(&click_with(org)).location.channel, "E1/C1");
    let org = json!({ "enterprise_id": "E1", "is_enterprise_install": "true", "user_id": "W1" });
    assert_eq!(meant(&slash_with(org)).user.id, "E1/W1");
    let mut event = message_with(json!({ "user": "W1" }));
    event["payload"]["authorizations"] = json!([{
        "enterprise_id": "E1", "team_id": null, "user_id": "UB", "is_bot": true,
        "is_enterprise_install": true,
    }]);
    assert_eq!(meant(&event).user.id, "E1/W1");
    // In a workspace of an organisation the app may still be that workspace's alone.
    let alone = json!({ "enterprise_id": "E1", "is_enterprise_install": "false" });
    assert_eq!(meant(&slash_with(alone)).user.id, "T1/U1");
}

#[test]
fn ids_of_different_workspaces_do_not_collide() {
    let other = meant(&slash_with(json!({ "team_id": "T2" })));
    let one = meant(&slash_with(json!({})));
    assert_ne!(one.user, other.user);
    assert_ne!(one.location, other.location);
}

#[test]
fn only_what_people_say_in_our_threads_is_heard() {
    let inbound = meant(&message_with(json!({ "text": "reject: a &lt;b&gt; <@U9> <#C2|ops>" })));
    let text = "reject: a <b> @U9 #ops".into();
    assert_eq!(inbound.body, InboundBody::ThreadReply { text, at: None });
    let timed = meant(&message_with(json!({ "ts": "1700000000.000123" }))).body.at().unwrap();
    assert_eq!(timed.unix_timestamp_nanos(), 1_700_000_000_000_123_000);
    assert_eq!(inbound.location.thread.as_deref(), Some("1.1"));
    assert!(read(&message_with(json!({ "subtype": "file_share" }))).unwrap().is_some());
    for nothing in [
        json!({ "thread_ts": null }),
        json!({ "thread_ts": "3.3" }),
        json!({ "bot_id": "B1" }),
        json!({ "subtype": "message_changed" }),
        json!({ "subtype": "message_deleted" }),
        json!({ "subtype": "bot_message" }),
        json!({ "user": "UB" }),
        json!({ "parent_user_id": "U7" }),
    ] {
        assert_eq!(read(&message_with(nothing.clone())), Ok(None), "{nothing}");
    }
    assert_eq!(read(&event(json!({ "type": "channel_rename" }))), Ok(None));
}

#[test]
fn reactions_are_put_and_taken_away() {
    let name = |body: &Value| match meant(body).body {
        InboundBody::Reaction { message, name, added, .. } => (message, name, added),
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&reaction_with(json!({}))), ("1.1".into(), "+1".into(), true));
    let hand = json!({ "reaction": "+1::skin-tone-4", "type": "reaction_removed" });
    assert_eq!(name(&reaction_with(hand)), ("1.1".into(), "+1".into(), false));
    for nothing in [
        json!({ "item": { "type": "file", "file": "F1" } }),
        json!({ "item_user": "U7" }),
        json!({ "user": "UB" }),
    ] {
        assert_eq!(read(&reaction_with(nothing.clone())), Ok(None), "{nothing}");
    }
}

#[test]
fn metadata_of_any_shape_is_no_obstacle() {
    let message = json!({ "type": "message", "ts": "1.1", "metadata": {
        "event_type": "x", "event_payload": { "n": 1, "list": [true, null], "map": {} },
    } });
    assert!(read(&click_with(json!({ "message": message }))).unwrap().is_some());
}

#[test]
fn what_cannot_be_read_says_why() {
    for (body, why) in [
        (json!({}), "an envelope without a type"),
        (json!({ "type": "new_thing" }), "an envelope of type new_thing"),
        (
            json!({ "type": "interactive", "payload": { "type": "odd" } }),
            "an interaction of type odd",
        ),
        (slash_with(json!({ "user_id": null })), "it has no text at /user_id"),
        (slash_with(json!({ "team_id": 1 })), "it names no workspace and no organisation"),
        (
            event(json!({ "type": "message", "thread_ts": "1", "ts": "2" })),
            "it has no text at /user",
        ),
    ] {
        assert_eq!(read(&body).unwrap_err().0, why);
    }
}

#[test]
fn text_is_what_the_person_saw() {
    for (sent, seen) in [
        ("a &amp;amp; b", "a &amp; b"),
        ("<https://e.org|e.org> <https://e.org>", "e.org https://e.org"),
        ("<!here> <!subteam^S1|@sre>", "@here @sre"),
        ("web01 < 5", "web01 < 5"),
    ] {
        assert_eq!(plain(sent), seen);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_of_a_person_makes_it_panic(text in "\\PC{0,60}") {
        let _ = plain(&text);
        let _ = read(&message_with(json!({ "text": text, "user": text })));
    }
}

//! Installing the app: its manifest, and the check of its tokens.

use std::net::SocketAddr;
use std::process::Output;

use metalbot_sim::fleet;
use metalbot_sim::slack::{SimSlack, SlackFault};
use serde_json::Value;
use tokio::process::Command;

async fn metalbot(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalbot"));
    command.args(args).output().await.unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test]
async fn the_manifest_is_json_for_either_way() {
    let socket = metalbot(&["operator", "slack", "manifest"]).await;
    let manifest: Value = serde_json::from_slice(&socket.stdout).unwrap();
    assert_eq!(manifest["settings"]["socket_mode_enabled"], true);
    let scopes = manifest["oauth_config"]["scopes"]["bot"].as_array().unwrap();
    assert!(scopes.contains(&"files:read".into()), "{scopes:?}");
    let url = "https://metal.example.org";
    let http = metalbot(&["operator", "slack", "manifest", "--mode", "http", "--url", url]).await;
    let manifest: Value = serde_json::from_slice(&http.stdout).unwrap();
    let sends_to = &manifest["settings"]["interactivity"]["request_url"];
    assert_eq!(sends_to, "https://metal.example.org/slack/events");
    let without = metalbot(&["operator", "slack", "manifest", "--mode", "http"]).await;
    assert!(!without.status.success() && said(&without).contains("--url"), "{}", said(&without));
}

#[tokio::test]
async fn the_check_says_what_is_missing_and_never_a_token() {
    metalbot::use_ring();
    let slack = SimSlack::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metalbot.toml");
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let toml = fleet::metalbot_toml(listen, "http://127.0.0.1:9", "demo");
    std::fs::write(&file, format!("{toml}\n{}", slack.toml("socket"))).unwrap();
    let config = file.to_str().unwrap();
    let check = async || metalbot(&["operator", "slack", "check", "--config", config]).await;

    let fine = check().await;
    assert!(fine.status.success(), "{}", said(&fine));
    assert!(said(&fine).contains("all is there"), "{}", said(&fine));

    slack.fault("auth.test", [SlackFault::Error("token_revoked")]);
    slack.fault("apps.connections.open", [SlackFault::Error("not_allowed_token_type")]);
    let wrong = check().await;
    let told = said(&wrong);
    assert!(!wrong.status.success(), "{told}");
    for part in ["Slack says token_revoked", "connections:write", "2 things to be mended"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("xoxb-") || told.contains("(xoxb-...)"), "{told}");
    assert!(!told.contains("stand-in"), "{told}");
    slack.stop().await;
}

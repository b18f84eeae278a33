//! HTTP mode: who may send what, and how much of it.

use std::time::Duration;

use metalbot_sim::slack::{METAL, SIGNING_SECRET, TEAM, now, request_body, sign};
use reqwest::{Client, StatusCode};
use serde_json::json;

use crate::harness::{Builder, Count, PATIENCE, World, until};

const JSON: &str = "application/json";

struct Request<'a> {
    kind: &'a str,
    body: String,
    stamp: String,
    signature: String,
}

/// A request as Slack signs it at that time.
fn signed(kind: &str, body: impl Into<String>, seconds: u64) -> Request<'_> {
    let body = body.into();
    let (stamp, signature) = sign(&body, seconds);
    Request { kind, body, stamp, signature }
}

async fn send(world: &World, request: &Request<'_>) -> (StatusCode, String) {
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
    let answer = client
        .post(format!("{}/slack/events", world.base))
        .header("content-type", request.kind)
        .header("x-slack-request-timestamp", &request.stamp)
        .header("x-slack-signature", &request.signature)
        .body(request.body.clone())
        .send()
        .await
        .unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_batch_is_asked_for_and_cancelled_over_http() {
    let world = World::builder().slack("http").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web[01-02] reason=\"50% & <more>\"").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert!(card.text.contains("50% &amp; &lt;more&gt;"), "{}", card.text);
    slack.react("bob", METAL, &card.ts, "eyes").await.unwrap();
    slack.say("bob", METAL, Some(&card.ts), "not now").await.unwrap();
    slack.click("alice", METAL, &card.ts, "Cancel").await.unwrap();
    slack.card(1, PATIENCE, |card| card.text.contains("cancelled")).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn what_is_forged_old_or_too_large_is_refused_and_learns_nothing() {
    let world = World::builder().slack("http").start().await;
    let act = world.slack().prepare_slash("alice", METAL, "reboot web01").unwrap();
    let (kind, body) = request_body(act.kind, &act.payload).unwrap();
    let right = || signed(kind, body.clone(), now());
    let other = |change: fn(&mut Request<'_>)| {
        let mut request = right();
        change(&mut request);
        request
    };
    for (what, request) in [
        ("an old one", signed(kind, body.clone(), now() - 301)),
        ("one of the future", signed(kind, body.clone(), now() + 3_600)),
        ("another body", other(|request| request.body += "&text=wipe")),
        ("another time", other(|request| request.stamp = (now() - 7).to_string())),
        ("no time", other(|request| request.stamp = "soon".into())),
        ("no signature", other(|request| request.signature = String::new())),
        ("a short one", other(|request| request.signature.truncate(20))),
        ("the secret itself", other(|request| request.signature = SIGNING_SECRET.into())),
    ] {
        let (status, told) = send(&world, &request).await;
        assert_eq!((status, &*told), (StatusCode::UNAUTHORIZED, ""), "{what}");
    }
    // The size is judged before the signature, which is right here.
    let (status, _) = send(&world, &signed(JSON, "x".repeat(256 * 1024 + 1), now())).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.db.count(Count::Deliveries).await, 0);

    let request = right();
    for _ in 0..3 {
        assert_eq!(send(&world, &request).await.0, StatusCode::OK);
    }
    world.quiet().await;
    assert_eq!(
        world.db.count(Count::Deliveries).await,
        1,
        "a replay within the window does nothing"
    );
    world.finish().await;
}

/// Thirty megabytes are not read: the door says no and closes while they are still coming.
#[tokio::test]
async fn a_huge_body_is_not_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::builder().slack("http").start().await;
    let address = world.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /slack/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: {JSON}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    while sent < 30 << 20 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
        sent += 0x10000;
    }
    let mut told = vec![0; 64];
    let read = stream.read(&mut told).await.unwrap_or_default();
    let told = String::from_utf8_lossy(&told[..read]).into_owned();
    assert!(sent < 30 << 20 || told.contains("413"), "all was taken: {told}");
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 413"), "{told}");
    assert_eq!(world.db.count(Count::Deliveries).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn the_address_is_verified_and_what_cannot_be_read_is_kept() {
    let world = World::builder().slack("http").start().await;
    let hello = json!({ "type": "url_verification", "challenge": "3eZbrw1a", "token": "x" });
    let request = signed(JSON, hello.to_string(), now());
    assert_eq!(send(&world, &request).await, (StatusCode::OK, "3eZbrw1a".into()));
    let forged = Request { signature: "v0=00".into(), ..request };
    assert_eq!(send(&world, &forged).await, (StatusCode::UNAUTHORIZED, String::new()));
    let form = "application/x-www-form-urlencoded";
    for (kind, body) in
        [(JSON, "{ not JSON"), (form, "payload=%7Bnot"), (form, "%zz"), (form, "user_id=U1&text=x")]
    {
        assert_eq!(send(&world, &signed(kind, body, now())).await.0, StatusCode::OK, "{body}");
    }
    world.quiet().await;
    let kept = world.db.count(Count::DeliveriesUnreadable).await;
    assert_eq!(kept, 4);
    world.db.expect_unreadable().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_before_it_is_known_whose_the_token_is() {
    let team = format!("team = \"{TEAM}\"\n");
    let site = Builder::processes().slack("http").site().await;
    site.change("metalbot.toml", |known| known.replace(&team, ""));
    let slack = site.slack();
    slack.set_down(true);
    let process = site.serve().await;
    slack.use_http(&format!("{}/slack/events", process.base));
    let act = |team: &str| {
        let mut act = slack.prepare_slash("alice", METAL, "reboot web01").unwrap();
        act.payload["team_id"] = json!(team);
        act
    };
    for team in [TEAM, "T0STRANGE"] {
        let error = slack.deliver(act(team)).await.unwrap_err().to_string();
        assert!(error.contains("503"), "{team}: {error}");
    }
    assert_eq!(site.db.count(Count::Deliveries).await, 0);
    slack.set_down(false);
    let taken = async || slack.deliver(act(TEAM)).await.is_ok();
    until("a delivery that is taken", taken).await;
    let told = slack.deliver(act("T0STRANGE")).await.unwrap().expect("an answer");
    assert!(told["text"].as_str().unwrap().contains("no token for T0STRANGE"), "{told}");
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert_eq!(site.db.count(Count::Deliveries).await, 1);
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
    site.leave().await;
}

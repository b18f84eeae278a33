//! The console in a real browser, driven as people drive it: keys typed, buttons pressed. The
//! README's picture is what this test sees at its end.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::path::Path;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use fantoccini::Locator;
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::{METAL, PATIENCE, World, until};

const CARD: &str = "#log .message.has-card";
const BAR: &str = "return document.querySelector('#log .has-card .bar-track')?.ariaLabel";
const BOX: Locator<'static> = Locator::Css("#compose textarea");

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_from_the_first_key_to_its_tickets() {
    let t = World::with_rack().await;
    let browser = Browser::start().await;
    let page = &browser.page;
    page.goto(&t.base).await.unwrap();

    // Alice types; the completion takes the word over, and Enter sends.
    let compose = page.wait().at_most(PATIENCE).for_element(BOX).await.unwrap();
    browser.shows("#me", "Alice Ivanova").await;
    compose.send_keys("/metal rebo").await.unwrap();
    browser.shows("#compose .completions", "Turn hosts off and on again").await;
    let rest = "web[01-12] reason=\"kernel CVE-2026-1\"";
    compose
        .send_keys(&format!("{}{rest}{}", char::from(Key::Tab), char::from(Key::Enter)))
        .await
        .unwrap();
    browser.shows("#log .command", &format!("/metal reboot {rest}")).await;
    for part in ["#1 reboot · 12 hosts · awaiting approval", "kernel CVE-2026-1", "cut the power"]
    {
        browser.shows(CARD, part).await;
    }

    // What is harmless needs no approval.
    compose.send_keys(&format!("/metal identify web15{}", char::from(Key::Enter))).await.unwrap();
    browser.shows("#log", "#2 identify · 1 host · succeeded").await;

    compose.send_keys(&format!("/metal power-on web16{}", char::from(Key::Enter))).await.unwrap();
    browser.shows("#log", "#3 power-on · 1 host · awaiting approval").await;

    // Bob takes the seat and approves. The page is never loaded again.
    browser.run("window.sameLoad = true").await;
    page.find(Locator::Css("#cast-list [data-login=bob]")).await.unwrap().click().await.unwrap();
    browser.shows("#me", "Bob Mensah").await;
    let approve = Locator::XPath("//article//button[text()='Approve']");
    page.wait().at_most(PATIENCE).for_element(approve).await.unwrap().click().await.unwrap();
    // What he rejects he is asked the reason of.
    let reject = Locator::XPath("//article[contains(., '#3 power-on')]//button[text()='Reject']");
    page.find(reject).await.unwrap().click().await.unwrap();
    browser.shows("dialog.ask", "Why is it rejected?").await;
    let why = page.find(Locator::Css("dialog.ask textarea")).await.unwrap();
    why.send_keys("not today").await.unwrap();
    page.find(Locator::Css("dialog.ask .answer")).await.unwrap().click().await.unwrap();
    for part in ["#3 power-on · 1 host · rejected", "not today"] {
        browser.shows("#log", part).await;
    }
    let mut seen = Vec::new();
    until("a card with both tickets", async || {
        let text = browser.text(CARD).await;
        let bar = browser.run(BAR).await;
        if bar != Value::Null && seen.last() != Some(&bar) {
            seen.push(bar);
        }
        text.contains("partly failed") && text.contains("OPS-2")
    })
    .await;
    assert!(seen.len() >= 2, "the bar did not move: {seen:?}");
    assert_eq!(*seen.last().unwrap(), "Of 12 hosts: 10 succeeded, 2 failed");
    browser.shows(CARD, "10 of 12 done · 2 failed").await;
    browser.shows(CARD, "Retry failed").await;
    assert_eq!(browser.run("return window.sameLoad").await, true, "the page was loaded again");

    // The thread tells what happened, with the tickets.
    page.find(Locator::Css("#log .replies:not([hidden])")).await.unwrap().click().await.unwrap();
    for part in ["@bob approved", "@alice #1 has ended", "OPS-1 was filed", "OPS-2 was filed"] {
        browser.shows("#thread-log", part).await;
    }
    assert_eq!(browser.problems().await, Vec::<String>::new());

    // The pointer's hints are not for the picture.
    let away = json!({ "type": "mouseMoved", "x": 600, "y": 20 });
    browser.devtools("Input.dispatchMouseEvent", away).await;
    let picture = page.screenshot().await.unwrap();
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("console.png"), &picture).unwrap();
    if std::env::var_os("METALBOT_UPDATE_SCREENSHOT").is_some() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/console.png");
        std::fs::write(readme, &picture).unwrap();
    }

    page.clone().close().await.unwrap();
    t.finish().await;
}

/// A proxy that keeps the console's stream for itself, and hands on everything else.
async fn holding_back(base: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let (client, base) = (client.build().unwrap(), base.to_owned());
    let pass = move |request: Request| {
        let (client, base) = (client.clone(), base.clone());
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.path() == "/console/events" {
                return std::future::pending().await;
            }
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let to = format!("{base}{}", parts.uri.path_and_query().unwrap());
            let asked = client.request(parts.method, to).headers(parts.headers).body(body);
            let answer = asked.send().await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            (status, headers, answer.bytes().await.unwrap()).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass)).await });
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_stream_is_held_back_says_so_and_asks() {
    let t = World::start().await;
    let browser = Browser::start().await;
    let page = &browser.page;
    page.goto(&holding_back(&t.base).await).await.unwrap();
    page.wait().at_most(PATIENCE).for_element(BOX).await.unwrap();
    browser.shows("#banner", "Asking every 5 seconds instead").await;
    // What others say is seen all the same, again and again.
    for text in ["said by dave", "said a second time"] {
        t.dave.say(METAL, text).await.unwrap();
        browser.shows("#log", text).await;
    }
    t.finish().await;
}

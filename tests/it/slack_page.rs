//! The simulated Slack in a browser, as the demo shows it.

use fantoccini::Locator;
use fantoccini::key::Key;

use crate::harness::browser::Browser;
use crate::harness::slack::sees;
use crate::harness::{PATIENCE, World, until};
use metalbot_sim::slack::METAL;

/// Clicks what is found, as soon as it is there. The page may show it anew between the two.
async fn click(browser: &Browser, what: &str) {
    until(what, async || match browser.page.find(Locator::XPath(what)).await {
        Ok(found) => found.click().await.is_ok(),
        Err(_) => false,
    })
    .await;
}

#[tokio::test]
async fn people_command_decide_and_fill_in_forms() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let browser = Browser::start().await;
    browser.page.goto(&slack.url()).await.unwrap();
    let say = browser.page.find(Locator::Css("#say input")).await.unwrap();
    let enter = char::from(Key::Enter);

    say.send_keys(&format!("/metal reboot web01 reason=\"<i>*now*</i>\"{enter}")).await.unwrap();
    for part in ["#1 reboot · 1 host · awaiting approval", "Reason: <i>*now*</i>"] {
        browser.shows("article", part).await;
    }
    click(&browser, "//button[.='Approve']").await;
    browser.shows("main", "Only visible to you").await;
    sees(slack, "alice", "somebody else").await;

    click(&browser, "//header/button[contains(., 'Bob')]").await;
    click(&browser, "//button[.='Reject']").await;
    browser.shows("#view", "Why is it rejected?").await;
    let why = browser.page.find(Locator::Css("#view textarea")).await.unwrap();
    why.send_keys("not today").await.unwrap();
    click(&browser, "//form[@id='view']//button[.='Reject']").await;
    browser.shows("article", "not today").await;
    let seen = browser.page.find(Locator::Css("main")).await.unwrap().text().await.unwrap();
    assert!(!seen.contains("Only visible to you"), "what alice alone was told: {seen}");

    // A form's errors stand at its fields, and what was typed stays when another action is chosen.
    click(&browser, "//header/button[contains(., 'Alice')]").await;
    say.send_keys(&format!("/metal{enter}")).await.unwrap();
    browser.shows("#view", "New batch").await;
    let hosts = Locator::Css("#view textarea[name=hosts]");
    browser.page.find(hosts).await.unwrap().send_keys("wbe02").await.unwrap();
    click(&browser, "//select/option[starts-with(., 'power-off')]").await;
    browser.shows("#view", "Mode").await;
    click(&browser, "//form[@id='view']//button[.='Preview']").await;
    browser.shows("#view", "did you mean web02?").await;
    let hosts = browser.page.find(hosts).await.unwrap();
    hosts.clear().await.unwrap();
    hosts.send_keys("web02").await.unwrap();
    click(&browser, "//form[@id='view']//button[.='Preview']").await;
    browser.shows("#view", "Nothing was done").await;
    click(&browser, "//form[@id='view']//button[.='Submit']").await;
    let card = slack.card(2, PATIENCE, |_| true).await.unwrap();
    assert!(card.text.contains("power-off") && card.text.contains("web02"), "{}", card.text);

    // Words in a thread.
    click(&browser, "//header/button[contains(., 'Bob')]").await;
    click(&browser, "//article[contains(., '#2 power-off')]//button[starts-with(., 'Reply')]")
        .await;
    say.send_keys(&format!("reject because I can{enter}")).await.unwrap();
    let told = sees(slack, "alice", "rejected #2: I can").await;
    assert_eq!((told.thread, told.channel.as_str()), (Some(card.ts), METAL));
    assert_eq!(browser.problems().await, Vec::<String>::new());
    browser.page.close().await.unwrap();
    world.finish().await;
}

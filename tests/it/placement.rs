//! Networks of BMCs are reached only from their own datacenter: each process works where it can, and
//! what nobody reaches is said.
//!
//! The BMCs of each datacenter know one user alone, named after it, and a process signs in everywhere as
//! the user of its own. So a BMC counts whoever asks it from elsewhere as a stranger.

use metalbot_sim::actor::SeenMessage;
use metalbot_sim::bmcs::{Behaviour, Bmcs, Deed};
use metalbot_sim::person::ConsoleUser;
use serde_json::Value;

use crate::harness::process::said;
use crate::harness::wait::until_some;
use crate::harness::{Builder, Count, METAL, PATIENCE, Process, Site, until};

/// `web[01-04]`, `web[05-08]` and `web[09-12]`.
const DATACENTERS: [&str; 3] = ["fra1", "ams1", "osl1"];
const HOSTS: usize = 4;

/// A site with hosts in three datacenters, and an action that looks at them first.
async fn three_datacenters() -> (Site, Bmcs) {
    let site = Builder::processes().without_rack().site().await;
    let bmcs = Bmcs::start(0, DATACENTERS.len() * HOSTS, Behaviour::default(), 1).unwrap();
    let mut hosts = "name,owner,datacenter,rack,sku,bmc,credentials\n".to_owned();
    for bmc in 0..DATACENTERS.len() * HOSTS {
        let (number, datacenter, address) = (bmc + 1, DATACENTERS[bmc / HOSTS], bmcs.address(bmc));
        hosts += &format!("web{number:02},web-owners,{datacenter},r1,c6-large,{address},rack\n");
        bmcs.behave(bmc, good(bmc));
    }
    site.change_hosts(|_| hosts);
    let risk = "risk = \"disruptive\"\n";
    let careful = format!("{risk}checks = [\"bmc_console\"]\n");
    site.add_action("inspect", &include_str!("../../commands/reboot.toml").replace(risk, &careful));
    (site, bmcs)
}

/// How a BMC behaves that is in order.
fn good(bmc: usize) -> Behaviour {
    Behaviour { user: DATACENTERS[bmc / HOSTS], ..Behaviour::default() }
}

/// Starts a process that reaches this datacenter alone.
async fn serve_in(site: &Site, datacenter: &str) -> Process {
    let datacenters = format!("[{datacenter:?}]");
    let environment = [
        ("METALBOT_EXECUTOR__DATACENTERS", datacenters.as_str()),
        ("METALBOT_CREDENTIALS__RACK__USER", datacenter),
    ];
    site.serve_with(&environment).await
}

/// Approves a batch when it waits for that.
async fn approve(bob: &ConsoleUser, batch: i64) {
    let wanted = |card: &_| card_says(card, "awaiting approval");
    let card = bob.card(METAL, batch, PATIENCE, wanted).await.unwrap();
    bob.react(&card.id, "+1", true).await.unwrap();
}

fn card_says(card: &SeenMessage, text: &str) -> bool {
    card.text.contains(text)
}

/// Waits for the end of a batch; returns the state that it ended in.
async fn ended(site: &Site, batch: i64) -> String {
    let look = async || site.db.ended_state(batch).await.ok().flatten();
    until_some("the end of the batch", look).await
}

async fn get(process: &Process, path: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}{path}", process.base)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.unwrap()
}

/// What `/readyz` says of hosts that wait: `osl1 2`.
async fn unreached(process: &Process) -> Vec<String> {
    let answer: Value = serde_json::from_str(&get(process, "/readyz").await).unwrap();
    assert_eq!(answer["status"], "ready");
    let found = answer["unreached"].as_array().unwrap().iter();
    found.map(|one| format!("{} {}", one["datacenter"].as_str().unwrap(), one["hosts"])).collect()
}

fn assert_no_strangers(bmcs: &Bmcs) {
    let strangers: Vec<u32> =
        (0..DATACENTERS.len() * HOSTS).map(|bmc| bmcs.tally(bmc).strangers).collect();
    assert!(strangers.iter().all(|count| *count == 0), "{strangers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_process_speaks_only_to_bmcs_of_its_own_datacenter() {
    let (site, bmcs) = three_datacenters().await;
    // Of each datacenter one host is left out, with one ticket for both.
    for bmc in [1, 5] {
        bmcs.behave(bmc, Behaviour { password: "another", ..good(bmc) });
    }
    let (fra1, ams1) = (serve_in(&site, "fra1").await, serve_in(&site, "ams1").await);
    let (alice, bob) = (fra1.sign_in("alice").await, ams1.sign_in("bob").await);
    alice.say(METAL, "/metal inspect web[01-08] wave=1,100%").await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| card_says(card, "awaiting approval"));
    let card = card.await.unwrap();
    assert!(card.text.contains("6 hosts") && card.text.contains("web[02,06] left out"), "{card:?}");
    approve(&bob, 1).await;
    assert_eq!(ended(&site, 1).await, "succeeded");
    for bmc in 0..2 * HOSTS {
        let expected: &[Deed] = if [1, 5].contains(&bmc) { &[] } else { &[Deed::Off, Deed::On] };
        assert_eq!(bmcs.deeds(bmc), expected, "{bmc}");
    }

    // Who made the BMCs is asked from their datacenters, and so are hosts that somebody has mended.
    site.db.until(Count::BmcsIdentified, 6).await;
    let tickets = site.tickets(1).await;
    for bmc in [1, 5] {
        bmcs.behave(bmc, good(bmc));
    }
    assert!(site.jira.transition(&tickets[0].key, "Resolve"));
    for answers in ["web02", "web06"] {
        let told = |message: &SeenMessage| {
            message.text.contains("is done") && message.text.contains(answers)
        };
        bob.wait_for(METAL, Some(&card.id), PATIENCE, answers, told).await.unwrap();
    }
    site.settled().await;
    assert_no_strangers(&bmcs);
    for bmc in 2 * HOSTS..3 * HOSTS {
        assert_eq!(bmcs.tally(bmc).opened, 0, "nobody reaches it");
    }
    fra1.terminate().await;
    ams1.terminate().await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_reaches_waits_and_is_said_until_one_comes() {
    let (site, bmcs) = three_datacenters().await;
    let fra1 = serve_in(&site, "fra1").await;
    let (alice, bob) = (fra1.sign_in("alice").await, fra1.sign_in("bob").await);
    alice.say(METAL, "/metal reboot web[01,09]").await.unwrap();
    approve(&bob, 1).await;
    alice.say(METAL, "/metal inspect web[02,10]").await.unwrap();
    let waits = "no worker reaches osl1 (1 host)";
    for (batch, state) in [(1, "running"), (2, "checking")] {
        let wanted = |card: &_| card_says(card, waits) && card_says(card, state);
        alice.card(METAL, batch, PATIENCE, wanted).await.unwrap();
        alice.say(METAL, &format!("/metal status {batch}")).await.unwrap();
        let status = alice.wait_for(METAL, None, PATIENCE, waits, |message| {
            message.only_you && card_says(message, waits) && card_says(message, state)
        });
        status.await.unwrap();
    }
    let done = async || bmcs.deeds(0) == [Deed::Off, Deed::On];
    until("what is reached is done", done).await;
    assert_eq!(unreached(&fra1).await, ["osl1 2"]);
    let metric = |hosts| format!("metalbot_unreached_hosts{{datacenter=\"osl1\"}} {hosts}\n");
    let metrics = get(&fra1, "/metrics").await;
    assert!(metrics.contains(&metric(2)), "{metrics}");

    let osl1 = serve_in(&site, "osl1").await;
    assert_eq!(ended(&site, 1).await, "succeeded");
    approve(&bob, 2).await;
    assert_eq!(ended(&site, 2).await, "succeeded");
    until("nothing is unreached", async || unreached(&fra1).await.is_empty()).await;
    let metrics = get(&fra1, "/metrics").await;
    assert!(metrics.contains(&metric(0)), "{metrics}");
    for batch in [1, 2] {
        let wanted = |card: &_| !card_says(card, "no worker reaches");
        alice.card(METAL, batch, PATIENCE, wanted).await.unwrap();
    }
    for bmc in [0, 1, 8, 9] {
        assert_eq!(bmcs.deeds(bmc), [Deed::Off, Deed::On], "{bmc}");
    }
    site.settled().await;
    assert_no_strangers(&bmcs);
    fra1.terminate().await;
    osl1.terminate().await;
    site.finish().await;
}

#[tokio::test]
async fn a_datacenter_without_hosts_is_warned_of_and_none_at_all_is_an_error() {
    let (site, _bmcs) = three_datacenters().await;
    let check = async |datacenters: &str| {
        let mut command = site.command(&["operator", "check-config"]);
        command.env("METALBOT_EXECUTOR__DATACENTERS", datacenters);
        command.env("METALBOT_AUDIT__KEY", "k".repeat(32));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.success(), said(&output).1)
    };
    assert_eq!(check(r#"["fra1", "osl1"]"#).await, (true, String::new()));
    let (right, warned) = check(r#"["fra1", "fra9"]"#).await;
    assert!(right, "{warned}");
    assert_eq!(warned, "warning: executor.datacenters: no host of the inventory is in \"fra9\"\n");
    let (right, refused) = check("[]").await;
    assert!(!right && refused.contains("executor.datacenters: name at least one"), "{refused}");
    site.leave().await;
}

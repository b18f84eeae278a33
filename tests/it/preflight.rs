//! Hosts are looked at before anybody is asked to approve.

use std::time::Duration;

use metalbot_sim::rack::BmcFault;
use tempfile::TempDir;

use crate::harness::{Builder, Count, World, told, until};

/// A site whose reboots are checked first.
fn careful() -> (TempDir, Builder) {
    let folder = tempfile::tempdir().unwrap();
    let usual = include_str!("../../commands/reboot.toml");
    let risk = "risk = \"disruptive\"\n";
    assert!(usual.contains(risk));
    let careful = usual.replacen(risk, &format!("{risk}checks = [\"bmc_console\"]\n"), 1);
    std::fs::write(folder.path().join("reboot.toml"), careful).unwrap();
    let section = format!("[commands]\nfolder = {:?}\n", folder.path());
    (folder, World::builder().rack().append(&section))
}

#[tokio::test]
async fn broken_hosts_are_left_out_before_anybody_is_asked() {
    let (_folder, builder) = careful();
    let t = builder.start().await;
    t.says(&t.alice, "/metal reboot web[06-09]").await;
    let card = t.card_when(1, |card| card.text.contains("awaiting approval")).await;
    insta::assert_snapshot!(told(&card), @r"
    -- in the channel
    #1 reboot · 2 hosts · awaiting approval
    web[06,08]
    web09 left out: the BMC at 127.x.1.9:[port] refused the user name or password
    web07 left out: the BMC at 127.x.1.7:[port] does not answer
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    insta::assert_snapshot!(t.heard(1, "passed the checks").await, @r"
    @alice: 2 hosts of #1 passed the checks; left out are:
    web09 the BMC at 127.x.1.9:[port] refused the user name or password
    web07 the BMC at 127.x.1.7:[port] does not answer
    ");
    let tickets = t.tickets(2).await;
    for ticket in &tickets {
        assert!(ticket.description.contains("[~alice]"), "{ticket:#?}");
    }
    assert_eq!(t.acts("web06"), Vec::<String>::new(), "a look does nothing");

    // Nobody holds a host that was left out.
    let other = t.says(&t.carol, "/metal identify web[07,09]").await;
    assert!(other.contains("#2 identify"), "{other}");
    t.ended(2).await;

    t.presses(&t.bob, 1, "Approve").await;
    let ended = t.ended(1).await;
    assert!(ended.contains("succeeded, 2 hosts done"), "{ended}");
    insta::assert_snapshot!(t.says(&t.alice, "/metal status host web07").await, @r"
    -- in the channel, only to them
    web07 · web-owners · fra1 · r11 · c6-large
    #2 identify by @carol: failed, the BMC at 127.x.1.7:[port] does not answer
    #1 reboot by @alice: skipped, the BMC at 127.x.1.7:[port] does not answer
    ");
    t.finish().await;
}

#[tokio::test]
async fn a_batch_of_which_no_host_passes_is_refused() {
    let (_folder, builder) = careful();
    let t = builder.fault("web08", BmcFault::Silent).start().await;
    t.says(&t.alice, "/metal reboot web[07-08]").await;
    let card = t.card_when(1, |card| card.text.contains("refused")).await;
    insta::assert_snapshot!(told(&card), @r"
    -- in the channel
    #1 reboot · 2 hosts · refused
    web[07-08]
    web[07-08] left out: the BMC at 127.x.1.7:[port] does not answer
    no host passed the checks
    Asked by @alice · disruptive
    ");
    insta::assert_snapshot!(t.heard(1, "passed the checks").await, @r"
    @alice: no host of #1 passed the checks, so it is refused:
    web[07-08] the BMC at 127.x.1.7:[port] does not answer
    ");
    let ticket = &t.tickets(1).await[0];
    assert!(ticket.summary.contains("web[07-08]"), "{ticket:#?}");
    t.finish().await;
}

#[tokio::test]
async fn a_batch_can_be_cancelled_while_its_hosts_are_looked_at() {
    let (_folder, builder) = careful();
    let t = builder.start().await;
    t.freeze_at("web06 get power");
    t.says(&t.alice, "/metal reboot web06").await;
    insta::assert_snapshot!(told(&t.card(1).await), @r"
    -- in the channel
    #1 reboot · 1 host · checking
    web06
    Looking at each host before anybody is asked to approve.
    Asked by @alice · disruptive
    [Cancel]
    ");
    t.presses(&t.alice, 1, "Cancel").await;
    t.card_when(1, |card| card.text.contains("cancelled")).await;
    // The look that comes too late changes nothing.
    t.db.until(Count::JobsPending, 0).await;
    t.finish().await;
}

#[tokio::test]
async fn hosts_that_did_not_pass_count_against_the_budget() {
    let (_folder, builder) = careful();
    let t = builder.start().await;
    // web07 is silent.
    t.says(&t.alice, "/metal reboot web[06-08] wave=1 max-fail=0").await;
    t.card_when(1, |card| card.text.contains("awaiting approval")).await;
    t.presses(&t.bob, 1, "Approve").await;
    insta::assert_snapshot!(t.heard(1, "is paused").await, @"#1 is paused: 0 hosts failed and 1 host was bad before, at most 0 may. Hosts at work are finished, no other is started. /metal resume 1 goes on, /metal cancel 1 ends it.");
    assert!(t.acts("web06").is_empty(), "nothing was begun");
    t.presses_in_thread(&t.alice, 1, "is paused", "Resume").await;
    t.ended(1).await;
    assert_eq!(t.acts("web08"), ["power 0", "power 1"]);
    t.tickets(1).await;
    t.finish().await;
}

#[tokio::test]
async fn what_metalbot_itself_lacks_is_no_verdict_on_a_host() {
    let (_folder, builder) = careful();
    let t = builder.start().await;
    // The system lets nothing be sent there.
    t.change_hosts(|hosts| {
        let line = hosts.lines().find(|line| line.starts_with("web08,")).unwrap();
        let bmc = line.split(',').find(|word| word.starts_with("127.")).unwrap();
        let more = ["90", "91"].map(|number| {
            line.replace("web08", &format!("web{number}"))
                .replace(bmc, &format!("255.255.255.255:{number}"))
        });
        format!("{}\n{}\n", hosts.trim_end(), more.join("\n"))
    });
    let known = async || t.says(&t.carol, "/metal status host web91").await.contains("fra1");
    until("the hosts are known", known).await;
    // One is looked at before anybody is asked, the other one when its turn has come.
    t.says(&t.alice, "/metal reboot web[06,90]").await;
    t.says(&t.carol, "/metal identify web91").await;
    let waits = async || t.db.job_states(2).await == ["waiting"];
    until("a job that waits", waits).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(t.db.batch_state(1).await, "checking");
    assert_eq!(t.db.job_states(2).await, ["waiting"], "and it costs no try");
    assert_eq!(t.db.attempts("web91").await, Vec::<String>::new(), "nothing is to be told of it");
    assert_eq!(t.db.ticket_keys().await, Vec::<String>::new());
    for batch in [1, 2] {
        t.presses(&t.alice, batch, "Cancel").await;
    }
    t.ended(2).await;
    assert!(t.acts("web06").is_empty());
    t.finish().await;
}

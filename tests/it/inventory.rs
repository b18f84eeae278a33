//! The fleet changes while Metalbot runs.

use metalbot_sim::actor::SeenMessage;
use metalbot_sim::person::ConsoleUser;

use crate::harness::wait::until_some;
use crate::harness::{METAL, Process, Site, World, until};

/// The newest message for this person alone.
async fn newest_answer(who: &ConsoleUser) -> Option<SeenMessage> {
    let messages = who.messages(METAL, None).await.unwrap();
    messages.into_iter().rfind(|message| message.only_you)
}

/// Asks, and returns the answer.
async fn ask(who: &ConsoleUser, command: &str) -> String {
    let before = newest_answer(who).await.map(|answer| answer.id);
    // Who asks too often is told to wait.
    let taken = async || who.say(METAL, command).await.unwrap().is_success();
    until("a question is taken", taken).await;
    let next =
        async || newest_answer(who).await.filter(|answer| Some(&answer.id) != before.as_ref());
    until_some("an answer", next).await.text
}

/// Asks until the answer has the text: the file is read again once in a while.
async fn answered(who: &ConsoleUser, command: &str, text: &str) {
    let says = async || ask(who, command).await.contains(text);
    until(&format!("{text:?} to {command}"), says).await;
}

/// How often a changed file could not be used, by what Metalbot tells those who watch it.
async fn refused_files(process: &Process) -> u64 {
    let answer = reqwest::get(format!("{}/metrics", process.base)).await.unwrap();
    let metrics = answer.text().await.unwrap();
    let count =
        metrics.lines().find_map(|line| line.strip_prefix("metalbot_reloads_failed_total "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn hosts_come_and_go_while_it_runs() {
    let site = Site::sound().await;
    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    site.change_hosts(|hosts| {
        let gone = |line: &&str| !line.starts_with("web02,");
        hosts.lines().filter(gone).collect::<Vec<_>>().join("\n")
    });
    answered(&alice, "/metal status host web02", "has no host web02").await;
    // A file that cannot be used changes nothing: a name that is none, an owner whom nobody knows.
    for (refused, (right, wrong)) in
        (1..).zip([("web01,", "web 01,"), ("web01,web-owners,", "web01,web-owner,")])
    {
        site.change_hosts(|hosts| hosts.replacen(right, wrong, 1));
        let was_refused = async || refused_files(&process).await == refused;
        until("an inventory that is refused", was_refused).await;
        let status = ask(&alice, "/metal status host web01").await;
        assert!(status.contains("web01 · web-owners"), "{status}");
        site.change_hosts(|hosts| hosts.replacen(wrong, right, 1));
    }
    site.change_hosts(|hosts| hosts.replace("web01,", "web001,"));
    answered(&alice, "/metal status host web001", "web001 · web-owners").await;
    site.finish().await;
}

#[tokio::test]
async fn a_host_whose_bmc_has_moved_is_left_alone() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    // What was web40's is web02's now: the people who approve mean the other machine.
    t.change_hosts(|hosts| {
        let bmc = |name: &str| {
            let line = hosts.lines().find(|line| line.starts_with(&format!("{name},"))).unwrap();
            line.split(',').find(|word| word.starts_with("127.")).unwrap().to_owned()
        };
        let (here, there) = (bmc("web02"), bmc("web40"));
        let last = hosts.lines().last().unwrap();
        let more = last.replace("db08", "web41").replace(&bmc("db08"), "127.0.0.8:9");
        (hosts + &more + "\n")
            .replace(&format!(",{there},"), ",127.0.0.9:9,")
            .replace(&format!(",{here},"), &format!(",{there},"))
    });
    t.replies(&t.bob, 1, "approve").await;
    let ended = t.ended(1).await;
    assert!(ended.contains("1 host done"), "{ended}");
    let why = t.says(&t.dave, "/metal status host web02").await;
    assert!(why.contains("failed") && why.contains("the BMC of web02 was 127."), "{why}");
    let kind = Some("inventory_changed".to_owned());
    assert_eq!(t.db.outcomes(1).await[1], ("web02".into(), "failed".into(), kind));
    assert_eq!(t.acts("web01"), ["power 0", "power 1"]);
    assert!(t.acts("web02").is_empty() && t.acts("web40").is_empty(), "neither was touched");
    t.tickets(1).await;
    t.finish().await;
}

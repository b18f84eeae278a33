//! What a person can do, told by acting: each point of the main job at least once.

use crate::harness::World;

#[tokio::test]
async fn help_lists_everything_and_explains_an_action() {
    let t = World::start().await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal help").await, @r"
    -- in the channel, only to them
    Actions on hosts: /metal ACTION HOSTS [name=value ...]
    identify HOSTS [for=DURATION] [reason=TEXT] [wave=SIZES] Light the identify lamp of hosts (harmless)
    power-off HOSTS [force=true|false] [mode=soft|hard] [wait=DURATION] [reason=TEXT] [wave=SIZES] Shut hosts down, or cut their power (disruptive)
    power-on HOSTS [reason=TEXT] [wave=SIZES] Turn hosts on (disruptive)
    reboot HOSTS [force=true|false] [mode=hard|soft] [wait=DURATION] [reason=TEXT] [wave=SIZES] Turn hosts off and on again (disruptive)
    With every action
    reason why it must be done, for those who approve
    wave how many hosts go at a time; the last size repeats
    max-concurrent most hosts at work at the same time
    max-fail pause when more hosts than this have failed
    Batches and hosts
    help [TOPIC] Show what can be asked
    status BATCH, or status host HOSTS Show a batch, or what is going on with hosts
    list [mine] List the latest batches
    approve BATCH Approve a batch
    reject BATCH [because REASON] Reject a batch
    cancel BATCH Cancel a batch; work under way is finished
    pause BATCH Start no more hosts of a batch
    resume BATCH Go on with a paused batch
    retry BATCH Ask again for the hosts that failed
    drop BATCH HOSTS Take hosts out of a batch that still waits
    release HOSTS Let quarantined hosts go
    hosts HOSTS Show what a set of hosts means
    whoami Show who you are to Metalbot
    Naming hosts
    web01,db01 these two hosts
    web[01-12,15] web01 to web12, and web15
    @web the group web of the inventory
    @dc:fra1 a datacenter; also rack:, owner: and sku:
    @web!web03 the group web without web03
    @web&@rack:r12 hosts that are in both
    @web^@canary hosts that are in one but not in both
    More about one of them: /metal help reboot
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal help reboot").await, @r#"
    -- in the channel, only to them
    reboot (disruptive): Turn hosts off and on again
    reboot HOSTS [force=true|false] [mode=hard|soft] [wait=DURATION] [reason=TEXT] [wave=SIZES]
    force cut the power if the host has not shut down after `wait` (default false): true or false
    mode soft asks the operating system to shut down, hard cuts the power (default hard): hard or soft
    wait how long a soft shutdown may take (default 5m): a duration such as 5m, from 10s to 1h
    On each host:
    1. cut the power
    2. wait until it is off
    3. turn it on
    4. wait until it is on
    reason why it must be done, for those who approve
    wave how many hosts go at a time; the last size repeats
    max-concurrent most hosts at work at the same time
    max-fail pause when more hosts than this have failed
    reboot web03
    reboot web[01-12] reason="kernel CVE-2026-1"
    reboot @web!web03 wave=1,10%,50% max-fail=2
    "#);
    insta::assert_snapshot!(t.says(&t.alice, "/metal help nonsense").await, @r#"
    -- in the channel, only to them
    Nothing was done: column 6: there is no help on "nonsense"; try: help.
    help nonsense
    ^
    try: help
    "#);
    t.finish().await;
}

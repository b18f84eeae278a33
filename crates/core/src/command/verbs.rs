//! The commands that are not actions. Parsing, help and completion read this one table.

/// Command with its usage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verb {
    pub name: &'static str,
    pub usage: &'static str,
    pub summary: &'static str,
    pub examples: &'static [&'static str],
}

const fn verb(
    name: &'static str,
    usage: &'static str,
    summary: &'static str,
    examples: &'static [&'static str],
) -> Verb {
    Verb { name, usage, summary, examples }
}

/// All verbs, in the order of the help page.
pub const VERBS: [Verb; 16] = [
    verb("help", "help [TOPIC]", "Show what can be asked", &["help", "help reboot"]),
    verb(
        "dry-run",
        "dry-run ACTION HOSTS [name=value ...]",
        "Show what a command would do, and who must approve it",
        &["dry-run reboot web[01-12]"],
    ),
    verb(
        "status",
        "status BATCH, or status host HOSTS",
        "Show a batch, or what is going on with hosts",
        &["status 42", "status host web03"],
    ),
    verb("list", "list [mine]", "List the latest batches", &["list", "list mine"]),
    verb("approve", "approve BATCH", "Approve a batch", &["approve 42"]),
    verb(
        "reject",
        "reject BATCH [because REASON]",
        "Reject a batch",
        &["reject 42 because the release is tonight"],
    ),
    verb(
        "cancel",
        "cancel BATCH",
        "Cancel a batch; hosts that were touched are brought to a safe end",
        &["cancel 42"],
    ),
    verb("stop", "stop BATCH", "The same as cancel, for those in a hurry", &["stop 42"]),
    verb("pause", "pause BATCH", "Start no more hosts of a batch", &["pause 42"]),
    verb("resume", "resume BATCH", "Go on with a paused batch", &["resume 42"]),
    verb("retry", "retry BATCH", "Ask again for the hosts that failed", &["retry 42"]),
    verb(
        "drop",
        "drop BATCH HOSTS",
        "Take hosts out of a batch that still waits",
        &["drop 42 web[03-05]"],
    ),
    verb(
        "release",
        "release HOSTS",
        "Let hosts go that are quarantined, or counted as down",
        &["release web03"],
    ),
    verb("hosts", "hosts HOSTS", "Show what a set of hosts means", &["hosts @web!web[01-03]"]),
    verb(
        "notify",
        "notify [TOPIC=dm|thread|off ...], or notify here [verbosity=...]",
        "Show or choose what you are told, and what this channel is told",
        &[
            "notify",
            "notify complete=dm waves=off",
            "notify here actions=reboot verbosity=failures",
        ],
    ),
    verb("whoami", "whoami", "Show who you are to Metalbot", &["whoami"]),
];

pub(super) fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

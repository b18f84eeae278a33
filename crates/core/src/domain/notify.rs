//! Who is told of a batch's course, and how: what a person and a channel prefer.
//!
//! Invariant: preferences only choose among what a person may see anyway; nothing that somebody must
//! act on disappears, since the batch's card shows it whatever is preferred.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a person can be told of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeTopic {
    /// A batch of theirs has ended.
    Complete,
    /// Hosts of a batch of theirs failed while it goes on.
    Failures,
    /// A batch of theirs goes on to its next wave.
    Waves,
    /// A batch waits for their approval.
    Approvals,
}

impl NoticeTopic {
    pub const ALL: [NoticeTopic; 4] =
        [NoticeTopic::Complete, NoticeTopic::Failures, NoticeTopic::Waves, NoticeTopic::Approvals];

    pub fn as_str(self) -> &'static str {
        match self {
            NoticeTopic::Complete => "complete",
            NoticeTopic::Failures => "failures",
            NoticeTopic::Waves => "waves",
            NoticeTopic::Approvals => "approvals",
        }
    }
}

/// How a person is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryPreference {
    /// By direct message, and by their name in the thread.
    Dm,
    /// By their name in the thread.
    Thread,
    /// Not at all; the thread may say it without their name.
    Off,
}

/// Text that is none of the words that may stand there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write {0}")]
pub struct NotOneOf(pub &'static str);

impl DeliveryPreference {
    /// What may be written.
    pub const WORDS: &'static str = "dm, thread or off";

    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryPreference::Dm => "dm",
            DeliveryPreference::Thread => "thread",
            DeliveryPreference::Off => "off",
        }
    }
}

impl FromStr for DeliveryPreference {
    type Err = NotOneOf;

    fn from_str(text: &str) -> Result<Self, NotOneOf> {
        [DeliveryPreference::Dm, DeliveryPreference::Thread, DeliveryPreference::Off]
            .into_iter()
            .find(|told| told.as_str() == text)
            .ok_or(NotOneOf(DeliveryPreference::WORDS))
    }
}

/// What one person prefers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preferences {
    pub complete: DeliveryPreference,
    pub failures: DeliveryPreference,
    pub waves: DeliveryPreference,
    pub approvals: DeliveryPreference,
    /// Whether many direct messages at once may become one.
    pub digest: bool,
}

impl Default for Preferences {
    /// The end of one's own batch is worth a direct message; its course is read in the thread.
    fn default() -> Self {
        Preferences {
            complete: DeliveryPreference::Dm,
            failures: DeliveryPreference::Thread,
            waves: DeliveryPreference::Off,
            approvals: DeliveryPreference::Thread,
            digest: true,
        }
    }
}

impl Preferences {
    pub fn of(&self, topic: NoticeTopic) -> DeliveryPreference {
        match topic {
            NoticeTopic::Complete => self.complete,
            NoticeTopic::Failures => self.failures,
            NoticeTopic::Waves => self.waves,
            NoticeTopic::Approvals => self.approvals,
        }
    }

    /// With the changes that somebody asked for.
    pub fn changed(mut self, changes: &[PreferenceChange]) -> Preferences {
        for change in changes {
            match *change {
                PreferenceChange::Tell(NoticeTopic::Complete, told) => self.complete = told,
                PreferenceChange::Tell(NoticeTopic::Failures, told) => self.failures = told,
                PreferenceChange::Tell(NoticeTopic::Waves, told) => self.waves = told,
                PreferenceChange::Tell(NoticeTopic::Approvals, told) => self.approvals = told,
                PreferenceChange::Digest(digest) => self.digest = digest,
            }
        }
        self
    }
}

/// One change of a person's preferences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreferenceChange {
    Tell(NoticeTopic, DeliveryPreference),
    Digest(bool),
}

/// How much of a batch's course a channel's threads tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verbosity {
    /// Decisions and the end.
    Summary,
    /// And failures as they happen.
    Failures,
    /// And every wave.
    All,
}

impl Verbosity {
    /// What may be written.
    pub const WORDS: &'static str = "all, failures or summary";

    pub fn as_str(self) -> &'static str {
        match self {
            Verbosity::Summary => "summary",
            Verbosity::Failures => "failures",
            Verbosity::All => "all",
        }
    }
}

impl fmt::Display for Verbosity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verbosity {
    type Err = NotOneOf;

    fn from_str(text: &str) -> Result<Self, NotOneOf> {
        [Verbosity::Summary, Verbosity::Failures, Verbosity::All]
            .into_iter()
            .find(|verbosity| verbosity.as_str() == text)
            .ok_or(NotOneOf(Verbosity::WORDS))
    }
}

/// What the threads of one channel tell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelSetting {
    /// Actions whose course is told; of the others only decisions and the end. `None`: all.
    pub actions: Option<BTreeSet<String>>,
    pub verbosity: Verbosity,
}

impl Default for ChannelSetting {
    fn default() -> Self {
        ChannelSetting { actions: None, verbosity: Verbosity::All }
    }
}

/// What somebody asked to change about a channel; what is not named stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelChange {
    pub actions: Option<ActionChoice>,
    pub verbosity: Option<Verbosity>,
}

/// Actions whose progress a channel wants to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActionChoice {
    All,
    Only(BTreeSet<String>),
}

impl ChannelSetting {
    /// With the changes that somebody asked for.
    pub fn changed(self, change: ChannelChange) -> ChannelSetting {
        ChannelSetting {
            actions: match change.actions {
                Some(ActionChoice::All) => None,
                Some(ActionChoice::Only(actions)) => Some(actions),
                None => self.actions,
            },
            verbosity: change.verbosity.unwrap_or(self.verbosity),
        }
    }

    fn for_action(&self, action: &str) -> Verbosity {
        match &self.actions {
            Some(actions) if !actions.contains(action) => Verbosity::Summary,
            _ => self.verbosity,
        }
    }
}

/// How an owner group is mentioned on one platform when a batch waits for its approval: one
/// `[[chat.approver_mention]]` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverMention {
    pub group: String,
    pub platform: String,
    /// The platform's name of the group, to be mentioned in the batch's thread.
    pub mention: Option<String>,
    /// A channel of the platform where the request is posted as well.
    pub channel: Option<String>,
}

/// The ways on which one notice about a batch goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub thread: bool,
    /// The submitter is called by name in the thread.
    pub named: bool,
    pub direct: bool,
}

/// How a notice about a batch of this action reaches the thread and the submitter.
pub fn route(
    topic: NoticeTopic,
    action: &str,
    setting: &ChannelSetting,
    who: &Preferences,
) -> Route {
    let least = match topic {
        NoticeTopic::Complete | NoticeTopic::Approvals => Verbosity::Summary,
        NoticeTopic::Failures => Verbosity::Failures,
        NoticeTopic::Waves => Verbosity::All,
    };
    let told = who.of(topic);
    Route {
        thread: setting.for_action(action) >= least,
        named: told != DeliveryPreference::Off,
        direct: told == DeliveryPreference::Dm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for told in [DeliveryPreference::Dm, DeliveryPreference::Thread, DeliveryPreference::Off] {
            assert_eq!(told.as_str().parse(), Ok(told));
        }
        for verbosity in [Verbosity::All, Verbosity::Failures, Verbosity::Summary] {
            assert_eq!(verbosity.to_string().parse(), Ok(verbosity));
        }
        for wrong in ["", "DM", "on", "yes"] {
            assert_eq!(
                wrong.parse::<DeliveryPreference>(),
                Err(NotOneOf(DeliveryPreference::WORDS)),
                "{wrong:?}"
            );
            assert_eq!(wrong.parse::<Verbosity>(), Err(NotOneOf(Verbosity::WORDS)), "{wrong:?}");
        }
    }

    #[test]
    fn a_change_touches_what_it_names() {
        let before = Preferences::default();
        let after = before.changed(&[
            PreferenceChange::Tell(NoticeTopic::Waves, DeliveryPreference::Dm),
            PreferenceChange::Digest(false),
        ]);
        assert_eq!(after, Preferences { waves: DeliveryPreference::Dm, digest: false, ..before });
        let setting = ChannelSetting::default();
        let only = ChannelChange { verbosity: Some(Verbosity::Summary), actions: None };
        assert_eq!(setting.clone().changed(ChannelChange::default()), setting);
        assert_eq!(setting.changed(only).actions, None);
    }

    #[test]
    fn the_channel_rules_the_thread_and_the_person_the_rest() {
        use NoticeTopic as T;
        use Verbosity as V;
        for (topic, verbosity, thread) in [
            (T::Complete, V::Summary, true),
            (T::Failures, V::Summary, false),
            (T::Waves, V::Summary, false),
            (T::Failures, V::Failures, true),
            (T::Waves, V::Failures, false),
            (T::Waves, V::All, true),
        ] {
            let setting = ChannelSetting { actions: None, verbosity };
            let found = route(topic, "reboot", &setting, &Preferences::default());
            assert_eq!(found.thread, thread, "{topic:?} {verbosity:?}");
        }
        let wipe = ChannelSetting { actions: Some(["wipe".into()].into()), verbosity: V::All };
        let who = Preferences { failures: DeliveryPreference::Dm, ..Preferences::default() };
        let (other, listed) =
            (route(T::Failures, "reboot", &wipe, &who), route(T::Failures, "wipe", &wipe, &who));
        assert_eq!(other, Route { thread: false, named: true, direct: true });
        assert_eq!(listed, Route { thread: true, named: true, direct: true });
        let end = route(T::Complete, "reboot", &wipe, &Preferences::default());
        assert_eq!(end, Route { thread: true, named: true, direct: true });
        let waves = route(T::Waves, "wipe", &wipe, &Preferences::default());
        assert_eq!(waves, Route { thread: true, named: false, direct: false });
    }
}

//! Preferences for notices about a batch's progress: those of a person and those of a channel.
//!
//! Invariant: preferences only choose among what a person may see anyway; nothing that somebody
//! must act on disappears, because the batch's card always shows it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Topic of notices to a person.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeTopic {
    /// A batch of the person has ended.
    Complete,
    /// Hosts of a batch of the person failed, and the batch goes on.
    Failures,
    /// A batch of the person begins its next wave.
    Waves,
    /// A batch waits for the person's approval.
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

/// Form of notices to a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryPreference {
    /// Direct message, and mention in the thread.
    Dm,
    /// Mention in the thread.
    Thread,
    /// No notice; the thread may show it without a mention.
    Off,
}

/// Text that is none of the allowed words, which the field lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write {0}")]
pub struct NotOneOf(pub &'static str);

impl DeliveryPreference {
    /// Allowed words.
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
            .find(|choice| choice.as_str() == text)
            .ok_or(NotOneOf(DeliveryPreference::WORDS))
    }
}

/// Preferences of one person.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preferences {
    pub complete: DeliveryPreference,
    pub failures: DeliveryPreference,
    pub waves: DeliveryPreference,
    pub approvals: DeliveryPreference,
    /// Set when several direct messages at once may be folded into one.
    pub digest: bool,
}

impl Default for Preferences {
    /// Direct message for the end of the person's own batch only; its progress is in the thread.
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

    /// Preferences after these changes.
    pub fn changed(mut self, changes: &[PreferenceChange]) -> Preferences {
        for change in changes {
            match *change {
                PreferenceChange::Tell(NoticeTopic::Complete, choice) => self.complete = choice,
                PreferenceChange::Tell(NoticeTopic::Failures, choice) => self.failures = choice,
                PreferenceChange::Tell(NoticeTopic::Waves, choice) => self.waves = choice,
                PreferenceChange::Tell(NoticeTopic::Approvals, choice) => self.approvals = choice,
                PreferenceChange::Digest(digest) => self.digest = digest,
            }
        }
        self
    }
}

/// Change of a person's preferences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreferenceChange {
    Tell(NoticeTopic, DeliveryPreference),
    Digest(bool),
}

/// Amount of a batch's progress that a channel's threads show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verbosity {
    /// Decisions and the end only.
    Summary,
    /// Summary, and failures as they happen.
    Failures,
    /// Failures, and every wave.
    All,
}

impl Verbosity {
    /// Allowed words.
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

/// Setting of one channel: the progress that its threads show.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelSetting {
    /// Actions whose progress is shown; other actions show only decisions and the end. `None`: all.
    pub actions: Option<BTreeSet<String>>,
    pub verbosity: Verbosity,
}

impl Default for ChannelSetting {
    fn default() -> Self {
        ChannelSetting { actions: None, verbosity: Verbosity::All }
    }
}

/// Change of a channel's setting; a field that is `None` stays unchanged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelChange {
    pub actions: Option<ActionChoice>,
    pub verbosity: Option<Verbosity>,
}

/// Actions whose progress a channel shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActionChoice {
    All,
    Only(BTreeSet<String>),
}

impl ChannelSetting {
    /// Setting after this change.
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

/// Mention of an owner group that must approve, on one platform: one `[[chat.approver_mention]]` of
/// the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverMention {
    pub group: String,
    pub platform: String,
    /// Name of the group on the platform, for a mention in the batch's thread.
    pub mention: Option<String>,
    /// Channel of the platform in which the request is posted as well.
    pub channel: Option<String>,
}

/// Destinations of one notice about a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub thread: bool,
    /// Set when the thread mentions the submitter.
    pub named: bool,
    pub direct: bool,
}

/// Chooses the destinations of a notice about a batch of this action.
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
    let choice = who.of(topic);
    Route {
        thread: setting.for_action(action) >= least,
        named: choice != DeliveryPreference::Off,
        direct: choice == DeliveryPreference::Dm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for choice in [DeliveryPreference::Dm, DeliveryPreference::Thread, DeliveryPreference::Off]
        {
            assert_eq!(choice.as_str().parse(), Ok(choice));
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

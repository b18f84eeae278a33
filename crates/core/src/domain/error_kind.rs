//! Kinds of errors of a host, each with a name that never changes.
//!
//! The names are in the database, in routes of tickets, in templates and in metrics. Invariants: an
//! error is an [`ErrorKind`] from its cause to its display; only [`ErrorKind::as_str`] turns it
//! into text, and only [`ErrorKind::from_str`] reads that text. Code that decides by the kind
//! matches exhaustively, so that the compiler finds all places for a new kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Class of an error: determines what may be done after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ErrorClass {
    /// Nothing happened; the same request may be repeated.
    Transient,
    /// Nothing happened, and repeating cannot help.
    Rejected,
    /// The request may or may not have taken effect: probe the host's state first.
    Unknown,
    /// Nothing happened, since this side lacked what it needs to ask. It says nothing about the host:
    /// the request waits, and is never given up for it.
    Own,
}

impl ErrorClass {
    /// All classes, each once.
    pub const ALL: &[ErrorClass] =
        &[ErrorClass::Transient, ErrorClass::Rejected, ErrorClass::Unknown, ErrorClass::Own];

    /// Name, as the configuration's routes and the metrics' label `outcome` write it.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Transient => "transient",
            ErrorClass::Rejected => "rejected",
            ErrorClass::Unknown => "unknown",
            ErrorClass::Own => "own",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind of an error of one host, by which failures are grouped into tickets. In the order of the
/// names, so that a list sorted by kind is sorted for people, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ErrorKind {
    /// The BMC is busy or has no free session slot.
    BmcBusy,
    /// The BMC accepts no cipher suite that is safe enough.
    BmcCipher,
    /// The BMC refused the user name or password.
    BmcCredentials,
    /// The name of the BMC cannot be resolved: there is none, or it has no address.
    BmcName,
    /// The account may not do what was asked.
    BmcPrivilege,
    /// The BMC answered against the protocol.
    BmcProtocol,
    /// The BMC understood the command and refused it.
    BmcRefused,
    /// The BMC does not answer, and nothing was done.
    BmcUnreachable,
    /// The BMC took the boot device and reads back another one.
    BootDevice,
    /// The host's BMC is not the one that the batch was approved for.
    InventoryChanged,
    /// The outcome of an attempt could not be stored, so that it is not known.
    JournalRefused,
    /// Inventory or configuration describe the host wrongly.
    Misconfigured,
    /// The attempt did nothing to its host, because it lost the right to act.
    NoPermit,
    /// A command was sent and its effect is not known.
    OutcomeUnknown,
    /// This side lacked descriptors, memory, a route or a resolver, so that the host was not asked.
    OwnShortage,
    /// The host's power is not in the state that the step needs or waited for.
    PowerState,
    /// The machine did not report in time.
    ReportMissing,
    /// The machine itself reported that it failed.
    ReportedFailure,
    /// No kind was stored, or one that this version does not know: the row was edited directly or
    /// written by a newer replica. No code of this version gives an error this kind.
    Unspecified,
    /// The host is not in the inventory any more.
    UnknownHost,
}

/// Error of one host, as it is stored and shown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    pub kind: ErrorKind,
    /// Message for operators; it never holds a secret.
    pub message: String,
}

impl HostError {
    /// Creates an error from a message, which may be a BMC's own text. Removes NULs, which
    /// PostgreSQL cannot store.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message: String = message.into();
        HostError { kind, message: message.replace('\0', "") }
    }
}

/// Text that is no [`ErrorKind`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not the name of a kind of error")]
pub struct UnknownErrorKind(pub String);

impl ErrorKind {
    /// All kinds, each once, in the order of the names.
    pub const ALL: &[ErrorKind] = &[
        ErrorKind::BmcBusy,
        ErrorKind::BmcCipher,
        ErrorKind::BmcCredentials,
        ErrorKind::BmcName,
        ErrorKind::BmcPrivilege,
        ErrorKind::BmcProtocol,
        ErrorKind::BmcRefused,
        ErrorKind::BmcUnreachable,
        ErrorKind::BootDevice,
        ErrorKind::InventoryChanged,
        ErrorKind::JournalRefused,
        ErrorKind::Misconfigured,
        ErrorKind::NoPermit,
        ErrorKind::OutcomeUnknown,
        ErrorKind::OwnShortage,
        ErrorKind::PowerState,
        ErrorKind::ReportMissing,
        ErrorKind::ReportedFailure,
        ErrorKind::Unspecified,
        ErrorKind::UnknownHost,
    ];

    /// Stable name. The database and routes use it: never change one.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::BmcBusy => "bmc_busy",
            ErrorKind::BmcCipher => "bmc_cipher",
            ErrorKind::BmcCredentials => "bmc_credentials",
            ErrorKind::BmcName => "bmc_name",
            ErrorKind::BmcPrivilege => "bmc_privilege",
            ErrorKind::BmcProtocol => "bmc_protocol",
            ErrorKind::BmcRefused => "bmc_refused",
            ErrorKind::BmcUnreachable => "bmc_unreachable",
            ErrorKind::BootDevice => "boot_device",
            ErrorKind::InventoryChanged => "inventory_changed",
            ErrorKind::JournalRefused => "journal_refused",
            ErrorKind::Misconfigured => "misconfigured",
            ErrorKind::NoPermit => "no_permit",
            ErrorKind::OutcomeUnknown => "outcome_unknown",
            ErrorKind::OwnShortage => "own_shortage",
            ErrorKind::PowerState => "power_state",
            ErrorKind::ReportMissing => "report_missing",
            ErrorKind::ReportedFailure => "reported_failure",
            ErrorKind::Unspecified => "unknown",
            ErrorKind::UnknownHost => "unknown_host",
        }
    }

    /// Class that the kind alone implies. More knowledge of the host may change it: an unknown
    /// outcome becomes transient when the host shows that nothing happened.
    pub fn class(self) -> ErrorClass {
        match self {
            ErrorKind::BmcBusy
            | ErrorKind::BmcProtocol
            | ErrorKind::BmcUnreachable
            | ErrorKind::NoPermit => ErrorClass::Transient,
            ErrorKind::OwnShortage => ErrorClass::Own,
            ErrorKind::BmcCipher
            | ErrorKind::BmcCredentials
            | ErrorKind::BmcName
            | ErrorKind::BmcPrivilege
            | ErrorKind::BmcRefused
            | ErrorKind::BootDevice
            | ErrorKind::InventoryChanged
            | ErrorKind::Misconfigured
            | ErrorKind::PowerState
            | ErrorKind::ReportMissing
            | ErrorKind::ReportedFailure
            | ErrorKind::UnknownHost => ErrorClass::Rejected,
            ErrorKind::JournalRefused | ErrorKind::OutcomeUnknown | ErrorKind::Unspecified => {
                ErrorClass::Unknown
            }
        }
    }

    /// True if the host's BMC can be expected to answer after such an error, so that its event log
    /// is worth reading.
    pub fn bmc_answers(self) -> bool {
        match self {
            ErrorKind::BmcBusy
            | ErrorKind::BmcCipher
            | ErrorKind::BmcCredentials
            | ErrorKind::BmcName
            | ErrorKind::BmcPrivilege
            | ErrorKind::BmcUnreachable
            | ErrorKind::InventoryChanged
            | ErrorKind::Misconfigured
            | ErrorKind::OwnShortage
            | ErrorKind::UnknownHost => false,
            ErrorKind::BmcProtocol
            | ErrorKind::BmcRefused
            | ErrorKind::BootDevice
            | ErrorKind::JournalRefused
            | ErrorKind::NoPermit
            | ErrorKind::OutcomeUnknown
            | ErrorKind::PowerState
            | ErrorKind::ReportMissing
            | ErrorKind::ReportedFailure
            | ErrorKind::Unspecified => true,
        }
    }

    /// Kinds whose names are similar to a word, such as a misspelt one; nearest first.
    pub fn near(word: &str) -> Vec<ErrorKind> {
        let slips = 1.max(word.chars().count() / 3);
        let distance = |kind: &ErrorKind| strsim::osa_distance(&word.to_lowercase(), kind.as_str());
        let mut found: Vec<(usize, ErrorKind)> =
            ErrorKind::ALL.iter().map(|kind| (distance(kind), *kind)).collect();
        found.retain(|(distance, _)| *distance <= slips);
        found.sort();
        found.into_iter().map(|(_, kind)| kind).take(3).collect()
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = UnknownErrorKind;

    fn from_str(name: &str) -> Result<Self, UnknownErrorKind> {
        let found = ErrorKind::ALL.iter().find(|kind| kind.as_str() == name);
        found.copied().ok_or_else(|| UnknownErrorKind(name.to_owned()))
    }
}

impl Serialize for ErrorKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_name_that_is_read_back() {
        for kind in ErrorKind::ALL {
            let name = kind.as_str();
            assert_eq!(name.parse(), Ok(*kind));
            assert_eq!(kind.to_string(), name);
            let json = serde_json::json!(kind);
            assert_eq!(json, name);
            assert_eq!(serde_json::from_value::<ErrorKind>(json).unwrap(), *kind);
        }
    }

    #[test]
    fn kinds_are_listed_once_in_the_order_of_their_names() {
        for pair in ErrorKind::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{pair:?}");
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        let numbers = ErrorKind::ALL.iter().map(|kind| *kind as usize);
        assert!(numbers.eq(0..ErrorKind::ALL.len()), "one is missing in the list");
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "BMC_BUSY", "bmc_busy ", "transient"] {
            assert_eq!(name.parse::<ErrorKind>(), Err(UnknownErrorKind(name.to_owned())));
        }
        assert!(serde_json::from_str::<ErrorKind>("\"other\"").is_err());
    }

    #[test]
    fn a_misspelt_name_has_near_ones() {
        assert_eq!(ErrorKind::near("bmc_unreachabel"), [ErrorKind::BmcUnreachable]);
        assert_eq!(ErrorKind::near("Power-State")[0], ErrorKind::PowerState);
        assert_eq!(ErrorKind::near("disk"), []);
    }

    #[test]
    fn a_message_has_nothing_that_cannot_be_stored() {
        let error = HostError::new(ErrorKind::BmcProtocol, "it says \0a\0");
        assert_eq!(error.to_string(), "it says a");
    }

    #[test]
    fn a_class_by_the_kind() {
        let of_class = |class| {
            let kinds = ErrorKind::ALL.iter().filter(|kind| kind.class() == class);
            kinds.map(|kind| kind.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            of_class(ErrorClass::Transient),
            "bmc_busy bmc_protocol bmc_unreachable no_permit"
        );
        assert_eq!(of_class(ErrorClass::Unknown), "journal_refused outcome_unknown unknown");
        let classes: Vec<&str> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
        assert_eq!(classes, ["transient", "rejected", "unknown", "own"]);
    }
}

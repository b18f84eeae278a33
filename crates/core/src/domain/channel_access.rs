//! Access of Metalbot to a channel: can it post there?

/// Answer of a platform about access to one of its channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChannelAccess {
    /// Metalbot can post, and people see the card.
    Open,
    /// Metalbot cannot post until somebody follows the text, which is written for people.
    Closed { what_to_do: String },
    /// Not known: the platform was not asked, or its last answer is too old.
    Unknown,
}

//! Whether Metalbot can post where somebody speaks to it.

/// What a platform says of one of its channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChannelAccess {
    /// A card that is posted there is seen.
    Open,
    /// It is not, until somebody has done what the text says, for people.
    Closed { what_to_do: String },
    /// The platform was not asked, or not within the time for which an answer holds.
    Unknown,
}

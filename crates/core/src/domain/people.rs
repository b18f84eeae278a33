//! The people of the directory, as whoever addresses them by their login needs them.

use super::principal::Principal;

/// The directory as it is now. Every call may see a newer directory than the one before. A person
/// who has left is in none.
pub trait People: Send + Sync {
    fn by_login(&self, login: &str) -> Option<Principal>;

    /// Id of the person's user on a chat platform, where the directory itself names one.
    fn account(&self, login: &str, platform: &str) -> Option<String>;

    /// Address by which a platform may know the person.
    fn email(&self, login: &str) -> Option<String>;

    /// Account of the person at a Jira site, which tickets mention.
    fn jira_account(&self, login: &str, site: &str) -> Option<String>;
}

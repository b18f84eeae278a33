//! The people whom a ticket concerns: who they are in Jira, so that they are mentioned and watch it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::relay::{RelayError, TicketRelay};
use super::render::TicketPerson;
use metalbot_jira::{JiraError, Site};
use metalbot_store::ticket_work::{self, Work};

/// How long it is believed what Jira said of an account.
const BELIEVED: Duration = Duration::from_secs(600);

/// What a ticket needs to know of a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConcernedPerson {
    pub name: String,
    /// Account at the site, where the directory knows one.
    pub account: Option<String>,
}

/// Looks a person up by login and Jira site; a person who has left is still named.
pub type FindConcerned = Arc<dyn Fn(&str, &str) -> ConcernedPerson + Send + Sync>;

/// The people concerned by login, as they are named and, where Jira knows them, tagged.
pub type People = BTreeMap<String, TicketPerson>;

/// What a site has said of accounts a while ago.
#[derive(Debug, Default)]
pub struct Accounts(Mutex<HashMap<String, (Instant, bool)>>);

impl Accounts {
    async fn knows(&self, site: &Site, account: &str) -> Result<bool, JiraError> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = lock().get(account).copied();
        if let Some((_, known)) = said.filter(|(when, _)| when.elapsed() < BELIEVED) {
            return Ok(known);
        }
        let known = site.knows_account(account).await?;
        lock().insert(account.to_owned(), (Instant::now(), known));
        Ok(known)
    }
}

impl TicketRelay {
    /// The people of these logins, tagged where Jira knows their account. Those whom it does not
    /// know are written down for operators.
    pub(super) async fn people(
        &self,
        work: &Work,
        logins: &[String],
    ) -> Result<People, RelayError> {
        let mut people = People::new();
        let mut unknown = Vec::new();
        let mut answers = true;
        for login in logins {
            let ConcernedPerson { name, account } = (self.find_person)(login, self.site.name());
            let known = match &account {
                None => false,
                Some(account) if answers => match self.accounts.knows(&self.site, account).await {
                    Ok(known) => known,
                    // Then it is as the directory says: a ticket does not wait for that.
                    Err(error) => {
                        tracing::warn!(account, %error, "cannot look a person up in Jira");
                        answers = matches!(error, JiraError::Rejected { .. });
                        true
                    }
                },
                Some(_) => true,
            };
            if !known {
                unknown.push(login.clone());
            }
            people.insert(login.clone(), TicketPerson { name, account: account.filter(|_| known) });
        }
        if unknown != work.unknown_accounts {
            tracing::warn!(ticket = work.fingerprint, ?unknown, "not known in Jira");
            ticket_work::set_unknown_accounts(&self.pool, work.id, &unknown).await?;
        }
        Ok(people)
    }

    /// Makes the people watchers. The mention in the text has told them already, so that a failure
    /// here delays nothing.
    pub(super) async fn watch(
        &self,
        work: &Work,
        key: &str,
        people: &People,
    ) -> Result<(), RelayError> {
        let mut watchers = work.watchers.clone();
        for account in people.values().filter_map(|who| who.account.as_ref()) {
            if watchers.contains(account) {
                continue;
            }
            match self.site.add_watcher(key, account).await {
                Ok(()) => watchers.push(account.clone()),
                Err(error) => {
                    tracing::warn!(ticket = key, account, %error, "cannot add a watcher");
                    if !matches!(error, JiraError::Rejected { .. }) {
                        break;
                    }
                }
            }
        }
        if watchers != work.watchers {
            ticket_work::set_watchers(&self.pool, work.id, &watchers).await?;
        }
        Ok(())
    }
}

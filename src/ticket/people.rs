//! The people whom a ticket concerns, by their accounts in Jira, so that they are mentioned and watch
//! it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::relay::{RelayError, TicketRelay};
use super::render::TicketPerson;
use metalbot_jira::{JiraError, Site};
use metalbot_store::ticket_work::{self, Work};

/// Time for which Jira's answer about an account holds.
const ANSWER_HOLDS: Duration = Duration::from_secs(600);

/// People concerned by login, as they are named and, where Jira knows them, tagged.
pub type Concerned = BTreeMap<String, TicketPerson>;

/// Recent answers of a site about accounts.
#[derive(Debug, Default)]
pub struct Accounts(Mutex<HashMap<String, (Instant, bool)>>);

impl Accounts {
    async fn knows(&self, site: &Site, account: &str) -> Result<bool, JiraError> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = lock().get(account).copied();
        if let Some((_, known)) = said.filter(|(when, _)| when.elapsed() < ANSWER_HOLDS) {
            return Ok(known);
        }
        let known = site.knows_account(account).await?;
        lock().insert(account.to_owned(), (Instant::now(), known));
        Ok(known)
    }
}

impl TicketRelay {
    /// Finds the people of these logins, tagged where Jira knows their account. Those whom it does
    /// not know are stored for operators. A person who has left the directory is named by login.
    pub(super) async fn concerned(
        &self,
        work: &Work,
        logins: &[String],
    ) -> Result<Concerned, RelayError> {
        let mut people = Concerned::new();
        let mut unknown = Vec::new();
        let mut answers = true;
        for login in logins {
            let found = self.people.by_login(login);
            let name = found.map_or_else(|| login.clone(), |person| person.name);
            let account = self.people.jira_account(login, self.site.name());
            let known = match &account {
                None => false,
                Some(account) if answers => match self.accounts.knows(&self.site, account).await {
                    Ok(known) => known,
                    // The directory's account is used then: a ticket does not wait for that.
                    Err(error) => {
                        tracing::warn!(account, %error, "a person's account cannot be looked up in Jira");
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
            tracing::warn!(
                ticket = work.fingerprint,
                ?unknown,
                "Jira does not know some people whom a ticket concerns"
            );
            ticket_work::set_unknown_accounts(&self.pool, work.id, &unknown).await?;
        }
        Ok(people)
    }

    /// Makes the people watchers. They were notified by the mention in the text, so that a failure
    /// here delays nothing.
    pub(super) async fn watch(
        &self,
        work: &Work,
        key: &str,
        people: &Concerned,
    ) -> Result<(), RelayError> {
        let mut watchers = work.watchers.clone();
        for account in people.values().filter_map(|who| who.account.as_ref()) {
            if watchers.contains(account) {
                continue;
            }
            match self.site.add_watcher(key, account).await {
                Ok(()) => watchers.push(account.clone()),
                Err(error) => {
                    tracing::warn!(ticket = key, account, %error, "a watcher cannot be added to a ticket");
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

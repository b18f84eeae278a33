//! People and groups from a TOML file, the embedded default of a directory.
//!
//! Invariant: a [`Directory`] never changes; [`DirectoryHandle::current`] hands out the newest one
//! that could be read, so that a person who left a group loses its rights at the next check.
//!
//! ```toml
//! [[person]]
//! login = "alice"                      # small letters, digits, and . _ - @
//! name = "Alice Archer"
//! password = "$argon2id$v=19$..."      # only for the console; without it no login there
//! groups = ["sre"]
//! email = "alice@example.org"          # binds accounts of platforms that have verified it
//! accounts = { slack = "T12/U34" }     # platform = user id; `console` is always the login, and
//!                                      # `shell` is the user of the machine (`metalbot operator bmc power`)
//! jira = "aarcher"                     # tagged in tickets; of several Jiras by their names:
//!                                      # jira = { default = "aarcher", hardware = "5b10a2" }
//! disabled = false                     # true: unknown everywhere
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::password;
use crate::runtime::hot_reload::HotReload;
use metalbot_core::domain::inbound::PlatformUser;
use metalbot_core::domain::people::People;
use metalbot_core::domain::principal::Principal;

/// Name of the platform on which the user id is the login itself.
const CONSOLE: &str = "console";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    person: Vec<Person>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    login: String,
    name: String,
    password: Option<String>,
    email: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    accounts: BTreeMap<String, String>,
    jira: Option<JiraAccounts>,
    #[serde(default)]
    disabled: bool,
}

/// Accounts in Jira: one that is the same at every site, or by site.
#[derive(Deserialize)]
#[serde(untagged)]
enum JiraAccounts {
    Everywhere(String),
    BySite(BTreeMap<String, String>),
}

/// Error of a directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("cannot read {}: {cause}", .file.display())]
    Read { file: PathBuf, cause: std::io::Error },
    #[error("{}: {message}", .file.display())]
    Syntax { file: PathBuf, message: String },
    #[error("{}: {problem}", .file.display())]
    Invalid { file: PathBuf, problem: DirectoryProblem },
}

/// Error in the people of a directory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DirectoryProblem {
    #[error("login {0:?}: use small letters, digits, '.', '_', '-' and '@'")]
    Login(String),
    #[error("there are two people with the login {0:?}")]
    SameLogin(String),
    #[error("{first} and {second} both have the {platform} account {id:?}")]
    SameAccount { platform: String, id: String, first: String, second: String },
    #[error("{first} and {second} both have the address {email:?}")]
    SameEmail { email: String, first: String, second: String },
    #[error("{login}: the console account is the login itself; leave it out")]
    ConsoleAccount { login: String },
    #[error("{login}: the password is not an argon2id hash; make one with a password tool")]
    Password { login: String },
    #[error("{login} has an empty {what}")]
    Empty { login: String, what: &'static str },
}

/// A snapshot of people and groups.
#[derive(Default)]
pub struct Directory {
    people: BTreeMap<String, Person>,
    /// Platform and user id to login.
    accounts: HashMap<(String, String), String>,
    /// Address in small letters to login.
    emails: HashMap<String, String>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({} people)", self.people.len())
    }
}

/// Describes an error by its position and reason only, because the line that the library would
/// quote may hold a secret.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => {
            let line = text[..span.start].matches('\n').count() + 1;
            format!("line {line}: {}", error.message())
        }
        None => error.message().to_owned(),
    }
}

impl Directory {
    pub fn load(path: &Path) -> Result<Self, DirectoryError> {
        let text = fs::read_to_string(path)
            .map_err(|cause| DirectoryError::Read { file: path.into(), cause })?;
        Directory::parse(&text, path)
    }

    /// Reads the text of a directory file; `file` is only named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, DirectoryError> {
        let people: File = toml::from_str(text).map_err(|error| DirectoryError::Syntax {
            file: file.into(),
            message: toml_error(text, &error),
        })?;
        Directory::new(people.person)
            .map_err(|problem| DirectoryError::Invalid { file: file.into(), problem })
    }

    fn new(persons: Vec<Person>) -> Result<Self, DirectoryProblem> {
        let mut directory = Directory::default();
        for person in persons {
            person.check()?;
            for (platform, id) in &person.accounts {
                let key = (platform.clone(), id.clone());
                if let Some(first) = directory.accounts.insert(key, person.login.clone()) {
                    return Err(DirectoryProblem::SameAccount {
                        platform: platform.clone(),
                        id: id.clone(),
                        first,
                        second: person.login,
                    });
                }
            }
            if let Some(email) = person.email.as_ref().map(|email| email.to_lowercase())
                && let Some(first) = directory.emails.insert(email.clone(), person.login.clone())
            {
                return Err(DirectoryProblem::SameEmail { email, first, second: person.login });
            }
            let login = person.login.clone();
            if directory.people.insert(login.clone(), person).is_some() {
                return Err(DirectoryProblem::SameLogin(login));
            }
        }
        Ok(directory)
    }

    fn enabled(&self, login: &str) -> Option<&Person> {
        self.people.get(login).filter(|person| !person.disabled)
    }

    /// Finds the person behind a platform's user.
    pub fn person(&self, user: &PlatformUser) -> Option<Principal> {
        if user.platform == CONSOLE {
            return self.by_login(&user.id);
        }
        // A platform's user ids are few and short: building the key costs less than a second map.
        let login = self.accounts.get(&(user.platform.clone(), user.id.clone()))?;
        self.by_login(login)
    }

    /// Finds the person with this address; only for addresses that a trusted platform has verified.
    pub fn by_email(&self, email: &str) -> Option<Principal> {
        self.by_login(self.emails.get(&email.to_lowercase())?)
    }

    pub fn by_login(&self, login: &str) -> Option<Principal> {
        self.enabled(login).map(|person| Principal {
            login: person.login.clone(),
            name: person.name.clone(),
            groups: person.groups.iter().cloned().collect(),
        })
    }

    /// Logins of everybody, sorted.
    pub fn logins(&self) -> Vec<String> {
        self.enabled_people().map(|person| person.login.clone()).collect()
    }

    /// Logins of the members of a group, sorted; empty for a group that nobody is in.
    pub fn members(&self, group: &str) -> Vec<String> {
        self.enabled_people()
            .filter(|person| person.groups.iter().any(|name| name == group))
            .map(|person| person.login.clone())
            .collect()
    }

    /// Every group that somebody is in.
    pub fn groups(&self) -> BTreeSet<String> {
        self.enabled_people().flat_map(|person| person.groups.iter().cloned()).collect()
    }

    /// The account to tag in tickets of a Jira site.
    pub fn jira_account(&self, login: &str, site: &str) -> Option<&str> {
        match self.enabled(login)?.jira.as_ref()? {
            JiraAccounts::Everywhere(account) => Some(account),
            JiraAccounts::BySite(accounts) => accounts.get(site).map(String::as_str),
        }
    }

    /// The person's address.
    pub fn email(&self, login: &str) -> Option<&str> {
        self.enabled(login)?.email.as_deref()
    }

    /// The person's id on a platform, for mentions.
    pub fn account(&self, login: &str, platform: &str) -> Option<&str> {
        let person = self.enabled(login)?;
        if platform == CONSOLE {
            return Some(&person.login);
        }
        person.accounts.get(platform).map(String::as_str)
    }

    /// Hash of the person's password, for [`password::verify`].
    pub fn password_hash(&self, login: &str) -> Option<&str> {
        self.enabled(login)?.password.as_deref()
    }

    fn enabled_people(&self) -> impl Iterator<Item = &Person> {
        self.people.values().filter(|person| !person.disabled)
    }
}

impl Person {
    fn check(&self) -> Result<(), DirectoryProblem> {
        let login = || self.login.clone();
        let login_ok = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'@')
        };
        if self.login.is_empty() || !self.login.bytes().all(login_ok) {
            return Err(DirectoryProblem::Login(login()));
        }
        let texts = [("name", std::slice::from_ref(&self.name)), ("group", &self.groups)];
        for (what, texts) in texts {
            if texts.iter().any(|text| text.trim().is_empty()) {
                return Err(DirectoryProblem::Empty { login: login(), what });
            }
        }
        if self.email.as_deref().is_some_and(|email| email.trim().is_empty()) {
            return Err(DirectoryProblem::Empty { login: login(), what: "email" });
        }
        if self.accounts.values().any(|id| id.trim().is_empty()) {
            return Err(DirectoryProblem::Empty { login: login(), what: "account" });
        }
        if self.accounts.get(CONSOLE).is_some_and(|id| *id != self.login) {
            return Err(DirectoryProblem::ConsoleAccount { login: login() });
        }
        if self.password.as_deref().is_some_and(|hash| !password::is_hash(hash)) {
            return Err(DirectoryProblem::Password { login: login() });
        }
        Ok(())
    }
}

/// The directory of a file, reread when the file changes. Clones share it.
#[derive(Clone, Debug)]
pub struct DirectoryHandle(Arc<HotReload<Directory>>);

impl DirectoryHandle {
    /// Reads the file; later changes of it are seen by [`DirectoryHandle::current`].
    pub fn open(file: &Path) -> Result<Self, DirectoryError> {
        Ok(DirectoryHandle(Arc::new(HotReload::open(file, Directory::load)?)))
    }

    /// A directory that never changes.
    pub fn fixed(directory: Directory) -> Self {
        DirectoryHandle(Arc::new(HotReload::fixed(directory)))
    }

    /// The newest readable directory. Costs one `stat` while the file is unchanged.
    pub fn current(&self) -> Arc<Directory> {
        self.0.refresh();
        self.0.current()
    }

    /// Sees changes that a file system does not show to [`DirectoryHandle::current`] at once. Never
    /// returns.
    pub async fn run_reload(self, every: Duration) {
        self.0.run_reload(every).await;
    }
}

impl People for DirectoryHandle {
    fn by_login(&self, login: &str) -> Option<Principal> {
        self.current().by_login(login)
    }

    fn account(&self, login: &str, platform: &str) -> Option<String> {
        self.current().account(login, platform).map(str::to_owned)
    }

    fn email(&self, login: &str) -> Option<String> {
        self.current().email(login).map(str::to_owned)
    }

    fn jira_account(&self, login: &str, site: &str) -> Option<String> {
        self.current().jira_account(login, site).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    const PEOPLE: &str = r#"
        [[person]]
        login = "alice"
        name = "Alice Archer"
        email = "Alice@example.org"
        groups = ["sre", "web-owners"]
        accounts = { console = "alice", slack = "U1" }
        jira = "aarcher"
        [[person]]
        login = "bob"
        name = "Bob"
        groups = ["web-owners"]
        jira = { default = "bob", hardware = "5b10a2" }
        [[person]]
        login = "gone"
        name = "Gone"
        groups = ["web-owners", "past"]
        accounts = { slack = "U9" }
        email = "gone@example.org"
        jira = "gone"
        disabled = true
    "#;

    fn parse(text: &str) -> Result<Directory, String> {
        Directory::parse(text, Path::new("people.toml")).map_err(|error| error.to_string())
    }

    fn user(platform: &str, id: &str) -> PlatformUser {
        PlatformUser { platform: platform.into(), id: id.into() }
    }

    #[test]
    fn people_are_found_by_platform() {
        let directory = parse(PEOPLE).unwrap();
        let login = |platform, id| directory.person(&user(platform, id)).map(|who| who.login);
        assert_eq!(login("slack", "U1").as_deref(), Some("alice"));
        assert_eq!(login("console", "alice").as_deref(), Some("alice"));
        assert_eq!(login("console", "bob").as_deref(), Some("bob"));
        for (platform, id) in
            [("slack", "U2"), ("slack", "alice"), ("console", "U1"), ("discord", "U1")]
        {
            assert_eq!(login(platform, id), None, "{platform} {id}");
        }
        let by_email = |email| directory.by_email(email).map(|who| who.login);
        assert_eq!(by_email("alice@EXAMPLE.org").as_deref(), Some("alice"));
        assert_eq!(by_email("gone@example.org"), None, "disabled");
        assert_eq!(by_email(""), None);
        let alice = directory.by_login("alice").unwrap();
        assert_eq!(alice.name, "Alice Archer");
        assert!(alice.groups.contains("sre"));
        assert_eq!(directory.jira_account("alice", "hardware"), Some("aarcher"));
        assert_eq!(directory.jira_account("bob", "default"), Some("bob"));
        assert_eq!(directory.jira_account("bob", "hardware"), Some("5b10a2"));
        assert_eq!(directory.jira_account("bob", "elsewhere"), None);
        assert_eq!(directory.jira_account("nobody", "default"), None);
        assert_eq!(directory.account("alice", "slack"), Some("U1"));
        assert_eq!(directory.members("web-owners"), ["alice", "bob"]);
        assert_eq!(directory.groups(), BTreeSet::from(["sre".into(), "web-owners".into()]));
    }

    #[test]
    fn a_disabled_person_is_nobody() {
        let directory = parse(PEOPLE).unwrap();
        assert_eq!(directory.by_login("gone"), None);
        assert_eq!(directory.person(&user("slack", "U9")), None);
        assert_eq!(directory.person(&user("console", "gone")), None);
        assert_eq!(directory.jira_account("gone", "default"), None);
        assert_eq!(directory.account("gone", "slack"), None);
        assert!(directory.members("past").is_empty());
        assert_eq!(directory.logins(), ["alice", "bob"]);
    }

    #[test]
    fn wrong_files_are_refused_with_the_reason() {
        let person = |rest: &str| format!("[[person]]\nlogin = \"a\"\nname = \"A\"\n{rest}\n");
        let two = |one: &str, other: &str| {
            person(one) + &format!("[[person]]\nlogin = \"b\"\nname = \"B\"\n{other}\n")
        };
        let slack = "accounts = { slack = \"U1\" }";
        let table = [
            (person("nickname = \"x\""), "line 4: unknown field `nickname`"),
            ("[[people]]".into(), "line 1: unknown field `people`"),
            ("[[person]]\nlogin = \"a\"".into(), "missing field `name`"),
            (person("groups = \"sre\""), "line 4: invalid type"),
            (person("") + &person(""), "two people with the login \"a\""),
            (two(slack, slack), "a and b both have the slack account \"U1\""),
            (two("email = \"x@y\"", "email = \"X@Y\""), "a and b both have the address \"x@y\""),
            (person("email = \"\""), "a has an empty email"),
            (person("accounts = { console = \"b\" }"), "the console account is the login itself"),
            (person("password = \"hunter2\""), "a: the password is not an argon2id hash"),
            (person("groups = [\"\"]"), "a has an empty group"),
            (person("accounts = { slack = \"\" }"), "a has an empty account"),
            ("[[person]]\nlogin = \"A b\"\nname = \"A\"".into(), "login \"A b\""),
            ("[[person]".into(), "people.toml: line 1"),
        ];
        for (text, expected) in table {
            let error = parse(&text).expect_err(expected);
            assert!(error.contains(expected) && error.starts_with("people.toml: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn login_needs_the_password_of_an_enabled_person() {
        let hash = password::hash(&SecretString::from("pw")).unwrap();
        let text = format!(
            "[[person]]\nlogin = \"a\"\nname = \"A\"\npassword = \"{hash}\"\n\
             [[person]]\nlogin = \"b\"\nname = \"B\"\n\
             [[person]]\nlogin = \"c\"\nname = \"C\"\npassword = \"{hash}\"\ndisabled = true\n"
        );
        let directory = parse(&text).unwrap();
        let enters = |login: &str, text: &str| {
            password::login(&directory, login, &SecretString::from(text)).is_some()
        };
        assert!(enters("a", "pw"));
        for (login, text) in
            [("a", "no"), ("a", ""), ("b", "pw"), ("b", ""), ("c", "pw"), ("d", "pw")]
        {
            assert!(!enters(login, text), "{login} {text}");
        }
    }

    #[test]
    fn a_changed_file_is_seen_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("people.toml");
        let write = |groups: &str, padding: usize| {
            let pad = " ".repeat(padding);
            let text = format!("[[person]]\nlogin = \"a\"\nname = \"A\"\n{groups}{pad}\n");
            fs::write(&file, text).unwrap();
        };
        write("groups = [\"sre\"]", 1);
        let handle = DirectoryHandle::open(&file).unwrap();
        let in_sre = || handle.current().by_login("a").unwrap().groups.contains("sre");
        assert!(in_sre());
        assert!(!handle.0.reload(), "unchanged");
        write("groups = []", 2);
        assert!(!in_sre(), "the right is gone at the next question");
        write("groups = [\"sre\"", 3);
        assert!(!in_sre(), "a broken file keeps the old directory");
        assert!(!handle.0.reload(), "and is tried once");
        write("groups = [\"sre\"]", 4);
        assert!(in_sre(), "mended");
        fs::remove_file(&file).unwrap();
        assert!(in_sre(), "a file that is gone keeps the old directory");
    }
}

//! From a file and the environment to a [`Config`], and from a wrong key to a message about it.
//!
//! Invariant: no message holds a value, because the value of a wrong key may be a secret.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Error, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError, SlackMode};
use crate::identity::directory::toml_error;
use secrecy::{ExposeSecret, SecretString};

type Environment = BTreeMap<String, String>;

impl Config {
    /// Reads the file and the environment, and the secrets that they point to.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(file)
            .map_err(|cause| ConfigError::Read { file: file.into(), cause })?;
        // A variable that is not Unicode is not one of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        read(&text, file, &env)
    }

    /// The same for text at hand, without the environment. `file` names it and gives relative
    /// paths their folder; it need not exist.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        read(text, file, &Environment::new())
    }
}

fn read(text: &str, file: &Path, env: &Environment) -> Result<Config, ConfigError> {
    // Only for the message: figment's would quote the line.
    if let Err(error) = toml::from_str::<toml::Table>(text) {
        let message = format!("{}: {}", file.display(), toml_error(text, &error));
        return Err(ConfigError::Keys(vec![message]));
    }
    let mut figment = Figment::from(Toml::string(text));
    for (name, value) in env {
        if let Some(path) = key_of(name) {
            figment = figment.merge(Variable { path, value });
        }
    }
    let mut config: Config = figment.extract().map_err(|errors| {
        ConfigError::Keys(errors.into_iter().map(|error| explain(&error, file, env)).collect())
    })?;
    config.file = file.into();
    let base = std::path::absolute(file)
        .map_err(|cause| ConfigError::Read { file: file.into(), cause })?;
    let mut problems = resolve(&mut config, base.parent().unwrap_or(Path::new("/")), env);
    problems.extend(config.check_values());
    config.problems(problems)?;
    Ok(config)
}

/// One environment variable as a source of its own.
struct Variable<'a> {
    path: String,
    value: &'a str,
}

/// `METALBOT_HTTP__LISTEN` is `http.listen`.
fn key_of(name: &str) -> Option<String> {
    let key = name.strip_prefix("METALBOT_")?.to_ascii_lowercase();
    (key == "state_dir" || key.contains("__")).then(|| key.replace("__", "."))
}

impl Provider for Variable<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let value: Value = self.value.parse().expect("figment reads anything, at worst as text");
        let dict = figment::util::nest(&self.path, value).into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

fn explain(error: &Error, file: &Path, env: &Environment) -> String {
    let mut path = error.path.clone();
    let what = match &error.kind {
        Kind::Message(message) => message.clone(),
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("found {}, expected {expected}", kind_name(actual))
        }
        Kind::UnknownField(name, known) => {
            if path.last() != Some(name) {
                path.push(name.clone());
            }
            format!("unknown key; known here: {}", known.join(", "))
        }
        Kind::UnknownVariant(_, known) => format!("expected one of {}", known.join(", ")),
        Kind::MissingField(name) => {
            path.push(name.to_string());
            "missing".into()
        }
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "out of range".into(),
        other => other.to_string(),
    };
    let path = path.join(".");
    // A variable wins over the file, so what is wrong at its key is wrong in the variable.
    let variable = env.keys().find(|name| key_of(name).is_some_and(|key| key == path));
    match variable {
        Some(name) => format!("environment variable {name}: {path}: {what}"),
        None => format!("{}: {path}: {what}", file.display()),
    }
}

fn kind_name(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Str(_) | Actual::Char(_) => "text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

/// Makes paths absolute and fetches the secrets; says what went wrong.
fn resolve(config: &mut Config, base: &Path, env: &Environment) -> Vec<String> {
    let folders = [
        &mut config.commands.folder,
        &mut config.templates.folder,
        &mut config.audit.checkpoint_file,
    ];
    let files = [&mut config.state_dir, &mut config.directory.file, &mut config.inventory.file];
    for path in files.into_iter().chain(folders.into_iter().flatten()) {
        *path = base.join(&*path);
    }
    let mut problems = Vec::new();
    let mut fetch = |key: String,
                     source: SecretSource<'_>,
                     into: &mut Option<SecretString>,
                     needed| match source.resolve(&key, base, env) {
        Ok(None) if needed => {
            problems.push(format!("{key}: missing; give {key}, {key}_file or {key}_env"))
        }
        Ok(secret) => *into = secret,
        Err(error) => problems.push(error.to_string()),
    };
    for (name, one) in &mut config.credentials {
        let source = SecretSource {
            given: one.password.take(),
            file: one.password_file.as_ref(),
            env: one.password_env.as_ref(),
        };
        fetch(format!("credentials.{name}.password"), source, &mut one.password, true);
    }
    if let Some(slack) = &mut config.slack {
        let (socket, http) = (slack.mode == SlackMode::Socket, slack.mode == SlackMode::Http);
        let (file, env) = (slack.bot_token_file.as_ref(), slack.bot_token_env.as_ref());
        let source = SecretSource { given: slack.bot_token.take(), file, env };
        let single = slack.workspaces.is_empty();
        fetch("slack.bot_token".into(), source, &mut slack.bot_token, single);
        for one in &mut slack.workspaces {
            let (file, env) = (one.bot_token_file.as_ref(), one.bot_token_env.as_ref());
            let source = SecretSource { given: one.bot_token.take(), file, env };
            let key = format!("slack.workspaces.{}.bot_token", one.team);
            fetch(key, source, &mut one.bot_token, true);
        }
        let (file, env) = (slack.app_token_file.as_ref(), slack.app_token_env.as_ref());
        let source = SecretSource { given: slack.app_token.take(), file, env };
        fetch("slack.app_token".into(), source, &mut slack.app_token, socket);
        let (file, env) = (slack.signing_secret_file.as_ref(), slack.signing_secret_env.as_ref());
        let source = SecretSource { given: slack.signing_secret.take(), file, env };
        fetch("slack.signing_secret".into(), source, &mut slack.signing_secret, http);
    }
    if let Some(jira) = &mut config.jira {
        let (file, env) = (jira.token_file.as_ref(), jira.token_env.as_ref());
        let source = SecretSource { given: jira.token.take(), file, env };
        fetch("jira.token".into(), source, &mut jira.token, true);
        for (name, site) in &mut jira.site {
            let (file, env) = (site.token_file.as_ref(), site.token_env.as_ref());
            let source = SecretSource { given: site.token.take(), file, env };
            fetch(format!("jira.site.{name}.token"), source, &mut site.token, true);
        }
    }
    let outgoing = &mut config.outgoing;
    let (file, of) = (outgoing.proxy_file.as_ref(), outgoing.proxy_env.as_ref());
    let source = SecretSource { given: outgoing.proxy.take(), file, env: of };
    fetch("outgoing.proxy".into(), source, &mut outgoing.proxy, false);
    outgoing.resolve(base, |name| env.get(name).map(String::as_str));
    let audit = &mut config.audit;
    let (file, env_name) = (audit.key_file.as_ref(), audit.key_env.as_ref());
    let source = SecretSource { given: audit.key.take(), file, env: env_name };
    fetch("audit.key".into(), source, &mut audit.key, false);
    let database = &mut config.database;
    let source = match env.get("DATABASE_URL").filter(|url| !url.is_empty()) {
        Some(url) => {
            database.setting = "DATABASE_URL";
            SecretSource { given: Some(SecretString::from(url.as_str())), file: None, env: None }
        }
        None => SecretSource {
            given: database.url.take(),
            file: database.url_file.as_ref(),
            env: database.url_env.as_ref(),
        },
    };
    fetch("database.url".into(), source, &mut database.url, false);
    problems.extend(config.slack.iter().flat_map(|slack| slack.problems()));
    problems
}

/// A secret cannot be read. `key` is its name in the configuration.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("{key}: cannot read the systemd credential: {cause}")]
    Credential { key: String, cause: std::io::Error },
    #[error("{key}_file: cannot read {}: {cause}", .file.display())]
    File { key: String, file: PathBuf, cause: std::io::Error },
    #[error("{key}_env: the variable {variable} is not set")]
    NotSet { key: String, variable: String },
    #[error("{key}: give only one of {key}, {key}_file and {key}_env")]
    Ambiguous { key: String },
    #[error("{key}: the secret is empty")]
    Empty { key: String },
}

/// The three ways to give a secret: itself, a file that holds it, a variable that holds it. Where
/// none is used, a systemd credential of the key's name counts (systemd.exec(5), LoadCredential=).
struct SecretSource<'a> {
    given: Option<SecretString>,
    file: Option<&'a PathBuf>,
    env: Option<&'a String>,
}

impl SecretSource<'_> {
    /// One line end at the end of a file is not part of the secret.
    fn resolve(
        self,
        key: &str,
        base: &Path,
        env: &Environment,
    ) -> Result<Option<SecretString>, SecretError> {
        let key = || key.to_owned();
        let text = match (self.given, self.file, self.env) {
            (None, None, None) => match env.get("CREDENTIALS_DIRECTORY") {
                None => return Ok(None),
                Some(folder) => match fs::read_to_string(Path::new(folder).join(key())) {
                    Ok(text) => without_line_end(&text),
                    Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(cause) => return Err(SecretError::Credential { key: key(), cause }),
                },
            },
            (Some(secret), None, None) => secret,
            (None, Some(file), None) => {
                let file = base.join(file);
                match fs::read_to_string(&file) {
                    Ok(text) => without_line_end(&text),
                    Err(cause) => return Err(SecretError::File { key: key(), file, cause }),
                }
            }
            (None, None, Some(name)) => match env.get(name) {
                Some(text) => SecretString::from(text.as_str()),
                None => return Err(SecretError::NotSet { key: key(), variable: name.clone() }),
            },
            _ => return Err(SecretError::Ambiguous { key: key() }),
        };
        match text.expose_secret().is_empty() {
            true => Err(SecretError::Empty { key: key() }),
            false => Ok(Some(text)),
        }
    }
}

fn without_line_end(text: &str) -> SecretString {
    let text = text.strip_suffix('\n').unwrap_or(text);
    SecretString::from(text.strip_suffix('\r').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metalbot_core::domain::triage::TicketPolicy;

    use super::*;
    use crate::config::ExecutorConfig;

    const LEAST: &str = "directory.file = \"people.toml\"\ninventory.file = \"hosts.csv\"\n";

    fn with(rest: &str) -> Result<Config, String> {
        let text = format!("{LEAST}{rest}");
        Config::parse(&text, Path::new("/etc/x/m.toml")).map_err(|error| error.to_string())
    }

    fn with_env(rest: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        read(&format!("{LEAST}{rest}"), Path::new("/etc/x/m.toml"), &env)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_least_file_has_safe_defaults() {
        let config = with("").unwrap();
        assert_eq!(config.state_dir, Path::new("/etc/x/state"));
        assert_eq!(config.directory.file, Path::new("/etc/x/people.toml"));
        assert!(config.http.listen.ip().is_loopback());
        assert!(config.allow.is_empty() && config.approval.is_empty() && config.jira.is_none());
        assert!(config.policy().allow.is_empty() && config.policy().admins.is_empty());
        assert_eq!(config.limits.max_hosts, 10_000);
        assert_eq!(config.executor.lease_duration, Duration::from_secs(30));
        assert!(config.database.configured().is_none());
        assert!(!config.secure_cookies());
        assert!(with("http.listen = \"0.0.0.0:80\"").unwrap().secure_cookies());
        let proxy = "http.public_url = \"https://metal.example.org\"";
        assert!(with(proxy).unwrap().secure_cookies(), "TLS ends at a proxy on this machine");
        assert_eq!(config.public_url(), "http://127.0.0.1:8080");
        let url = with("http.public_url = \"https://metal.example.org/\"").unwrap().public_url();
        assert_eq!(url, "https://metal.example.org");
    }

    #[test]
    fn each_installation_of_slack_has_a_token() {
        let with = |one: &str, teams: &[(&str, &str)]| {
            let each = teams
                .iter()
                .map(|(team, token)| format!("[[slack.workspaces]]\nteam = \"{team}\"\n{token}\n"));
            let each: String = each.collect();
            with(&format!("[slack]\napp_token = \"xapp\"\n{one}\n{each}"))
        };
        let (one, token) = ("bot_token = \"xoxb-1\"", "bot_token = \"xoxb-2\"");
        for (one, teams, expected) in [
            (one, &[("T1", token)][..], "slack.bot_token: give one bot token, or one in each"),
            ("", &[("C1", token)], "slack.workspaces.team: write the id of a workspace"),
            ("", &[("T1", token), ("T1", token)], "slack.workspaces.team: T1 is there twice"),
            ("", &[("T1", token), ("E1", "")], "slack.workspaces.E1.bot_token: missing; give"),
            ("", &[], "slack.bot_token: missing; give"),
        ] {
            let error = with(one, teams).unwrap_err();
            assert!(error.contains(expected) && !error.contains("xoxb"), "{expected}: {error}");
        }
        let teams = |config: Config| -> Vec<Option<String>> {
            let slack = config.slack.unwrap();
            slack.bot_tokens().iter().map(|(team, _)| team.map(str::to_owned)).collect()
        };
        assert_eq!(teams(with(one, &[]).unwrap()), [None]);
        let two = teams(with("", &[("T1", token), ("E1", token)]).unwrap());
        assert_eq!(two, [Some("T1".into()), Some("E1".into())]);
    }

    #[test]
    fn errors_name_file_and_key() {
        let table = [
            ("colour = 1", "colour: unknown key"),
            ("[http]\nlissten = 1", "http.lissten: unknown key; known here: listen, public_url"),
            ("[http]\nlisten = 8080", "http.listen: found a whole number, expected a string"),
            (
                "[http]\nlisten = \"here\"",
                "http.listen: write an address with its port: 127.0.0.1:8080",
            ),
            (
                "[executor]\nlease_duration = 30",
                "executor.lease_duration: found a whole number, expected a string",
            ),
            (
                "[executor]\nlease_duration = \"soon\"",
                "executor.lease_duration: \"soon\" is not a duration",
            ),
            ("[limits]\nmax_hosts = -1", "limits.max_hosts: found a whole number, expected u32"),
            ("[limits]\nmax_hosts = \"all\"", "limits.max_hosts: found text, expected u32"),
            ("[log]\nformat = \"xml\"", "log.format: expected one of text, json"),
            ("[jira]\nurl = \"http://j\"", "jira.project: missing"),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\ndialect = \"server\"",
                "jira.dialect: expected one of data-center, cloud",
            ),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\n[jira.site.b]\nuser = \"u\"",
                "jira.site.b.url: missing",
            ),
            ("[[approval]]\nquorumm = 1", "approval.0.quorumm: unknown key"),
            ("[[approval]]\nfrom = [\"all\"]", "approval.0.from.0: \"all\" names no approvers"),
            ("[[allow]]\nactions = []", "allow.0.group: missing"),
            (
                "[credentials.lab]\nuser = \"a\"\npassword = 12345",
                "credentials.lab.password: found",
            ),
            ("[credentials.lab]\nuser = \"a\"", "credentials.lab.password: missing; give"),
            ("[http", "line 3: "),
            ("[http]\nlisten = hunter2", "line 4: "),
        ];
        for (rest, expected) in table {
            let error = with(rest).expect_err(expected);
            assert!(
                error.starts_with(&format!("/etc/x/m.toml: {expected}")),
                "{error}\n{expected}"
            );
            assert!(!error.contains("12345") && !error.contains("hunter2"), "{error}");
        }
        let missing = Config::parse("", Path::new("m.toml")).unwrap_err().to_string();
        assert!(missing.starts_with("m.toml: directory: missing"), "{missing}");
        let absent = Config::load(Path::new("/no/such.toml")).unwrap_err().to_string();
        assert!(absent.starts_with("cannot read /no/such.toml"), "{absent}");
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for (rest, expected) in [
            ("executor.datacenters = []", "executor.datacenters: name at least one, or leave"),
            ("executor.max_in_flight = 0", "executor.max_in_flight: must be at least 1"),
            ("executor.lease_duration = \"1s\"", "executor.lease_duration: must be at least 2s"),
            ("database.retention = \"1h\"", "database.retention: must be at least 1day"),
            (
                "database.statement_timeout = \"9ms\"",
                "database.statement_timeout: must be at least 1s",
            ),
            ("database.max_connections = 0", "database.max_connections: must be at least 1"),
            ("limits.max_hosts = 0", "limits.max_hosts: must be at least 1"),
            ("http.public_url = \"metal\"", "http.public_url: write http:// or https://"),
            ("log.filter = \"metalbot=loud\"", "log.filter: "),
            (
                "[slack]\napp_token = \"a\"\nbot_token = \"b\"\napi_url = \"http://localhost.example/api\"",
                "slack.api_url: write https://",
            ),
            ("console.channels = []", "console.channels: name at least one"),
            ("console.channels = [{ name = \"#a\" }]", "console.channels: \"#a\""),
            (
                "[jira]\nurl = \"j\"\nproject = \"A\"\ntoken = \"x\"",
                "jira.url: must begin with http",
            ),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\ntoken = \"x\"\ndialect = \"cloud\"",
                "jira.user: missing; Cloud takes",
            ),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\ntoken = \"x\"\n\
                 [jira.site.default]\nurl = \"http://j\"\ntoken = \"x\"",
                "jira.site.default: this is the name of [jira] itself",
            ),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\ntoken = \"x\"\n\
                 [jira.site.b]\nurl = \"http://j\"\ntoken = \"x\"\ntimeout = \"1ms\"",
                "jira.site.b.timeout: must be at least 1s",
            ),
            (
                "[jira]\nurl = \"http://j\"\nproject = \"A\"\ntoken = \"x\"\n\
                 [jira.site.b]\nurl = \"http://j\"",
                "jira.site.b.token: missing; give",
            ),
            ("chat.reject_reactions = [\"+1\"]", "chat.reject_reactions: +1 also approves"),
        ] {
            let error = with(rest).expect_err(expected);
            assert!(
                error.starts_with(&format!("/etc/x/m.toml: {expected}")),
                "{error}\n{expected}"
            );
        }
    }

    #[test]
    fn the_environment_comes_on_top() {
        let config = with_env(
            "http.listen = \"127.0.0.1:1\"",
            &[
                ("METALBOT_HTTP__LISTEN", "127.0.0.1:2"),
                ("METALBOT_LIMITS__REASON_REQUIRED", "true"),
                ("METALBOT_STATE_DIR", "elsewhere"),
                ("METALBOT_TOKEN", "for the client, not configuration"),
                ("OTHER__KEY", "1"),
            ],
        )
        .unwrap();
        assert_eq!(config.http.listen.port(), 2);
        assert!(config.limits.reason_required);
        assert_eq!(config.state_dir, Path::new("/etc/x/elsewhere"));
        for (name, value, expected) in [
            ("METALBOT_HTTP__LISTEN", "x", "http.listen: write an address"),
            ("METALBOT_HTTP__PORT", "1", "http.port: unknown key"),
            ("METALBOT_LIMITS__MAX_HOSTS", "many", "limits.max_hosts: found text"),
        ] {
            let error = with_env("", &[(name, value)]).unwrap_err();
            let expected = format!("environment variable {name}: {expected}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn secrets_come_from_three_places() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "from file\n").unwrap();
        let lab = |rest: &str| {
            let text = format!("[credentials.lab]\nuser = \"a\"\n{rest}\n");
            with_env(&text, &[("BMC_PASSWORD", "from env"), ("EMPTY", "")])
                .map(|config| config.credentials["lab"].password().expose_secret().to_owned())
        };
        assert_eq!(lab("password = \"given\"").unwrap(), "given");
        assert_eq!(lab(&format!("password_file = {file:?}")).unwrap(), "from file");
        assert_eq!(lab("password_env = \"BMC_PASSWORD\"").unwrap(), "from env");
        for (rest, expected) in [
            ("password_env = \"NO_SUCH\"", "lab.password_env: the variable NO_SUCH is not set"),
            ("password_env = \"EMPTY\"", "lab.password: the secret is empty"),
            ("password_file = \"gone\"", "lab.password_file: cannot read /etc/x/gone: "),
            ("password = \"hunter2\"\npassword_env = \"BMC_PASSWORD\"", "give only one of"),
        ] {
            let error = lab(rest).expect_err(expected);
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        let config = with("[credentials.lab]\nuser = \"a\"\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn database_url_wins() {
        let url = |rest: &str, env: &[(&str, &str)]| {
            let config = with_env(rest, env).unwrap();
            let configured = config.database.configured();
            configured.map(|one| (one.setting, one.url.expose_secret().to_owned()))
        };
        let given = |setting, url: &str| Some((setting, url.to_owned()));
        let file = "database.url = \"postgres://file\"";
        assert_eq!(url(file, &[]), given("database.url", "postgres://file"));
        let env = [("DATABASE_URL", "postgres://env")];
        assert_eq!(url(file, &env), given("DATABASE_URL", "postgres://env"));
        assert_eq!(url("", &env), given("DATABASE_URL", "postgres://env"));
        assert_eq!(url("", &[("DATABASE_URL", "")]), None);
    }

    const EXAMPLE: &str = include_str!("../../packaging/metalbot.toml");

    fn example(text: &str) -> Result<Config, String> {
        let env = [
            "BMC_PASSWORD",
            "JIRA_TOKEN",
            "JIRA_CLOUD_TOKEN",
            "SLACK_APP_TOKEN",
            "SLACK_BOT_TOKEN",
            "SLACK_SIGNING_SECRET",
            "OUTGOING_PROXY",
            "METALBOT_AUDIT_KEY",
        ];
        let env = env.map(|name| (name.to_owned(), "x".repeat(32))).into();
        read(text, Path::new("metalbot.toml"), &env).map_err(|error| error.to_string())
    }

    /// The example with its commented keys, except the other two ways to give a secret.
    fn example_in_full() -> String {
        let other_ways = [
            "url = \"postgres",
            "url_",
            "password",
            "token = ",
            "token_file",
            "bot_token = ",
            "bot_token_file",
            "workspaces = ",
            "app_token = ",
            "app_token_file",
            "key = ",
            "key_file",
            "proxy = ",
            "proxy_file",
            "signing_secret = ",
            "signing_secret_file",
        ];
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if other_ways.iter().any(|way| key.starts_with(way)) => line,
            Some(key) if !key.is_empty() && !key.starts_with(' ') => key,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_loads_and_its_commented_keys_are_the_defaults() {
        let config = example(EXAMPLE).unwrap();
        assert_eq!((config.allow.len(), config.approval.len()), (2, 3));
        let full = example(&example_in_full()).unwrap();
        assert!(config.jira.is_none() && full.jira.is_some());
        assert!(config.slack.is_none() && full.slack.is_some_and(|slack| slack.enabled));
        for (full, default) in [
            (format!("{:?}", full.database), format!("{:?}", config.database)),
            (format!("{:?}", full.http.listen), format!("{:?}", config.http.listen)),
            (format!("{:?}", full.console.channels), format!("{:?}", config.console.channels)),
            (format!("{:?}", full.credentials), format!("{:?}", config.credentials)),
            (format!("{:?}", full.ipmi), format!("{:?}", config.ipmi)),
            (
                format!("{:?}", ExecutorConfig { datacenters: None, ..full.executor }),
                format!("{:?}", config.executor),
            ),
            (format!("{:?}", full.limits), format!("{:?}", config.limits)),
            (format!("{:?}", full.chat), format!("{:?}", config.chat)),
            (format!("{:?}", full.log), format!("{:?}", config.log)),
            (
                format!(
                    "{:?}",
                    TicketPolicy { operators: None, route: Vec::new(), ..full.tickets }
                ),
                format!("{:?}", config.tickets),
            ),
        ] {
            assert_eq!(full, default);
        }
    }

    #[test]
    fn the_example_has_every_key() {
        // The error about an unknown key lists the known ones, straight from the structs.
        let known = |section: &str| {
            let text = match section {
                "" => format!("zzz = 1\n{LEAST}"),
                "directory" | "inventory" => format!("[{section}]\nzzz = 1"),
                _ => format!("{LEAST}[{section}]\nzzz = 1"),
            };
            let error = Config::parse(&text, Path::new("m.toml")).unwrap_err().to_string();
            let list = error.split_once("known here: ").unwrap_or_else(|| panic!("{error}")).1;
            let list = list.lines().next().unwrap().split(", ");
            list.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut missing = Vec::new();
        for section in
            known("").into_iter().chain(["jira.site.hardware".into(), "tickets.route".into()])
        {
            if section == "state_dir" {
                continue;
            }
            let (header, heading) = match section.as_str() {
                "allow" | "approval" | "tickets.route" => {
                    (format!("[{section}]"), format!("[[{section}]]"))
                }
                "credentials" => ("credentials.default".into(), "[credentials.default]".into()),
                _ => (section.clone(), format!("[{section}]")),
            };
            let lines: Vec<&str> =
                EXAMPLE.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
            // All sections of that heading, each up to the next heading.
            let mut keys = Vec::new();
            let mut inside = false;
            for line in lines {
                if line.starts_with('[') {
                    inside = line == heading;
                } else if let Some((key, _)) = line.split_once(" = ").filter(|_| inside) {
                    keys.push(key);
                }
            }
            for key in known(&header) {
                let tables = EXAMPLE.contains(&format!("#[{section}.{key}."))
                    || EXAMPLE.contains(&format!("#[[{section}.{key}]]"));
                if !keys.contains(&key.as_str()) && !tables {
                    missing.push(format!("{heading} {key}"));
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
        assert!(EXAMPLE.contains("#state_dir = \"state\""));
    }
}

//! Slack's Web API: each call with a deadline, each failure in a class.
//!
//! Invariants: no error holds a body or an address of a request, since a token, a ticket or a
//! person's text may stand there; a token goes nowhere but to Slack, and encrypted, or to a stand-in
//! on this machine; only the fields that we need are read of an answer, so that a
//! message's `metadata` of any shape cannot make a call that succeeded look like a failure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper_rustls::HttpsConnectorBuilder;
use reqwest::Url;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde_json::Value;
use slack_morphism::errors::SlackClientError;
use slack_morphism::hyper_tokio::{SlackClientHyperHttpsConnector, SlackHyperClient};
use slack_morphism::prelude::*;

use secrecy::{ExposeSecret, SecretString};

/// Of a call without an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of a file: the form that it came with waits for an answer.
const FILE: Duration = Duration::from_secs(2);
/// Where Slack asks for patience and does not say how much.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token that is not valid may be replaced; until then it makes no sense to ask often.
const NO_TOKEN: Duration = Duration::from_secs(60);

/// Where Slack's addresses are; the second is its cloud for governments.
const DOMAINS: [&str; 2] = ["slack.com", "slack-gov.com"];

/// Why a call did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing was done; the same call may succeed after a while.
    #[error("{why}")]
    Later { wait: Option<Duration>, why: String },
    /// It may have been done.
    #[error("{0}")]
    Unknown(String),
    /// Slack's code of the refusal: `channel_not_found`.
    #[error("{0}")]
    Refused(String),
}

/// How to reach Slack.
#[derive(Clone, Debug)]
pub struct SlackSettings {
    /// `https://slack.com/api`, or a stand-in on this machine.
    pub api_url: String,
    /// By installation: a workspace or an organisation.
    pub bots: Bots,
    /// Opens Socket Mode connections.
    pub app_token: Option<SecretString>,
}

/// The bots' tokens.
#[derive(Clone, Debug)]
pub enum Bots {
    /// Of the only installation, whose id Slack tells.
    One(SecretString),
    /// By the installation's id: `T123`, or `E12` of an organisation.
    Each(BTreeMap<String, SecretString>),
}

enum Tokens {
    One { token: SlackApiToken, of: OnceLock<String> },
    Each(BTreeMap<String, SlackApiToken>),
}

/// The client.
pub struct WebApi {
    client: SlackHyperClient,
    other: OnceLock<reqwest::Client>,
    bots: Tokens,
    app: Option<SlackApiToken>,
    /// Whether addresses on this machine are fine, without encryption: Slack is a stand-in.
    plain: bool,
    /// Until when Slack wants to hear no more of a method, by method, installation and channel.
    quiet: Mutex<HashMap<(&'static str, String, String), Instant>>,
}

impl fmt::Debug for WebApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebApi")
    }
}

impl WebApi {
    /// Fails when the system's certificates cannot be read.
    pub fn new(settings: &SlackSettings) -> std::io::Result<WebApi> {
        let plain = settings.api_url.parse().is_ok_and(|url| is_plain_and_here(&url, "http"));
        let roots = HttpsConnectorBuilder::new().with_native_roots()?;
        let scheme = if plain { roots.https_or_http() } else { roots.https_only() };
        let connector = scheme.enable_http1().enable_http2().build();
        let connector = SlackClientHyperHttpsConnector::with_connector(connector)
            .with_slack_api_url(settings.api_url.trim_end_matches('/'));
        let token = |secret: &SecretString| {
            SlackApiToken::new(SlackApiTokenValue(secret.expose_secret().into()))
        };
        Ok(WebApi {
            client: SlackHyperClient::new(connector),
            other: OnceLock::new(),
            bots: match &settings.bots {
                Bots::One(secret) => Tokens::One { token: token(secret), of: OnceLock::new() },
                Bots::Each(all) => {
                    let tokens = all.iter().map(|(of, secret)| (of.clone(), token(secret)));
                    Tokens::Each(tokens.collect())
                }
            },
            app: settings.app_token.as_ref().map(token),
            plain,
            quiet: Mutex::default(),
        })
    }

    /// Whether an installation is one of ours. The id of the only one is not known at once; until
    /// then any may be it.
    pub fn knows(&self, scope: &str) -> bool {
        match &self.bots {
            Tokens::One { of, .. } => of.get().is_none_or(|own| own == scope),
            Tokens::Each(tokens) => tokens.contains_key(scope),
        }
    }

    /// Asks Slack whose the only token is; `false` when it does not say.
    pub async fn learn(&self) -> bool {
        let Tokens::One { of, .. } = &self.bots else { return true };
        let said = match self.get("auth.test", "", "", &[]).await {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(%error, "Slack does not say whose the bot's token is");
                return false;
            }
        };
        let org = said["is_enterprise_install"] == true;
        let id = said[if org { "enterprise_id" } else { "team_id" }].as_str();
        id.is_some_and(|id| of.set(id.to_owned()).is_ok())
    }

    fn bot(&self, scope: &str) -> Result<&SlackApiToken, ApiError> {
        match &self.bots {
            Tokens::One { token, .. } => Ok(token),
            // The next configuration may have it; what waits must not be lost until then.
            Tokens::Each(tokens) => tokens.get(scope).ok_or_else(|| ApiError::Later {
                wait: Some(NO_TOKEN),
                why: format!("there is no token for {scope}"),
            }),
        }
    }

    /// Calls a method that changes something, for an installation. `channel` is Slack's own id, for
    /// its limits.
    pub async fn post(
        &self,
        method: &'static str,
        scope: &str,
        channel: &str,
        request: &impl Serialize,
    ) -> Result<Value, ApiError> {
        self.may_call(method, scope, channel)?;
        let session = self.client.open_session(self.bot(scope)?);
        // Serialised here, since the crate borrows what it sends.
        let request =
            serde_json::to_value(request).map_err(|e| ApiError::Refused(e.to_string()))?;
        let call = session.http_session_api.http_post::<_, Value>(method, &request, None);
        self.finish(method, scope, channel, call).await
    }

    /// Calls a method that only reads.
    pub async fn get(
        &self,
        method: &'static str,
        scope: &str,
        channel: &str,
        params: &[(&str, String)],
    ) -> Result<Value, ApiError> {
        self.may_call(method, scope, channel)?;
        let session = self.client.open_session(self.bot(scope)?);
        let params: Vec<(&str, Option<&String>)> =
            params.iter().map(|(name, value)| (*name, Some(value))).collect();
        let call = session.http_session_api.http_get::<Value, _, _>(method, &params, None);
        self.finish(method, scope, channel, call).await
    }

    /// Asks for the address of a new Socket Mode connection. The address is a secret.
    pub async fn open_connection(&self) -> Result<SecretString, ApiError> {
        const METHOD: &str = "apps.connections.open";
        self.may_call(METHOD, "", "")?;
        let Some(token) = &self.app else {
            return Err(ApiError::Refused("there is no app token".into()));
        };
        let session = self.client.open_session(token);
        let nothing = serde_json::json!({});
        let call = session.http_session_api.http_post::<_, Value>(METHOD, &nothing, None);
        let answer = self.finish(METHOD, "", "", call).await?;
        let text = answer["url"].as_str().unwrap_or_default();
        let fine = text.parse().is_ok_and(|url: Url| {
            url.scheme() == "wss" || self.plain && is_plain_and_here(&url, "ws")
        });
        let none = || ApiError::Unknown("it gave no address of a connection".into());
        if fine { Ok(SecretString::from(text)) } else { Err(none()) }
    }

    /// Sends a file into a channel or a thread.
    pub async fn upload(
        &self,
        scope: &str,
        channel: &str,
        thread: Option<&str>,
        name: &str,
        content: &str,
    ) -> Result<(), ApiError> {
        let params = [("filename", name.to_owned()), ("length", content.len().to_string())];
        let location = self.get("files.getUploadURLExternal", scope, "", &params).await?;
        let (Some(url), Some(id)) = (location["upload_url"].as_str(), location["file_id"].as_str())
        else {
            return Err(ApiError::Unknown("it gave no location for a file".into()));
        };
        // The token goes along.
        let url = self.at_slack(url)?;
        let session = self.client.open_session(self.bot(scope)?);
        let sending = session.http_session_api.http_post_uri_binary::<Value>(
            url,
            "text/plain; charset=utf-8".into(),
            content.as_bytes(),
            None,
        );
        self.finish("files.upload", scope, "", sending).await?;
        let mut request = serde_json::json!({
            "files": [{ "id": id, "title": name }], "channel_id": channel,
        });
        if let Some(thread) = thread {
            request["thread_ts"] = thread.into();
        }
        self.post("files.completeUploadExternal", scope, channel, &request).await.map(drop)
    }

    /// Answers a slash command where it was typed, wherever that was, for the person alone. Good for
    /// half an hour and five answers.
    /// <https://docs.slack.dev/interactivity/handling-user-interaction#message_responses>
    pub async fn respond(&self, url: &str, answer: &Value) -> Result<(), ApiError> {
        let url = self.at_slack(url)?;
        let class = |error: reqwest::Error| {
            let (connected, why) = (!error.is_connect(), error.without_url().to_string());
            if connected { ApiError::Unknown(why) } else { ApiError::Later { wait: None, why } }
        };
        let request = self.other()?.post(url).timeout(DEADLINE).json(answer);
        let sent = request.send().await.map_err(class)?;
        match sent.status() {
            status if status.is_success() => Ok(()),
            status if status.is_server_error() => {
                Err(ApiError::Unknown(format!("status {}", status.as_u16())))
            }
            status => Err(ApiError::Refused(status.as_str().to_owned())),
        }
    }

    /// The client for addresses that Slack hands out. It reads the system's certificates once.
    fn other(&self) -> Result<&reqwest::Client, ApiError> {
        if let Some(client) = self.other.get() {
            return Ok(client);
        }
        let new = reqwest::Client::builder().use_rustls_tls().redirect(Policy::none()).build();
        let why = |error: reqwest::Error| error.without_url().to_string();
        let new = new.map_err(|error| ApiError::Later { wait: None, why: why(error) })?;
        Ok(self.other.get_or_init(|| new))
    }

    /// An address of Slack's own, whatever a delivery says.
    fn at_slack(&self, url: &str) -> Result<Url, ApiError> {
        let refused = |why: &str| ApiError::Refused(why.to_owned());
        let url: Url = url.parse().map_err(|_| refused("no address"))?;
        let host = url.host_str().unwrap_or_default();
        let theirs = DOMAINS.iter().any(|domain| {
            host.strip_suffix(domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
        });
        let here = self.plain && is_plain_and_here(&url, "http");
        if here || url.scheme() == "https" && theirs {
            Ok(url)
        } else {
            Err(refused("the address is not at Slack"))
        }
    }

    /// Fetches a file that a person shared with the app; at most so many bytes of it.
    pub async fn download(&self, scope: &str, url: &str, most: usize) -> Result<Vec<u8>, ApiError> {
        let refused = |why: &str| ApiError::Refused(why.to_owned());
        // The token goes nowhere else.
        let url = self.at_slack(url)?;
        let later = |error: reqwest::Error| ApiError::Later {
            wait: None,
            why: error.without_url().to_string(),
        };
        let request = self.other()?.get(url).timeout(FILE);
        let request = request.bearer_auth(&self.bot(scope)?.token_value.0);
        let mut answer = request.send().await.map_err(later)?;
        if !answer.status().is_success() {
            return Err(refused(answer.status().as_str()));
        }
        let mut content = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(later)? {
            if content.len() + chunk.len() > most {
                return Err(refused("the file is too large"));
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    /// Refuses a call while Slack wants to hear no more of its kind.
    fn may_call(&self, method: &'static str, scope: &str, channel: &str) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.retain(|_, until| *until > now);
        match quiet.get(&(method, scope.to_owned(), channel.to_owned())) {
            Some(until) => Err(ApiError::Later {
                wait: Some(*until - now),
                why: format!("{method}: Slack asked for patience"),
            }),
            None => Ok(()),
        }
    }

    async fn finish(
        &self,
        method: &'static str,
        scope: &str,
        channel: &str,
        call: impl Future<Output = Result<Value, SlackClientError>>,
    ) -> Result<Value, ApiError> {
        let error = match tokio::time::timeout(DEADLINE, call).await {
            // The crate takes a failure that names no error for a success.
            Ok(Ok(answer)) if answer["ok"] == false => {
                ApiError::Unknown(format!("{method}: it failed and does not say why"))
            }
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => class_of(method, &error),
            Err(_) => ApiError::Unknown(format!("{method}: no answer for {DEADLINE:?}")),
        };
        if let ApiError::Later { wait: Some(wait), .. } = &error {
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (method, scope.to_owned(), channel.to_owned());
            quiet.insert(key, Instant::now() + *wait);
        }
        Err(error)
    }
}

/// Whether an address of this scheme is on this machine.
fn is_plain_and_here(url: &Url, scheme: &str) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    url.scheme() == scheme
        && (host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// Codes: <https://docs.slack.dev/reference/methods/chat.postMessage#errors>.
fn class_of(method: &str, error: &SlackClientError) -> ApiError {
    let later = |wait, why: &str| ApiError::Later { wait, why: format!("{method}: {why}") };
    match error {
        SlackClientError::RateLimitError(limit) => {
            later(Some(limit.retry_after.unwrap_or(PATIENCE)), "Slack asked for patience")
        }
        SlackClientError::ApiError(refusal) => match refusal.code.as_str() {
            "ratelimited" | "rate_limited" => later(Some(PATIENCE), "Slack asked for patience"),
            "service_unavailable" | "team_added_to_org" => later(None, &refusal.code),
            // A person has to mend these; what waits must not be lost until then.
            "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked"
            | "token_expired" | "missing_scope" | "no_permission" | "ekm_access_denied"
            | "accesslimited" | "org_login_required" => {
                let code = refusal.code.as_str();
                tracing::warn!(
                    method,
                    code,
                    "see what `metalbot operator slack check` says of the token"
                );
                later(Some(NO_TOKEN), code)
            }
            // Documented as: something may have been done before it went wrong.
            "internal_error" | "fatal_error" | "request_timeout" => {
                ApiError::Unknown(format!("{method}: {}", refusal.code))
            }
            code => ApiError::Refused(code.to_owned()),
        },
        SlackClientError::HttpError(answer) if answer.status_code.is_server_error() => {
            ApiError::Unknown(format!("{method}: status {}", answer.status_code.as_u16()))
        }
        SlackClientError::HttpError(answer) => {
            later(None, &format!("status {}", answer.status_code.as_u16()))
        }
        SlackClientError::HttpProtocolError(broken) => {
            let cause = broken.cause.as_deref();
            let hyper = cause.and_then(|c| c.downcast_ref::<hyper_util::client::legacy::Error>());
            match hyper {
                Some(error) if error.is_connect() => later(None, "Slack cannot be reached"),
                _ => ApiError::Unknown(format!("{method}: the connection broke")),
            }
        }
        _ => ApiError::Unknown(format!("{method}: the answer cannot be read")),
    }
}

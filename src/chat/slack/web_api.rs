//! Client of Slack's Web API: each call has a deadline, each failure has a class.
//!
//! Invariants: no error holds a body or an address of a request, because these may hold a token, a
//! ticket or a person's text; a token is sent only to Slack, encrypted, or to a simulator on this
//! machine; only the fields that are needed are read of an answer, so that a message's `metadata`
//! of any shape cannot make a call that succeeded look like a failure.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde_json::Value;
use slack_morphism::errors::SlackClientError;
use slack_morphism::hyper_tokio::SlackClientHyperConnector;
use slack_morphism::prelude::*;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::outgoing::{Connector, NoConnection, Outgoing, WebSocket, causes, is_here};
use secrecy::{ExposeSecret, SecretString};

/// Longest wait for the answer to a call.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest time to fetch a file; short, because Slack waits for the answer to its form.
const FILE: Duration = Duration::from_secs(2);
/// Wait after a rate limit without a `Retry-After`.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait after a refused token: an operator may replace it, and frequent tries would not help.
const NO_TOKEN: Duration = Duration::from_secs(60);

/// Domains of Slack's addresses; the second is its cloud for governments.
const DOMAINS: [&str; 2] = ["slack.com", "slack-gov.com"];

/// Error of a call; the variant is its class.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing was done; the same call may succeed after a while.
    #[error("{why}")]
    Later { wait: Option<Duration>, why: String },
    /// The outcome is unknown: it may have been done.
    #[error("{0}")]
    Unknown(String),
    /// Slack refused it for good; the text is Slack's code, such as `channel_not_found`.
    #[error("{0}")]
    Refused(String),
}

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct SlackSettings {
    /// `https://slack.com/api`, or a simulator on this machine.
    pub api_url: String,
    /// Tokens by installation: a workspace or an organisation.
    pub bots: Bots,
    /// Token that opens Socket Mode connections.
    pub app_token: Option<SecretString>,
}

/// The bots' tokens.
#[derive(Clone, Debug)]
pub enum Bots {
    /// Token of the only installation, whose id is asked of Slack.
    One(SecretString),
    /// Tokens by the installation's id: `T123`, or `E12` of an organisation.
    Each(BTreeMap<String, SecretString>),
}

enum Tokens {
    One { token: SlackApiToken, of: OnceLock<String> },
    Each(BTreeMap<String, SlackApiToken>),
}

/// Whether there is a token for an installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Installation {
    Ours,
    Foreign,
    /// Slack has not said yet whose the only token is.
    NotKnownYet,
}

/// Client of Slack's Web API.
pub struct WebApi {
    client: SlackClient<SlackClientHyperConnector<Connector>>,
    /// For addresses that Slack names in deliveries.
    other: reqwest::Client,
    outgoing: Outgoing,
    bots: Tokens,
    app: Option<SlackApiToken>,
    /// True if unencrypted addresses on this machine are accepted, because Slack is simulated.
    plain: bool,
    /// End of the wait after a rate limit or a refused token, by method, installation and channel.
    quiet: Mutex<HashMap<(&'static str, String, String), Instant>>,
}

impl fmt::Debug for WebApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebApi")
    }
}

impl WebApi {
    /// Makes the client, whose calls leave by `outgoing`. Connects to nothing.
    pub fn new(settings: &SlackSettings, outgoing: Outgoing) -> Result<WebApi, reqwest::Error> {
        let plain = settings.api_url.parse().is_ok_and(|url| is_plain_and_here(&url, "http"));
        let connector = SlackClientHyperConnector::with_connector(outgoing.connector())
            .with_slack_api_url(settings.api_url.trim_end_matches('/'));
        let token = |secret: &SecretString| {
            SlackApiToken::new(SlackApiTokenValue(secret.expose_secret().into()))
        };
        Ok(WebApi {
            client: SlackClient::new(connector),
            other: outgoing.client().redirect(Policy::none()).build()?,
            outgoing,
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

    /// Returns whose a delivery is that names this installation.
    pub fn installation(&self, scope: &str) -> Installation {
        let ours = match &self.bots {
            Tokens::One { of, .. } => match of.get() {
                Some(own) => own == scope,
                None => return Installation::NotKnownYet,
            },
            Tokens::Each(tokens) => tokens.contains_key(scope),
        };
        if ours { Installation::Ours } else { Installation::Foreign }
    }

    /// Asks Slack for the installation of the only token; returns `false` if it does not answer.
    pub async fn learn(&self) -> bool {
        let Tokens::One { of, .. } = &self.bots else { return true };
        let said = match self.get("auth.test", "", "", &[]).await {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(%error, "Slack does not name the installation of the bot's token");
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
            // The next configuration may have the token; messages must not be lost until then.
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

    /// Opens a Socket Mode connection.
    pub async fn connect(&self, config: WebSocketConfig) -> Result<WebSocket, ApiError> {
        let address = self.open_connection().await?;
        let opened = self.outgoing.web_socket(&address, config).await;
        opened.map_err(|error| ApiError::Later {
            wait: None,
            why: format!("the web socket cannot be opened: {error}"),
        })
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
        // The token is sent with the file, so the address must be Slack's.
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

    /// Answers a slash command in the channel where it was typed, for the person alone. An address
    /// can be used for 30 minutes and five answers.
    /// <https://docs.slack.dev/interactivity/handling-user-interaction#message_responses>
    pub async fn respond(&self, url: &str, answer: &Value) -> Result<(), ApiError> {
        let url = self.at_slack(url)?;
        let class = |error: reqwest::Error| {
            let (connected, why) = (!error.is_connect(), causes(&error.without_url()));
            if connected { ApiError::Unknown(why) } else { ApiError::Later { wait: None, why } }
        };
        let request = self.other.post(url).timeout(DEADLINE).json(answer);
        let sent = request.send().await.map_err(class)?;
        match sent.status() {
            status if status.is_success() => Ok(()),
            status if status.is_server_error() => {
                Err(ApiError::Unknown(format!("status {}", status.as_u16())))
            }
            status => Err(ApiError::Refused(status.as_str().to_owned())),
        }
    }

    /// Checks that an address is Slack's own, whatever a delivery says.
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

    /// Fetches a file that a person shared with the app. Fails if it has more than `most` bytes.
    pub async fn download(&self, scope: &str, url: &str, most: usize) -> Result<Vec<u8>, ApiError> {
        let refused = |why: &str| ApiError::Refused(why.to_owned());
        // The token must not be sent anywhere else.
        let url = self.at_slack(url)?;
        let later = |error: reqwest::Error| ApiError::Later {
            wait: None,
            why: causes(&error.without_url()),
        };
        let request = self.other.get(url).timeout(FILE);
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

    /// Refuses a call while the wait after an earlier call of its kind lasts.
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
            // The crate takes a failure without an error code for a success.
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

/// Returns whether an address has this scheme and is on this machine.
fn is_plain_and_here(url: &Url, scheme: &str) -> bool {
    url.scheme() == scheme && is_here(url.host_str().unwrap_or_default())
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
            // An operator has to correct these; messages must not be lost until then.
            "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked"
            | "token_expired" | "missing_scope" | "no_permission" | "ekm_access_denied"
            | "accesslimited" | "org_login_required" => {
                let code = refusal.code.as_str();
                tracing::warn!(
                    method,
                    code,
                    "Slack refuses the token; run `metalbot operator slack check`"
                );
                later(Some(NO_TOKEN), code)
            }
            // Slack documents that something may have been done before these errors.
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
                Some(error) if error.is_connect() => {
                    let why = error.source().and_then(|why| why.downcast_ref::<NoConnection>());
                    let why = why.map(ToString::to_string).unwrap_or_default();
                    later(None, &format!("Slack cannot be reached: {why}"))
                }
                _ => ApiError::Unknown(format!("{method}: the connection broke")),
            }
        }
        _ => ApiError::Unknown(format!("{method}: the answer cannot be read")),
    }
}

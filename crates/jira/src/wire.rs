//! One HTTP call to a site: sent with the site's credentials, bounded in time and size, judged.
//!
//! Invariants: no call waits longer than its timeout or reads more than [`MAX_BODY`]; the token is
//! in no error, log line or URL; redirects are not followed, so it goes to one host only.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::check::base_url;
use super::error::{Answer, Effect, JiraError, judge, unsent};
use super::{Auth, SiteSettings};
use secrecy::{ExposeSecret, SecretString};

/// Most bytes read of one answer.
pub const MAX_BODY: usize = 1 << 20;
/// Longest wait that a `Retry-After` header can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// HTTP client of one site. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    http: Client,
    base: Url,
    /// Name of the proxy on the way.
    proxy: Option<String>,
    /// Secrets that no error may show: the token, and the form in which it is sent.
    hidden: Vec<SecretString>,
}

impl Wire {
    pub fn new(settings: &SiteSettings, client: ClientBuilder) -> Result<Wire, JiraError> {
        let base = base_url(&settings.url)?;
        if settings.timeout.is_zero() {
            return Err(JiraError::wrong("the timeout is zero"));
        }
        let (text, hidden) = match &settings.auth {
            Auth::Bearer(token) => {
                (format!("Bearer {}", token.expose_secret()), vec![token.clone()])
            }
            Auth::Basic { user, password } => {
                let pair = STANDARD.encode(format!("{user}:{}", password.expose_secret()));
                (format!("Basic {pair}"), vec![password.clone(), SecretString::from(pair)])
            }
        };
        let mut credentials = HeaderValue::try_from(text)
            .map_err(|_| JiraError::wrong("the token holds characters no header can carry"))?;
        credentials.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, credentials),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let client = client
            .default_headers(headers)
            .user_agent(concat!("metalbot/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(settings.timeout)
            // Shorter than the whole, so that a silent address is known as never reached.
            .connect_timeout(settings.timeout / 2);
        let http = client.build().map_err(|e| unsent(&e, None, Effect::Repeatable))?;
        Ok(Wire { http, base, proxy: settings.proxy.clone(), hidden })
    }

    /// The same client, for a library that reads by itself.
    pub fn client(&self) -> Client {
        self.http.clone()
    }

    pub fn url(&self, path: &str) -> Url {
        self.base.join(path).expect("a relative path of plain ASCII joins any base address")
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, JiraError> {
        let request = self.http.get(self.url(path)).query(query);
        read_json(&self.send(request, Effect::Repeatable).await?)
    }

    /// A read whose question is too long for an address.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &Value,
    ) -> Result<T, JiraError> {
        let request = self.http.post(self.url(path)).json(question);
        read_json(&self.send(request, Effect::Repeatable).await?)
    }

    /// A write; returns the body of the answer.
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        effect: Effect,
    ) -> Result<Vec<u8>, JiraError> {
        self.send(self.http.request(method, self.url(path)).json(body), effect).await
    }

    async fn send(&self, request: RequestBuilder, effect: Effect) -> Result<Vec<u8>, JiraError> {
        let result = match request.send().await {
            Ok(response) => judge(receive(response).await, effect),
            Err(error) => Err(unsent(&error, self.proxy.as_deref(), effect)),
        };
        result.map_err(|error| self.redact(error))
    }

    /// Removes our token from an error: foreign texts may repeat it.
    fn redact(&self, error: JiraError) -> JiraError {
        error.rewrite(|text| {
            let secrets =
                self.hidden.iter().map(ExposeSecret::expose_secret).filter(|one| !one.is_empty());
            secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(token)"))
        })
    }
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, JiraError> {
    serde_json::from_slice(body).map_err(|error| JiraError::Transient {
        retry_after: None,
        detail: format!("the answer is not what Jira would say: {error}"),
    })
}

#[expect(clippy::disallowed_methods, reason = "Retry-After may be a date of the wall clock")]
async fn receive(mut response: Response) -> Answer {
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let retry_after =
        text(RETRY_AFTER).and_then(|v| parse_retry_after(v, OffsetDateTime::now_utc()));
    // Jira's authentication (Seraph) says here what it does not say by the status.
    let anonymous = headers
        .get("x-seraph-loginreason")
        .and_then(|reason| reason.to_str().ok())
        .is_some_and(|reason| {
            reason.contains("AUTHENTICATED_FAILED") || reason.contains("AUTHENTICATION_DENIED")
        });
    let is_page = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
    let status = response.status();
    let mut body = Vec::new();
    let body = loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_BODY => {
                body.extend_from_slice(&chunk)
            }
            Ok(None) if is_page => {
                break Err(
                    "a web page came instead of an answer of Jira's: is the address right, \
                           and the token still good?",
                );
            }
            Ok(None) => break Ok(body),
            Ok(Some(_)) => break Err("the answer is too long"),
            Err(_) => break Err("the answer broke off"),
        }
    };
    Answer { status, retry_after, anonymous, body }
}

/// Seconds or an HTTP date, RFC 9110 section 10.2.3.
fn parse_retry_after(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
            Duration::try_from(until - now).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_as_seconds_or_dates() {
        let now = time::macros::datetime!(2015-10-21 07:27:00 UTC);
        let wait = |text| parse_retry_after(text, now);
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:26:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("soon"), None);
    }
}

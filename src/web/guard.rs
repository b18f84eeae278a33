//! Guards every call: the session cookie, protection against forged requests, and the rate of one person.
//!
//! Invariant: a handler that changes something takes [`SignedChange`], which cannot be had without a live
//! session, its CSRF token and a request that came from our own pages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::ConsoleState;
use super::problem::Problem;
use crate::app::sessions;
use metalbot_core::domain::principal::Principal;

const BURST: f64 = 20.0;
const PER_SECOND: f64 = 5.0;

/// A request with a live session of a person who is still in the directory.
#[derive(Clone, Debug)]
pub struct Signed {
    pub who: Principal,
    pub csrf: String,
    pub(super) token_hash: [u8; 32],
}

/// A [`Signed`] request that may change something.
#[derive(Clone, Debug)]
pub struct SignedChange(pub Signed);

impl FromRequestParts<ConsoleState> for Signed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ConsoleState) -> Result<Self, Problem> {
        signed(&parts.headers, state)
            .await?
            .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "Sign in first."))
    }
}

impl FromRequestParts<ConsoleState> for SignedChange {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ConsoleState) -> Result<Self, Problem> {
        if !is_from_our_pages(&parts.headers, state.options.public_url.as_deref()) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "The request came from another site."));
        }
        let signed = Signed::from_request_parts(parts, state).await?;
        let sent = parts.headers.get("x-csrf-token").map_or(&b""[..], |value| value.as_bytes());
        if !bool::from(sent.ct_eq(signed.csrf.as_bytes())) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "This page is out of date. Load it again.",
            ));
        }
        Ok(SignedChange(signed))
    }
}

/// The session of a request, if it has a live one. A person who left the directory is signed out, and
/// one whose password is another one now.
pub(super) async fn signed(
    headers: &HeaderMap,
    state: &ConsoleState,
) -> Result<Option<Signed>, Problem> {
    let jar = CookieJar::from_headers(headers);
    let Some(token) = jar.get(session_cookie_name(state.options.secure)).map(Cookie::value) else {
        return Ok(None);
    };
    let token_hash = hash(token);
    let Some(session) = sessions::get(&state.options.pool, &token_hash).await? else {
        return Ok(None);
    };
    let login = &session.login;
    let same = session.password_digest.is_none()
        || session.password_digest == state.session(login).password_digest;
    let Some(who) = state.principal(login).filter(|_| same) else {
        sessions::close(&state.options.pool, &token_hash).await?;
        return Ok(None);
    };
    // Derived from the token, so that a session needs no second secret in the database.
    let csrf = hex::encode(hash(&format!("csrf:{token}")));
    Ok(Some(Signed { who, csrf, token_hash }))
}

/// True when a browser says that one of our own pages made the request. Clients that are no browsers
/// say nothing and still need the CSRF token. `public_url` is where people get our pages; a proxy may
/// hand us on by another name.
pub(super) fn is_from_our_pages(headers: &HeaderMap, public_url: Option<&str>) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if headers.contains_key("sec-fetch-site") {
        return text("sec-fetch-site") == Some("same-origin");
    }
    match (text("origin"), text("host")) {
        (None, _) => !headers.contains_key(header::ORIGIN),
        (Some(origin), _) if public_url.is_some_and(|url| is_origin_of(url, origin)) => true,
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
    }
}

fn is_origin_of(url: &str, origin: &str) -> bool {
    let parse = |text: &str| text.parse::<axum::http::Uri>().ok();
    let (Some(url), Some(origin)) = (parse(url), parse(origin)) else { return false };
    let port = |uri: &axum::http::Uri| {
        uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
    };
    let host = |uri: &axum::http::Uri| uri.host().map(str::to_ascii_lowercase);
    url.scheme() == origin.scheme() && host(&url) == host(&origin) && port(&url) == port(&origin)
}

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

pub(super) fn new_token() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

pub(super) fn session_cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-metalbot" } else { "metalbot" }
}

/// A cookie that scripts cannot read and other sites cannot send along with a POST.
pub(super) fn cookie(name: &'static str, value: String, secure: bool) -> Cookie<'static> {
    Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(secure)
        .build()
}

/// Token buckets by person: a burst of 20, then 5 a second.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<HashMap<String, (f64, Instant)>>);

impl Rate {
    pub(super) fn check(&self, login: &str) -> Result<(), Problem> {
        if self.take(login, Instant::now()) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "That was fast. Wait a second, then go on.",
        ))
    }

    fn take(&self, login: &str, now: Instant) -> bool {
        // The map is whole after every statement, whatever panicked while holding it.
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > 10_000 {
            buckets.retain(|_, (_, at)| now.duration_since(*at) < Duration::from_secs(60));
        }
        let (left, at) = buckets.entry(login.to_owned()).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate_for_each_person() {
        let (rate, start) = (Rate::default(), Instant::now());
        assert_eq!((0..30).filter(|_| rate.take("alice", start)).count(), 20);
        assert!(rate.take("bob", start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..30).filter(|_| rate.take("alice", later)).count(), 5);
    }

    #[test]
    fn only_our_own_pages_may_post() {
        let check = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
            is_from_our_pages(&headers.collect(), Some("https://Metal.example.org"))
        };
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("host", "a")]));
        assert!(check(&[("origin", "http://a:8080"), ("host", "a:8080")]));
        assert!(!check(&[("origin", "http://evil"), ("host", "a:8080")]));
        assert!(!check(&[("origin", "null"), ("host", "a:8080")]));
        assert!(check(&[("host", "a")]));
        // A proxy hands it on by the name that it has inside.
        let inside = ("host", "10.0.0.7:8080");
        assert!(check(&[("origin", "https://metal.example.org"), inside]));
        assert!(check(&[("origin", "https://metal.example.org:443"), inside]));
        for wrong in ["http://metal.example.org", "https://metal.example.org:8443", "https://evil"]
        {
            assert!(!check(&[("origin", wrong), inside]), "{wrong}");
        }
    }
}

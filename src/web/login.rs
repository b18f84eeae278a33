//! Signing in and out.
//!
//! Invariant: a wrong password, an unknown login and a throttled attempt look the same from outside,
//! but for the throttle's own words.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Form, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, Html, IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use minijinja::{AutoEscape, Environment, context};
use secrecy::SecretString;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::guard::{self, Signed, SignedChange};
use super::problem::{self, Problem};
use super::{ConsoleState, assets};
use crate::app::sessions::{self, Throttled, Trying};
use crate::identity::password;

const WRONG: &str = "The login or the password is wrong.";
const STALE: &str = "This page was open for too long. Try again.";
const CROWDED: &str = "Too many people sign in at this moment. Try again in a few seconds.";
/// How long a browser remembers that somebody has signed in with it.
const KNOWN_FOR: time::Duration = time::Duration::days(400);

/// The address that the request came from, where the server was told to keep it.
pub(super) struct ClientAddress(Option<IpAddr>);

impl FromRequestParts<ConsoleState> for ClientAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ConsoleState,
    ) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let proxies = &state.options.trusted_proxies;
        Ok(ClientAddress(peer.map(|ConnectInfo(peer)| proxies.client(peer.ip(), &parts.headers))))
    }
}

#[derive(Deserialize)]
pub(super) struct LoginForm {
    csrf: String,
    login: String,
    password: String,
}

/// Where somebody wanted to go before they had to sign in.
#[derive(Default, Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    next: String,
}

impl Back {
    /// A page of ours; everything else is the first page: a link must not lead elsewhere from here.
    fn page(&self) -> &str {
        let batch = self.next.strip_prefix("/batches/").unwrap_or_default();
        let ours = !batch.is_empty() && batch.bytes().all(|b| b.is_ascii_digit());
        if ours { &self.next } else { "/" }
    }
}

pub(super) async fn page(
    State(state): State<ConsoleState>,
    Query(back): Query<Back>,
    headers: HeaderMap,
) -> Response {
    if matches!(guard::signed(&headers, &state).await, Ok(Some(_))) {
        return Redirect::to(back.page()).into_response();
    }
    login_page(&state, StatusCode::OK, "", "")
}

pub(super) async fn sign_in(
    State(state): State<ConsoleState>,
    ClientAddress(address): ClientAddress,
    Query(back): Query<Back>,
    headers: HeaderMap,
    Form(given): Form<LoginForm>,
) -> Result<Response, Problem> {
    let jar = CookieJar::from_headers(&headers);
    let secure = state.options.secure;
    let cookie = |name| jar.get(name).map(Cookie::value);
    let Some(expected) = cookie(form_cookie_name(secure)).filter(|value| !value.is_empty()) else {
        return Ok(login_page(&state, StatusCode::FORBIDDEN, &cookie_lost(&state), &given.login));
    };
    if !bool::from(expected.as_bytes().ct_eq(given.csrf.as_bytes())) {
        return Ok(login_page(&state, StatusCode::FORBIDDEN, STALE, &given.login));
    }
    if !guard::is_from_our_pages(&headers, state.options.public_url.as_deref()) {
        return Ok(login_page(&state, StatusCode::FORBIDDEN, &elsewhere(&state), &given.login));
    }
    let login = given.login.trim().to_owned();
    let pool = &state.options.pool;
    let browser = cookie(browser_cookie_name(secure)).map(guard::hash);
    let trying = Trying { login: &login, address, browser };
    let attempt = match sessions::begin_attempt(pool, trying).await? {
        Ok(attempt) => attempt,
        Err(Throttled(wait)) => {
            let seconds = wait.as_secs() + 1;
            let problem = format!("Too many attempts. Try again in {seconds} seconds.");
            let page = login_page(&state, StatusCode::TOO_MANY_REQUESTS, &problem, &login);
            return Ok(([(header::RETRY_AFTER, seconds.to_string())], page).into_response());
        }
    };
    let directory = state.options.app.directory.current();
    let (asked, password) = (login.clone(), SecretString::from(given.password));
    let hashing = state.hashing.run(move || password::login(&directory, &asked, &password));
    let Some(who) = hashing.await else {
        let page = login_page(&state, StatusCode::SERVICE_UNAVAILABLE, CROWDED, &login);
        return Ok(([(header::RETRY_AFTER, "3")], page).into_response());
    };
    let Some(who) = who.map_err(|error| problem::internal(&error))? else {
        tracing::info!(?address, "a sign-in failed");
        return Ok(login_page(&state, StatusCode::UNAUTHORIZED, WRONG, &login));
    };
    sessions::succeeded(pool, attempt).await?;
    let opened = open_session(&state, &who.login).await?;
    let known = remember_browser(&state, &who.login).await?;
    Ok((AppendHeaders(opened.into_iter().chain(known)), Redirect::to(back.page())).into_response())
}

/// The browser has not sent the cookie of the page back with its form.
fn cookie_lost(state: &ConsoleState) -> String {
    let public_url = state.options.public_url.as_deref();
    tracing::warn!(
        setting = "http.public_url",
        value = public_url,
        secure = state.options.secure,
        "a browser does not send the cookie of the sign-in page back: it came by another address \
         or without HTTPS"
    );
    let place = match public_url {
        Some(url) => format!("Open Metalbot at {url}. If you did"),
        None if state.options.secure => "Open Metalbot by HTTPS. If you did".to_owned(),
        None => "Allow cookies for this address. If you did".to_owned(),
    };
    format!(
        "Your browser did not send back the cookie that this page needs. {place}, whoever operates \
         Metalbot has to correct http.public_url, the address that people use."
    )
}

/// The page with the form was got under another address than the one that is configured.
fn elsewhere(state: &ConsoleState) -> String {
    let public_url = state.options.public_url.as_deref();
    tracing::warn!(
        setting = "http.public_url",
        value = public_url,
        "a sign-in came from a page of another address"
    );
    match public_url {
        Some(url) => format!(
            "This page was not opened at {url}. Open it there; if that is no address of yours, whoever \
             operates Metalbot has to correct http.public_url."
        ),
        None => "A proxy hides the address at which you opened this page. Whoever operates Metalbot has \
                 to write it as http.public_url."
            .to_owned(),
    }
}

/// Lets this browser pass beside what others try, from now on.
async fn remember_browser(
    state: &ConsoleState,
    login: &str,
) -> sqlx::Result<[(HeaderName, String); 1]> {
    let (token, secure) = (guard::new_token(), state.options.secure);
    sessions::remember_browser(&state.options.pool, &guard::hash(&token), &login.to_lowercase())
        .await?;
    let mut cookie = guard::cookie(browser_cookie_name(secure), token, secure);
    cookie.set_max_age(KNOWN_FOR);
    Ok([(header::SET_COOKIE, cookie.to_string())])
}

fn browser_cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-metalbot-browser" } else { "metalbot-browser" }
}

pub(super) async fn sign_out(
    State(state): State<ConsoleState>,
    SignedChange(signed): SignedChange,
) -> Result<Response, Problem> {
    close_session(&state, &signed).await?;
    let mut gone = guard::cookie(
        guard::session_cookie_name(state.options.secure),
        String::new(),
        state.options.secure,
    );
    gone.make_removal();
    Ok(([(header::SET_COOKIE, gone.to_string())], StatusCode::NO_CONTENT).into_response())
}

/// Opens a session for a login whose identity the caller has proven, and returns the header that
/// hands it to the browser.
pub async fn open_session(
    state: &ConsoleState,
    login: &str,
) -> sqlx::Result<[(HeaderName, String); 1]> {
    let token = guard::new_token();
    let options = &state.options;
    let session = state.session(login);
    sessions::open(&options.pool, &guard::hash(&token), &session, options.session_lifetime).await?;
    let name = guard::session_cookie_name(options.secure);
    Ok([(header::SET_COOKIE, guard::cookie(name, token, options.secure).to_string())])
}

/// Ends the session that a request came with.
pub async fn close_session(state: &ConsoleState, signed: &Signed) -> sqlx::Result<()> {
    sessions::close(&state.options.pool, &signed.token_hash).await
}

fn form_cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-metalbot-form" } else { "metalbot-form" }
}

fn login_page(state: &ConsoleState, status: StatusCode, problem: &str, login: &str) -> Response {
    let csrf = guard::new_token();
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = environment
        .render_str(&assets::text("login.html"), context! { csrf => &csrf, problem, login })
        .map_err(|error| problem::internal(&error));
    let secure = state.options.secure;
    let cookie = guard::cookie(form_cookie_name(secure), csrf, secure).to_string();
    match page {
        Ok(page) => (status, [(header::SET_COOKIE, cookie)], Html(page)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

//! Signing in and out.
//!
//! Invariant: a wrong password, an unknown login and a throttled attempt look the same from outside,
//! but for the throttle's own words.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Form, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use minijinja::{AutoEscape, Environment, context};
use secrecy::SecretString;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::guard::{self, Signed, SignedChange};
use super::problem::{self, Problem};
use super::{ConsoleState, assets};
use crate::app::sessions;
use crate::identity::password;

const WRONG: &str = "The login or the password is wrong.";
const THROTTLED: &str = "Too many attempts. Wait a few minutes, then try again.";
const STALE: &str = "This page was open for too long. Try again.";

/// The address that the connection came from, where the server was told to keep it.
pub(super) struct Peer(Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Peer(
            parts
                .extensions
                .get()
                .map(|ConnectInfo(address): &ConnectInfo<SocketAddr>| address.ip()),
        ))
    }
}

#[derive(Deserialize)]
pub(super) struct LoginForm {
    csrf: String,
    login: String,
    password: String,
}

pub(super) async fn page(State(state): State<ConsoleState>, headers: HeaderMap) -> Response {
    if matches!(guard::signed(&headers, &state).await, Ok(Some(_))) {
        return Redirect::to("/").into_response();
    }
    login_page(&state, StatusCode::OK, "", "")
}

pub(super) async fn sign_in(
    State(state): State<ConsoleState>,
    Peer(address): Peer,
    headers: HeaderMap,
    Form(given): Form<LoginForm>,
) -> Result<Response, Problem> {
    let jar = CookieJar::from_headers(&headers);
    let expected = jar.get(form_cookie_name(state.options.secure)).map_or("", Cookie::value);
    let same = bool::from(expected.as_bytes().ct_eq(given.csrf.as_bytes()));
    if expected.is_empty() || !same || !guard::is_from_our_pages(&headers) {
        return Ok(login_page(&state, StatusCode::FORBIDDEN, STALE, &given.login));
    }
    let login = given.login.trim().to_owned();
    let pool = &state.options.pool;
    let Some(attempt) = sessions::begin_attempt(pool, &login, address).await? else {
        return Ok(login_page(&state, StatusCode::TOO_MANY_REQUESTS, THROTTLED, &login));
    };
    let directory = state.options.app.directory.current();
    let (asked, password) = (login.clone(), SecretString::from(given.password));
    // Hashing blocks its thread for tens of milliseconds.
    let who = tokio::task::spawn_blocking(move || password::login(&directory, &asked, &password));
    let Some(who) = who.await.map_err(|error| problem::internal(&error))? else {
        tracing::info!(?address, "a sign-in failed");
        return Ok(login_page(&state, StatusCode::UNAUTHORIZED, WRONG, &login));
    };
    sessions::succeeded(pool, attempt).await?;
    Ok((open_session(&state, &who.login).await?, Redirect::to("/")).into_response())
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
    sessions::open(&options.pool, &guard::hash(&token), login, options.session_lifetime).await?;
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

//! Pages that show the tickets to people. They change nothing and need no script.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use time::macros::format_description;

use super::wiki::html;
use super::{Shared, SimDialect, Ticket, adf, lock, wiki};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #d8dce3; --soft: #f3f5f8; --dim: #5d6673; --link: #0b57c2;
  --who: #e3edfc; --back: #fff; --text: #1a1f27; }
@media (prefers-color-scheme: dark) { :root { --line: #363d48; --soft: #20252d; --dim: #9aa4b2;
  --link: #86b4ff; --who: #22385a; --back: #161a20; --text: #e4e8ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 0 1.25rem 3rem; background: var(--back);
  color: var(--text); font: 15px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
header { padding: 1rem 0; border-bottom: 1px solid var(--line); color: var(--dim); }
header a { font-weight: 600; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
h1 { font-size: 1.45rem; line-height: 1.3; margin: 1.2rem 0 .5rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
ul, ol { padding-left: 1.3rem; } p { margin: .5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; overflow-wrap: normal;
  border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; } th, td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 15rem; }
.list td { white-space: normal; min-width: 0; } .list td:not(:nth-child(2)) { white-space: nowrap; }
@media (max-width: 40rem) { .list :is(th, td):last-child { display: none; } }
.chip { display: inline-block; padding: 0 .5rem; margin: 0 .3rem .3rem 0; border-radius: 1rem;
  background: var(--soft); border: 1px solid var(--line); font-size: .85em; }
.who { background: var(--who); border-radius: .3rem; padding: 0 .25rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .3rem 1rem; margin: .6rem 0; }
.dim { color: var(--dim); } hr { border: 0; border-top: 1px solid var(--line); margin: 1.5rem 0 .8rem; }
code { background: var(--soft); border-radius: .25rem; padding: 0 .25rem; }
blockquote { margin: .5rem 0; padding-left: .8rem; border-left: 3px solid var(--line); }
";

pub(super) async fn list(State(shared): State<Shared>) -> Response {
    let world = lock(&shared);
    let mut body = String::from("<h1>Tickets</h1>\n");
    if world.tickets.is_empty() {
        body.push_str("<p class=\"dim\">No tickets yet. When hosts fail, they appear here.</p>");
    } else {
        body.push_str("<table class=\"list\"><tr><th>Key</th><th>Summary</th><th>Status</th>");
        body.push_str("<th>Filed (UTC)</th></tr>\n");
        for ticket in world.tickets.iter().rev() {
            let key = html(&ticket.key);
            body.push_str(&format!(
                "<tr><td><a href=\"/browse/{key}\">{key}</a></td><td>{}</td><td>{}</td>\
                 <td class=\"dim\">{}</td></tr>\n",
                html(&ticket.summary),
                html(&ticket.status),
                filed(ticket),
            ));
        }
        body.push_str("</table>");
    }
    page(StatusCode::OK, "Tickets", &body)
}

pub(super) async fn ticket(State(shared): State<Shared>, Path(key): Path<String>) -> Response {
    let world = lock(&shared);
    let Some(ticket) = world.tickets.iter().find(|t| t.key == key) else {
        let body = "<h1>No such ticket</h1><p><a href=\"/\">All tickets</a></p>";
        return page(StatusCode::NOT_FOUND, "No such ticket", body);
    };
    let to_html = match world.site.dialect {
        SimDialect::DataCenter => wiki::to_html,
        SimDialect::Cloud => adf::to_html,
    };
    let resolution = ticket.resolution.as_ref().map(|name| format!(" ({})", html(name)));
    let assignee = ticket.assignee.as_deref().unwrap_or("nobody");
    let mut body = format!(
        "<p class=\"dim\">{} · {} · {}{} · assigned to {} · filed {} UTC</p><h1>{}</h1>\n<div>",
        html(&ticket.key),
        html(&ticket.issue_type),
        html(&ticket.status),
        resolution.unwrap_or_default(),
        html(assignee),
        filed(ticket),
        html(&ticket.summary),
    );
    for label in &ticket.labels {
        body.push_str(&format!("<span class=\"chip\">{}</span>", html(label)));
    }
    body.push_str(&format!(
        "</div>\n<main>{}</main>\n<h2>Watchers</h2>",
        to_html(&ticket.description)
    ));
    if ticket.watchers.is_empty() {
        body.push_str("<p class=\"dim\">Nobody.</p>");
    }
    for name in &ticket.watchers {
        body.push_str(&format!("<span class=\"who\">@{}</span> ", html(name)));
    }
    if !ticket.comments.is_empty() {
        body.push_str("<h2>Comments</h2>");
    }
    for comment in &ticket.comments {
        body.push_str(&format!("<div class=\"card\">{}</div>", to_html(comment)));
    }
    page(StatusCode::OK, &format!("{} {}", ticket.key, ticket.summary), &body)
}

fn filed(ticket: &Ticket) -> String {
    let minute = format_description!("[year]-[month]-[day] [hour]:[minute]");
    ticket.created.format(&minute).unwrap_or_default()
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body>\
         <header><a href=\"/\">Tickets</a> · simulated Jira</header>\n{body}\n</body></html>",
        html(title)
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    (status, [(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

//! Checks of addresses, keys and labels before they are sent to Jira, and cuts of texts to its limits.

use reqwest::Url;

use super::error::JiraError;

/// Longest summary that Jira takes, in UTF-16 units as its Java counts them.
pub const MAX_SUMMARY: usize = 255;

/// The base address with a slash at its end.
pub(super) fn base_url(text: &str) -> Result<Url, JiraError> {
    let wrong = |why: &str| JiraError::wrong(format!("the address of Jira {why}"));
    let mut base = Url::parse(text).map_err(|e| wrong(&format!("is not a URL: {e}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(wrong("must begin with https:// or http://"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong("must not hold a user name or password"));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("must not hold ? or #"));
    }
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

/// A label of our own alphabet: it cannot leave a quoted JQL string, and Jira takes it as it is.
pub fn check_label(label: &str) -> Result<(), JiraError> {
    let ours = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !label.is_empty() && label.len() <= 255 && label.chars().all(ours) {
        Ok(())
    } else {
        Err(JiraError::wrong(format!(
            "label {:?} may hold only letters, digits and - _ . (at most 255)",
            cut(label, 60)
        )))
    }
}

/// A project key such as `OPS`.
pub fn check_project(key: &str) -> Result<(), JiraError> {
    match is_project(key) {
        true => Ok(()),
        false => {
            Err(JiraError::wrong(format!("{:?} is not a project key such as OPS", cut(key, 60))))
        }
    }
}

pub(super) fn check_key(key: &str) -> Result<(), JiraError> {
    match is_key(key) {
        true => Ok(()),
        false => {
            Err(JiraError::wrong(format!("{:?} is not an issue key such as OPS-1", cut(key, 60))))
        }
    }
}

pub(super) fn is_key(key: &str) -> bool {
    key.rsplit_once('-').is_some_and(|(project, number)| {
        is_project(project)
            && (1..=18).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_project(key: &str) -> bool {
    key.len() <= 255
        && key.starts_with(|c: char| c.is_ascii_uppercase())
        && key.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

pub(super) fn one_line(text: &str) -> String {
    let spaced = text.replace(|c: char| c.is_control(), " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `limit` UTF-16 units; the last one is an ellipsis when something was cut off.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.encode_utf16().count() <= limit {
        return text.into();
    }
    let mut units = 1;
    let fits = |c: &char| {
        units += c.len_utf16();
        units <= limit
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// A summary is one line that is never empty: Jira refuses both others.
pub(super) fn cut_summary(text: &str) -> String {
    let line = cut(&one_line(text), MAX_SUMMARY);
    if line.is_empty() { "(no summary)".into() } else { line }
}

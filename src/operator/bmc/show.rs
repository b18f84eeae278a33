//! Shows the answers of many hosts: hosts that say the same stand together, folded.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use metalbot_core::domain::host::{HostName, fold};

/// Answer of one host's BMC, or the reason why there is none.
#[derive(Clone, Debug)]
pub struct HostAnswer {
    pub host: HostName,
    pub result: Result<Said, HostProblem>,
}

/// For people, one or more lines or cells with tabs between them, and as fields of a JSON object.
#[derive(Clone, Debug)]
pub struct Said {
    pub text: String,
    pub json: Value,
}

#[derive(Clone, Debug)]
pub struct HostProblem {
    /// Without the host's own address, so that hosts fold.
    pub text: String,
    pub kind: String,
}

impl HostAnswer {
    fn text(&self) -> &str {
        match &self.result {
            Ok(said) => &said.text,
            Err(failed) => &failed.text,
        }
    }
}

/// True when a host failed.
pub fn any_failed(answers: &[HostAnswer]) -> bool {
    answers.iter().any(|answer| answer.result.is_err())
}

/// Lines like `web[01-38]: on`, in the order of their first host.
pub fn grouped(answers: &[HostAnswer]) -> String {
    let mut out = String::new();
    for (hosts, text) in groups(answers) {
        match text.contains('\n') {
            false => out += &format!("{hosts}: {text}\n"),
            true => out += &format!("{hosts}:\n  {}\n", text.replace('\n', "\n  ")),
        }
    }
    out
}

/// The same in columns below a header. What is said in one cell, as an error is, stands in no column.
pub fn table(header: &[&str], answers: &[HostAnswer]) -> String {
    let mut rows = vec![header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    rows.extend(groups(answers).into_iter().map(|(hosts, text)| {
        std::iter::once(hosts).chain(text.split('\t').map(str::to_owned)).collect()
    }));
    let mut widths = vec![0; header.len()];
    for row in &rows {
        let columns = if row.len() == header.len() { row.len() } else { 1 };
        for (width, cell) in widths.iter_mut().zip(&row[..columns]) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line += &format!("{cell:width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Hosts that say the same, and what, in the order of their first host.
fn groups(answers: &[HostAnswer]) -> Vec<(String, &str)> {
    let mut groups: BTreeMap<&str, Vec<&HostName>> = BTreeMap::new();
    for answer in answers {
        groups.entry(answer.text()).or_default().push(&answer.host);
    }
    let mut groups: Vec<(&str, Vec<&HostName>)> = groups.into_iter().collect();
    groups.sort_by_key(|(_, hosts)| hosts.iter().min().copied());
    groups.into_iter().map(|(text, hosts)| (fold(hosts), text)).collect()
}

/// `{"hosts": [{"host": "web01", "power": "on"}, {"host": "web02", "error": ..., "kind": ...}]}`.
pub fn as_json(answers: &[HostAnswer]) -> Value {
    let hosts = answers.iter().map(|answer| {
        let mut fields = Map::from_iter([("host".to_owned(), json!(answer.host))]);
        match &answer.result {
            Ok(Said { json: Value::Object(said), .. }) => fields.extend(said.clone()),
            Ok(Said { json, .. }) => fields.extend([("said".to_owned(), json.clone())]),
            Err(HostProblem { text, kind }) => {
                fields
                    .extend([("error".to_owned(), json!(text)), ("kind".to_owned(), json!(kind))]);
            }
        }
        Value::Object(fields)
    });
    json!({ "hosts": hosts.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(host: &str, result: Result<&str, &str>) -> HostAnswer {
        let result = match result {
            Ok(text) => Ok(Said { text: text.into(), json: json!({ "power": text }) }),
            Err(text) => Err(HostProblem { text: text.into(), kind: "bmc_unreachable".into() }),
        };
        HostAnswer { host: host.parse().unwrap(), result }
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let answers = [
            answer("web01", Ok("on\tSupermicro\t1.74")),
            answer("web02", Ok("off\tHP\t2.8")),
            answer("web03", Err("the BMC does not answer")),
            answer("web04", Ok("on\tSupermicro\t1.74")),
        ];
        insta::assert_snapshot!(table(&["HOSTS", "POWER", "VENDOR", "FIRMWARE"], &answers), @r"
        HOSTS       POWER  VENDOR      FIRMWARE
        web[01,04]  on     Supermicro  1.74
        web02       off    HP          2.8
        web03       the BMC does not answer
        ");
    }

    #[test]
    fn hosts_that_say_the_same_stand_together() {
        let silent = Err("the BMC does not answer");
        let answers = [
            answer("web03", silent),
            answer("web01", Ok("on")),
            answer("web04", Ok("off")),
            answer("web02", Ok("on")),
            answer("web05", Ok("one\ntwo")),
        ];
        insta::assert_snapshot!(grouped(&answers), @r"
        web[01-02]: on
        web03: the BMC does not answer
        web04: off
        web05:
          one
          two
        ");
        assert!(any_failed(&answers) && !any_failed(&answers[1..]));
        insta::assert_snapshot!(
            as_json(&answers[..2]),
            @r#"{"hosts":[{"error":"the BMC does not answer","host":"web03","kind":"bmc_unreachable"},{"host":"web01","power":"on"}]}"#
        );
    }
}

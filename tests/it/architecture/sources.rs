//! The workspace's own source files, as the checks read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Below the workspace: `src/app/submit.rs`, `crates/store/src/job.rs`.
    pub path: String,
    pub text: String,
    /// Whether its module stands under `#[cfg(test)]`.
    pub is_test: bool,
}

impl Source {
    /// The package: `core` of `crates/core`, and nothing of the root package.
    pub fn package(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// The module of the root package: `app` of `src/app/submit.rs`.
    pub fn module(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// The lines before the tests, with their numbers; none of a file that is a test.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        let end = if self.is_test { 0 } else { tests.unwrap_or(lines.len()) };
        (1..).zip(lines).take(end)
    }

    /// The same without comments.
    pub fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Files of modules that this one declares under `#[cfg(test)]`.
    fn test_modules(&self) -> Vec<String> {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or_default();
        let folder = match name {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            name => format!("{folder}/{}", name.trim_end_matches(".rs")),
        };
        let lines: Vec<&str> = self.text.lines().collect();
        let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
        pairs
            .filter_map(|pair| pair[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
            .map(|name| format!("{folder}/{name}.rs"))
            .collect()
    }
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of `src` and of `crates/*/src`.
pub fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    read(&root().join("src"), &mut files);
    for package in fs::read_dir(root().join("crates")).unwrap() {
        read(&package.unwrap().path().join("src"), &mut files);
    }
    let tests: BTreeSet<String> = files.iter().flat_map(Source::test_modules).collect();
    for file in &mut files {
        file.is_test = tests.contains(&file.path);
    }
    assert!(files.len() > 200, "the workspace has more files than {}", files.len());
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn read(folder: &Path, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            files.push(Source { path, text, is_test: false });
        }
    }
}

/// Names of the files of a folder below the workspace, in order.
pub fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file below a folder, as `(path, text)`.
pub fn texts(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(texts(&path)),
            false => found.push((path, fs::read_to_string(entry.path()).unwrap())),
        }
    }
    found
}

/// What of ours a line imports: `app` of `crate::app`, and `@store` of `metalbot_store`.
pub fn imports(line: &str) -> Vec<String> {
    let ours = words_after(line, "crate::");
    let crates = words_after(line, "metalbot_").into_iter().map(|name| format!("@{name}"));
    ours.into_iter().chain(crates).collect()
}

/// The words that directly follow this text.
fn words_after(line: &str, text: &str) -> Vec<String> {
    let rest = line.match_indices(text).filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_\"".contains(c))
    });
    rest.map(|(at, _)| word(&line[at + text.len()..])).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The name of the type that a line defines for others: `Hold` of `pub(crate) struct Hold {`.
pub fn public_type(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')')?.1,
        None => rest,
    };
    let (kind, rest) = rest.strip_prefix(' ')?.split_once(' ')?;
    ["struct", "enum", "trait", "type"].contains(&kind).then(|| word(rest))
}

/// The variants of an enum, by its source, in snake case: the kinds of what it tells.
pub fn variants(source: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(source)).unwrap();
    let head = format!("pub enum {name} {{\n");
    let (_, body) = text.split_once(&head).unwrap_or_else(|| panic!("{source} has no {head}"));
    let body = body.split_once("\n}").unwrap().0;
    body.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| snake_case(&word(line)))
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// The messages of the log lines in a text: of each `tracing::info!(...)` its first text that stands
/// as an argument of its own.
pub fn log_messages(code: &str) -> Vec<String> {
    let mut messages = Vec::new();
    for level in ["error", "warn", "info"] {
        for part in code.split(&format!("tracing::{level}!(")).skip(1) {
            messages.extend(first_text(part));
        }
    }
    messages
}

/// The first text in quotes before which stands a comma or nothing.
fn first_text(code: &str) -> Option<String> {
    let (mut before, mut rest) = (',', code);
    loop {
        let at = rest.find('"')?;
        before = rest[..at].chars().rev().find(|c| !c.is_whitespace()).unwrap_or(before);
        let text: String = end_of_text(&rest[at + 1..])?.to_owned();
        if before == ',' {
            return Some(text);
        }
        rest = &rest[at + 1 + text.len() + 1..];
        before = '"';
    }
}

fn end_of_text(text: &str) -> Option<&str> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some(&text[..end])
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(imports("use metalbot_store::{self as store, job};"), ["@store"]);
    assert_eq!(imports("let x = crate::app::f(metalbot_core::y);"), ["app", "@core"]);
    assert_eq!(imports("const NAME: &str = \"metalbot_jobs\";"), [""; 0]);
    assert_eq!(public_type("pub(crate) struct Hold {").as_deref(), Some("Hold"));
    assert_eq!(public_type("    pub type Load<T> = X;").as_deref(), Some("Load"));
    assert_eq!(public_type("pub fn hold() {"), None);
    let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod tests {\n";
    let file = Source { path: "src/x/mod.rs".into(), text: text.into(), is_test: false };
    assert_eq!(file.test_modules(), ["src/x/b.rs"]);
    assert_eq!(file.code().count(), 3);
    assert_eq!((file.module(), file.package()), (Some("x"), None));
    let code = "tracing::info!(file = %x, what = \"y\", \"read \\\"again\\\"\");";
    assert_eq!(log_messages(code), ["read \\\"again\\\""]);
}

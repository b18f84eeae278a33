//! The rules of the house that a compiler does not know: who may import whom, what every file has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use metalbot::notify::render::ChatTemplates;
use metalbot_core::command::Catalog;
use metalbot_core::domain::time_zone::Zone;

/// Each module and what of ours it may import beside itself. `cli` may import everything.
const MAY_IMPORT: [(&str, &[&str]); 21] = [
    ("domain", &[]),
    ("cluster", &[]),
    ("telemetry", &[]),
    ("watched", &["telemetry"]),
    ("failpoint", &[]),
    ("command", &["domain"]),
    ("store", &["domain"]),
    ("bmc", &["domain", "telemetry"]),
    ("inventory", &["domain"]),
    ("identity", &["domain", "store", "watched"]),
    ("preflight", &["domain", "bmc"]),
    ("step", &["domain", "bmc", "inventory"]),
    (
        "app",
        &[
            "domain",
            "command",
            "store",
            "identity",
            "inventory",
            "telemetry",
            "failpoint",
            "watched",
        ],
    ),
    ("executor", &["domain", "store", "preflight", "step", "bmc", "telemetry", "failpoint"]),
    ("chat", &["domain", "command", "app", "identity"]),
    ("console", &["domain", "command", "app", "identity", "chat"]),
    ("notice", &["domain", "store", "chat", "failpoint"]),
    ("ticket", &["domain", "store", "failpoint"]),
    ("config", &["domain", "identity", "bmc", "ticket", "telemetry"]),
    // The adapters' wire types.
    ("sim", &["domain", "bmc"]),
    ("lib", &[]),
];

/// Of `cli`, what serves real machines.
const NEVER_SIM: [&str; 3] = ["cli/serve.rs", "cli/service.rs", "cli/slack_door.rs"];
const MOST_LINES: usize = 500;

struct File {
    /// Below `src`, such as `store/job.rs`.
    path: String,
    text: String,
    is_test: bool,
}

impl File {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines before the tests.
    fn code(&self) -> Vec<&str> {
        if self.is_test {
            return Vec::new();
        }
        let mut lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        lines.truncate(tests.unwrap_or(lines.len()));
        lines
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<File> {
    let mut files = Vec::new();
    read(&root().join("src"), &mut files);
    // A file that its module declares under `#[cfg(test)]` is a test as a whole.
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        file.is_test = tests.contains(&file.path);
    }
    assert!(files.len() > 100, "src has more files than {}", files.len());
    files
}

fn read(folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root().join("src")).unwrap();
            let path = path.to_str().unwrap().to_owned();
            files.push(File { path, text, is_test: false });
        }
    }
}

fn test_modules(file: &File) -> Vec<String> {
    let folder = match file.path.rsplit_once('/') {
        Some((folder, "mod.rs")) => format!("{folder}/"),
        Some((folder, name)) => format!("{folder}/{}/", name.trim_end_matches(".rs")),
        None => String::new(),
    };
    let lines: Vec<&str> = file.text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
        .map(|name| format!("{folder}{name}.rs"))
        .collect()
}

/// The modules of ours that a line names.
fn imports(line: &str) -> Vec<&str> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return Vec::new();
    }
    code.split("crate::")
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for file in files() {
        let module = file.module();
        let may = MAY_IMPORT.iter().find(|(name, _)| *name == module).map(|(_, may)| *may);
        if may.is_none() && !["cli", "main"].contains(&module) {
            wrong.push(format!("{}: {module} is not in the table", file.path));
        }
        for (number, line) in file.code().iter().enumerate() {
            for import in imports(line) {
                let fits = match may {
                    _ if import == module => true,
                    Some(may) => may.contains(&import),
                    None => import != "sim" || !NEVER_SIM.contains(&&file.path[..]),
                };
                if !fits {
                    wrong.push(format!("src/{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that are not allowed:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    let mut wrong = Vec::new();
    for file in files() {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("src/{}: does not begin with //!", file.path));
        }
        let lines = file.code().len();
        if lines > MOST_LINES {
            wrong.push(format!("src/{}: {lines} lines before its tests", file.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every file below a folder, as `(path, text)`.
fn texts(folder: &str) -> Vec<(String, String)> {
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

/// Whether a line of code names what only the demo has: the demo itself, or making somebody another
/// person. Prose may.
fn names_the_switch(line: &str) -> bool {
    let line = line.trim_start().to_lowercase();
    let is_prose = ["//", "--", "*", "<!--", "- "].iter().any(|start| line.starts_with(start));
    let mut words = line.split(|c: char| !c.is_alphanumeric());
    let mut names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    let demo = words.any(|word| word == "demo");
    !is_prose && (demo || names.any(|name| name == "become" || name.starts_with("become_")))
}

#[test]
fn what_serves_contains_no_switch_between_people() {
    let mut wrong = Vec::new();
    for (path, text) in [texts("src"), texts("templates")].concat() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| names_the_switch(line)) {
            wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
        }
    }
    assert!(wrong.is_empty(), "the demo's own crate has these:\n{}", wrong.join("\n"));
    assert!(names_the_switch("post('/demo/become')") && names_the_switch("fn become_one()"));
    assert!(!names_the_switch("// rows become events") && !names_the_switch("democracy()"));
    assert!(!names_the_switch("fn text_cannot_become_markup()"));
}

/// The kinds of notices as the source lists them, in snake case.
fn kinds() -> Vec<String> {
    let source = fs::read_to_string(root().join("src/domain/notice.rs")).unwrap();
    let body = source.split_once("pub enum Notice {").unwrap().1;
    let body = body.split_once("\n}").unwrap().0;
    body.lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"))
        .filter(|name| name.starts_with(char::is_uppercase))
        .map(|name| {
            let mut kind = String::new();
            for c in name.chars() {
                if c.is_uppercase() && !kind.is_empty() {
                    kind.push('_');
                }
                kind.extend(c.to_lowercase());
            }
            kind
        })
        .collect()
}

#[test]
fn every_notice_has_its_template_and_every_template_its_notice() {
    let kinds = kinds();
    assert!(kinds.len() > 15, "{kinds:?}");
    let templates = ChatTemplates::load(None, &Zone::default()).unwrap();
    for kind in &kinds {
        assert!(templates.has(&format!("{kind}.md")), "templates/chat/{kind}.md is missing");
    }
    for entry in fs::read_dir(root().join("templates/chat")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let kind = file.strip_suffix(".md").expect(&file);
        assert!(kind == "card" || kinds.iter().any(|one| one == kind), "no notice for {file}");
    }
}

#[test]
fn every_command_file_is_an_action() {
    let catalog = Catalog::load(None).unwrap();
    let mut files: Vec<String> = fs::read_dir(root().join("commands"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut actions: Vec<String> =
        catalog.actions().map(|spec| format!("{}.toml", spec.name)).collect();
    actions.sort();
    assert_eq!(actions, files);
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(imports("use metalbot_store::{self as store, job};"), ["store"]);
    assert_eq!(imports("    let x = crate::app::f(metalbot_core::domain::y);"), ["app", "domain"]);
    assert_eq!(imports("//! [`metalbot_store`]"), [""; 0]);
    let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod tests {\n";
    let file = File { path: "x/mod.rs".into(), text: text.into(), is_test: false };
    assert_eq!(test_modules(&file), ["x/b.rs"]);
    assert_eq!(file.code(), ["mod a;", "#[cfg(test)]", "mod b;"]);
    assert_eq!(file.module(), "x");
}

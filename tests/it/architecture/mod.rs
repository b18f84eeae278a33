//! The rules of the house that a compiler does not know: who may import whom, what every file has,
//! how things are named. What today's code breaks is listed, with a reason, and may only become less.

mod sources;

use std::collections::BTreeMap;

use metalbot_core::command::Catalog;

use self::sources::{Source, imports, log_messages, names, public_type, sources, texts, variants};

/// Modules of the root package and what of ours each may import; `@store` is the crate. What the
/// crates themselves may import, Cargo knows.
const MAY_IMPORT: [(&str, &[&str]); 20] = [
    ("telemetry", &[]),
    ("failpoint", &[]),
    ("problem", &[]),
    ("outgoing", &[]),
    ("config", &["@core", "outgoing"]),
    ("runtime", &["@core", "@store"]),
    ("identity", &["@core", "@store"]),
    ("inventory", &["@core", "@store", "@ipmi"]),
    ("bmc", &["@core", "@store", "@ipmi"]),
    ("preflight", &["@core", "bmc", "inventory"]),
    ("step", &["@core", "bmc", "inventory"]),
    ("app", &["@core", "@store", "inventory", "preflight", "identity"]),
    ("executor", &["@core", "@store", "preflight", "step", "bmc", "app"]),
    ("chat", &["@core", "app", "identity", "outgoing"]),
    ("api", &["@core", "app", "identity"]),
    ("web", &["@core", "app", "identity"]),
    ("notify", &["@core", "@store", "chat"]),
    ("ticket", &["@core", "@store", "@jira"]),
    // Client verbs are the API's clients; until there is one, the shell only dispatches.
    ("cli", &["@core", "operator", "serve"]),
    (
        "operator",
        &[
            "@core",
            "@store",
            "@ipmi",
            "@jira",
            "config",
            "outgoing",
            "app",
            "identity",
            "inventory",
            "bmc",
            "preflight",
            "chat",
            "ticket",
        ],
    ),
];

/// What everything may import: it knows no module of ours.
const FOR_ALL: [&str; 4] = ["telemetry", "failpoint", "problem", "runtime"];

/// The only place that constructs imports everything, but never a simulation.
const CONSTRUCTS: &str = "serve";
const NEVER: [&str; 2] = ["@sim", "@demo"];

/// Imports against the table: file, import, why it is still there.
const IMPORTS_TO_MEND: &[(&str, &str, &str)] = &[
    ("src/config/", "identity", "the sections hold rules that identity defines"),
    ("src/config/", "@ipmi", "the section of credentials is the client's own type"),
    ("src/config/", "@jira", "the section of sites is the client's own type"),
    ("src/operator/", "serve", "loads a site with what serve has for it"),
];

/// Names that several crates may each have: one always sees them with their crate's name.
const SHARED_NAMES: [&str; 3] = ["Error", "Config", "Options"];

/// Names of files that an operator could not guess.
const RIDDLES: [&str; 18] = [
    "who", "what", "this", "that", "it", "by_hand", "door", "desk", "rooms", "places", "homes",
    "mending", "telling", "seen", "share", "lane", "wake", "misc",
];

/// Most lines of a file before its tests.
const MOST_LINES: usize = 500;

/// Files that are longer, and how long they may be. They are to be split by meaning.
const FILES_TO_SPLIT: &[(&str, usize)] = &[];

/// Files that ask a database something before there is a schema for the store.
const SQL_BEFORE_THE_STORE: [&str; 1] = ["src/runtime/private_postgres/server.rs"];

/// The enums of what people are told, each kind of which has a template of the same name.
const TOLD: &[(&str, &str)] = &[
    ("crates/core/src/domain/event.rs", "EventBody"),
    ("crates/core/src/domain/reply.rs", "Reply"),
];

/// Kinds that are never worded in chat: a card or an event says them to everybody.
const NOT_WORDED: [&str; 2] = ["admitted", "done"];

/// Templates of what is neither an event nor a reply.
const OTHER_TEMPLATES: [&str; 3] = ["card", "card_delayed", "digest"];

fn assert_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

fn may_import(module: &str, import: &str) -> bool {
    let table = MAY_IMPORT.iter().find(|(name, _)| *name == module);
    let in_table = table.is_some_and(|(_, may)| may.contains(&import));
    !NEVER.contains(&import)
        && (in_table || import == module || module == CONSTRUCTS || FOR_ALL.contains(&import))
}

fn is_to_be_mended(path: &str, import: &str) -> bool {
    IMPORTS_TO_MEND.iter().any(|(file, one, _)| path.starts_with(file) && *one == import)
}

#[test]
fn modules_import_only_what_they_may() {
    let files = sources();
    let modules: Vec<&str> = files.iter().filter_map(|file| file.module()).collect();
    let is_ours = |import: &str| import.starts_with('@') || modules.contains(&import);
    let mut wrong = Vec::new();
    for file in &files {
        let Some(module) = file.module().filter(|module| !["lib", "main"].contains(module)) else {
            continue;
        };
        if module != CONSTRUCTS && !MAY_IMPORT.iter().any(|(name, _)| *name == module) {
            wrong.push(format!("{}: {module} is not in the table", file.path));
        }
        for (number, line) in file.statements() {
            let imports = imports(line).into_iter().filter(|import| is_ours(import));
            wrong.extend(
                imports
                    .filter(|import| !may_import(module, import))
                    .filter(|import| !is_to_be_mended(&file.path, import))
                    .map(|import| format!("{}:{number}: {module} imports {import}", file.path)),
            );
        }
    }
    assert_none("imports that are not allowed", &wrong);
}

#[test]
fn what_is_listed_as_an_exception_is_still_one() {
    let files = sources();
    let stale = IMPORTS_TO_MEND.iter().filter(|(path, import, _)| {
        let mut lines = files
            .iter()
            .filter(|file| file.path.starts_with(path))
            .flat_map(|file| file.statements());
        !lines.any(|(_, line)| imports(line).iter().any(|one| one == import))
    });
    let stale: Vec<String> = stale.map(|(path, import, _)| format!("{path}: {import}")).collect();
    assert_none("exceptions that nobody needs any more", &stale);
}

#[test]
fn sql_is_only_in_the_store() {
    let mut wrong = Vec::new();
    let is_store = |file: &Source| {
        file.package() == Some("store") || SQL_BEFORE_THE_STORE.contains(&&file.path[..])
    };
    for file in sources().iter().filter(|file| !is_store(file)) {
        let queries = file.statements().filter(|(_, line)| {
            ["sqlx::query", "sqlx::raw_sql"].iter().any(|query| line.contains(query))
        });
        wrong.extend(queries.map(|(number, _)| format!("{}:{number}", file.path)));
    }
    assert_none("SQL outside of crates/store", &wrong);
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    let mut wrong = Vec::new();
    for file in sources() {
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with //!", file.path));
        }
        let known = FILES_TO_SPLIT.iter().find(|(path, _)| *path == file.path);
        let most = known.map_or(MOST_LINES, |(_, lines)| *lines);
        let lines = file.code().count();
        if lines > most {
            wrong.push(format!("{}: {lines} lines before its tests", file.path));
        }
    }
    assert_none("files", &wrong);
}

#[test]
fn no_file_is_named_by_a_riddle() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| {
            let mut parts = path.trim_end_matches(".rs").split('/');
            parts.any(|part| RIDDLES.contains(&part))
        })
        .collect();
    assert_none("names of files that tell nothing", &wrong);
}

#[test]
fn no_public_type_has_the_name_of_another() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        for name in file.statements().filter_map(|(_, line)| public_type(line)) {
            places.entry(name).or_default().push(file.path.clone());
        }
    }
    assert!(places.len() > 300, "only {} types were found", places.len());
    let allowed = |name: &str| SHARED_NAMES.contains(&name);
    let twice = places.into_iter().filter(|(name, at)| at.len() > 1 && !allowed(name));
    let twice: Vec<String> = twice.map(|(name, at)| format!("{name}: {}", at.join(", "))).collect();
    assert_none("public types with one name", &twice);
}

#[test]
fn every_log_line_can_be_searched_for() {
    let mut wrong = Vec::new();
    for file in sources() {
        let code: Vec<&str> = file.statements().map(|(_, line)| line).collect();
        let messages = log_messages(&code.join("\n")).into_iter();
        let short = messages.filter(|message| message.split_whitespace().count() < 3);
        wrong.extend(short.map(|message| format!("{}: {message:?}", file.path)));
    }
    assert_none("log lines of fewer than three words", &wrong);
}

#[test]
fn every_kind_of_notice_has_its_template_and_every_template_its_kind() {
    let kinds: Vec<String> =
        TOLD.iter().flat_map(|(source, name)| variants(source, name)).collect();
    assert!(kinds.len() > 15, "{kinds:?}");
    let worded = kinds.iter().filter(|kind| !NOT_WORDED.contains(&kind.as_str()));
    let mut wanted: Vec<String> = worded.map(|kind| format!("{kind}.md")).collect();
    wanted.extend(OTHER_TEMPLATES.map(|name| format!("{name}.md")));
    wanted.sort();
    assert_eq!(names("templates/chat"), wanted);
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
    assert_none("the demo's own crate has these", &wrong);
    assert!(names_the_switch("post('/demo/become')") && names_the_switch("fn become_one()"));
    assert!(!names_the_switch("// rows become events") && !names_the_switch("democracy()"));
    assert!(!names_the_switch("fn text_cannot_become_markup()"));
}

#[test]
fn every_command_file_is_an_action() {
    let catalog = Catalog::load(None).unwrap();
    let mut actions: Vec<String> =
        catalog.actions().map(|spec| format!("{}.toml", spec.name)).collect();
    actions.sort();
    assert_eq!(actions, names("commands"));
}

//! Documents and the references to them: every link, heading and path that is named exists.
//!
//! Code refers to a document as `CONTRACT.md, <Heading>` or `ARCHITECTURE.md, <Heading>`, on one line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Endings of the files that may refer to a document.
const REFERRING: [&str; 8] = ["rs", "lua", "md", "toml", "hcl", "yml", "sql", "conf"];
/// Documents that code refers to by heading, with their places.
const REFERRED: [(&str, &str); 2] =
    [("CONTRACT.md", "libs/protocol/CONTRACT.md"), ("ARCHITECTURE.md", "ARCHITECTURE.md")];
/// Directories of the repository whose paths documents name in code spans.
const DIRECTORIES: [&str; 6] = ["bins/", "libs/", "lua/", "migrations/", "nats/", "nomad/"];
/// Names of documents that are not part of the repository. A number after one is a reference to nowhere.
const OUTSIDE: [&str; 2] = ["SPEC", "DESIGN"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tracked files that may refer to a document, by path, with their text.
fn files() -> BTreeMap<String, String> {
    let output = Command::new("git").current_dir(root()).args(["ls-files", "-z"]).output().expect("git ls-files");
    assert!(output.status.success(), "{output:?}");
    let paths = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let refers = |path: &&str| path.rsplit_once('.').is_some_and(|(_, ending)| REFERRING.contains(&ending));
    // A tracked file that was deleted and not committed yet refers to nothing.
    let read = |path: &str| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?));
    paths.split('\0').filter(refers).filter_map(read).collect()
}

/// The text outside fenced blocks.
fn prose(markdown: &str) -> String {
    let parts = markdown.split("\n```");
    // A fence opens, then closes: every second part is code, which its closing fence's line ends.
    parts.step_by(2).collect::<Vec<_>>().join("\n")
}

fn headings(markdown: &str) -> Vec<String> {
    let heading = |line: &str| {
        let text = line.trim_start_matches('#');
        (text.len() < line.len() && text.starts_with(' ')).then(|| text.trim().to_owned())
    };
    prose(markdown).lines().filter_map(heading).collect()
}

/// The anchor that a Markdown renderer gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Text and code spans of each paragraph: code spans are the second of each pair.
fn spans(markdown: &str) -> Vec<(String, String)> {
    let mut spans = Vec::new();
    for paragraph in prose(markdown).split("\n\n") {
        let mut parts = paragraph.split('`');
        while let Some(text) = parts.next() {
            spans.push((text.to_owned(), parts.next().unwrap_or_default().to_owned()));
        }
    }
    spans
}

/// The targets of `[text](target)`. The text may be a code span, and so stand apart from the rest.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// Says what is wrong with a link in the file `path`, if anything is.
fn broken_link(files: &BTreeMap<String, String>, path: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, section) = target.split_once('#').unwrap_or((target, ""));
    let here = Path::new(path);
    let joined = if file.is_empty() { here.to_owned() } else { here.parent().unwrap_or(here).join(file) };
    if !root().join(&joined).exists() {
        return Some(format!("{path}: {target} does not exist"));
    }
    let canonical = root().join(joined).canonicalize().ok()?;
    let name = canonical.strip_prefix(root().canonicalize().ok()?).ok()?.to_string_lossy().into_owned();
    let text = files.get(&name).filter(|_| !section.is_empty())?;
    let found = headings(text).iter().any(|heading| anchor(heading) == section);
    (!found).then(|| format!("{path}: {target} names no heading"))
}

/// Says what is wrong with the references to `document` in one line.
fn dead_references(line: &str, document: &str, headings: &[String]) -> Vec<String> {
    let dead = |rest: &str| {
        if let Some(section) = rest.strip_prefix('#') {
            let end = section.find(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').unwrap_or(section.len());
            return !headings.iter().any(|heading| anchor(heading) == section[..end]);
        }
        let Some(named) = rest.strip_prefix(", ") else { return false };
        let is_named = |heading: &String| {
            named.strip_prefix(heading.as_str()).is_some_and(|after| !after.starts_with(char::is_alphanumeric))
        };
        !named.starts_with('<') && !headings.iter().any(is_named)
    };
    line.split(document).skip(1).filter(|rest| dead(rest)).map(|rest| format!("{document}{rest}")).collect()
}

#[test]
fn links_and_paths_in_documents_exist() {
    let files = files();
    let mut wrong = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (text, code) in spans(text) {
            wrong.extend(targets(&text).filter_map(|target| broken_link(&files, path, target)));
            let is_path = DIRECTORIES.iter().any(|directory| code.starts_with(directory));
            if is_path && !code.contains(['<', '*', '{', ' ', '\n']) && !root().join(&code).exists() {
                wrong.push(format!("{path}: {code} does not exist"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn references_from_code_name_headings_that_exist() {
    let files = files();
    let mut wrong = Vec::new();
    for (document, place) in REFERRED {
        let headings = headings(&files[place]);
        assert!(headings.len() > 5, "{place} has no headings");
        // This file gives examples.
        for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("tests/documents.rs")) {
            for (nth, line) in text.lines().enumerate() {
                let dead = dead_references(line, document, &headings);
                wrong.extend(dead.iter().map(|dead| format!("{path}:{}: {dead}", nth + 1)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_refers_to_a_document_outside_the_repository() {
    let is_outside = |line: &str| {
        OUTSIDE.iter().any(|name| {
            line.split(&format!("{name} ")).skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    for (path, text) in files() {
        if let Some((nth, line)) = text.lines().enumerate().find(|(_, line)| is_outside(line)) {
            panic!("{path}:{}: {line}", nth + 1);
        }
    }
}

/// The words of a text that look like the name of an invariant.
fn invariants(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| word.strip_prefix('I').is_some_and(|number| number.parse::<u8>().is_ok()))
}

#[test]
fn every_named_invariant_is_in_the_enum() {
    let mut files = files();
    // It declares them, and a test of it names one that does not exist.
    let declared = files.remove("libs/checker/src/invariant.rs").expect("the enum");
    let declared = declared.split_once("\nimpl ").map_or("", |(table, _)| table);
    let quoted: Vec<&str> = declared.split('"').filter(|word| invariants(word).next() == Some(word)).collect();
    assert_eq!(quoted.len(), 16, "{quoted:?}");
    let mut unknown = Vec::new();
    for (path, text) in &files {
        unknown.extend(invariants(text).filter(|name| !quoted.contains(name)).map(|name| format!("{path}: {name}")));
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn references_are_recognised() {
    let headings = ["Real time".to_owned(), "stack.json".to_owned()];
    let check = |line: &str, expected: usize| {
        assert_eq!(dead_references(line, "CONTRACT.md", &headings).len(), expected, "{line}");
    };
    check("/// CONTRACT.md, Real time.", 0);
    check("/// as CONTRACT.md, stack.json, has it", 0);
    check("/// CONTRACT.md#real-time", 0);
    check("see `CONTRACT.md` and CONTRACT.md, <Heading>", 0);
    check("/// CONTRACT.md, Real timely", 1);
    check("/// CONTRACT.md, Nowhere; CONTRACT.md#nowhere", 2);
    assert_eq!(anchor("HTTP: what's kept"), "http-whats-kept");
}

//! Plain English: comments, messages, documents and names contain no banned words. CONTRIBUTING.md, How we write.
//!
//! The tests read every tracked source file and print all findings, each with file, line and replacement, and their
//! number for each directory. Text between backquotes is code and may contain any word; a comment or document may
//! name a banned word between double quotes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use banned::{AFTER_THAT, BEGINNINGS, FUNCTION_BEGINNINGS, NAMES, PHRASES, TYPES, WORDS};
use pieces::{Kind, Piece, pieces};

mod banned;
mod pieces;

/// Endings of the files that are read.
const ENDINGS: [&str; 10] = ["rs", "lua", "md", "toml", "hcl", "yml", "conf", "js", "html", "sh"];
/// Directory of the files that contain the banned words themselves.
const THIS_TEST: &str = "libs/testkit/tests/prose/";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tracked files, by path, with their text.
fn files() -> BTreeMap<String, String> {
    let output = Command::new("git").current_dir(root()).args(["ls-files", "-z"]).output().expect("git ls-files");
    assert!(output.status.success(), "{output:?}");
    let paths = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let is_read = |path: &&str| {
        !path.starts_with(THIS_TEST) && path.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending))
    };
    // A tracked file may be deleted and not committed yet.
    let read = |path: &str| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?));
    paths.split('\0').filter(is_read).filter_map(read).collect()
}

/// The text with code between backquotes replaced by as many letters.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let replaced = text.chars().map(|c| {
        is_code ^= c == '`';
        if is_code && c != '\n' && c != '`' { 'x' } else { c }
    });
    replaced.filter(char::is_ascii).collect()
}

/// Whether a sentence begins at this offset.
fn begins_sentence(text: &str, offset: usize) -> bool {
    let before = &text[..offset];
    if before.is_empty() || before.trim_end_matches(' ').ends_with("\n\n") {
        return true;
    }
    let before = before.trim_end();
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    let is_item =
        matches!(last_line.trim(), "-" | "*") || last_line.trim().trim_end_matches('.').parse::<u32>().is_ok();
    is_item || before.is_empty() || before.ends_with(['.', '!', '?', ':', '|']) || before.ends_with(".)")
}

/// Whether the sentence that begins at this offset is a question.
fn is_question(text: &str, offset: usize) -> bool {
    text[offset..].find(['.', '!', '?']).is_some_and(|end| text[offset + end..].starts_with('?'))
}

/// Findings in comments, documents and messages, with their lines.
fn findings_in_prose(piece: &Piece) -> Vec<(usize, String)> {
    let plain = Piece { kind: piece.kind, lines: piece.lines.clone(), text: without_code(&piece.text) };
    let mut found = Vec::new();
    let mut add = |offset, what: &str, instead: &str| found.push((plain.line_at(offset), report(what, instead)));
    let words: Vec<(usize, &str)> = plain.words().collect();
    for (nth, (offset, word)) in words.iter().enumerate() {
        let begins = plain.kind == Kind::Comment && begins_sentence(&plain.text, *offset);
        if begins && let Some((_, instead)) = BEGINNINGS.iter().find(|(beginning, _)| beginning == word) {
            let is_pronoun = *word == "That" && words.get(nth + 1).is_some_and(|(_, next)| AFTER_THAT.contains(next));
            if !is_pronoun && !is_question(&plain.text, *offset) {
                add(*offset, &format!("a sentence begins with \"{word}\""), instead);
            }
        }
        let lower = word.to_lowercase();
        // A document may name a word between quotes.
        let is_mention = plain.kind == Kind::Comment && plain.text[..*offset].ends_with('"');
        if let Some((_, instead)) = WORDS.iter().find(|(banned, _)| *banned == lower && !is_mention) {
            add(*offset, &format!("\"{word}\""), instead);
        }
    }
    for (phrase, instead) in PHRASES {
        let phrase_words: Vec<&str> = phrase.split(' ').collect();
        let matching = words.windows(phrase_words.len()).filter(|window| {
            window.iter().zip(&phrase_words).all(|((_, word), wanted)| word.to_lowercase() == *wanted)
        });
        for window in matching {
            add(window[0].0, &format!("\"{phrase}\""), instead);
        }
    }
    found
}

/// Findings among the names of a piece. In prose only names that cannot be words are looked for.
fn findings_in_names(piece: &Piece) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut before = "";
    for (offset, word) in piece.words() {
        let is_name = match piece.kind {
            Kind::Code => true,
            Kind::Comment => word.starts_with(char::is_uppercase) || word.contains('_'),
            Kind::Text => word.contains('_'),
        };
        let old = NAMES.iter().find(|(old, _)| is_name && *old == word);
        let is_declared = piece.kind == Kind::Code && matches!(before, "struct" | "enum" | "trait" | "type");
        let old = old.or_else(|| TYPES.iter().find(|(old, _)| is_declared && *old == word));
        // A word that begins a sentence is not a name.
        let is_word = piece.kind == Kind::Comment && begins_sentence(&piece.text, offset) && !word.contains('_');
        if let Some((_, new)) = old.filter(|_| !is_word) {
            found.push((piece.line_at(offset), report(word, new)));
        }
        if piece.kind == Kind::Code && before == "fn" {
            let is_banned = |part: &str| WORDS.iter().any(|(banned, _)| *banned == part);
            if FUNCTION_BEGINNINGS.iter().any(|begin| word.starts_with(begin)) || word.split('_').any(is_banned) {
                found.push((piece.line_at(offset), report(word, "a name that states behaviour")));
            }
        }
        before = word;
    }
    found
}

fn report(what: &str, instead: &str) -> String {
    format!("{what} -> {instead}")
}

/// Findings of a file, by line.
fn findings(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for piece in pieces(path, text) {
        // A string without blanks is a value, not a message.
        let is_prose = piece.kind == Kind::Comment || (piece.kind == Kind::Text && piece.text.contains(' '));
        if is_prose {
            found.extend(findings_in_prose(&piece));
        }
        found.extend(findings_in_names(&piece));
    }
    found.sort();
    found
}

/// Fails with all findings, and their number for each directory.
fn fail_on(found: &BTreeMap<String, Vec<(usize, String)>>) {
    let mut directories: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for (path, found) in found {
        let parts: Vec<&str> = path.split('/').collect();
        let directory = parts[..parts.len() - 1].iter().take(3).copied().collect::<Vec<_>>().join("/");
        *directories.entry(directory).or_default() += found.len();
        lines.extend(found.iter().map(|(line, text)| format!("{path}:{line}: {text}")));
    }
    let sums: Vec<String> = directories.iter().map(|(directory, count)| format!("{count:5} {directory}/")).collect();
    assert!(lines.is_empty(), "{}\n\n{}\n{:5} in all", lines.join("\n"), sums.join("\n"), lines.len());
}

#[test]
fn comments_messages_and_names_are_plain() {
    let found = files().into_iter().map(|(path, text)| {
        let found = findings(&path, &text);
        (path, found)
    });
    fail_on(&found.filter(|(_, found)| !found.is_empty()).collect());
}

/// The calls of `tracing`'s macros in a file: offset and arguments.
fn log_calls(text: &str) -> Vec<(usize, &str)> {
    let mut calls = Vec::new();
    for level in ["trace!(", "debug!(", "info!(", "warn!(", "error!("] {
        for (at, _) in text.match_indices(level) {
            let arguments = &text[at + level.len()..];
            let mut depth = 1;
            let end = arguments.find(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let is_whole_name = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            calls.extend(end.filter(|_| is_whole_name).map(|end| (at, &arguments[..end])));
        }
    }
    calls
}

/// Whether the arguments of a log line print an error without its causes.
fn prints_bare_error(arguments: &str) -> bool {
    arguments.split(['%', '?']).skip(1).any(|value| {
        let end = value.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.' | ':')).unwrap_or(value.len());
        let last = value[..end].rsplit(['.', ':']).next().unwrap_or_default();
        matches!(last, "error" | "err" | "cause" | "failure" | "e")
    })
}

/// Findings of a file: log lines that print an error without its causes.
fn bare_errors(text: &str) -> Vec<(usize, String)> {
    let calls = log_calls(text).into_iter().filter(|(_, arguments)| prints_bare_error(arguments));
    let found = calls.map(|(at, arguments)| {
        let line = text[..at].matches('\n').count() + 1;
        let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
        (line, report(&arguments, "error = %errors::chain(&error)"))
    });
    found.collect()
}

#[test]
fn log_lines_print_errors_with_their_causes() {
    let rust = files().into_iter().filter(|(path, _)| path.ends_with(".rs"));
    let found = rust.map(|(path, text)| {
        let found = bare_errors(&text);
        (path, found)
    });
    fail_on(&found.filter(|(_, found)| !found.is_empty()).collect());
}

#[test]
fn banned_words_are_recognised() {
    let check = |path: &str, text: &str, expected: &[usize]| {
        let lines: Vec<usize> = findings(path, text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, expected, "{text}");
    };
    check("a.rs", "/// Who comes is counted.\nfn count() {}\n", &[1]);
    check("a.rs", "/// Counted. What is\n/// left stays.\n", &[1]);
    check("a.rs", "// Reads the file. That is cheap. What is it?\n", &[]);
    check("a.rs", "/// The parts of\n/// That, the reader finds: nobody.\n", &[2]);
    check("a.rs", "x(); // he waits\nlet a = \"nobody is told\";\nlet b = \"nobody\";", &[1, 2, 2]);
    check("a.md", "No client is \"he\".\n", &[]);
    check("a.rs", "/// `nobody` is a name.\nlet quote = '\"'; let c = \"plain text\";\n", &[]);
    check("a.rs", "struct House;\nstruct Parts;\nuse http::request::Parts;\nlet x = r#\"a \" he\"#;\n", &[1, 2, 4]);
    check("a.rs", "fn who_is_let_in() {}\nfn a_reader_is_told() {}\nfn the_shell() {}\n", &[1, 2]);
    check("a.rs", "let desk = \"Desk\"; count(\"bids_hopeless\");\n", &[1]);
    check("a.md", "# What it is\n\nThe auction. Of those,\nnone.\n\n```\nhe\n```\n", &[3]);
    check("a.lua", "-- Tells the leader.\nlocal x = 'it is told'\n", &[1, 2]);
    check("a.toml", "# The clock stands still.\nurl = \"http://x#he\"\n", &[1]);
}

#[test]
fn bare_errors_are_recognised() {
    let check = |text: &str, expected: usize| assert_eq!(bare_errors(text).len(), expected, "{text}");
    check("tracing::warn!(%error, \"failed\");", 1);
    check("tracing::warn!(id = %id, error = ?self.error, \"failed\");", 1);
    check("tracing::error!(\n    error = %errors::chain(&error),\n    \"failed\"\n);", 0);
    check("tracing::info!(seconds, \"started\"); assert_eq!(%error);", 0);
}

//! Plain English: comments, messages, documents and names contain no banned words. CONTRIBUTING.md, How we write.
//!
//! The tests read every tracked source file and print all findings, each with file, line and replacement, and their
//! number for each directory. Text between backquotes is code and may contain any word; a comment or document may
//! name a banned word between double quotes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Endings of the files that are read.
const ENDINGS: [&str; 10] = ["rs", "lua", "md", "toml", "hcl", "yml", "conf", "js", "html", "sh"];
/// The file that holds the banned words themselves.
const THIS_FILE: &str = "libs/testkit/tests/prose.rs";

/// Words that begin no sentence, unless it is a question, with the replacement.
const BEGINNINGS: [(&str, &str); 7] = [
    ("Who", "name the client, connection or instance, then its verb"),
    ("Whoever", "name the client, connection or instance, then its verb"),
    ("Whose", "name the owner"),
    ("Whom", "name the client, connection or instance"),
    ("What", "name the thing, then its verb"),
    ("That", "begin with the subject; or \"This\" and a noun"),
    ("Of", "begin with the subject"),
];
/// Words after which a sentence may begin with "That": there it is a pronoun, not a clause as a noun.
const AFTER_THAT: [&str; 10] = ["is", "was", "means", "makes", "would", "keeps", "costs", "way", "takes", "leaves"];

/// Words that no comment, message or document contains, in any case, with the replacement.
const WORDS: [(&str, &str); 18] = [
    ("he", "the client, the user, it"),
    ("him", "the client, the user, it"),
    ("his", "its, the client's, the user's"),
    ("she", "the client, the user, it"),
    ("her", "its, the client's, the user's"),
    ("nobody", "no client, no instance, no reader"),
    ("somebody", "a client, an instance, a user"),
    ("everybody", "every client, all users"),
    ("whoever", "a client that, an instance that"),
    ("anew", "again"),
    ("meanwhile", "at the same time, during this time"),
    ("tell", "send, notify, broadcast, publish, report"),
    ("tells", "sends, notifies, broadcasts, publishes, reports"),
    ("told", "sent, notified, reported"),
    ("telling", "sending, notifying"),
    ("hopeless", "below the committed price"),
    ("unsettled", "uncommitted"),
    ("mailbox", "send queue"),
];
/// Phrases that no comment, message or document contains, with the replacement.
const PHRASES: [(&str, &str); 19] = [
    ("stand still", "are halted, are stopped"),
    ("stands still", "is halted, is stopped"),
    ("standing still", "halted, stopped"),
    ("gives nothing", "failed to fetch from"),
    ("did not do it", "request failed"),
    ("does not do it", "request fails"),
    ("makes no sense", "is inconsistent"),
    ("comes again", "is delivered again"),
    ("cannot be had", "is not available"),
    ("cannot be heard", "failed to install"),
    ("of its own accord", "by itself"),
    ("all the same", "still"),
    ("let in", "accepted"),
    ("sent away", "disconnected"),
    ("one who", "a client that"),
    ("those who", "clients that"),
    ("goes by", "passes"),
    ("is at work", "is running"),
    ("proves nothing of", "does not prove"),
];
/// Names that no longer exist, with the new one.
const NAMES: [(&str, &str); 44] = [
    ("House", "Auctioneers"),
    ("Desk", "Handle"),
    ("engage", "spawn"),
    ("Courier", "BackgroundSender"),
    ("Mailbox", "SendQueue"),
    ("Standing", "CommittedState"),
    ("World", "Backend, TestSystem"),
    ("Door", "Transport"),
    ("Doors", "Api"),
    ("Ways", "LinkStates"),
    ("Visit", "RoomCommand"),
    ("Visitor", "Client"),
    ("Presented", "Credentials"),
    ("Telling", "BroadcastCursor"),
    ("Announcement", "Broadcast"),
    ("teller", "worker"),
    ("MustArrive", "Reliable"),
    ("Newest", "Latest"),
    ("Breaker", "FaultInjector"),
    ("Sights", "Report"),
    ("outrages", "violations"),
    ("ears", "subscribers"),
    ("nursery", "spawner_thread"),
    ("NURSERY", "SPAWNER"),
    ("careless", "unsynced"),
    ("Stuck", "WriterError"),
    ("told_seq", "last_sent_seq"),
    ("tell_group", "send_to_group"),
    ("say_goodbye", "announce_departures"),
    ("stands_still", "halted"),
    ("stand_still", "halt"),
    ("unsettled", "has_uncommitted"),
    ("unsettle", "has_uncommitted"),
    ("hopeless", "below_committed_price"),
    ("bids_hopeless", "flash_bids_rejected_from_cache_total"),
    ("bids_refused", "flash_bids_rejected_total"),
    ("records_appended", "flash_log_records_appended_total"),
    ("auctions_standing_still", "flash_auctions_halted_total"),
    ("log_used_percent", "flash_log_used_ratio"),
    ("connections_too_slow", "flash_slow_connections_closed_total"),
    ("connections_refused", "flash_connections_rejected_total"),
    ("waiting_bytes", "flash_send_queue_bytes"),
    ("mails_repeated", "flash_mails_resent_total"),
    ("people_without_address", "flash_recipients_without_address_total"),
];
/// Names that are banned for types of this workspace only, because libraries have such types too.
const TYPES: [(&str, &str); 7] = [
    ("Parts", "EdgeContext"),
    ("Lane", "Delivery"),
    ("Way", "LinkState"),
    ("Shape", "Topology"),
    ("Keys", "JwksServer"),
    ("Real", "LiveBackend"),
    ("Turns", "Schedule"),
];
/// Beginnings of function names that do not state behaviour.
const FUNCTION_BEGINNINGS: [&str; 5] = ["who_", "whoever_", "what_", "that_", "whose_"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tracked files, by path, with their text.
fn files() -> BTreeMap<String, String> {
    let output = Command::new("git").current_dir(root()).args(["ls-files", "-z"]).output().expect("git ls-files");
    assert!(output.status.success(), "{output:?}");
    let paths = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let is_read =
        |path: &&str| *path != THIS_FILE && path.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending));
    // A tracked file may be deleted and not committed yet.
    let read = |path: &str| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?));
    paths.split('\0').filter(is_read).filter_map(read).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// A piece of a file: adjacent comment lines, a string, a line of code, or a paragraph of a document.
#[derive(Debug)]
struct Piece {
    kind: Kind,
    /// The line of the file that each line of `text` is in.
    lines: Vec<usize>,
    text: String,
}

impl Piece {
    fn line_at(&self, offset: usize) -> usize {
        self.lines[self.text[..offset].matches('\n').count().min(self.lines.len() - 1)]
    }

    /// Its words with their offsets.
    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let text = self.text.as_str();
        text.split(move |c: char| !is_part(c)).filter(|word| !word.is_empty()).map(move |word| {
            let offset = word.as_ptr().addr() - text.as_ptr().addr();
            (offset, word)
        })
    }
}

/// Marks of comments and quotes of a language.
struct Language {
    comments: &'static [&'static str],
    quotes: &'static [char],
    is_rust: bool,
}

fn language(path: &str) -> Option<Language> {
    let ending = path.rsplit_once('.')?.1;
    Some(match ending {
        "rs" => Language { comments: &["//"], quotes: &['"'], is_rust: true },
        "js" => Language { comments: &["//"], quotes: &['"', '\'', '`'], is_rust: false },
        "lua" => Language { comments: &["--"], quotes: &['"', '\''], is_rust: false },
        "hcl" => Language { comments: &["#", "//"], quotes: &['"'], is_rust: false },
        "toml" | "yml" | "conf" | "sh" => Language { comments: &["#"], quotes: &['"', '\''], is_rust: false },
        _ => return None,
    })
}

fn pieces(path: &str, text: &str) -> Vec<Piece> {
    match language(path) {
        Some(language) => joined(source_pieces(&language, text)),
        None => document_pieces(text, path.ends_with(".html")),
    }
}

/// Paragraphs of a document, without headings and fenced blocks.
fn document_pieces(text: &str, is_html: bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut is_fenced, mut begins) = (false, true);
    for (nth, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced || trimmed.is_empty() || trimmed.starts_with("```") || (!is_html && trimmed.starts_with('#')) {
            begins = true;
            continue;
        }
        match pieces.last_mut() {
            Some(last) if !begins => {
                last.text.push('\n');
                last.text.push_str(trimmed);
                last.lines.push(nth + 1);
            }
            _ => pieces.push(Piece { kind: Kind::Comment, lines: vec![nth + 1], text: trimmed.to_owned() }),
        }
        begins = false;
    }
    pieces
}

/// Comments, strings and code in the order of the file; code by line.
fn source_pieces(language: &Language, text: &str) -> Vec<Piece> {
    let (mut pieces, mut line, mut rest) = (Vec::new(), 1, text);
    let mut push = |kind, line, text: &str| {
        if !text.trim().is_empty() {
            let lines = (line..).take(text.matches('\n').count() + 1).collect();
            pieces.push(Piece { kind, lines, text: text.to_owned() });
        }
    };
    let mut code = 0;
    while let Some(c) = rest[code..].chars().next() {
        let (before, at) = rest.split_at(code);
        let is_comment = language.comments.iter().find(|mark| {
            at.starts_with(**mark)
                && (**mark == "//" || **mark == "--" || !before.ends_with(|c: char| !c.is_whitespace()))
        });
        let (kind, len) = if let Some(mark) = is_comment {
            (Kind::Comment, at.find('\n').unwrap_or(at.len()).max(mark.len()))
        } else if language.is_rust && at.starts_with('\'') {
            // A character, or a lifetime.
            let mut chars = at.char_indices().skip(1);
            let second = chars.next().map_or('a', |(_, c)| c);
            let len = if second == '\\' {
                at.char_indices().skip(3).find(|(_, c)| *c == '\'').map_or(1, |(end, _)| end + 1)
            } else {
                chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(end, _)| end + 1)
            };
            code += len;
            continue;
        } else if language.quotes.contains(&c) {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let is_raw = language.is_rust && before.trim_end_matches('#').ends_with('r');
            (Kind::Text, string_len(at, c, is_raw.then_some(hashes)))
        } else if c == '\n' {
            push(Kind::Code, line, before);
            line += 1;
            rest = &at[1..];
            code = 0;
            continue;
        } else {
            code += c.len_utf8();
            continue;
        };
        push(Kind::Code, line, before);
        push(kind, line, &at[..len]);
        line += at[..len].matches('\n').count();
        rest = &at[len..];
        code = 0;
    }
    push(Kind::Code, line, rest);
    pieces
}

/// Bytes of the string that begins here, with its quotes; `hashes` of a raw string.
fn string_len(text: &str, quote: char, hashes: Option<usize>) -> usize {
    if let Some(hashes) = hashes {
        let end = format!("\"{}", "#".repeat(hashes));
        return text[1..].find(&end).map_or(text.len(), |at| 1 + at + end.len());
    }
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Joins comments on adjacent lines, and replaces their marks and all code between backquotes by blanks.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for mut piece in pieces {
        if piece.kind == Kind::Comment {
            let mark = |c: char| matches!(c, '/' | '!' | '#' | '-');
            piece.text = piece.text.trim_start_matches(mark).trim().to_owned();
            if let Some(last) = joined.last_mut()
                && last.kind == Kind::Comment
                && last.lines.last().is_some_and(|line| line + 1 == piece.lines[0])
            {
                last.text.push('\n');
                last.text.push_str(&piece.text);
                last.lines.extend(piece.lines);
                continue;
            }
        }
        joined.push(piece);
    }
    joined
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

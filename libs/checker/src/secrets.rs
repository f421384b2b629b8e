//! No secret in anything that others can read: secrets (I14).

use crate::history::History;
use crate::invariant::Invariant;
use crate::verdict::Verdict;

/// Whether a word is `<header>.<claims>.<signature>` where the first two are JSON objects in Base64.
fn is_token(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3 && parts[..2].iter().all(|part| part.starts_with("eyJ")) && !parts[2].is_empty()
}

pub fn check(history: &History, verdict: &mut Verdict) {
    for secret in history.secrets.iter().filter(|secret| !secret.text.is_empty()) {
        for (line, text) in history.lines.iter().enumerate() {
            if line != secret.line && text.contains(&secret.text) {
                verdict.add(Invariant::Secrets, "a secret is where others can read it".to_owned(), [line]);
            }
        }
    }
    // A signed token is recognised wherever it is, also if no line of the history names it as a secret.
    let declared: Vec<usize> = history.secrets.iter().map(|secret| secret.line).collect();
    for (line, text) in history.lines.iter().enumerate() {
        if !declared.contains(&line) && text.split(['"', ' ']).any(is_token) {
            verdict.add(Invariant::Secrets, "a token is where others can read it".to_owned(), [line]);
        }
    }
}

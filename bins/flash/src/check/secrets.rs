//! Nothing secret in anything that others can read (I14).

use super::Verdict;
use super::history::History;

/// `<header>.<claims>.<signature>`, of which the first two are JSON objects in Base64.
fn is_token(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3 && parts[..2].iter().all(|part| part.starts_with("eyJ")) && !parts[2].is_empty()
}

pub fn check(history: &History, verdict: &mut Verdict) {
    for secret in history.secrets.iter().filter(|secret| !secret.text.is_empty()) {
        for (line, text) in history.lines.iter().enumerate() {
            if line != secret.line && text.contains(&secret.text) {
                verdict.add("I14", "a secret stands where others can read it".to_owned(), [line]);
            }
        }
    }
    // Without being told: a signed token is one wherever it stands.
    let told: Vec<usize> = history.secrets.iter().map(|secret| secret.line).collect();
    for (line, text) in history.lines.iter().enumerate() {
        if !told.contains(&line) && text.split(['"', ' ']).any(is_token) {
            verdict.add("I14", "a token stands where others can read it".to_owned(), [line]);
        }
    }
}

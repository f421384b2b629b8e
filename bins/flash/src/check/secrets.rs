//! Nothing secret in anything that others can read (I14).

use super::Verdict;
use super::history::History;

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
        if !told.contains(&line) && text.contains("eyJhbGciOi") {
            verdict.add("I14", "a token stands where others can read it".to_owned(), [line]);
        }
    }
}

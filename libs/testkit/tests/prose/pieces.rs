//! Divides files into comments, strings, code and paragraphs.

/// The kind of a piece. A comment is also a paragraph of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Code,
    Comment,
    Text,
}

/// A piece of a file: adjacent comment lines, a string, a line of code, or a paragraph of a document.
#[derive(Debug)]
pub struct Piece {
    pub kind: Kind,
    /// The line of the file that each line of `text` is in.
    pub lines: Vec<usize>,
    pub text: String,
}

impl Piece {
    pub fn line_at(&self, offset: usize) -> usize {
        self.lines[self.text[..offset].matches('\n').count().min(self.lines.len() - 1)]
    }

    /// Its words with their offsets.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
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

/// The pieces of a file.
pub fn pieces(path: &str, text: &str) -> Vec<Piece> {
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

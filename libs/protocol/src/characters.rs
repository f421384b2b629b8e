//! The characters of texts that people read: which ones a client may send, and how a token's claims are cleaned.
//!
//! Refused or removed are characters without a look of their own, with which two different names look the same, a name
//! looks empty, or a line reads backwards: control, format and bidirectional characters, blank letters, and code points
//! that Unicode has not assigned. Two kinds of them stay where they change the look: joiners within an emoji or a word
//! of a script that needs them, and variation selectors behind an emoji.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeEmoji, UnicodeGeneralCategory};

/// Letters, symbols and marks that look like nothing or like a blank: combining grapheme joiner, fillers of Hangul,
/// inherent vowels of Khmer, separators of Mongolian, and the empty pattern of Braille.
const BLANK: [char; 13] = [
    '\u{034f}',
    '\u{115f}',
    '\u{1160}',
    '\u{17b4}',
    '\u{17b5}',
    '\u{180b}',
    '\u{180c}',
    '\u{180d}',
    '\u{180f}',
    '\u{2800}',
    '\u{3164}',
    '\u{ffa0}',
    '\u{1d159}',
];

const fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

const fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// An emoji that is not also a digit, `#` or `*`.
fn is_emoji(c: char) -> bool {
    !c.is_ascii() && c.is_emoji_char()
}

/// Letters and marks of the scripts whose words need joiners: Arabic to Sinhala, Myanmar, Khmer and Mongolian.
const fn is_of_joining_script(c: char) -> bool {
    matches!(c, '\u{0600}'..='\u{0dff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{18af}')
}

/// Whether a text may contain `c` between these two characters.
fn is_allowed(before: Option<char>, c: char, after: Option<char>) -> bool {
    if is_joiner(c) {
        let (Some(before), Some(after)) = (before, after) else { return false };
        // An emoji may have a variation selector before the joiner.
        let joins_emoji = (is_emoji(before) || is_variation_selector(before)) && is_emoji(after);
        return joins_emoji || (is_of_joining_script(before) && is_of_joining_script(after));
    }
    if is_variation_selector(c) {
        return before.is_some_and(|before| is_emoji(before) || (before.is_emoji_char() && after == Some('\u{20e3}')));
    }
    let category = c.general_category();
    !BLANK.contains(&c)
        && !matches!(
            category,
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::Surrogate
                | GeneralCategory::Unassigned
        )
}

/// Each character with its neighbours.
fn with_neighbours(text: &str) -> impl Iterator<Item = (Option<char>, char, Option<char>)> {
    let mut before = None;
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        let c = rest.next()?;
        Some((before.replace(c), c, rest.peek().copied()))
    })
}

/// Whether every character may stand in a text for people. Line breaks and tabs may.
#[must_use]
pub fn are_allowed(text: &str) -> bool {
    with_neighbours(text).all(|(before, c, after)| matches!(c, '\n' | '\r' | '\t') || is_allowed(before, c, after))
}

/// Whether a reader sees anything of a text: more than spaces, marks and joiners.
#[must_use]
pub fn are_visible(text: &str) -> bool {
    text.chars().any(|c| {
        let is_mark = matches!(c.general_category(), GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark);
        !c.is_whitespace() && !is_mark && is_allowed(None, c, None)
    })
}

/// A name as one line of at most `most` characters: compatibility forms are replaced (NFKC), characters that
/// [`are_allowed`] refuses are removed, and blanks between words become one space. None if nothing visible is left.
#[must_use]
pub fn one_line(text: &str, most: usize) -> Option<String> {
    let normal: String = text.nfkc().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    // A removed character may have stood between a joiner and its neighbour, so the rule is applied until it holds.
    let mut clean = normal;
    while !are_allowed(&clean) {
        clean = with_neighbours(&clean)
            .filter(|(before, c, after)| is_allowed(*before, *c, *after))
            .map(|of| of.1)
            .collect();
    }
    let words: Vec<&str> = clean.split(' ').filter(|word| !word.is_empty()).collect();
    let cut: String = words.join(" ").chars().take(most).collect();
    // The cut may have left a joiner at the end.
    let cut = cut.trim_end_matches(|c| c == ' ' || is_joiner(c));
    are_visible(cut).then(|| cut.to_owned())
}

/// Longest skeleton, in characters. It bounds what an index of the database holds.
const MAX_SKELETON_CHARACTERS: usize = 200;

/// A text that all names which look like this one have in common: the skeleton of Unicode's Technical Standard 39. It is
/// for comparisons, not for reading.
#[must_use]
pub fn skeleton(name: &str) -> String {
    unicode_security::skeleton(name).take(MAX_SKELETON_CHARACTERS).collect()
}

/// An e-mail address that mails can be sent to: of at most 254 characters, in the form `local@domain` of ASCII without
/// quotes, comments or a list.
#[must_use]
pub fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_dotted = |text: &str| text.split('.').all(|part| !part.is_empty());
    let is_local = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_label = |label: &str| {
        label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.len() <= MAX_EMAIL_CHARACTERS
        && local.len() <= MAX_LOCAL_PART_CHARACTERS
        && is_dotted(local)
        && local.chars().all(is_local)
        && domain.contains('.')
        && is_dotted(domain)
        && domain.split('.').all(is_label)
}

/// Longest e-mail address, in characters (RFC 3696, erratum 1690).
pub const MAX_EMAIL_CHARACTERS: usize = 254;
/// Longest part before the @, in characters (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL_PART_CHARACTERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_and_misleading_characters_are_refused() {
        let check = |text: &str, allowed: bool| assert_eq!(are_allowed(text), allowed, "{text:?}");
        for text in [
            "Lamp of brass\nand glass\tat once",
            "Лампа, 灯, مصباح, दीपक, é, e\u{301}",
            // Family, heart on fire, keycap, flag, a skin tone: emoji with joiners and variation selectors.
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{2764}\u{fe0f}\u{200d}\u{1f525} 1\u{fe0f}\u{20e3}",
            "\u{1f1e9}\u{1f1ea} \u{1f44d}\u{1f3fd} \u{2600}\u{fe0e}",
            // Persian and Hindi words that need a joiner.
            "می\u{200c}خواهم क\u{94d}\u{200d}ष",
            "\u{fffd} \u{1f600}",
        ] {
            check(text, true);
        }
        for c in [
            '\0',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{fdd0}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ] {
            check(&format!("an{c}na"), false);
            assert_eq!(one_line(&format!("an{c}na"), 100).map(|name| name.replace(' ', "")), Some("anna".to_owned()));
            assert_eq!(one_line(&c.to_string(), 100), None, "{c:?} alone");
            assert!(!are_visible(&format!(" {c} ")), "{c:?} alone");
        }
    }

    #[test]
    fn names_become_one_bounded_line() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(one_line(text, 20).as_deref(), expected, "{text:?}");
        check("  Anna \r\n\t A. ", Some("Anna A."));
        check("ａｎｎａ", Some("anna"));
        check("\u{202e}anna\u{202c}", Some("anna"));
        // The joiner stays between emoji, and goes with the character that it leaned on.
        check("\u{1f468}\u{200d}\u{1f469}", Some("\u{1f468}\u{200d}\u{1f469}"));
        check("a\u{200b}\u{200d}\u{200b}b", Some("ab"));
        check(&"x".repeat(10_000), Some("xxxxxxxxxxxxxxxxxxxx"));
        check(&"\u{200d}".repeat(10_000), None);
        check(" \u{301} ", None);
        check("", None);
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        let check = |name: &str, other: &str, alike: bool| {
            assert_eq!(skeleton(name) == skeleton(other), alike, "{name} {other}");
        };
        check("ghost", "gh\u{43e}st", true);
        check("Anna", "\u{410}nna", true);
        check("paypal", "paypa1", true);
        check("é", "e\u{301}", true);
        check("ghost", "ghosts", false);
        check("anna", "Anna", false);
        check("bidder-1", "bidder-2", false);
        assert_eq!(skeleton(&"m".repeat(150)).chars().count(), MAX_SKELETON_CHARACTERS, "rn is longer than m");
    }

    #[test]
    fn only_plain_addresses_are_emails() {
        let check = |text: &str, expected: bool| assert_eq!(is_email(text), expected, "{text:?}");
        check("anna.a+tag@mail.example.com", true);
        check(&format!("{}@example.com", "x".repeat(64)), true);
        for bad in [
            "",
            "anna",
            "@example.com",
            "anna@",
            "anna@example",
            "anna@@example.com",
            "a b@example.com",
            "anna@ex ample.com",
            "anna@example.com, ben@example.com",
            "Anna <anna@example.com>",
            "anna@example.com\r\nBcc: b@example.com",
            "anna\0@example.com",
            "anna@example..com",
            ".anna@example.com",
            "anna@-example.com",
            "\u{202e}anna@example.com",
            "änna@example.com",
            "anna@example.com\u{feff}",
            "\"anna\"@example.com",
        ] {
            check(bad, false);
        }
        check(&format!("{}@example.com", "x".repeat(65)), false);
        check(&format!("anna@{}.com", "example.".repeat(40)), false);
    }
}

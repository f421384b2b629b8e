//! Mutations of inputs: of bytes, of numbers, and of the pieces that JSON, packets and tokens are made of.

use fastrand::Rng;

/// Bytes of an input. One more than any body, frame or packet may have.
pub const MAX_INPUT_BYTES: usize = 64 * 1024 + 1;
/// Mutations of one input. Few keep most of the input valid.
const MAX_MUTATIONS: usize = 6;
/// Repetitions of one piece, for what nests.
const MAX_REPETITIONS: usize = 300;
/// Bytes that one mutation removes or doubles.
const MAX_RANGE_BYTES: usize = 64;

/// Pieces that are inserted: delimiters, values at the limits, and characters that parsers treat apart.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "/",
    "-",
    ".",
    "=",
    "&",
    "%00",
    " ",
    "\n",
    "\0",
    "\u{1e}",
    "null",
    "true",
    "[[[[[[[[",
    "{\"a\":",
    "\"\"",
    "{}",
    "[]",
    "1e3",
    "1E400",
    "NaN",
    "-0",
    "0.001",
    "1.001",
    "99999999.99",
    "100000000",
    "9007199254740993",
    "18446744073709551616",
    "-1",
    "00",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\uffff",
    "\u{feff}",
    "\u{200b}",
    "\u{202e}",
    "\u{3164}",
    "\u{fffe}",
    "\u{ffff}",
    "é",
    "e\u{301}",
    "👩\u{200d}👧",
    "\u{1f1e9}",
    "\u{fdfa}",
    "0",
    "1",
    "2probe",
    "3probe",
    "4",
    "5",
    "6",
    "b",
    "40",
    "41",
    "42",
    "43",
    "44",
    "451-",
    "461-",
    "/admin,",
    "[\"a\"]",
    "00000000-0000-4000-8000-000000000000",
    "{00000000-0000-4000-8000-000000000000}",
    "urn:uuid:",
    "http://",
    "@",
    "..",
    "Bearer ",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ",
    "\"v\":2",
    "\"type\":\"later\"",
];

/// Numbers that replace others.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "4",
    "5",
    "255",
    "500",
    "501",
    "604800",
    "604801",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999.99",
    "100000000.00",
    "0.01",
    "0.001",
    "1e3",
    "-1",
    "007",
];

/// A changed input: `input`, mutated one to six times; `other` is what it may be joined with.
pub fn mutated(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.usize(1..=MAX_MUTATIONS) {
        mutate(rng, &mut bytes, other);
        bytes.truncate(MAX_INPUT_BYTES);
    }
    bytes
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=bytes.len());
    match rng.u8(0..9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
        1 if at < bytes.len() => bytes[at] = rng.u8(..),
        2 => drop(bytes.drain(range(rng, at, bytes.len()))),
        3 => {
            let doubled = bytes[range(rng, at, bytes.len())].to_vec();
            insert(bytes, at, &doubled);
        }
        4 => {
            let repeated = choice(rng, PIECES).repeat(rng.usize(1..=MAX_REPETITIONS));
            insert(bytes, at, repeated.as_bytes());
        }
        5 => {
            // The beginning of one with the end of another.
            let from = rng.usize(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        6 => {
            let from = rng.usize(0..=other.len());
            let part = range(rng, from, other.len());
            insert(bytes, at, &other[part]);
        }
        7 => {
            let digits = |b: &u8| b.is_ascii_digit();
            let begin = at + bytes[at..].iter().take_while(|b| !digits(b)).count();
            let end = begin + bytes[begin..].iter().take_while(|b| digits(b)).count();
            bytes.splice(begin..end, choice(rng, NUMBERS).bytes());
        }
        _ => insert(bytes, at, choice(rng, PIECES).as_bytes()),
    }
}

fn choice<'a>(rng: &mut Rng, texts: &[&'a str]) -> &'a str {
    texts[rng.usize(..texts.len())]
}

fn range(rng: &mut Rng, at: usize, length: usize) -> std::ops::Range<usize> {
    at..length.min(at + rng.usize(0..=MAX_RANGE_BYTES))
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

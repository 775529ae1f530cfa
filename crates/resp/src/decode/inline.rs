//! Inline commands: a line of words, as typed into a telnet session.

use bytes::Bytes;

use super::{Decoded, LINE_BYTES_MAX, ProtocolError, RequestDecoder};

impl RequestDecoder {
    pub(super) fn decode_inline(&mut self, input: &[u8]) -> Result<Decoded<Vec<Bytes>>, ProtocolError> {
        let Some(end) = input[self.scanned..].iter().position(|byte| *byte == b'\n').map(|at| at + self.scanned) else {
            if input.len() > LINE_BYTES_MAX {
                return Err(ProtocolError::InlineTooLong);
            }
            self.scanned = input.len();
            return Ok(Decoded::Incomplete { needed: 0 });
        };
        self.scanned = 0;
        if end > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooLong);
        }
        let line = &input[..end];
        let words = split_words(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(ProtocolError::UnbalancedQuotes)?;
        if words.is_empty() {
            return Ok(Decoded::Skip(end + 1));
        }
        Ok(Decoded::Message(words, end + 1))
    }
}

/// Splits a line into words by Redis's rules: `"` quotes with escapes, `'` quotes without, and the closing quote must
/// end the word. `None` if the quotes are unbalanced.
fn split_words(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.iter().position(|byte| !is_space(*byte)) {
        let (word, after) = take_word(&rest[start..])?;
        words.push(Bytes::from(word));
        rest = after;
    }
    Some(words)
}

/// Takes the word at the start of `rest`; what follows it.
fn take_word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            // A vertical tab or form feed is space between words but does not end one.
            [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => return Some((word, rest)),
            [b'"', quoted @ ..] => return take_double_quoted(word, quoted),
            [b'\'', quoted @ ..] => return take_single_quoted(word, quoted),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn take_double_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        let (byte, after) = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_value(*high) << 4 | hex_value(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [b'"', after @ ..] => return ends_word(after).then_some((word, after)),
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        word.push(byte);
        rest = after;
    }
}

fn take_single_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        let (byte, after) = match rest {
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [b'\'', after @ ..] => return ends_word(after).then_some((word, after)),
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        word.push(byte);
        rest = after;
    }
}

/// Whether a closing quote may stand before `after`.
fn ends_word(after: &[u8]) -> bool {
    after.first().is_none_or(|byte| is_space(*byte))
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

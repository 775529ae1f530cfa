//! Just enough of a Rust lexer to measure functions and files.
//!
//! [`mask`] blanks comments, strings and character literals, so that braces and keywords that are left are code. It
//! keeps every newline: line numbers in the masked text are line numbers in the file. It does not parse; a macro that
//! builds `fn` out of pieces escapes it, and that is fine for a tool that only measures.

/// A function's name, its line (counted from 1) and how many lines it takes from `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The text with comments, strings and character literals turned into spaces; newlines stay.
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_comment_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !is_word(bytes, at.wrapping_sub(1)) => prefixed_literal_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Blanking replaces whole literals and comments, and those begin and end on character boundaries.
    String::from_utf8(out).expect("only whole characters were blanked")
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80)
}

fn line_comment_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n)
}

/// Block comments nest in Rust.
fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"..."`, `r#"..."#`, `b"..."`, `br#"..."#`, `c"..."`, `b'x'`; returns `at` when it is a plain word.
fn prefixed_literal_end(bytes: &[u8], at: usize) -> usize {
    let letters = bytes[at..].iter().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count().min(2);
    let raw = bytes[at..at + letters].contains(&b'r');
    let after = at + letters;
    if !raw {
        return match bytes.get(after) {
            Some(b'"') => string_end(bytes, after),
            Some(b'\'') if letters == 1 && bytes[at] == b'b' => char_end(bytes, after),
            _ => at,
        };
    }
    let hashes = bytes[after..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(after + hashes) != Some(&b'"') {
        return at;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = after + hashes + 1;
    bytes[body..].windows(close.len()).position(|w| w == close).map_or(bytes.len(), |n| body + n + close.len())
}

/// A character literal ends at its quote; a lifetime or label is not a literal and is left alone.
fn char_end(bytes: &[u8], quote: usize) -> usize {
    match bytes.get(quote + 1) {
        Some(b'\\') => {
            let body = quote + 3;
            bytes[body.min(bytes.len())..].iter().position(|b| *b == b'\'').map_or(bytes.len(), |n| body + n + 1)
        }
        Some(first) => {
            let width = match first {
                0x00..=0x7f => 1,
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            if bytes.get(quote + 1 + width) == Some(&b'\'') { quote + width + 2 } else { quote }
        }
        None => quote,
    }
}

/// Every function with a body in `masked`, nested ones too.
pub(crate) fn functions(masked: &str) -> Vec<Function> {
    let bytes = masked.as_bytes();
    let mut found = Vec::new();
    for (at, _) in masked.match_indices("fn ") {
        if is_word(bytes, at.wrapping_sub(1)) {
            continue;
        }
        let rest = masked[at + 3..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue; // a function pointer type
        }
        if let Some((_, close)) = body(bytes, at) {
            let first = line_of(bytes, at);
            found.push(Function { name, line: first, lines: line_of(bytes, close) - first + 1 });
        }
    }
    found
}

/// The braces of the body that follows `at`; `None` when a `;` comes first. A `;` inside `[u8; 4]` does not count.
fn body(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut nesting = 0usize;
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting = nesting.saturating_sub(1),
            b';' if nesting == 0 => return None,
            b'{' if nesting == 0 => return Some((at + offset, closing_brace(bytes, at + offset)?)),
            _ => {}
        }
    }
    None
}

fn closing_brace(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in bytes[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(open + offset);
                }
            }
            _ => {}
        }
    }
    None
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    1 + bytes[..at].iter().filter(|b| **b == b'\n').count()
}

/// How many lines of the file are production code: all but the bodies of `#[cfg(test)]` modules.
pub(crate) fn production_lines(masked: &str) -> usize {
    let bytes = masked.as_bytes();
    let mut lines = masked.lines().count();
    for (at, _) in masked.match_indices("#[cfg(test)]") {
        let is_module = masked[at..].lines().take(3).any(|line| line.trim_start().starts_with("mod "));
        if let (true, Some((open, close))) = (is_module, body(bytes, at + "#[cfg(test)]".len())) {
            lines -= line_of(bytes, close) - line_of(bytes, open);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_blanks_what_is_not_code_and_keeps_the_lines() {
        let text = "a /* { /* } */ \n { */ b // }\n\"}\\\"{\" r#\"}\"{\"# b'{' '{' '\\'' 'static c\"}\" br\"{\" 'é' x";
        let masked = mask(text);
        assert_eq!(masked.lines().count(), text.lines().count());
        assert_eq!(masked.split_whitespace().collect::<Vec<_>>(), ["a", "b", "'static", "x"]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let text = "trait T { fn declared(&self) -> [u8; 4]; }\n\nfn one() { }\npub fn three<F: Fn(u8)>(f: fn(u8)) -> u8 {\n  if x { }\n}\n";
        let found = functions(&mask(text));
        assert_eq!(
            found,
            [Function { name: "one".into(), line: 3, lines: 1 }, Function { name: "three".into(), line: 4, lines: 3 }]
        );
    }

    #[test]
    fn test_modules_are_not_production_code() {
        let text = "//! Docs.\nfn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n  fn c() {}\n}\n";
        assert_eq!(production_lines(&mask(text)), 4);
        assert_eq!(production_lines(&mask("#[cfg(test)]\nuse x;\nfn a() {\n}\n")), 4);
    }
}

//! Redis's glob patterns, for `COMMAND LIST`, `KEYS`, `SCAN` and `CONFIG GET`.
//!
//! `*` any run of bytes, `?` one byte, `[a-c]` and `[^a-c]` one byte (not) among those, `\x` the byte x itself. The odd
//! corners are Redis's own: an unclosed `[` ends with the pattern, a range may run backwards, and an empty text matches
//! an empty pattern alone. Time is at most proportional to the product of the lengths, memory constant.

/// Whether `text` matches `pattern`.
pub fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    matches(pattern, text, false)
}

/// Whether `text` matches `pattern` when the case of ASCII letters does not count.
pub fn glob_matches_nocase(pattern: &[u8], text: &[u8]) -> bool {
    matches(pattern, text, true)
}

fn matches(pattern: &[u8], text: &[u8], nocase: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let mut pattern_at = 0;
    let mut text_at = 0;
    // After a failure, what to try next: the pattern behind the last star, one byte further on in the text.
    let mut retry: Option<(usize, usize)> = None;
    while text_at < text.len() {
        if pattern.get(pattern_at) == Some(&b'*') {
            pattern_at += 1;
            retry = Some((pattern_at, text_at + 1));
            continue;
        }
        if pattern_at < pattern.len() {
            let (matched, after) = match_one(&pattern[pattern_at..], text[text_at], nocase);
            if matched {
                pattern_at += after;
                text_at += 1;
                continue;
            }
        }
        let Some((pattern_again, text_again)) = retry else {
            return false;
        };
        retry = Some((pattern_again, text_again + 1));
        pattern_at = pattern_again;
        text_at = text_again;
    }
    pattern[pattern_at..].iter().all(|byte| *byte == b'*')
}

/// Matches one byte with the first element of the pattern, which is not a star: whether it matches, and how long the
/// element is.
fn match_one(pattern: &[u8], byte: u8, nocase: bool) -> (bool, usize) {
    match pattern[0] {
        b'?' => (true, 1),
        b'[' => match_class(pattern, byte, nocase),
        b'\\' if pattern.len() >= 2 => (same(pattern[1], byte, nocase), 2),
        literal => (same(literal, byte, nocase), 1),
    }
}

fn match_class(pattern: &[u8], byte: u8, nocase: bool) -> (bool, usize) {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    loop {
        match &pattern[at..] {
            [b'\\', escaped, ..] => {
                found |= same(*escaped, byte, nocase);
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [from, b'-', to, ..] => {
                // C's plain `char` is signed where Redis runs.
                let fold = |byte: u8| (if nocase { byte.to_ascii_lowercase() } else { byte }) as i8;
                let (from, to) = (fold(*from), fold(*to));
                found |= (from.min(to)..=from.max(to)).contains(&fold(byte));
                at += 3;
            }
            [literal, ..] => {
                found |= same(*literal, byte, nocase);
                at += 1;
            }
        }
    }
    (found != negated, at)
}

fn same(left: u8, right: u8, nocase: bool) -> bool {
    left == right || nocase && left.eq_ignore_ascii_case(&right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes = [
            ("", ""),
            ("*", "a"),
            ("**", "abc"),
            ("a*", "a"),
            ("*c", "abc"),
            ("a*c*e", "abcde"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hallo"),
            ("h\\?llo", "h?llo"),
            ("h[\\]]llo", "h]llo"),
            ("h[ab", "ha"),
            ("a\\", "a\\"),
            ("*[0-9]", "key12"),
        ];
        for (pattern, text) in yes {
            assert!(glob_matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should match {text}");
        }
        let no = [
            ("*", ""),
            ("a", ""),
            ("", "a"),
            ("a*c", "abd"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("h\\?llo", "hello"),
            ("A", "a"),
            ("*a?", "ba"),
            ("[]", "a"),
        ];
        for (pattern, text) in no {
            assert!(!glob_matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should not match {text}");
        }
        assert!(glob_matches_nocase(b"CONFIG|*", b"config|get"));
        assert!(glob_matches_nocase(b"[A-C]x", b"bX"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!glob_matches(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}

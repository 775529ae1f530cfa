//! What evaluation needs to know of glob patterns besides matching (which is `dstore_resp`'s): where to look for matches.

/// What every match begins with: the bytes before anything special.
pub(crate) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')).unwrap_or(pattern.len());
    &pattern[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use dstore_resp::glob_matches as matches;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        for text in matching {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should match {text:?}");
        }
        for text in others {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} should not match {text:?}");
        }
    }

    #[test]
    fn the_ordinary_forms() {
        check("", &[""], &["a"]);
        check("abc", &["abc"], &["", "ab", "abcd", "abd"]);
        check("a?c", &["abc", "a?c"], &["ac", "abbc"]);
        check("a*c", &["ac", "abc", "abcbc"], &["a", "abcd", "c"]);
        check("*", &["a", "abc"], &[]);
        check("*b*", &["b", "abc", "bb"], &["", "a"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]);
        check("h[^e]llo", &["hallo"], &["hello", "hllo"]);
        check("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]);
        check(r"a\*b", &["a*b"], &["ab", "axb", r"a\*b"]);
        check(r"[\]]x", &["]x"], &[r"\x"]);
        check("user:*:name", &["user:1:name", "user::name"], &["user:1", "user:1:name "]);
    }

    #[test]
    fn the_odd_corners() {
        check("**", &["a"], &[""]);
        check("a**", &["a", "ab"], &["", "b"]);
        check("[c-a]", &["a", "b", "c"], &["d", "-"]);
        check("[abc", &["a", "c"], &["d", "["]);
        check("[", &[], &["[", "a", ""]);
        check("[^", &["[", "a"], &["", "ab"]);
        check("[]", &[], &["]", "a"]);
        check("[]a]", &[], &["]", "a", "a]"]);
        check("[a-]", &["a", "]", "^"], &["-", "b"]);
        check("[a-", &["a", "-"], &["b"]);
        check("\\", &["\\"], &["a"]);
        check("a[\\", &["a\\"], &["a["]);
        assert!(matches(b"[\x7f-\x80]", b"\x00") && !matches(b"[\xff-\x01]", b"\x80"), "ranges are signed");
    }

    #[test]
    fn a_hostile_pattern_costs_no_more_than_its_length_times_the_texts() {
        let pattern = "*a".repeat(2_000);
        let text = "a".repeat(60_000) + "b";
        check(&pattern, &[text.trim_end_matches('b')], &[&text]);
        check(&("?".repeat(500) + "*" + &"?".repeat(500) + "x"), &[], &[&"y".repeat(60_000)]);
    }

    #[test]
    fn the_prefix_that_every_match_shares() {
        for (pattern, prefix) in [("abc", "abc"), ("ab*", "ab"), ("a?b", "a"), ("[a]", ""), (r"a\*", "a"), ("", "")] {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes());
        }
    }

    /// The same language, said as plainly as it can be: try everything.
    fn matches_plainly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [b'*', rest @ ..] if skip_stars(rest).is_empty() => !text.is_empty(),
            [b'*', rest @ ..] => (0..text.len()).any(|at| matches_plainly(rest, &text[at..])),
            _ => match text {
                [] => pattern.is_empty(),
                [byte, behind @ ..] => step(pattern, *byte).is_some_and(|rest| {
                    if behind.is_empty() { skip_stars(rest).is_empty() } else { matches_plainly(rest, behind) }
                }),
            },
        }
    }

    fn skip_stars(pattern: &[u8]) -> &[u8] {
        let end = pattern.iter().position(|byte| *byte != b'*').unwrap_or(pattern.len());
        &pattern[end..]
    }

    /// Matches one byte with the pattern's first element, which is no star; gives the pattern behind it.
    fn step(pattern: &[u8], byte: u8) -> Option<&[u8]> {
        match pattern {
            [] => None,
            [b'?', rest @ ..] => Some(rest),
            [b'[', class @ ..] => step_class(class, byte),
            [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
        }
    }

    /// The class behind its `[`.
    fn step_class(class: &[u8], byte: u8) -> Option<&[u8]> {
        let (negated, mut class) = match class {
            [b'^', rest @ ..] => (true, rest),
            _ => (false, class),
        };
        let mut found = false;
        let rest = loop {
            class = match class {
                [] => break class,
                [b'\\', literal, rest @ ..] => {
                    found |= *literal == byte;
                    rest
                }
                [b']', rest @ ..] => break rest,
                [from, b'-', to, rest @ ..] => {
                    // C's plain `char` is signed where Redis runs.
                    let (from, to, byte) = (*from as i8, *to as i8, byte as i8);
                    found |= (from.min(to)..=from.max(to)).contains(&byte);
                    rest
                }
                [literal, rest @ ..] => {
                    found |= *literal == byte;
                    rest
                }
            };
        };
        (found != negated).then_some(rest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn trying_only_the_latest_star_again_is_enough(pattern in r"[ab*?\[\]^\\-]{0,10}", text in "[ab-]{0,8}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), matches_plainly(pattern, text));
            prop_assert!(!matches(pattern, text) || text.starts_with(literal_prefix(pattern)));
        }
    }
}

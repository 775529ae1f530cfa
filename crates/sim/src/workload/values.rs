//! [`Values`]: what stands in lists and registers. A value says of each of its bytes where it belongs, so that one of which a part
//! is missing, misplaced, or of another value is told from a whole one.
//!
//! ```text
//! list       000007 000007 .. ,000012 000012 .. ,       tokens, all of one width
//! register   000031                                     a token
//!            000031 | 000029:000000,.. 000029:000001,.. one in front of a long body, which is of the token that was put with it
//! ```
//!
//! Long ones are about as long as what is stored whole at most, or a few times as long, and then stored in chunks.

use bytes::Bytes;

use crate::checker::Token;
use crate::random::Random;

/// The digits of a token.
const DIGITS: usize = 6;

/// Between the token of a register and its body.
const BAR: u8 = b'|';

/// A piece of a body: its token, its number, and something to fill it up. No multiple of it is as long as a chunk.
const PIECE_BYTES: usize = 61;
const FILLING: &[u8] = b"the quick brown fox jumps over the lazy dog....";

/// What values look like; the same for all clients of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    /// Bytes of one token in a list: the length of a list tells how many there are.
    pub token_bytes: usize,
    /// Some tokens in registers have long bodies.
    pub long: bool,
}

impl Values {
    /// As short as they can be.
    pub const SHORT: Values = Values { token_bytes: DIGITS + 1, long: false };

    /// Drawn from a seed.
    pub fn draw(random: &mut Random) -> Values {
        let short = Values::SHORT.token_bytes;
        Values { token_bytes: *random.pick(&[short, short, short, short, 499, 997]), long: random.one_in(3) }
    }

    /// A token of a list.
    pub fn piece(self, token: Token) -> String {
        let mut piece = format!("{token:06}").repeat(self.token_bytes / DIGITS + 1);
        piece.truncate(self.token_bytes - 1);
        piece.push(',');
        piece
    }

    /// How many tokens so many bytes of a list are.
    ///
    /// # Errors
    ///
    /// They are no number of tokens.
    pub fn tokens_in(self, bytes: i64) -> Result<usize, String> {
        let whole = usize::try_from(bytes).ok().filter(|bytes| bytes.is_multiple_of(self.token_bytes));
        whole.map(|bytes| bytes / self.token_bytes).ok_or_else(|| format!("a length of {bytes} is no number of tokens"))
    }

    /// The tokens of a list.
    ///
    /// # Errors
    ///
    /// It is not a sequence of tokens.
    pub fn parse_list(self, value: &Bytes) -> Result<Vec<Token>, String> {
        let token = |(at, piece): (usize, &[u8])| {
            let token = parse_token(piece).filter(|token| self.piece(*token).as_bytes() == piece);
            token.ok_or_else(|| format!("a list whose piece {at} is no token: {}", excerpt(piece)))
        };
        value.chunks(self.token_bytes).enumerate().map(token).collect()
    }

    /// What is put into a register.
    pub fn register(self, token: Token) -> String {
        let body = self.body(token);
        let mut value = format!("{token:06}");
        if !body.is_empty() {
            value.push(BAR as char);
            value.push_str(std::str::from_utf8(&body).expect("it is made of letters"));
        }
        value
    }

    /// The token of a register.
    ///
    /// # Errors
    ///
    /// It holds something else, or its body is not as it was put there.
    pub fn parse_register(self, value: &Bytes) -> Result<Token, String> {
        let token = parse_token(value).ok_or_else(|| format!("a register without a token: {}", excerpt(value)))?;
        let Some(body) = value.get(DIGITS..).filter(|body| !body.is_empty()) else { return Ok(token) };
        let owner = body.strip_prefix(&[BAR]).and_then(|body| Some((parse_token(body)?, body)));
        let Some((owner, body)) = owner else {
            return Err(format!("a register whose body belongs to no token: {}", excerpt(value)));
        };
        let expected = self.body(owner);
        if body == expected {
            return Ok(token);
        }
        let at = body.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        let (length, whole) = (body.len(), expected.len());
        let found = excerpt(&body[at..]);
        Err(format!(
            "the body of {owner}, behind {token}: {length} bytes of {whole}, and byte {at} is not its: {found}"
        ))
    }

    /// The body that is put along with a token; empty for most.
    fn body(self, token: Token) -> Vec<u8> {
        let mix = token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let length = match mix % 8 {
            _ if !self.long => 0,
            // Around the most that is stored whole.
            0 | 1 => 60_000 + mix / 8 % 10_000,
            2 => 66_000 + mix / 8 % 100_000,
            3 => 20_000,
            _ => 0,
        };
        let length = usize::try_from(length).expect("bodies are short");
        let mut body = Vec::with_capacity(length + PIECE_BYTES);
        for number in 0..length.div_ceil(PIECE_BYTES) {
            for digits in [(token, b':'), (number as u64, b',')] {
                push_digits(&mut body, digits.0);
                body.push(digits.1);
            }
            body.extend_from_slice(FILLING);
        }
        body.truncate(length);
        body
    }
}

/// As `{:06}` does it, which would take most of the time.
fn push_digits(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

fn parse_token(bytes: &[u8]) -> Option<Token> {
    std::str::from_utf8(bytes.get(..DIGITS)?).ok()?.parse().ok()
}

/// The beginning of something, for reports.
fn excerpt(bytes: &[u8]) -> String {
    const EXCERPT_BYTES: usize = 40;
    bytes[..bytes.len().min(EXCERPT_BYTES)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Values = Values { token_bytes: 499, long: true };

    #[test]
    fn lists_are_read_back_and_nonsense_is_not() {
        let parse = |text: &str| Values::SHORT.parse_list(&Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("000007,123456,"), Ok(vec![7, 123_456]));
        for nonsense in ["000007", "000007;", "00000a,", "000007,1"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
        let mut list = [LONG.piece(7), LONG.piece(8)].concat().into_bytes();
        assert_eq!(LONG.parse_list(&list.clone().into()), Ok(vec![7, 8]));
        list[600] = 0;
        assert!(LONG.parse_list(&list.into()).is_err());
        assert_eq!(LONG.tokens_in(998), Ok(2));
        assert!(LONG.tokens_in(999).is_err());
    }

    #[test]
    fn registers_are_read_back_and_damage_is_found() {
        let lengths: Vec<usize> = (0..100).map(|token| LONG.register(token).len()).collect();
        assert!(lengths.contains(&6) && lengths.iter().any(|length| *length > 100_000), "{lengths:?}");
        for token in 0..100 {
            let value = LONG.register(token).into_bytes();
            assert_eq!(LONG.parse_register(&value.clone().into()), Ok(token));
            for at in [6, 7, 10, 30_000, value.len() - 1].into_iter().filter(|at| *at < value.len()) {
                let mut damaged = value.clone();
                damaged[at] = 0;
                assert!(LONG.parse_register(&damaged.into()).is_err(), "{token} {at}");
                assert!(LONG.parse_register(&value[..at].to_vec().into()).is_err() || at == 6, "{token} {at}");
            }
            let mut another = value.clone();
            another[..6].copy_from_slice(b"000777");
            assert_eq!(LONG.parse_register(&another.into()), Ok(777), "its token alone was replaced");
        }
        assert!(Values::SHORT.parse_register(&Bytes::from_static(b"7")).is_err());
    }
}

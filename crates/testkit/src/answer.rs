//! [`Answer`]: what a server of the Redis protocol answered, in RESP2 or RESP3, to the byte and taken apart.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

/// An answer as a client sees it. RESP3's own forms appear in RESP3 alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// A status, with its `+`, or an error, with its `-`.
    Line(String),
    /// `:1`
    Integer(i64),
    /// A string of bytes, or none.
    Bulk(Option<Bytes>),
    /// Several answers, or none.
    Array(Option<Vec<Answer>>),
    /// RESP3's text with its format: `txt:`, then the text.
    Verbatim(Bytes),
    /// RESP3's null.
    Null,
    /// RESP3's map: key, value, key, value.
    Map(Vec<Answer>),
    /// RESP3's set.
    Set(Vec<Answer>),
}

/// Reads the bytes of one answer.
///
/// # Errors
///
/// The connection ended within it, or it is none.
pub fn read_raw(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    append_raw(from, &mut raw)?;
    Ok(raw)
}

fn append_raw(from: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<()> {
    let start = raw.len();
    from.read_until(b'\n', raw)?;
    let line = raw[start..].strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let (kind, rest) = line.split_first().ok_or(io::ErrorKind::InvalidData)?;
    let number = || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok());
    let number = || number().ok_or(io::ErrorKind::InvalidData);
    match kind {
        b'$' | b'=' | b'!' => {
            if let Ok(len) = u64::try_from(number()?) {
                let before = raw.len();
                from.take(len + 2).read_to_end(raw)?;
                if raw.len() as u64 != before as u64 + len + 2 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        b'*' | b'~' | b'>' | b'%' => {
            let each = if *kind == b'%' { 2 } else { 1 };
            for _ in 0..number()? * each {
                append_raw(from, raw)?;
            }
        }
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    Ok(())
}

/// So many bytes, and their line's end.
fn take(from: &mut &[u8], len: usize) -> Bytes {
    let bytes = Bytes::copy_from_slice(&from[..len]);
    *from = &from[len + 2..];
    bytes
}

impl Answer {
    /// Reads one answer.
    ///
    /// # Errors
    ///
    /// The connection ended within it, or it is none.
    pub fn read(from: &mut impl BufRead) -> io::Result<Answer> {
        Ok(Answer::parse(&read_raw(from)?))
    }

    /// Takes apart what [`read_raw`] read.
    ///
    /// # Panics
    ///
    /// On anything else.
    pub fn parse(raw: &[u8]) -> Answer {
        let mut rest = raw;
        let answer = Answer::part(&mut rest);
        assert!(rest.is_empty(), "bytes behind an answer");
        answer
    }

    fn part(from: &mut &[u8]) -> Answer {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).expect("memory can be read");
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n").expect("a whole line")).into_owned();
        let number = || line[1..].parse::<i64>().expect("a number");
        let len = || usize::try_from(number()).ok();
        match line.as_bytes().first().expect("an answer has a type") {
            b'+' | b'-' => Answer::Line(line),
            b':' => Answer::Integer(number()),
            b'$' => Answer::Bulk(len().map(|len| take(from, len))),
            b'=' => Answer::Verbatim(take(from, len().expect("a length"))),
            b'*' => Answer::Array(len().map(|len| (0..len).map(|_| Answer::part(from)).collect())),
            b'~' => Answer::Set((0..number()).map(|_| Answer::part(from)).collect()),
            b'%' => Answer::Map((0..2 * number()).map(|_| Answer::part(from)).collect()),
            b'_' => Answer::Null,
            other => panic!("an answer of type {:?}", char::from(*other)),
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Answer::Line(line) if line.starts_with('-'))
    }

    /// Whether it is null, in either protocol.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Answer::Null | Answer::Bulk(None) | Answer::Array(None))
    }

    /// The number.
    ///
    /// # Panics
    ///
    /// When it is something else.
    pub fn integer(&self) -> i64 {
        match self {
            Answer::Integer(value) => *value,
            other => panic!("{other:?} instead of an integer"),
        }
    }

    /// The string.
    ///
    /// # Panics
    ///
    /// When it is something else.
    pub fn bulk(&self) -> &Bytes {
        match self {
            Answer::Bulk(Some(bytes)) => bytes,
            other => panic!("{other:?} instead of a string"),
        }
    }

    /// The elements.
    ///
    /// # Panics
    ///
    /// When it is something else.
    pub fn array(&self) -> &[Answer] {
        match self {
            Answer::Array(Some(answers)) => answers,
            other => panic!("{other:?} instead of an array"),
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Line(line) => f.write_str(line),
            Answer::Integer(value) => write!(f, ":{value}"),
            Answer::Bulk(Some(bytes)) => write!(f, "{bytes:?}"),
            Answer::Bulk(None) => f.write_str("nil"),
            Answer::Array(Some(answers)) => answers.fmt(f),
            Answer::Array(None) => f.write_str("nil array"),
            Answer::Verbatim(bytes) => write!(f, "={:?}", String::from_utf8_lossy(bytes)),
            Answer::Null => f.write_str("null"),
            Answer::Map(answers) => write!(f, "map {answers:?}"),
            Answer::Set(answers) => write!(f, "set {answers:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_last_byte_and_no_further() {
        let whole = b"%1\r\n$1\r\na\r\n*3\r\n:5\r\n_\r\n$-1\r\n";
        let mut from = [&whole[..], b"+OK\r\n"].concat();
        let mut rest = &from[..];
        let raw = read_raw(&mut rest).unwrap();
        assert_eq!((&raw[..], rest), (&whole[..], &b"+OK\r\n"[..]));
        assert_eq!(format!("{:?}", Answer::parse(&raw)), "map [b\"a\", [:5, null, nil]]");
        from.truncate(whole.len() - 1);
        assert!(read_raw(&mut &from[..]).is_err(), "it was cut short");
        assert!(read_raw(&mut &b"hello\r\n"[..]).is_err());
    }
}

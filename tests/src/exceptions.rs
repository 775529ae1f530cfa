//! Where a node's answer may be another than Redis's: all of it, and why. What is not named here must be the same to the
//! byte.
//!
//! | command | what may differ | why |
//! |---|---|---|
//! | `HELLO` | `id` | connections are counted by each server for itself |
//! | `TTL` `PTTL` `EXPIRETIME` `PEXPIRETIME` | by less than [`MOMENT_MS`] | the two servers were given a relative time, or asked, at different moments |
//! | `KEYS` | the order | Redis's is that of its hash table |
//! | `SCAN` | cursors, and what comes before them | the same; a scan that is finished by one call gives the same keys |
//! | `SCAN` `TYPE none` | keys in Redis, none here | a key that Redis finds expired at this look has that type, and is told |
//! | `RANDOMKEY` | the key | it is random |
//! | `DUMP` | payloads that Redis has compressed | it does so with strings of more than 20 bytes where that saves something; here they are plain |
//! | `OBJECT ENCODING` | `raw` in Redis; `embstr` there and `int` here | here it is told from the value, there from how the value was made |
//! | `OBJECT REFCOUNT` | 1 in Redis; 2 there, 1 here | a copied small number is not shared there; a value set in a block is shared with the queued request |
//! | `OBJECT IDLETIME` | the number | reads count there |
//!
//! Answers within EXEC's array are judged one by one.

use bytes::Bytes;
use dstore_testkit::answer::Answer;
use dstore_testkit::requests::KEYS;

use crate::conversation::Request;

/// More than any request takes to come from one server to the other; far less than what lies between any two of the
/// deadlines that tests draw.
pub const MOMENT_MS: u64 = 60_000;

/// A payload of DUMP of the longest string that Redis never compresses: type, length, string, version, checksum.
const DUMP_BYTES_PLAIN: usize = 1 + 1 + 20 + 2 + 8;
/// Behind the type: a compressed string follows.
const DUMP_COMPRESSED: u8 = 0xC3;

/// Whether a node may answer `ours` to a request where Redis answers `theirs`. `queued` are the requests of the block
/// that an EXEC ends.
pub fn excuses(request: &Request, queued: &[Request], theirs: &Answer, ours: &Answer) -> bool {
    if theirs == ours {
        return true;
    }
    if request.is("EXEC") {
        let (Answer::Array(Some(theirs)), Answer::Array(Some(ours))) = (theirs, ours) else { return false };
        let each = queued.iter().zip(theirs).zip(ours);
        return theirs.len() == ours.len()
            && theirs.len() == queued.len()
            && each.into_iter().all(|((request, theirs), ours)| excuses(request, &[], theirs, ours));
    }
    let name = String::from_utf8_lossy(&request.args[0]).to_ascii_uppercase();
    match name.as_str() {
        "HELLO" => without_id(theirs).is_some_and(|theirs| Some(theirs) == without_id(ours)),
        "TTL" | "EXPIRETIME" => near(theirs, ours, MOMENT_MS / 1000),
        "PTTL" | "PEXPIRETIME" => near(theirs, ours, MOMENT_MS),
        "KEYS" => same_set(theirs, ours),
        "SCAN" => same_scan(request, theirs, ours),
        "RANDOMKEY" => {
            let is_key =
                |answer: &Answer| matches!(answer, Answer::Bulk(Some(key)) if KEYS.iter().any(|k| k.as_bytes() == key));
            is_key(theirs) && is_key(ours)
        }
        "DUMP" => match (theirs, ours) {
            (Answer::Bulk(Some(theirs)), Answer::Bulk(Some(ours))) => {
                theirs.get(1) == Some(&DUMP_COMPRESSED) && ours.len() > DUMP_BYTES_PLAIN
            }
            _ => false,
        },
        "OBJECT" => request.args.get(1).is_some_and(|about| object(about, theirs, ours)),
        _ => false,
    }
}

fn object(about: &Bytes, theirs: &Answer, ours: &Answer) -> bool {
    let is = |answer: &Answer, name: &'static str| *answer == Answer::Bulk(Some(Bytes::from(name)));
    match about.to_ascii_uppercase().as_slice() {
        b"ENCODING" => {
            (is(theirs, "raw") && matches!(ours, Answer::Bulk(Some(_)))) || (is(theirs, "embstr") && is(ours, "int"))
        }
        b"REFCOUNT" => {
            matches!(
                (theirs, ours),
                (Answer::Integer(1), Answer::Integer(_)) | (Answer::Integer(2), Answer::Integer(1))
            )
        }
        b"IDLETIME" => matches!((theirs, ours), (Answer::Integer(_), Answer::Integer(_))),
        _ => false,
    }
}

/// Two times that are there, and not far from each other.
fn near(theirs: &Answer, ours: &Answer, far: u64) -> bool {
    matches!((theirs, ours), (Answer::Integer(theirs @ 0..), Answer::Integer(ours @ 0..)) if theirs.abs_diff(*ours) < far)
}

fn without_id(answer: &Answer) -> Option<Vec<Answer>> {
    let (Answer::Array(Some(fields)) | Answer::Map(fields)) = answer else { return None };
    let at = fields.iter().position(|field| *field == Answer::Bulk(Some(Bytes::from("id"))))?;
    let mut fields = fields.clone();
    fields.drain(at..at + 2);
    Some(fields)
}

fn same_set(theirs: &Answer, ours: &Answer) -> bool {
    let sorted = |answer: &Answer| match answer {
        Answer::Array(Some(answers)) => {
            let mut answers = answers.clone();
            answers.sort();
            Some(answers)
        }
        _ => None,
    };
    sorted(theirs).is_some_and(|theirs| Some(theirs) == sorted(ours))
}

/// SCAN of the keys that have no type: the last TYPE counts.
fn asks_for_no_type(request: &Request) -> bool {
    let options = request.args.get(2..).unwrap_or_default().chunks_exact(2);
    options
        .rev()
        .find(|option| option[0].eq_ignore_ascii_case(b"TYPE"))
        .is_some_and(|option| option[1].eq_ignore_ascii_case(b"none"))
}

fn same_scan(request: &Request, theirs: &Answer, ours: &Answer) -> bool {
    let (Answer::Array(Some(theirs)), Answer::Array(Some(ours))) = (theirs, ours) else { return false };
    let end = Answer::Bulk(Some(Bytes::from("0")));
    match (&theirs[..], &ours[..]) {
        ([their_cursor, theirs], [our_cursor, ours]) => {
            let whole = request.args[1] == "0" && *their_cursor == end && *our_cursor == end;
            let told_when_expired = asks_for_no_type(request) && *ours == Answer::Array(Some(Vec::new()));
            !whole || same_set(theirs, ours) || told_when_expired
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excused(request: &str, theirs: &[u8], ours: &[u8]) -> bool {
        excuses(&Request::words(request), &[], &Answer::parse(theirs), &Answer::parse(ours))
    }

    #[test]
    fn an_exception_is_no_wider_than_its_reason() {
        assert!(excused("pttl k", b":1000000\r\n", b":1000009\r\n"));
        assert!(!excused("pttl k", b":-1\r\n", b":1000009\r\n"));
        assert!(!excused("pttl k", b":1000000\r\n", b":2000009\r\n"));
        assert!(!excused("get k", b":1000000\r\n", b":1000009\r\n"));
        assert!(excused("keys *", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*2\r\n$1\r\nb\r\n$1\r\na\r\n"));
        assert!(!excused("keys *", b"*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\nb\r\n$1\r\na\r\n"));
        assert!(!excused("scan 0", b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\n0\r\n*0\r\n"));
        let (one, none) = (b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\n0\r\n*0\r\n");
        assert!(excused("scan 0 type string type none", one, none));
        assert!(!excused("scan 0 type none", none, one));
        assert!(!excused("scan 0 type none type string", one, none));
        assert!(!excused("randomkey", b"$1\r\na\r\n", b"$-1\r\n"));
        assert!(!excused("dump k", b"$1\r\na\r\n", b"$1\r\nb\r\n"));
        let plain = |len: usize| format!("${len}\r\n{}\r\n", "x".repeat(len));
        assert!(excused("dump k", b"$3\r\n\0\xC3\x01\r\n", plain(33).as_bytes()));
        assert!(!excused("dump k", b"$3\r\n\0\xC3\x01\r\n", plain(32).as_bytes()));
        assert!(!excused("dump k", plain(40).replace('x', "y").as_bytes(), plain(40).as_bytes()));
        let (request, queued) = (Request::words("exec"), [Request::words("keys *"), Request::words("get a")]);
        let theirs = Answer::parse(b"*2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n");
        let ours = Answer::parse(b"*2\r\n*2\r\n$1\r\nb\r\n$1\r\na\r\n$-1\r\n");
        assert!(excuses(&request, &queued, &theirs, &ours));
        assert!(!excuses(&request, &[queued[1].clone(), queued[1].clone()], &theirs, &ours));
    }
}

//! [`Scan`]: SCAN from beginning to end, over as many connections, nodes and minutes as it takes. Whatever was there when it
//! began, and is there for ever, must turn up.

use std::collections::BTreeSet;

use dstore_resp::Reply;

use super::request::{self, ELSEWHERE};
use crate::checker::{COUNTERS, Key, REGISTERS, key_name};

/// Where a scan begins, and what says that it has ended.
const BEGINNING: &str = "0";

/// A scan under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    cursor: String,
    /// What has yet to turn up.
    owed: BTreeSet<Key>,
}

impl Scan {
    /// Begins, with these keys there already. Lists and counters are never removed.
    pub(super) fn begin(there: &BTreeSet<Key>) -> Scan {
        Scan { cursor: BEGINNING.to_owned(), owed: there.iter().copied().filter(|key| *key < REGISTERS).collect() }
    }

    /// The next request.
    pub(super) fn request(&self, count: u64) -> Vec<u8> {
        request::encode(&["SCAN", &self.cursor, "COUNT", &count.to_string()])
    }

    /// Takes in an answer. True if it was the last.
    ///
    /// # Errors
    ///
    /// It is none that the store should give: no answer to SCAN, a key that nobody made, or the end before everything turned up.
    pub(super) fn take_in(&mut self, reply: &Reply) -> Result<bool, String> {
        let parts = match reply {
            Reply::Array(parts) => &parts[..],
            _ => &[],
        };
        let [Reply::Bulk(cursor), Reply::Array(names)] = parts else {
            return Err(format!("SCAN answered with {reply:?}"));
        };
        for name in names {
            let Reply::Bulk(name) = name else { return Err(format!("a key told as {name:?}")) };
            let name = String::from_utf8_lossy(name);
            match parse(&name) {
                Some(key) => self.owed.remove(&key),
                None if name.starts_with(ELSEWHERE) => false,
                None => return Err(format!("a scan gives {name}, which nobody made")),
            };
        }
        self.cursor = String::from_utf8_lossy(cursor).into_owned();
        if self.cursor != BEGINNING {
            return Ok(false);
        }
        match self.owed.first() {
            Some(key) => Err(format!("a scan has ended without {}, which was there all the time", key_name(*key))),
            None => Ok(true),
        }
    }
}

/// The key of a name.
fn parse(name: &str) -> Option<Key> {
    let number = |rest: &str| rest.parse::<Key>().ok();
    let key = match name.split_at_checked(1)? {
        ("k", rest) => number(rest)?,
        ("c", rest) => COUNTERS + number(rest)?,
        ("r", rest) => REGISTERS + number(rest)?,
        _ => return None,
    };
    (key_name(key) == name).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(bytes::Bytes::copy_from_slice(text.as_bytes()))
    }

    fn answer(cursor: &str, names: &[&str]) -> Reply {
        Reply::Array(vec![bulk(cursor), Reply::Array(names.iter().map(|name| bulk(name)).collect())])
    }

    #[test]
    fn a_scan_goes_on_where_it_was_and_gives_all_that_was_there() {
        let mut scan = Scan::begin(&[1, COUNTERS, REGISTERS].into());
        assert_eq!(scan.request(2), request::encode(&["SCAN", "0", "COUNT", "2"]));
        assert_eq!(scan.take_in(&answer("77", &["c0", "elsewhere2000"])), Ok(false));
        assert_eq!(scan.request(1), request::encode(&["SCAN", "77", "COUNT", "1"]));
        // A register may have gone; what is given twice does no harm.
        assert_eq!(scan.take_in(&answer("0", &["c0", "k0", "k1"])), Ok(true));
    }

    #[test]
    fn what_a_scan_misses_or_makes_up_is_told() {
        let mut scan = Scan::begin(&[1].into());
        assert!(scan.clone().take_in(&answer("0", &["k0"])).unwrap_err().contains("without k1"));
        assert!(scan.clone().take_in(&answer("7", &["k01"])).unwrap_err().contains("which nobody made"));
        assert!(scan.clone().take_in(&answer("7", &["x"])).unwrap_err().contains("which nobody made"));
        assert!(scan.take_in(&Reply::Null).unwrap_err().contains("SCAN answered with"));
    }
}

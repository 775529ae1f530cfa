//! Random requests from small pools of keys, values and options, so that they meet: right ones mostly, wrong ones often.

use bytes::Bytes;

use crate::support::Random;

pub(crate) const KEYS: [&str; 10] = ["a", "b", "c", "ab", "a\0", "", "key:1", "key:2", "k\r\nx", "\u{ff}z"];

const INTEGERS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "5",
    "10",
    "100",
    "007",
    "-0",
    "+1",
    " 1",
    "1 ",
    "1.0",
    "9223372036854775807",
    "9223372036854775806",
    "-9223372036854775808",
    "-9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "",
    "x",
    "1x",
    "99999999999999999999999",
];

const FLOATS: [&str; 45] = [
    "0.1",
    "0.2",
    "-0.3",
    "1.5",
    "10.50",
    "3.0e3",
    "5e-1",
    "1e17",
    "1e18",
    "123456789.123456789",
    "-1e-17",
    "5e-18",
    "4.9e-18",
    "1e-20",
    ".5",
    "5.",
    "-.25",
    "0x1.8p1",
    "0x10",
    "1e400",
    "1e4932",
    "1.1e4932",
    "-1e4932",
    "1e4933",
    "1e-4950",
    "1e-4951",
    "1e-5000",
    "inf",
    "-inf",
    "infinity",
    "nan",
    "1e",
    "0x",
    "1 ",
    " 1",
    "+2.5",
    "260.225",
    "18446744073709551615",
    "9223372036854775809",
    "3.14159265358979323846",
    "18446744073709551616",
    "18446744073709551617.00000000000000000000000000000000000000001",
    "0x1.0000000000000002p0",
    "-0x1.0000000000000002p-1",
    "-0x1p-70",
];

const STRINGS: [&str; 8] = ["", "hello", "v", "\r\n", "\0", "0123456789", "caf\u{e9}", "with space"];

/// Times far from now, so that nothing expires by itself while a run lasts.
const RELATIVE_TIMES: [&str; 14] = [
    "100000",
    "200000",
    "300000000",
    "0",
    "-1",
    "-100000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775",
    "9223372036854776",
    "-9223372036854776",
    "x",
    "",
    "1.5",
];
const ABSOLUTE_TIMES: [&str; 14] = [
    "1",
    "-1",
    "0",
    "1500000000",
    "1500000000123",
    "99999999999999",
    "99999999999999999",
    "9223372036854775807",
    "9223372036854775",
    "9223372036854776",
    "-9223372036854775808",
    "4102444800",
    "4102444800500",
    "x",
];

const PATTERNS: [&str; 26] = [
    "*",
    "**",
    "a*",
    "*a",
    "?",
    "??",
    "*b*",
    "key:*",
    "key:?",
    "[ab]",
    "[^a]",
    "[a-c]*",
    "[c-a]",
    "[",
    "[^",
    "[a",
    "[a-",
    "[a-]",
    "\\a",
    "\\",
    "a\\",
    "",
    "*:[0-9]",
    "[\\a]",
    "*\u{ff}*",
    "[\u{80}-\u{ff}]*",
];

/// Commands, some of them often.
const NAMES: &str = "get get set set set set set set getex getex getdel mget mset msetnx setnx append strlen incr \
    decr incrby incrby decrby decrby incrbyfloat incrbyfloat incrbyfloat del unlink exists type \
    expire expire pexpire pexpire expireat pexpireat ttl pttl expiretime pexpiretime persist scan \
    keys dbsize flushall flushdb";

/// Draws requests.
pub(crate) struct Generator {
    pub(crate) random: Random,
    /// Times that clients give; the pools above, unless a test wants keys to expire.
    pub(crate) relative_times: Vec<&'static str>,
    pub(crate) absolute_times: Vec<&'static str>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        let (relative_times, absolute_times) = (RELATIVE_TIMES.to_vec(), ABSOLUTE_TIMES.to_vec());
        Generator { random: Random(seed), relative_times, absolute_times }
    }

    fn key(&mut self) -> &'static str {
        self.random.pick(&KEYS)
    }

    fn value(&mut self) -> &'static str {
        match self.random.below(4) {
            0 => self.random.pick(&STRINGS),
            1 => self.random.pick(&FLOATS),
            _ => self.random.pick(&INTEGERS),
        }
    }

    /// A word in lower, upper or mixed case.
    fn cased(&mut self, word: &str) -> String {
        match self.random.below(3) {
            0 => word.to_ascii_lowercase(),
            1 => word.to_ascii_uppercase(),
            _ => word.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect(),
        }
    }

    fn set_options(&mut self, words: &[&'static str], args: &mut Vec<String>) {
        // One or two options mostly; many of them only show syntax errors.
        let count = [0, 0, 1, 1, 1, 2, 2, 3, 4][self.random.below(9) as usize];
        for _ in 0..count {
            let word = self.random.pick(words);
            let option = self.cased(word);
            args.push(option);
            let time = match word {
                "EX" | "PX" => self.random.pick(&self.relative_times),
                "EXAT" | "PXAT" => self.random.pick(&self.absolute_times),
                _ => continue,
            };
            if !self.random.one_in(12) {
                args.push(time.to_owned());
            }
        }
    }

    fn expire_arguments(&mut self, relative: bool) -> Vec<String> {
        let times = if relative { &self.relative_times } else { &self.absolute_times };
        let time = self.random.pick(times).to_owned();
        let mut args = vec![self.key().to_owned(), time];
        for _ in 0..[0, 0, 0, 1, 1, 1, 1, 2, 3][self.random.below(9) as usize] {
            let option = self.random.pick(&["NX", "XX", "GT", "LT", "GT", "LT", "bogus\r\n\0x"]);
            args.push(self.cased(option));
        }
        args
    }

    fn some_keys(&mut self) -> Vec<String> {
        (0..=self.random.below(4)).map(|_| self.key().to_owned()).collect()
    }

    /// A request with its name first.
    pub(crate) fn request(&mut self) -> Vec<Bytes> {
        let names: Vec<&str> = NAMES.split(' ').collect();
        let mut name = self.random.pick(&names);
        if name.starts_with("flush") && !self.random.one_in(10) {
            name = "set";
        }
        let mut args = vec![self.cased(name)];
        self.arguments(name, &mut args);
        // Now and then one argument too few or too many.
        if self.random.one_in(40) {
            args.pop();
        } else if self.random.one_in(60) {
            args.push(self.value().to_owned());
        }
        let mut request: Vec<Bytes> = args.into_iter().map(Bytes::from).collect();
        if request.is_empty() {
            request.push(Bytes::from("get"));
        }
        request
    }

    fn arguments(&mut self, name: &str, args: &mut Vec<String>) {
        match name {
            "set" => {
                args.extend([self.key().to_owned(), self.value().to_owned()]);
                self.set_options(&["NX", "XX", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "EX", "PERSIST"], args);
            }
            "getex" => {
                args.push(self.key().to_owned());
                self.set_options(&["PERSIST", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "PERSIST"], args);
            }
            "mset" | "msetnx" => {
                for _ in 0..=self.random.below(3) {
                    args.extend([self.key().to_owned(), self.value().to_owned()]);
                }
            }
            "setnx" | "append" => args.extend([self.key().to_owned(), self.value().to_owned()]),
            "incrby" | "decrby" => args.extend([self.key(), self.random.pick(&INTEGERS)].map(str::to_owned)),
            "incrbyfloat" => {
                let float = self.float();
                args.extend([self.key().to_owned(), float]);
            }
            "expire" | "pexpire" => args.extend(self.expire_arguments(true)),
            "expireat" | "pexpireat" => args.extend(self.expire_arguments(false)),
            "mget" | "del" | "unlink" | "exists" => args.extend(self.some_keys()),
            "keys" => args.push(self.random.pick(&PATTERNS).to_owned()),
            "scan" => self.scan_arguments(args),
            "flushall" | "flushdb" => {
                if self.random.one_in(2) {
                    let option = self.random.pick(&["ASYNC", "SYNC", "bogus"]);
                    args.push(self.cased(option));
                }
            }
            "dbsize" => {}
            _ => args.push(self.key().to_owned()),
        }
    }

    /// One from the pool, or digits at random.
    fn float(&mut self) -> String {
        if self.random.one_in(2) {
            return self.random.pick(&FLOATS).to_owned();
        }
        let sign = self.random.pick(&["", "-"]);
        let digits = |random: &mut Random| {
            let count = 1 + random.below(19) as u32;
            random.below(10u64.saturating_pow(count))
        };
        let (whole, fraction) = (digits(&mut self.random), digits(&mut self.random));
        match self.random.below(4) {
            0 => format!("{sign}{whole}.{fraction}e{}", self.random.below(40) as i64 - 20),
            1 => format!("{sign}0.{fraction:019}"),
            _ => format!("{sign}{whole}.{fraction}"),
        }
    }

    fn scan_arguments(&mut self, args: &mut Vec<String>) {
        let cursor = if self.random.one_in(8) { self.value() } else { "0" };
        args.push(cursor.to_owned());
        for _ in 0..self.random.below(3) {
            let option = self.random.pick(&["MATCH", "COUNT", "TYPE", "MATCH", "COUNT", "bogus"]);
            args.push(self.cased(option));
            let value = match option {
                "MATCH" => self.random.pick(&PATTERNS),
                "COUNT" => self.random.pick(&["1", "2", "3", "10", "1000", "0", "-1", "x"]),
                _ => self.random.pick(&["string", "STRING", "hash", "none", ""]),
            };
            if !self.random.one_in(15) {
                args.push(value.to_owned());
            }
        }
    }
}

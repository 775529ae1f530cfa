//! Random requests from small pools of keys, values and options, so that they meet: right ones mostly, wrong ones often.
//!
//! Whoever compares an implementation of Redis's commands with another draws from here: evaluation alone beside a Redis,
//! a whole node beside a Redis, evaluation beside a plain model.

use bytes::Bytes;

/// SplitMix64: enough for choosing test cases, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "there is always a next one")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// All keys that requests are about.
pub const KEYS: [&str; 10] = ["a", "b", "c", "ab", "a\0", "", "key:1", "key:2", "k\r\nx", "\u{ff}z"];

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
    keys dbsize flushall flushdb setex psetex getset getrange getrange substr setrange setrange lcs lcs \
    setbit setbit setbit getbit getbit bitcount bitcount bitpos bitpos bitop bitop bitfield bitfield bitfield bitfield_ro \
    rename renamenx copy copy move touch randomkey object dump restore restore sort sort_ro";

/// For values of some hundred KiB: commands that make, change and read parts.
const LARGE_NAMES: &str = "get strlen set append append append setrange setrange setrange setrange getrange getrange \
    getrange setbit setbit getbit bitcount bitpos bitop bitfield bitfield copy rename expire persist getex del dump \
    restore move touch exists mget getset";

/// Positions in short values.
const POSITIONS: [&str; 16] = [
    "0",
    "1",
    "2",
    "5",
    "-1",
    "-2",
    "-5",
    "-100",
    "7",
    "8",
    "30",
    "100",
    "9223372036854775807",
    "-9223372036854775808",
    "x",
    "1.5",
];

/// Positions around the ends of chunks.
const LARGE_POSITIONS: [&str; 20] = [
    "0", "1", "16383", "16384", "16385", "32767", "49152", "65535", "65536", "65537", "70000", "81920", "131072",
    "200000", "-1", "-16384", "-65536", "-70000", "1048575", "1048576",
];

const BIT_OFFSETS: [&str; 16] =
    ["0", "1", "2", "6", "7", "8", "9", "15", "16", "63", "100", "1000", "-1", "4294967296", "x", "+1"];

const FIELD_TYPES: [&str; 18] =
    ["u8", "i8", "u1", "i1", "i5", "u5", "i64", "u63", "i63", "u16", "i33", "u64", "i65", "u0", "U8", "x8", "u", "i08"];

const FIELD_OFFSETS: [&str; 16] =
    ["0", "1", "3", "8", "12", "60", "100", "#0", "#1", "#2", "#7", "-1", "#-1", "x", "#", "#9223372036854775807"];

const FIELD_VALUES: [&str; 16] = [
    "0",
    "1",
    "-1",
    "2",
    "100",
    "-100",
    "127",
    "128",
    "255",
    "256",
    "-129",
    "9223372036854775807",
    "-9223372036854775808",
    "4611686018427387904",
    "x",
    "",
];

/// Relative times that are errors, or past: the others of [`RELATIVE_TIMES`] depend on when they are set.
const RELATIVE_TIMES_ODD: [&str; 6] = ["0", "-1", "9223372036854775807", "x", "", "1.5"];

/// Draws requests.
#[derive(Debug)]
pub struct Generator {
    /// Where choices come from.
    pub random: Random,
    /// Relative times are drawn from so wide a span that no two deadlines are near each other: what a request that is
    /// given one deadline or another by the moment at which it comes does (`GT`) is the same at every moment.
    pub spread_times: bool,
    /// Times that clients give; the pools above, unless a test wants keys to expire.
    pub relative_times: Vec<&'static str>,
    /// The same of points in time.
    pub absolute_times: Vec<&'static str>,
    /// What RESTORE is given.
    pub payloads: Vec<Bytes>,
    /// Values of some hundred KiB, and commands that work on parts of them.
    pub large: bool,
}

impl Generator {
    /// Draws as this seed says.
    pub fn new(seed: u64) -> Generator {
        let (relative_times, absolute_times) = (RELATIVE_TIMES.to_vec(), ABSOLUTE_TIMES.to_vec());
        let (spread_times, payloads, large) = (false, Vec::new(), false);
        Generator { random: Random(seed), spread_times, relative_times, absolute_times, payloads, large }
    }

    /// A relative time, right or wrong.
    fn relative_time(&mut self) -> String {
        if !self.spread_times {
            return self.random.pick(&self.relative_times).to_owned();
        }
        if self.random.one_in(4) {
            return self.random.pick(&RELATIVE_TIMES_ODD).to_owned();
        }
        // From hours, in milliseconds, to thousands of years, in seconds.
        (10_000_000 + self.random.below(100_000_000_000)).to_string()
    }

    /// One of the payloads, right or damaged.
    fn payload(&mut self) -> Bytes {
        if self.payloads.is_empty() {
            return Bytes::from_static(b"no payload");
        }
        let chosen = self.random.below(self.payloads.len() as u64) as usize;
        let mut payload = self.payloads[chosen].to_vec();
        if self.random.one_in(6) {
            let at = self.random.below(payload.len() as u64) as usize;
            payload[at] ^= 1 << self.random.below(8);
        } else if self.random.one_in(12) {
            payload.truncate(self.random.below(payload.len() as u64) as usize);
        }
        Bytes::from(payload)
    }

    /// Bytes to write into a value.
    fn part(&mut self) -> String {
        if !self.large {
            return self.value().to_owned();
        }
        let len = [0, 1, 2, 100, 16_383, 16_384, 16_385, 40_000, 65_536][self.random.below(9) as usize];
        let letters = ["a", "b", "\0", "\x7f"];
        (0..len).map(|at| letters[(at / 7 + len) % 4]).collect()
    }

    fn position(&mut self) -> &'static str {
        let pool: &[&'static str] = if self.large { &LARGE_POSITIONS } else { &POSITIONS };
        pool[self.random.below(pool.len() as u64) as usize]
    }

    fn bit_offset(&mut self) -> String {
        if self.large {
            let byte: i64 = self.position().parse().expect("a number");
            return (8 * byte + self.random.below(8) as i64).to_string();
        }
        match self.random.below(300) {
            // The last bit there may be, and the one behind: a long value, so not often.
            0 => "8388607".to_owned(),
            1..8 => "8388608".to_owned(),
            _ => self.random.pick(&BIT_OFFSETS).to_owned(),
        }
    }

    /// `start end [BYTE | BIT]`, or less, or more.
    fn bit_range(&mut self, args: &mut Vec<String>) {
        for _ in 0..[0, 1, 2, 2, 2, 2][self.random.below(6) as usize] {
            args.push(self.position().to_owned());
        }
        if self.random.one_in(2) {
            let unit = self.random.pick(&["BIT", "BYTE", "BIT", "BYTE", "bogus"]);
            args.push(self.cased(unit));
        }
    }

    fn field_operations(&mut self, args: &mut Vec<String>) {
        for _ in 0..self.random.below(5) {
            let operation = self.random.pick(&["GET", "SET", "INCRBY", "OVERFLOW", "SET", "INCRBY", "GET", "bogus"]);
            let operation = if operation == "bogus" && !self.random.one_in(4) { "GET" } else { operation };
            args.push(self.cased(operation));
            if operation == "OVERFLOW" {
                let kind = self.random.pick(&["WRAP", "SAT", "FAIL", "SAT", "FAIL", "bogus"]);
                args.push(self.cased(kind));
                continue;
            }
            let types = if self.random.one_in(4) { &FIELD_TYPES[..] } else { &FIELD_TYPES[..11] };
            args.push(self.random.pick(types).to_owned());
            let offset = if self.large { self.bit_offset() } else { self.random.pick(&FIELD_OFFSETS[..]).to_owned() };
            args.push(offset);
            if operation != "GET" {
                args.push(self.random.pick(&FIELD_VALUES).to_owned());
            }
        }
    }

    fn key_commands(&mut self, name: &str, args: &mut Vec<String>) {
        match name {
            "rename" | "renamenx" => args.extend([self.key(), self.key()].map(str::to_owned)),
            "copy" => {
                args.extend([self.key(), self.key()].map(str::to_owned));
                for _ in 0..[0, 0, 1, 1, 2, 3][self.random.below(6) as usize] {
                    let option = self.random.pick(&["REPLACE", "DB", "DB", "REPLACE", "bogus"]);
                    args.push(self.cased(option));
                    if option == "DB" {
                        args.push(
                            self.random.pick(&["0", "1", "0", "1", "3", "4", "-1", "x", "2147483648"]).to_owned(),
                        );
                    }
                }
            }
            "move" => {
                let db = self.random.pick(&["0", "1", "0", "1", "0", "1", "4", "-1", "x", "99999999999"]);
                args.extend([self.key(), db].map(str::to_owned));
            }
            "object" => {
                let subcommand =
                    self.random.pick(&["ENCODING", "FREQ", "IDLETIME", "REFCOUNT", "ENCODING", "REFCOUNT", "bogus"]);
                let subcommand = self.cased(subcommand);
                args.extend([subcommand, self.key().to_owned()]);
            }
            "restore" => {
                let time = if self.random.one_in(3) { self.relative_time() } else { "0".to_owned() };
                args.extend([self.key().to_owned(), time, "payload".to_owned()]);
                for _ in 0..[0, 1, 1, 2, 3][self.random.below(5) as usize] {
                    let option = self.random.pick(&["REPLACE", "REPLACE", "ABSTTL", "IDLETIME", "FREQ", "bogus"]);
                    let option = if option == "bogus" && !self.random.one_in(3) { "REPLACE" } else { option };
                    args.push(self.cased(option));
                    if option == "IDLETIME" || option == "FREQ" {
                        args.push(self.random.pick(&["0", "5", "255", "256", "-1", "x"]).to_owned());
                    }
                }
            }
            _ => args.push(self.key().to_owned()),
        }
    }

    fn sort_options(&mut self, args: &mut Vec<String>) {
        for _ in 0..self.random.below(4) {
            let option = self.random.pick(&["ASC", "DESC", "ALPHA", "LIMIT", "BY", "GET", "STORE", "STORE", "bogus"]);
            args.push(self.cased(option));
            match option {
                "LIMIT" => args.extend([self.position(), self.position()].map(str::to_owned)),
                "BY" | "GET" => args.push(self.random.pick(&["nosort", "*", "key:*", "#", "STORE"]).to_owned()),
                "STORE" => args.push(self.key().to_owned()),
                _ => {}
            }
        }
    }

    fn bit_commands(&mut self, name: &str, args: &mut Vec<String>) {
        if name == "bitop" {
            let operation = self.random.pick(&["AND", "OR", "XOR", "NOT", "AND", "OR", "XOR", "bogus"]);
            let operation = self.cased(operation);
            args.extend([operation, self.key().to_owned()]);
            args.extend(self.some_keys());
            if args[1].eq_ignore_ascii_case("not") && self.random.one_in(2) {
                args.truncate(4);
            }
            return;
        }
        args.push(self.key().to_owned());
        match name {
            "getbit" => args.push(self.bit_offset()),
            "setbit" => {
                let offset = self.bit_offset();
                let bit = self.random.pick(&["0", "1", "0", "1", "1", "1", "2", "-1", "x"]);
                args.extend([offset, bit.to_owned()]);
            }
            "bitcount" => self.bit_range(args),
            "bitpos" => {
                args.push(self.random.pick(&["0", "1", "0", "1", "0", "1", "2", "x"]).to_owned());
                self.bit_range(args);
            }
            _ => self.field_operations(args),
        }
    }

    fn part_commands(&mut self, name: &str, args: &mut Vec<String>) {
        args.push(self.key().to_owned());
        match name {
            "getrange" | "substr" => args.extend([self.position(), self.position()].map(str::to_owned)),
            "setrange" => {
                let part = self.part();
                // The longest there may be, now and then.
                let far = self.random.one_in(200);
                let at = if far { self.random.pick(&["1048575", "1048576"]) } else { self.position() };
                args.extend([at.to_owned(), part]);
            }
            "lcs" => {
                args.push(self.key().to_owned());
                for _ in 0..[0, 1, 1, 2, 2, 3][self.random.below(6) as usize] {
                    let option =
                        self.random.pick(&["LEN", "IDX", "IDX", "MINMATCHLEN", "WITHMATCHLEN", "MINMATCHLEN", "bogus"]);
                    args.push(self.cased(option));
                    if option == "MINMATCHLEN" {
                        args.push(self.random.pick(&["0", "1", "2", "3", "-1", "x"]).to_owned());
                    }
                }
            }
            other => unreachable!("{other} is no command on parts"),
        }
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
                "EX" | "PX" => self.relative_time(),
                "EXAT" | "PXAT" => self.random.pick(&self.absolute_times).to_owned(),
                _ => continue,
            };
            if !self.random.one_in(12) {
                args.push(time);
            }
        }
    }

    fn expire_arguments(&mut self, relative: bool) -> Vec<String> {
        let time = if relative { self.relative_time() } else { self.random.pick(&self.absolute_times).to_owned() };
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
    pub fn request(&mut self) -> Vec<Bytes> {
        let names = if self.large { LARGE_NAMES } else { NAMES };
        let names: Vec<&str> = names.split_whitespace().collect();
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
        if name == "restore" && request.len() > 3 {
            request[3] = self.payload();
        }
        if request.is_empty() {
            request.push(Bytes::from("get"));
        }
        request
    }

    fn arguments(&mut self, name: &str, args: &mut Vec<String>) {
        match name {
            "set" => {
                args.extend([self.key().to_owned(), self.part()]);
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
            "setnx" | "append" | "getset" => args.extend([self.key().to_owned(), self.part()]),
            "setex" | "psetex" => {
                let time = self.relative_time();
                args.extend([self.key().to_owned(), time, self.value().to_owned()]);
            }
            "getrange" | "substr" | "setrange" | "lcs" => self.part_commands(name, args),
            "setbit" | "getbit" | "bitcount" | "bitpos" | "bitop" | "bitfield" | "bitfield_ro" => {
                self.bit_commands(name, args);
            }
            "rename" | "renamenx" | "copy" | "move" | "object" | "restore" => self.key_commands(name, args),
            "incrby" | "decrby" => args.extend([self.key(), self.random.pick(&INTEGERS)].map(str::to_owned)),
            "incrbyfloat" => {
                let float = self.float();
                args.extend([self.key().to_owned(), float]);
            }
            "expire" | "pexpire" => args.extend(self.expire_arguments(true)),
            "expireat" | "pexpireat" => args.extend(self.expire_arguments(false)),
            "mget" | "del" | "unlink" | "exists" | "touch" => args.extend(self.some_keys()),
            "keys" => args.push(self.random.pick(&PATTERNS).to_owned()),
            "scan" => self.scan_arguments(args),
            "flushall" | "flushdb" => {
                if self.random.one_in(2) {
                    let option = self.random.pick(&["ASYNC", "SYNC", "bogus"]);
                    args.push(self.cased(option));
                }
            }
            "sort" | "sort_ro" => {
                args.push(self.key().to_owned());
                self.sort_options(args);
            }
            "dbsize" | "randomkey" => {}
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

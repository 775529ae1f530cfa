//! Inputs and what they mean. Redis is asked about each of them in `redis_oracle.rs`.

/// Input, the requests it holds (words), and the error that ends it ("" for none).
pub(crate) const GOLDEN: &[Golden] = &[
    // Multibulk.
    (b"*1\r\n$4\r\nPING\r\n", &[&[b"PING"]], ""),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n", &[&[b"SET", b"k", b""]], ""),
    (b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\nb\0\r\n", &[&[b"ECHO", b"a\r\nb\0"]], ""),
    (b"*2\r\n$3\r\nGET\r\n$10\r\n0123456789\r\n", &[&[b"GET", b"0123456789"]], ""),
    (b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$1\r\na\r\nPING\r\n", &[&[b"PING"], &[b"ECHO", b"a"], &[b"PING"]], ""),
    (b"*0\r\nPING\r\n", &[&[b"PING"]], ""),
    (b"*-1\r\nPING\r\n", &[&[b"PING"]], ""),
    (b"*-5\r\n*1\r\n$0\r\n\r\n", &[&[b""]], ""),
    // Redis looks neither at what follows a CR nor at what ends an argument.
    (b"*1\rx$4\r\nPINGxxPING\r\n", &[&[b"PING"], &[b"PING"]], ""),
    (b"*1\r\n$4\rx\nPING\r\n", &[&[b"\nPIN"]], ""),
    (b"*abc\r\n", &[], "invalid multibulk length"),
    (b"*\r\n", &[], "invalid multibulk length"),
    (b"*1 \r\n", &[], "invalid multibulk length"),
    (b"* 1\r\n", &[], "invalid multibulk length"),
    (b"*+1\r\n", &[], "invalid multibulk length"),
    (b"*01\r\n", &[], "invalid multibulk length"),
    (b"*-0\r\n", &[], "invalid multibulk length"),
    (b"*1\n$4\r\nPING\r\n", &[], "invalid multibulk length"),
    (b"*2147483648\r\n", &[], "invalid multibulk length"),
    (b"*99999999999999999999\r\n", &[], "invalid multibulk length"),
    (b"*1\r\nx4\r\nPING\r\n", &[], "expected '$', got 'x'"),
    (b"*1\r\n*1\r\n$4\r\nPING\r\n", &[], "expected '$', got '*'"),
    (b"*1\r\n\r\n", &[], "expected '$', got ' '"),
    (b"*1\r\n\n4\r\nPING\r\n", &[], "expected '$', got ' '"),
    (b"GET x\r\n*1\r\nfoo\r\nPING\r\n", &[&[b"GET", b"x"]], "expected '$', got 'f'"),
    (b"*1\r\n$-1\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$abc\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$ 4\r\nPING\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$00\r\n\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$-0\r\n\r\n", &[], "invalid bulk length"),
    (b"*1\r\n$536870913\r\n", &[], "invalid bulk length"),
    (b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n", &[], "invalid bulk length"),
    // Inline.
    (b"PING\r\n", &[&[b"PING"]], ""),
    (b"PING\n", &[&[b"PING"]], ""),
    (b"PING\r\r\n", &[&[b"PING"]], ""),
    (b"\r\n\n  \r\nPING\r\n", &[&[b"PING"]], ""),
    (b"  SET   a\tb  \r\n", &[&[b"SET", b"a", b"b"]], ""),
    (b"ECHO a\x0bb \x0b c\r\n", &[&[b"ECHO", b"a\x0bb", b"c"]], ""),
    (b"ECHO \"a\\x41\\n\\q\\xzz\\\"\" 'b\\'c\\n'\r\n", &[&[b"ECHO", b"aA\nqxzz\"", b"b'c\\n"]], ""),
    (b"ECHO \"\\xAg\\b\\a\\t\\r\"\r\n", &[&[b"ECHO", b"xAg\x08\x07\t\r"]], ""),
    (b"ECHO a\"b c\" ''\r\n", &[&[b"ECHO", b"ab c", b""]], ""),
    (b"\"\" ab\r\n", &[&[b"", b"ab"]], ""),
    (b"PING \"abc\r\n", &[], "unbalanced quotes in request"),
    (b"PING \"abc\\\r\n", &[], "unbalanced quotes in request"),
    (b"PING 'a'b\r\n", &[], "unbalanced quotes in request"),
    (b"PING \"a\"b\r\n", &[], "unbalanced quotes in request"),
    (b"PING 'a''b'\r\n", &[], "unbalanced quotes in request"),
];

/// Input, requests, error.
pub(crate) type Golden = (&'static [u8], &'static [&'static [&'static [u8]]], &'static str);

//! Stock Redis clients, unmodified, against the real process: `redis-cli`, `redis-benchmark`, redis-py, the `redis`
//! crate.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use dstore_e2e::connect;
use dstore_testkit::process::{Dstore, PATIENCE, Server, run, run_to_end, start_redis};
use dstore_testkit::python;
use dstore_testkit::scratch::Scratch;

fn start(scratch: &Scratch) -> Server {
    let data = scratch.directory("data");
    Dstore::on(&data).start(scratch).unwrap_or_else(|refused| panic!("{refused:?}"))
}

/// What `redis-cli` prints for one command; not a terminal, so replies are raw.
fn cli(server: &Server, arguments: &[&str]) -> String {
    let output = run_to_end(Command::new("redis-cli").args(["-p", &server.port()]).args(arguments), b"");
    String::from_utf8(output.stdout).unwrap().trim_end().to_string()
}

#[test]
fn redis_cli_talks_to_it() {
    let scratch = Scratch::new("cli");
    let server = start(&scratch);
    let dialogue = [
        ("ping", "PONG"),
        ("set greeting hello", "OK"),
        ("get greeting", "hello"),
        ("get nothing", ""),
        ("append greeting !", "6"),
        ("incr greeting", "ERR value is not an integer or out of range"),
        ("incrby n 41", "41"),
        ("incr n", "42"),
        ("incrbyfloat f 0.5", "0.5"),
        ("mset a 1 b 2 c 3", "OK"),
        ("mget a b x c", "1\n2\n\n3"),
        ("set a 2 nx", ""),
        ("set a 2 xx get", "1"),
        ("type a", "string"),
        ("exists a b x", "2"),
        ("del a b x", "2"),
        ("expire c 100", "1"),
        ("ttl c", "100"),
        ("persist c", "1"),
        ("ttl c", "-1"),
        ("ttl x", "-2"),
        ("dbsize", "4"),
        ("-n 9 dbsize", "0"),
        ("get", "ERR wrong number of arguments for 'get' command"),
        ("echo hi there", "ERR wrong number of arguments for 'echo' command"),
        ("-3 set k v", "OK"),
        ("-3 get k", "v"),
        ("kv.cas k 0 w", ""),
        ("kv.version nothing", "0"),
        ("kv.range c l keysonly", "c\nf\ngreeting\nk"),
        ("flushall", "OK"),
        ("dbsize", "0"),
    ];
    for (arguments, expected) in dialogue {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        assert_eq!(cli(&server, &arguments), expected, "{arguments:?}");
    }
    assert!(cli(&server, &["nosuchcommand", "x"]).starts_with("ERR unknown command 'nosuchcommand'"));
    assert!(cli(&server, &["info", "server"]).contains("redis_version:"));
}

#[test]
fn redis_cli_reads_commands_from_its_input_and_inspects_the_key_space() {
    let scratch = Scratch::new("cli");
    let server = start(&scratch);
    let script = b"multi\nset a 1\nincr a\nexec\nwatch a\nset a 5\nmulti\nset a 6\nexec\nget a\n";
    let printed = run(Command::new("redis-cli").args(["-p", &server.port()]), script);
    assert_eq!(printed, "OK\nQUEUED\nQUEUED\nOK\n2\nOK\nOK\nOK\nQUEUED\n\n5\n");
    let keys: String = (0..50).map(|n| format!("set user:{n} {n}\n")).collect();
    run(Command::new("redis-cli").args(["-p", &server.port()]), keys.as_bytes());
    assert_eq!(cli(&server, &["--scan", "--pattern", "user:4?"]).lines().count(), 10);
    let biggest = cli(&server, &["--bigkeys"]);
    assert!(biggest.contains("51 strings with"), "{biggest}");
}

#[test]
fn redis_benchmark_runs_to_its_end_without_an_error() {
    let scratch = Scratch::new("benchmark");
    let server = start(&scratch);
    for pipeline in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &server.port(), "-e", "--csv", "-n", "2000", "-c", "20", "-r", "1000", "-P", pipeline]);
        let printed = run(command.args(["-t", "ping,set,get,incr,mset"]), b"");
        assert!(!printed.contains("rror"), "{printed}");
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
            let line = printed.lines().find(|line| line.starts_with(&format!("\"{test}\"")));
            let rate: f64 = line.unwrap().split('"').nth(3).unwrap().parse().unwrap();
            assert!(rate > 0.0, "{printed}");
        }
    }
    let keys: u64 = cli(&server, &["dbsize"]).parse().unwrap();
    assert!(keys > 500, "{keys} keys after two rounds over a thousand");
}

#[test]
fn redis_py_talks_to_it_in_both_protocols() {
    let scratch = Scratch::new("python");
    let server = start(&scratch);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = python::interpreter(&here.join("requirements.txt"));
    for protocol in ["2", "3"] {
        run(Command::new(&python).arg(here.join("clients.py")).args([&server.port(), protocol]), b"");
    }
}

#[test]
fn the_redis_crate_talks_to_it() {
    let scratch = Scratch::new("crate");
    let server = start(&scratch);
    let mut connection = connect(server.address());
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    redis::cmd("SET").arg("binary").arg(&bytes).exec(&mut connection).unwrap();
    assert_eq!(redis::cmd("GET").arg("binary").query::<Vec<u8>>(&mut connection).unwrap(), bytes);

    let (first, second): (i64, String) =
        redis::pipe().atomic().cmd("INCR").arg("n").cmd("SET").arg("s").arg("x").query(&mut connection).unwrap();
    assert_eq!((first, second.as_str()), (1, "OK"));

    // Optimistic increments from two connections at once: none is lost, so every EXEC that failed was tried again.
    let address = server.address();
    let increment = || {
        let mut connection = connect(address);
        for _ in 0..50 {
            loop {
                redis::cmd("WATCH").arg("n").exec(&mut connection).unwrap();
                let n: i64 = redis::cmd("GET").arg("n").query(&mut connection).unwrap();
                let mut block = redis::pipe();
                block.atomic().cmd("SET").arg("n").arg(n + 1).ignore();
                if block.query::<Option<()>>(&mut connection).unwrap().is_some() {
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(increment);
        scope.spawn(increment);
    });
    assert_eq!(redis::cmd("GET").arg("n").query::<i64>(&mut connection).unwrap(), 101);

    let error = redis::cmd("INCR").arg("s").exec(&mut connection).unwrap_err();
    assert!(error.to_string().contains("value is not an integer or out of range"), "{error}");
}

#[test]
fn versions_compare_and_swap_and_ranges_work_through_a_stock_client() {
    let scratch = Scratch::new("ours");
    let server = start(&scratch);
    let mut connection = connect(server.address());
    let version =
        |connection: &mut redis::Connection| -> String { redis::cmd("KV.VERSION").arg("k").query(connection).unwrap() };
    // The new version, or nothing when the version was another.
    let swap = |connection: &mut redis::Connection, expected: &str, value: &str| -> Option<String> {
        redis::cmd("KV.CAS").arg("k").arg(expected).arg(value).query(connection).unwrap()
    };
    assert_eq!(version(&mut connection), "0");
    let first = swap(&mut connection, "0", "one").unwrap();
    assert_eq!(version(&mut connection), first);
    assert_eq!(swap(&mut connection, "0", "two"), None);
    redis::cmd("SET").arg("k").arg("three").exec(&mut connection).unwrap();
    let second = version(&mut connection);
    assert_ne!(first, second);
    assert_eq!(swap(&mut connection, &first, "four"), None);
    assert!(swap(&mut connection, &second, "five").is_some());
    assert_eq!(redis::cmd("GET").arg("k").query::<String>(&mut connection).unwrap(), "five");

    for n in 0..20 {
        redis::cmd("SET").arg(format!("r:{n:02}")).arg(n).exec(&mut connection).unwrap();
    }
    let mut range = redis::cmd("KV.RANGE");
    range.arg("r:").arg("r:05").arg("LIMIT").arg(2).arg("REVERSE");
    let found: Vec<String> = range.query(&mut connection).unwrap();
    assert_eq!(found, ["r:04", "4", "r:03", "3"]);
}

/// Everything that a server answers to these bytes, up to its closing the connection or its answer to an ECHO that
/// follows them.
fn answer_to(address: SocketAddr, bytes: &[u8]) -> String {
    let echo = b"*2\r\n$4\r\nECHO\r\n$8\r\nsentinel\r\n";
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[bytes, echo].concat()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"sentinel\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        answer.push(byte[0]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_is_no_request_is_answered_as_redis_does_and_hurts_nobody() {
    let scratch = Scratch::new("hostile");
    let server = start(&scratch);
    let redis = start_redis(&scratch, &scratch.directory("redis"), &["--save", ""]);
    let hostile: [&[u8]; 16] = [
        b"PING\r\n",
        b"\r\n\r\nping\nPING\r\n",
        b"*0\r\n*-1\r\nPING\r\n",
        b"*3000000000\r\n",
        b"*99999999999999999999\r\n",
        b"*abc\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*1\r\n$0\r\n\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nNOPE\r\n",
        b"SET k \"unbalanced\r\n",
        b"SET k \"\\x00\\n\"\r\nGET k\r\n",
        b"MULTI\r\nNOPE\r\nEXEC\r\n",
        b"EXEC\r\nDISCARD\r\nMULTI\r\nMULTI\r\nWATCH k\r\nDISCARD\r\n",
    ];
    for bytes in hostile {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(answer_to(server.address(), bytes), answer_to(redis.address(), bytes), "to {shown:?}");
    }
    assert_eq!(cli(&server, &["ping"]), "PONG");
}

#[test]
fn commands_about_connections_and_the_server_are_answered_as_redis_does() {
    let scratch = Scratch::new("connections");
    let server = start(&scratch);
    let redis = start_redis(&scratch, &scratch.directory("redis"), &["--save", "", "--enable-debug-command", "yes"]);
    let dialogues = [
        "CLIENT KILL 1:1|CLIENT KILL ID x|CLIENT KILL ID 99999|CLIENT KILL TYPE x|CLIENT KILL USER x|CLIENT KILL SKIPME x",
        "CLIENT KILL ID 1 x|CLIENT KILL ADDR a LADDR b TYPE normal SKIPME yes|CLIENT PAUSE x|CLIENT PAUSE -1|CLIENT PAUSE 1 x",
        "CLIENT UNPAUSE|CLIENT REPLY x|CLIENT NO-EVICT ON|CLIENT NO-EVICT x|CLIENT TRACKINGINFO|CLIENT GETREDIR|CLIENT CACHING YES",
        "CLIENT REPLY SKIP|PING|PING|CLIENT REPLY OFF|PING|NOPE|CLIENT REPLY ON|PING",
        "CLIENT TRACKING OFF|CLIENT TRACKING x|CLIENT UNBLOCK 999|CLIENT UNBLOCK x|CLIENT UNBLOCK 1 x|CLIENT NO-TOUCH ON|CLIENT NOPE",
        "CLIENT LIST TYPE x|CLIENT LIST ID|CLIENT LIST ID x|CLIENT LIST ID 99999|CLIENT LIST x|CLIENT SETNAME \"a b\"|CLIENT GETNAME",
        "CONFIG SET x|CONFIG SET x y|CONFIG SET timeout x|CONFIG SET timeout -1|CONFIG SET timeout 0 timeout 0|CONFIG SET timeout 1 y",
        "CONFIG SET slowlog-log-slower-than -2|CONFIG SET latency-tracking-info-percentiles 101|CONFIG GET nope|CONFIG GET timeout",
        "CONFIG SET slowlog-max-len 9|CONFIG GET slowlog-max-len|CONFIG RESETSTAT|CONFIG RESETSTAT x|CONFIG SET save \"\"|CONFIG SET maxmemory 0",
        "SLOWLOG LEN|SLOWLOG GET x|SLOWLOG GET -2|SLOWLOG GET -1|SLOWLOG GET 1 2|SLOWLOG RESET|SLOWLOG NOPE",
        "LATENCY LATEST|LATENCY HISTORY x|LATENCY RESET|LATENCY GRAPH x|LATENCY HISTOGRAM nope|LATENCY NOPE",
        "MEMORY USAGE nope|MEMORY USAGE k SAMPLES|MEMORY USAGE k SAMPLES x|MEMORY USAGE k SAMPLES -1|MEMORY USAGE k x 1|MEMORY PURGE",
        "WAIT x 0|WAIT 0 x|WAIT 0 -1|WAIT 0 0|WAIT 1 10|MULTI|WAIT 1 0|EXEC",
        "DEBUG SLEEP 0|DEBUG SLEEP x|DEBUG SLEEP|SHUTDOWN x|SHUTDOWN SAVE NOSAVE|SHUTDOWN ABORT|SHUTDOWN ABORT NOW|MULTI|SHUTDOWN|EXEC",
        "ACL WHOAMI|ACL USERS|ACL|INFO nope|HELLO x|HELLO 4|HELLO 2 AUTH a|HELLO 2 AUTH a b|HELLO 2 SETNAME \"a b\"|HELLO 2 x",
        "COMMAND GETKEYSANDFLAGS SET a b|COMMAND GETKEYSANDFLAGS MSET a 1 b 2|COMMAND GETKEYSANDFLAGS GETEX a|COMMAND GETKEYSANDFLAGS COPY a b",
        "COMMAND GETKEYSANDFLAGS PING|COMMAND GETKEYSANDFLAGS NOPE|COMMAND GETKEYS|COMMAND GETKEYS GET|COMMAND GETKEYS BITOP AND d a b",
        "COMMAND INFO get|COMMAND INFO nope|COMMAND INFO set mset|COMMAND LIST FILTERBY x y|COMMAND DOCS nope|COMMAND COUNT x",
        "SET a 1|OBJECT FREQ a|OBJECT FREQ nokey|OBJECT IDLETIME nokey|OBJECT REFCOUNT a|OBJECT ENCODING a|OBJECT|OBJECT NOPE",
        "CLIENT REPLY SKIP|CLIENT REPLY SKIP|PING|PING|CLIENT REPLY OFF|RESET|PING|CLIENT REPLY ON",
        "CLIENT SETNAME x|SELECT 3|MULTI|GET a|RESET|CLIENT GETNAME|GET a|EXEC",
        "DUMP nokey|RESTORE k 0 garbage|RESTORE k -1 x|RESTORE k x x|RESTORE k 0 x REPLACE ABSTTL IDLETIME 5 FREQ 5|RESTORE k 0 x FREQ 256",
        "MULTI|CLIENT PAUSE 1|CLIENT UNPAUSE|CLIENT ID x|EXEC|MULTI|WAIT x 0|WAIT 0 x|WAIT 1 -1|WAIT 1 0|EXEC",
        "MULTI|WATCH a|EXEC|MULTI|UNWATCH|EXEC|MULTI|MULTI|EXEC|DISCARD x|MULTI|EXEC x|PING|EXEC",
        "MULTI|AUTH a b|SELECT 1|SET q 1|SELECT 0|GET q|EXEC|CLIENT NO-TOUCH|CLIENT UNBLOCK 1 TIMEOUT|CLIENT PAUSE 0|CLIENT PAUSE 0 WRITE",
        "SET w v PX 0|SET w v PX x|GETEX w PXAT 0|GETEX w EX 10 PERSIST|EXPIRE w 10 NX XX|EXPIRE w 10 GT LT|EXPIRE w x",
        "CONFIG GET|CONFIG GET a b|CONFIG SET|CONFIG NOPE|INFO a b|DBSIZE x|FLUSHALL x|FLUSHDB SYNC x|TIME x|LOLWUT VERSION x",
        "SCAN 0 COUNT 0|SCAN x|SCAN 0 MATCH|SCAN 0 TYPE hash COUNT 1000|SCAN 0 NOPE 1|KEYS|KEYS a b|RANDOMKEY x",
        "AUTH|AUTH a|AUTH a b|AUTH a b c|AUTH default x|PING a b|PING a|ECHO|RESET|SELECT x|SELECT 16|QUIT now",
    ];
    for dialogue in dialogues {
        let requests = format!("{}\r\n", dialogue.replace('|', "\r\n"));
        let (ours, theirs) =
            (answer_to(server.address(), requests.as_bytes()), answer_to(redis.address(), requests.as_bytes()));
        assert_eq!(ours, theirs, "to {dialogue}");
    }
}

//! Commands about connections and the node itself, driven by hand. The texts are Redis 7.0.15's wherever it has them.

#![allow(clippy::unwrap_used)]

mod driver;

use driver::Driver;

/// Requests of one client that has nobody beside it, and what they are answered.
fn dialogue(lines: &[(&str, &str)]) {
    let mut driver = Driver::new();
    let client = driver.connect_from("10.0.0.1:5");
    for (line, reply) in lines {
        assert_eq!(driver.settle(client, line), *reply, "to {line:?}");
    }
}

#[test]
fn client_commands_answer_as_redis() {
    dialogue(&[
        ("CLIENT KILL 127.0.0.1:1", "-ERR No such client"),
        ("CLIENT KILL ID abc", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL ID 99999", ":0"),
        ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'"),
        ("CLIENT KILL TYPE pubsub", ":0"),
        ("CLIENT KILL USER nobody", "-ERR No such user 'nobody'"),
        ("CLIENT KILL USER default SKIPME maybe", "-ERR syntax error"),
        ("CLIENT KILL SKIPME yes", ":0"),
        ("CLIENT KILL ID 1 foo", "-ERR syntax error"),
        ("CLIENT PAUSE abc", "-ERR timeout is not an integer or out of range"),
        ("CLIENT PAUSE -1", "-ERR timeout is negative"),
        ("CLIENT PAUSE 10 FOO", "-ERR CLIENT PAUSE mode must be WRITE or ALL"),
        ("CLIENT REPLY foo", "-ERR syntax error"),
        ("CLIENT NO-EVICT on", "+OK"),
        ("CLIENT NO-EVICT maybe", "-ERR syntax error"),
        ("CLIENT NO-TOUCH on", "-ERR unknown subcommand 'NO-TOUCH'. Try CLIENT HELP."),
        ("CLIENT TRACKINGINFO", "*6 $5 flags *1 $3 off $8 redirect :-1 $8 prefixes *0"),
        ("CLIENT GETREDIR", ":-1"),
        ("CLIENT TRACKING off", "+OK"),
        ("CLIENT TRACKING foo", "-ERR syntax error"),
        (
            "CLIENT CACHING yes",
            "-ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ),
        ("CLIENT UNBLOCK 1", ":0"),
        ("CLIENT UNBLOCK abc", "-ERR value is not an integer or out of range"),
        ("CLIENT UNBLOCK 1 foo", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
        ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'"),
        ("CLIENT LIST ID", "-ERR syntax error"),
        ("CLIENT LIST ID abc", "-ERR Invalid client ID"),
        ("CLIENT LIST foo", "-ERR syntax error"),
        ("CLIENT LIST ID 77", "$0"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command"),
    ]);
    let mut driver = Driver::new();
    let client = driver.connect();
    assert!(driver.settle(client, "CLIENT TRACKING on").starts_with("-ERR CLIENT TRACKING is not supported: "));
    let line = driver.settle(client, "CLIENT INFO");
    assert!(
        line.contains("id=1 addr= laddr= fd=-1 name= age=0") && line.contains("cmd=client|info user=default"),
        "{line}"
    );
}

#[test]
fn a_killed_client_is_closed_and_owed_nothing_and_its_write_still_happens() {
    let mut driver = Driver::new();
    let (victim, killer) = (driver.connect_from("10.0.0.1:5"), driver.connect_from("10.0.0.2:6"));
    assert_eq!(driver.call(victim, "SET k v"), "");
    assert_eq!(driver.call(killer, "CLIENT KILL ADDR 10.0.0.1:5 LADDR 10.0.0.9:6379"), ":1");
    assert_eq!(driver.closed, [victim]);
    assert_eq!(driver.settle(victim, "PING"), "", "nothing more is taken");
    assert_eq!(driver.settle(killer, "GET k"), "$1 v");
    assert_eq!(driver.replies(victim), "");
    driver.node.disconnect(victim);
    assert_eq!(driver.settle(killer, "CLIENT KILL 10.0.0.2:6"), "+OK", "one's own connection closes behind the reply");
    assert_eq!(driver.closed, [victim, killer]);
    let third = driver.connect();
    assert_eq!(driver.settle(third, "CLIENT KILL ID 3 SKIPME no"), ":1");
    for line in ["SET k w", "PING"] {
        let fourth = driver.connect();
        driver.settle(fourth, "MULTI");
        driver.settle(fourth, line);
        driver.settle(fourth, "CLIENT KILL TYPE normal SKIPME no");
        assert!(driver.settle(fourth, "EXEC").ends_with(":1"), "in a block too");
        assert_eq!(driver.closed.last(), Some(&fourth));
        driver.node.disconnect(fourth);
    }
    assert!(!driver.node.is_congested());
}

#[test]
fn replies_are_left_out_as_asked_also_those_that_come_later() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for line in ["SET a 1", "CLIENT REPLY SKIP", "SET a 2", "GET a", "CLIENT REPLY OFF", "SET a 3", "PING", "NOSUCH"] {
        driver.request(client, line);
    }
    driver.request(client, "CLIENT REPLY ON");
    driver.request(client, "GET a");
    driver.end_turn();
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK | $1 2 | +OK | $1 3");
    assert_eq!(driver.settle(client, "CLIENT REPLY SKIP"), "");
    assert_eq!(driver.settle(client, "PING"), "");
    assert_eq!(driver.settle(client, "PING"), "+PONG");
    driver.settle(client, "CLIENT REPLY OFF");
    assert_eq!(driver.settle(client, "RESET"), "+RESET", "a new connection is one with replies");
    driver.settle(client, "MULTI");
    let refusal = driver.settle(client, "CLIENT REPLY OFF");
    assert_eq!(refusal, "-ERR CLIENT REPLY is not allowed inside a transaction");
}

#[test]
fn a_pause_stops_writes_or_everything_until_its_end() {
    let mut driver = Driver::new();
    let (client, other) = (driver.connect(), driver.connect());
    assert_eq!(driver.settle(other, "CLIENT PAUSE 1000 WRITE"), "+OK");
    assert_eq!(driver.settle(client, "GET k"), "$-1");
    assert_eq!(driver.settle(client, "SET k v"), "");
    assert_eq!(driver.settle(client, "PING"), "", "what is behind waits as well");
    assert_eq!(driver.settle(other, "PING"), "+PONG");
    assert!(driver.settle(other, "CLIENT LIST").contains("flags=b"));
    driver.pass(999);
    assert_eq!(driver.replies(client), "");
    driver.pass(1);
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK | +PONG");

    assert_eq!(driver.settle(other, "CLIENT PAUSE 1000000"), "+OK");
    for line in ["MULTI", "SET k w", "EXEC"] {
        assert_eq!(driver.settle(client, line), "");
    }
    assert_eq!(driver.settle(other, "CLIENT UNPAUSE"), "+OK", "unlike in Redis it can be ended by hand");
    driver.pass(0);
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK | +QUEUED | *1 +OK");

    // Of a block, EXEC alone writes.
    driver.settle(other, "CLIENT PAUSE 1000 WRITE");
    assert_eq!(driver.settle(client, "MULTI"), "+OK");
    assert_eq!(driver.settle(client, "GET k"), "+QUEUED");
    assert_eq!(driver.settle(client, "EXEC"), "*1 $1 w");
}

#[test]
fn a_sleep_is_the_sleepers_alone() {
    let mut driver = Driver::new();
    let (sleeper, other) = (driver.connect(), driver.connect());
    driver.request(sleeper, "PING");
    driver.request(sleeper, "DEBUG SLEEP 0.5");
    driver.request(sleeper, "SET k v");
    driver.end_turn();
    assert_eq!(driver.replies(sleeper), "+PONG");
    assert_eq!(driver.settle(other, "SET j v"), "+OK");
    assert!(driver.node.poll_timeout(driver.now).as_millis() <= 500);
    driver.pass(499);
    assert_eq!(driver.replies(sleeper), "");
    driver.pass(1);
    driver.sync_all();
    assert_eq!(driver.replies(sleeper), "+OK | +OK");
    assert!(driver.settle(other, "DEBUG OBJECT k").starts_with("-ERR DEBUG OBJECT is not supported: use OBJECT"));
    assert!(driver.settle(other, "DEBUG SLEEP").starts_with("-ERR unknown subcommand or wrong number of arguments"));
    assert_eq!(driver.settle(other, "DEBUG SLEEP abc"), "");
    driver.pass(0);
    assert_eq!(driver.replies(other), "+OK", "what is no number is none, as in Redis");
}

#[test]
fn wait_answers_in_its_turn_and_ends_by_time_or_by_another() {
    dialogue(&[
        ("WAIT a 0", "-ERR value is not an integer or out of range"),
        ("WAIT 0 a", "-ERR timeout is not an integer or out of range"),
        ("WAIT 0 -1", "-ERR timeout is negative"),
        ("WAIT 0 0", ":0"),
        ("WAIT -1 0", ":0"),
        ("MULTI", "+OK"),
        ("WAIT 1 0", "+QUEUED"),
        ("EXEC", "*1 :0"),
    ]);
    let mut driver = Driver::new();
    let (client, other) = (driver.connect(), driver.connect());
    driver.request(client, "SET k v");
    driver.request(client, "WAIT 0 0");
    driver.end_turn();
    assert_eq!(driver.replies(client), "", "its write is not answered");
    driver.sync_all();
    driver.pass(5);
    assert_eq!(driver.replies(client), "+OK | :0");
    assert_eq!(driver.settle(client, "WAIT 1 100"), "");
    assert_eq!(driver.settle(client, "PING"), "");
    driver.pass(100);
    assert_eq!(driver.replies(client), ":0 | +PONG");
    for (reason, reply) in
        [("", ":0"), (" TIMEOUT", ":0"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")]
    {
        assert_eq!(driver.settle(client, "WAIT 1 0"), "");
        assert_eq!(driver.settle(other, &format!("CLIENT UNBLOCK 1{reason}")), ":1");
        driver.pass(0);
        assert_eq!(driver.replies(client), reply);
    }
}

#[test]
fn settings_are_read_changed_and_refused_as_in_redis() {
    let failed =
        |name: &str, why: &str| format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}");
    dialogue(&[
        ("CONFIG SET a", "-ERR wrong number of arguments for 'config|set' command"),
        ("CONFIG SET timeout 1 x", "-ERR syntax error"),
        ("CONFIG SET foo bar", "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'"),
        ("CONFIG SET timeout abc", &failed("timeout", "argument couldn't be parsed into an integer")),
        ("CONFIG SET timeout -1", &failed("timeout", "argument must be between 0 and 2147483647 inclusive")),
        ("CONFIG SET timeout 0 timeout 0", &failed("timeout", "duplicate parameter")),
        (
            "CONFIG SET slowlog-log-slower-than -2",
            &failed("slowlog-log-slower-than", "argument must be between -1 and 9223372036854775807 inclusive"),
        ),
        (
            "CONFIG SET latency-tracking-info-percentiles 200",
            &failed(
                "latency-tracking-info-percentiles",
                "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
            ),
        ),
        ("CONFIG SET latency-tracking maybe", &failed("latency-tracking", "argument must be 'yes' or 'no'")),
        (
            "CONFIG SET timeout 7 slowlog-max-len x",
            &failed("slowlog-max-len", "argument couldn't be parsed into an integer"),
        ),
        ("CONFIG GET timeout", "*2 $7 timeout $1 0"),
        ("CONFIG SET timeout 7 SLOWLOG-MAX-LEN 10", "+OK"),
        ("CONFIG GET timeout", "*2 $7 timeout $1 7"),
        ("CONFIG GET slowlog*", "*4 $23 slowlog-log-slower-than $5 10000 $15 slowlog-max-len $2 10"),
        ("CONFIG GET *percentiles", "*2 $33 latency-tracking-info-percentiles $10 50 99 99.9"),
        ("CONFIG GET nosuch", "*0"),
        ("CONFIG SET notify-keyspace-events ", "+OK"),
        (
            "CONFIG SET notify-keyspace-events KEA",
            &failed("notify-keyspace-events", "can't set immutable config: there are no keyspace notifications"),
        ),
        ("CONFIG RESETSTAT", "+OK"),
    ]);
}

#[test]
fn a_password_that_is_set_is_asked_of_new_connections() {
    let mut driver = Driver::new();
    let client = driver.connect();
    assert!(driver.settle(client, "AUTH x").starts_with("-ERR AUTH <password> called without any password configured"));
    assert_eq!(driver.settle(client, "CONFIG SET requirepass secret"), "+OK");
    assert_eq!(driver.settle(client, "PING"), "+PONG", "who is in stays in");
    let second = driver.connect();
    assert_eq!(driver.settle(second, "PING"), "-NOAUTH Authentication required.");
    assert_eq!(driver.settle(second, "SUBSCRIBE x"), "-NOAUTH Authentication required.");
    assert_eq!(driver.settle(second, "AUTH a b c"), "-ERR syntax error");
    assert_eq!(driver.settle(second, "AUTH"), "-ERR wrong number of arguments for 'auth' command");
    assert_eq!(driver.settle(second, "AUTH wrong"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert!(driver.settle(second, "HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(driver.settle(second, "AUTH default secret"), "+OK");
    assert_eq!(driver.settle(second, "ACL WHOAMI"), "$7 default");
    assert_eq!(driver.settle(second, "RESET"), "+RESET");
    assert_eq!(driver.settle(second, "PING"), "-NOAUTH Authentication required.");
    assert_eq!(driver.settle(client, "CONFIG GET requirepass"), "*2 $11 requirepass $10 (redacted)");
}

#[test]
fn slow_commands_are_logged_with_the_time_from_arrival_to_reply() {
    let mut driver = Driver::new();
    let client = driver.connect_from("10.0.0.1:5");
    driver.settle(client, "CLIENT SETNAME me");
    assert_eq!(driver.settle(client, "SLOWLOG LEN"), ":0");
    driver.call(client, "SET k v");
    driver.pass(15);
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK");
    let time = driver.now.wall_us / 1_000_000;
    let entry = format!("*6 :0 :{time} :15000 *3 $3 SET $1 k $1 v $10 10.0.0.1:5 $2 me");
    assert_eq!(driver.settle(client, "SLOWLOG GET"), format!("*1 {entry}"));
    for line in ["SLOWLOG GET abc", "SLOWLOG GET -2"] {
        assert_eq!(driver.settle(client, line), "-ERR count should be greater than or equal to -1");
    }
    assert!(
        driver.settle(client, "SLOWLOG GET 1 2").starts_with("-ERR unknown subcommand or wrong number of arguments")
    );
    driver.settle(client, "CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 2");
    let long = format!("ECHO {}", "x".repeat(200));
    driver.settle(client, &long);
    let entry = format!("*2 $4 ECHO $147 {}... (72 more bytes)", "x".repeat(128));
    assert!(driver.settle(client, "SLOWLOG GET 1").contains(&entry));
    driver.settle(client, &format!("DEL{}", " k".repeat(40)));
    assert!(driver.settle(client, "SLOWLOG GET 1").contains("$23 ... (10 more arguments)"));
    driver.settle(client, "AUTH default hidden");
    assert!(driver.settle(client, "SLOWLOG GET 1").contains("*3 $4 AUTH $10 (redacted) $10 (redacted)"));
    assert_eq!(driver.settle(client, "SLOWLOG LEN"), ":2");
    assert_eq!(driver.settle(client, "SLOWLOG RESET"), "+OK");
}

#[test]
fn latency_is_kept_by_event_and_by_command() {
    let mut driver = Driver::new();
    let client = driver.connect();
    assert_eq!(driver.settle(client, "LATENCY LATEST"), "*0");
    assert_eq!(driver.settle(client, "LATENCY GRAPH command"), "-ERR No samples available for event 'command'");
    driver.settle(client, "CONFIG SET latency-monitor-threshold 10");
    for ms in [12, 30] {
        driver.call(client, "SET k v");
        driver.pass(ms);
        driver.sync_all();
        driver.replies(client);
    }
    let time = driver.now.wall_us / 1_000_000;
    assert_eq!(driver.settle(client, "LATENCY LATEST"), format!("*1 *4 $7 command :{time} :30 :30"));
    assert_eq!(driver.settle(client, "LATENCY HISTORY command"), format!("*1 *2 :{time} :30"));
    assert_eq!(driver.settle(client, "LATENCY HISTORY nosuch"), "*0");
    assert!(driver.settle(client, "LATENCY GRAPH command").contains("high 30 ms"));
    let histogram = driver.settle(client, "LATENCY HISTOGRAM set");
    assert_eq!(histogram, "*2 $3 set *4 $5 calls :2 $14 histogram_usec *4 :16384 :1 :32768 :2");
    assert_eq!(driver.settle(client, "LATENCY HISTOGRAM nosuch"), "*0");
    assert_eq!(driver.settle(client, "LATENCY RESET nosuch"), ":0");
    assert_eq!(driver.settle(client, "LATENCY RESET"), ":1");
}

#[test]
fn who_monitors_sees_what_others_send_without_their_passwords() {
    let mut driver = Driver::new();
    let (watcher, client) = (driver.connect(), driver.connect_from("10.0.0.1:5"));
    assert_eq!(driver.settle(watcher, "MONITOR"), "+OK");
    for line in ["SET k \"\n", "AUTH default hidden", "CONFIG GET x", "MULTI", "GET k", "EXEC", "SELECT 3", "GET k"] {
        driver.settle(client, line);
    }
    let seen = driver.replies(watcher);
    let seen: Vec<&str> = seen.split(" | ").map(|line| line.split_once(' ').unwrap().1).collect();
    let expected = [
        "[0 10.0.0.1:5] \"SET\" \"k\" \"\\\"\\n\"",
        "[0 10.0.0.1:5] \"AUTH\" \"(redacted)\" \"(redacted)\"",
        "[0 10.0.0.1:5] \"MULTI\"",
        "[0 10.0.0.1:5] \"GET\" \"k\"",
        "[0 10.0.0.1:5] \"EXEC\"",
        "[0 10.0.0.1:5] \"SELECT\" \"3\"",
        "[3 10.0.0.1:5] \"GET\" \"k\"",
    ];
    assert_eq!(seen, expected);
    assert_eq!(driver.settle(watcher, "RESET"), "+RESET");
    driver.settle(client, "PING");
    assert_eq!(driver.replies(watcher), "", "no longer");
    driver.settle(watcher, "MONITOR");
    driver.settle(client, "PING");
    assert_eq!(driver.replies(watcher).split(" | ").count(), 1, "and once again");
    driver.node.stall(watcher);
    driver.settle(client, "PING");
    assert_eq!(driver.closed, [watcher], "one that does not read is not waited for");
}

#[test]
fn idle_clients_are_closed_when_that_is_set() {
    let mut driver = Driver::new();
    let (idle, active) = (driver.connect(), driver.connect());
    driver.settle(active, "CONFIG SET timeout 10");
    driver.pass(9_000);
    driver.settle(active, "PING");
    driver.pass(2_000);
    assert_eq!(driver.closed, [idle]);
}

#[test]
fn shutdown_stops_the_node_and_nothing_else_does() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for line in ["SHUTDOWN foo", "SHUTDOWN SAVE NOSAVE", "SHUTDOWN ABORT NOSAVE"] {
        assert_eq!(driver.settle(client, line), "-ERR syntax error");
    }
    assert_eq!(driver.settle(client, "SHUTDOWN ABORT"), "-ERR No shutdown in progress.");
    driver.settle(client, "MULTI");
    assert_eq!(driver.settle(client, "SHUTDOWN"), "-ERR Command not allowed inside a transaction");
    assert!(driver.settle(client, "EXEC").starts_with("-EXECABORT"));
    assert!(driver.events.is_empty());
    assert_eq!(driver.settle(client, "SHUTDOWN NOSAVE NOW"), "");
    assert_eq!(driver.events, ["shutdown"]);
}

#[test]
fn what_is_not_here_says_what_to_use_instead() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let absent = "SAVE BGSAVE BGREWRITEAOF LASTSAVE REPLICAOF SLAVEOF SENTINEL MODULE FAILOVER PSYNC SYNC ROLE SUBSCRIBE \
                  PSUBSCRIBE PUBLISH PUBSUB EVAL EVALSHA SCRIPT FCALL FUNCTION MIGRATE SWAPDB READONLY ASKING";
    for name in absent.split_whitespace() {
        let reply = driver.settle(client, &format!("{name} a b"));
        assert!(reply.starts_with(&format!("-ERR {name} is not supported: ")), "{reply}");
    }
    let reply = driver.settle(client, "CLUSTER INFO");
    assert!(reply.starts_with("-ERR This instance has cluster support disabled"), "{reply}");
    assert!(driver.settle(client, "ACL SETUSER x").starts_with("-ERR ACL SETUSER is not supported: there is one user"));
    assert_eq!(driver.settle(client, "ACL USERS x"), "-ERR wrong number of arguments for 'acl|users' command");
    assert!(driver.settle(client, "HSETT k").starts_with("-ERR unknown command 'HSETT'"));
    driver.settle(client, "MULTI");
    driver.settle(client, "SUBSCRIBE x");
    assert!(driver.settle(client, "EXEC").starts_with("-EXECABORT"));
}

#[test]
fn info_has_redis_s_sections_and_counts_what_happens() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for line in ["SET k v EX 100", "SET j v", "GET k", "GET none", "INCR k", "NOSUCH", "SELECT x"] {
        driver.settle(client, line);
    }
    let unasked = driver.settle(client, "INFO");
    for section in [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Modules",
        "Errorstats",
        "Cluster",
        "Keyspace",
    ] {
        assert!(unasked.contains(&format!("# {section} ")), "no section {section} in {unasked}");
    }
    assert!(!unasked.contains("# Commandstats") && !unasked.contains("# Latencystats"));
    let all = driver.settle(client, "INFO all");
    assert!(all.contains("# Commandstats") && !all.contains("# Modules"));
    let everything = driver.settle(client, "INFO everything");
    for wanted in [
        "# Modules",
        "cmdstat_set:calls=2,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0",
        "cmdstat_incr:calls=1,usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=1",
        "errorstat_ERR:count=3",
        "latency_percentiles_usec_get:p50=1.000,p99=1.000,p99.9=1.000",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "db0:keys=2,expires=1,avg_ttl=",
        "role:master",
    ] {
        assert!(everything.contains(wanted), "no {wanted} in {everything}");
    }
    assert_eq!(driver.settle(client, "INFO nosuch"), "$0");
    assert!(driver.settle(client, "INFO commandstats nosuch").contains("cmdstat_info"));
    driver.settle(client, "CONFIG RESETSTAT");
    assert!(!driver.settle(client, "INFO everything").contains("cmdstat_set"));
}

#[test]
fn memory_and_the_rest() {
    dialogue(&[
        ("MEMORY USAGE k", "$-1"),
        ("MEMORY USAGE k SAMPLES", "-ERR syntax error"),
        ("MEMORY USAGE k SAMPLES abc", "-ERR value is not an integer or out of range"),
        ("MEMORY USAGE k SAMPLES -1", "-ERR syntax error"),
        ("MEMORY USAGE k foo 1", "-ERR syntax error"),
        ("SET k 0123456789", "+OK"),
        ("MEMORY USAGE k SAMPLES 5", ":75"),
        ("MEMORY PURGE", "+OK"),
        ("ACL USERS", "*1 $7 default"),
        ("HELLO abc", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO 3 SETNAME", "-ERR Syntax error in HELLO option 'SETNAME'"),
        ("HELLO 2 AUTH a b", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("QUIT now", "+OK"),
    ]);
    let mut driver = Driver::new();
    let client = driver.connect();
    assert!(driver.settle(client, "LOLWUT").contains("Redis ver. 7.0.15"));
    assert!(driver.settle(client, "MEMORY STATS").contains("$10 keys.count :0"));
    assert!(driver.settle(client, "MEMORY DOCTOR").contains("memory is bounded"));
}

#[test]
fn a_queue_that_is_too_long_is_refused_and_leaves_nothing() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "MULTI");
    for _ in 0..100_000 {
        driver.request(client, "SET k v");
    }
    let replies = driver.replies(client);
    assert!(replies.split(" | ").all(|reply| reply == "+QUEUED"));
    let refusal = driver.settle(client, "SET k v");
    assert!(
        refusal.starts_with("-ERR the transaction is too large: it may hold 100000 commands, or keys"),
        "{refusal}"
    );
    assert!(driver.settle(client, "EXEC").starts_with("-EXECABORT"));
    assert_eq!(driver.settle(client, "EXISTS k"), ":0");
}

#[test]
fn a_select_within_a_block_holds_back_what_is_behind_it_though_an_earlier_block_ends_first() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let lines = |driver: &mut Driver, lines: &[&str]| {
        lines.iter().for_each(|line| driver.request(client, line));
        driver.end_turn();
    };
    lines(&mut driver, &["MULTI", "SET first 1", "EXEC"]);
    lines(&mut driver, &["MULTI", "SET second 2", "SELECT 1", "EXEC", "SELECT 0", "SET third 3"]);
    for _ in 0..5 {
        driver.sync_all();
        driver.end_turn();
    }
    driver.replies(client);
    assert_eq!(driver.settle(client, "GET third"), "$1 3");
    assert_eq!(driver.settle(client, "SELECT 0"), "+OK");
    assert_eq!(driver.settle(client, "MGET first second third"), "*3 $1 1 $1 2 $1 3");
    assert!(driver.settle(client, "CLIENT LIST").contains(" db=0 "));
}

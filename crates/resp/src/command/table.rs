//! The rows of the command table, and the look-up from a name to its row.
//!
//! A row reads: id, name, arity, command flags, categories that do not follow from those flags, keys (first, last,
//! step: key flags; `then` a second lot of keys, used in another way), documentation (group, since, complexity,
//! summary), since when and what to use `instead`, arguments (in the notation of the module `arguments`), tips. A subcommand follows its container directly. Adding a command is adding a row: the id, the
//! look-up and `COMMAND` follow, and the compiler then names every `match` that must learn of it.

use super::flags::{Categories, CommandFlags, KeyFlags};
use super::{CommandSpec, Group, KeyPositions};

macro_rules! commands {
    ($(
        $id:ident $name:literal $arity:literal [$($flag:ident)*] @[$($category:ident)*]
        $(keys($first:literal, $last:literal, $step:literal: $($key_flag:ident)* $(, $notes:literal)?))?
        $(then($first2:literal, $last2:literal, $step2:literal: $($key_flag2:ident)*))?
        in $group:ident($since:literal, $complexity:literal, $summary:literal)
        $(instead($instead_since:literal, $instead:literal))?
        $(args($($arguments:literal),*))?
        $(tips($($tip:literal),*))?;
    )*) => {
        /// The identity of a command or subcommand: what dispatch matches on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CommandId {
            $(#[doc = concat!("`", $name, "`: ", $summary)] $id,)*
        }

        /// Number of rows, subcommands included.
        pub const COMMAND_COUNT: usize = [$(CommandId::$id),*].len();

        /// The rows; the row of an id is at `id as usize`.
        pub(super) static COMMANDS: [CommandSpec; COMMAND_COUNT] = [$(CommandSpec {
            id: CommandId::$id,
            full_name: $name,
            arity: $arity,
            flags: CommandFlags::NONE$(.with(CommandFlags::$flag))*,
            own_categories: Categories::NONE$(.with(Categories::$category))*,
            key_positions: commands!(@keys $($first, $last, $step; $($key_flag)*; $($notes)?)?),
            more_keys: commands!(@keys $($first2, $last2, $step2; $($key_flag2)*;)?),
            group: Group::$group,
            since: $since,
            complexity: $complexity,
            summary: $summary,
            deprecated: commands!(@deprecated $($instead_since, $instead)?),
            arguments: concat!($($($arguments),*)?),
            tips: &[$($($tip),*)?],
            parent: PARENTS[CommandId::$id as usize],
        },)*];

        const NAMES: [&str; COMMAND_COUNT] = [$($name),*];
        const IDS: [CommandId; COMMAND_COUNT] = [$(CommandId::$id),*];
    };
    (@deprecated) => { None };
    (@deprecated $since:literal, $instead:literal) => { Some(($since, $instead)) };
    (@keys) => { KeyPositions::NONE };
    (@keys $first:literal, $last:literal, $step:literal; $($key_flag:ident)*; $($notes:literal)?) => {
        KeyPositions {
            first: $first,
            last: $last,
            step: $step,
            flags: KeyFlags::NONE$(.with(KeyFlags::$key_flag))*,
            notes: concat!("" $(, $notes)?),
        }
    };
}

commands! {
    // Strings.
    Get "get" 2 [READONLY FAST] @[STRING] keys(1, 1, 1: RO ACCESS)
        in String("1.0.0", "O(1)", "Gives the value of a key")
        args("key");
    Set "set" -3 [WRITE DENYOOM] @[STRING]
        keys(1, 1, 1: RW ACCESS UPDATE VARIABLE_FLAGS, "RW and ACCESS due to the optional `GET` argument")
        in String("1.0.0", "O(1)", "Sets the value of a key, whatever it held before")
        args(
            "key value:string condition(NX|XX)?@2.6.12 GET?@6.2.0 expiration(EX=seconds:integer@2.6.12|",
            "PX=milliseconds:integer@2.6.12|EXAT=unix-time-seconds:unix-time@6.2.0|",
            "PXAT=unix-time-milliseconds:unix-time@6.2.0|KEEPTTL@6.0.0)?"
        );
    GetEx "getex" -2 [WRITE FAST] @[STRING]
        keys(1, 1, 1: RW ACCESS UPDATE, "RW and UPDATE because it changes the TTL")
        in String("6.2.0", "O(1)", "Gives the value of a key and sets or removes its expiry")
        args(
            "key expiration(EX=seconds:integer|PX=milliseconds:integer|EXAT=unix-time-seconds:unix-time|",
            "PXAT=unix-time-milliseconds:unix-time|PERSIST)?"
        );
    GetDel "getdel" 2 [WRITE FAST] @[STRING] keys(1, 1, 1: RW ACCESS DELETE)
        in String("6.2.0", "O(1)", "Gives the value of a key and deletes the key")
        args("key");
    MGet "mget" -2 [READONLY FAST] @[STRING] keys(1, -1, 1: RO ACCESS)
        in String("1.0.0", "O(N) in the number of keys", "Gives the values of several keys as of one moment")
        args("key*")
        tips("request_policy:multi_shard");
    MSet "mset" -3 [WRITE DENYOOM] @[STRING] keys(1, -1, 2: OW UPDATE)
        in String("1.0.1", "O(N) in the number of keys", "Sets several keys at once")
        args("key_value{key value:string}*")
        tips("request_policy:multi_shard", "response_policy:all_succeeded");
    MSetNx "msetnx" -3 [WRITE DENYOOM] @[STRING] keys(1, -1, 2: OW INSERT)
        in String("1.0.1", "O(N) in the number of keys", "Sets several keys at once if none of them exists")
        args("key_value{key value:string}*")
        tips("request_policy:multi_shard", "response_policy:agg_min");
    SetNx "setnx" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: OW INSERT)
        in String("1.0.0", "O(1)", "Sets the value of a key if the key does not exist")
        args("key value:string");
    Append "append" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW INSERT)
        in String("2.0.0", "O(N) in the length of the resulting value", "Appends to the value of a key")
        args("key value:string");
    StrLen "strlen" 2 [READONLY FAST] @[STRING] keys(1, 1, 1: RO)
        in String("2.2.0", "O(1)", "Gives the length of the value of a key")
        args("key");
    Incr "incr" 2 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("1.0.0", "O(1)", "Adds one to the integer a key holds")
        args("key");
    Decr "decr" 2 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("1.0.0", "O(1)", "Subtracts one from the integer a key holds")
        args("key");
    IncrBy "incrby" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("1.0.0", "O(1)", "Adds to the integer a key holds")
        args("key increment:integer");
    DecrBy "decrby" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("1.0.0", "O(1)", "Subtracts from the integer a key holds")
        args("key decrement:integer");
    IncrByFloat "incrbyfloat" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("2.6.0", "O(1)", "Adds to the floating-point number a key holds")
        args("key increment:double");

    SetEx "setex" 4 [WRITE DENYOOM] @[STRING] keys(1, 1, 1: OW UPDATE)
        in String("2.0.0", "O(1)", "Sets the value of a key, which expires after some seconds")
        args("key seconds:integer value:string");
    PSetEx "psetex" 4 [WRITE DENYOOM] @[STRING] keys(1, 1, 1: OW UPDATE)
        in String("2.6.0", "O(1)", "Sets the value of a key, which expires after some milliseconds")
        args("key milliseconds:integer value:string");
    GetSet "getset" 3 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("1.0.0", "O(1)", "Sets the value of a key and gives the one before")
        instead("6.2.0", "`SET` with the `!GET` argument")
        args("key value:string");
    GetRange "getrange" 4 [READONLY] @[STRING] keys(1, 1, 1: RO ACCESS)
        in String("2.4.0", "O(N) in the length of the part", "Gives part of the value of a key")
        args("key start:integer end:integer");
    SubStr "substr" 4 [READONLY] @[STRING] keys(1, 1, 1: RO ACCESS)
        in String("1.0.0", "O(N) in the length of the part", "Gives part of the value of a key; the same as GETRANGE")
        instead("2.0.0", "`GETRANGE`")
        args("key start:integer end:integer");
    SetRange "setrange" 4 [WRITE DENYOOM] @[STRING] keys(1, 1, 1: RW UPDATE)
        in String("2.2.0", "O(N) in the length of the part", "Overwrites part of the value of a key")
        args("key offset:integer value:string");
    Lcs "lcs" -3 [READONLY] @[STRING] keys(1, 2, 1: RO ACCESS)
        in String("7.0.0", "O(N*M) in the lengths of the two values", "Finds the longest common subsequence")
        args("key1:key key2:key LEN? IDX? MINMATCHLEN=len:integer? WITHMATCHLEN?");

    // Bits.
    SetBit "setbit" 4 [WRITE DENYOOM] @[BITMAP] keys(1, 1, 1: RW ACCESS UPDATE)
        in Bitmap("2.2.0", "O(1)", "Sets or clears a bit of the value of a key")
        args("key offset:integer value:integer");
    GetBit "getbit" 3 [READONLY FAST] @[BITMAP] keys(1, 1, 1: RO ACCESS)
        in Bitmap("2.2.0", "O(1)", "Gives a bit of the value of a key")
        args("key offset:integer");
    BitCount "bitcount" -2 [READONLY] @[BITMAP] keys(1, 1, 1: RO ACCESS)
        in Bitmap("2.6.0", "O(N) in the length of the range", "Counts the bits that are set in the value of a key")
        args("key index{start:integer end:integer index_unit(BYTE|BIT)?@7.0.0}?");
    BitPos "bitpos" -3 [READONLY] @[BITMAP] keys(1, 1, 1: RO ACCESS)
        in Bitmap("2.8.7", "O(N) in the length of the range", "Finds the first bit that is set, or clear")
        args("key bit:integer index{start:integer end_index{end:integer index_unit(BYTE|BIT)?@7.0.0}?}?");
    BitOp "bitop" -4 [WRITE DENYOOM] @[BITMAP] keys(2, 2, 1: OW UPDATE) then(3, -1, 1: RO ACCESS)
        in Bitmap("2.6.0", "O(N) in the length of all values", "Combines values bit by bit and stores the result")
        args("operation:string destkey:key key:key2*");
    BitField "bitfield" -2 [WRITE DENYOOM] @[BITMAP]
        keys(1, 1, 1: RW ACCESS UPDATE VARIABLE_FLAGS, "This command allows both access and modification of the key")
        in Bitmap("3.2.0", "O(1) for each operation", "Reads and writes integers of any width in the value of a key")
        args(
            "key operation(GET=encoding_offset{encoding:string offset:integer}|",
            "write{OVERFLOW=wrap_sat_fail(WRAP|SAT|FAIL)? write_operation(",
            "SET=encoding_offset_value{encoding:string offset:integer value:integer}|",
            "INCRBY=encoding_offset_increment{encoding:string offset:integer increment:integer})})?*"
        );
    BitFieldRo "bitfield_ro" -2 [READONLY FAST] @[BITMAP] keys(1, 1, 1: RO ACCESS)
        in Bitmap("6.0.0", "O(1) for each operation", "Reads integers of any width in the value of a key")
        args("key GET=encoding_offset{encoding:string offset:integer}?**");

    // Keys.
    Del "del" -2 [WRITE] @[KEYSPACE] keys(1, -1, 1: RM DELETE)
        in Generic("1.0.0", "O(N) in the number of keys", "Deletes keys")
        args("key*")
        tips("request_policy:multi_shard", "response_policy:agg_sum");
    Unlink "unlink" -2 [WRITE FAST] @[KEYSPACE] keys(1, -1, 1: RM DELETE)
        in Generic("4.0.0", "O(N) in the number of keys", "Deletes keys; the same as DEL")
        args("key*")
        tips("request_policy:multi_shard", "response_policy:agg_sum");
    Exists "exists" -2 [READONLY FAST] @[KEYSPACE] keys(1, -1, 1: RO)
        in Generic("1.0.0", "O(N) in the number of keys", "Counts how many of the given keys exist")
        args("key*")
        tips("request_policy:multi_shard", "response_policy:agg_sum");
    Type "type" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO)
        in Generic("1.0.0", "O(1)", "Names the type of the value of a key")
        args("key");
    Expire "expire" -3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW UPDATE)
        in Generic("1.0.0", "O(1)", "Lets a key expire after some seconds")
        args("key seconds:integer condition(NX|XX|GT|LT)?@7.0.0");
    PExpire "pexpire" -3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW UPDATE)
        in Generic("2.6.0", "O(1)", "Lets a key expire after some milliseconds")
        args("key milliseconds:integer condition(NX|XX|GT|LT)?@7.0.0");
    ExpireAt "expireat" -3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW UPDATE)
        in Generic("1.2.0", "O(1)", "Lets a key expire at a Unix time in seconds")
        args("key unix-time-seconds:unix-time condition(NX|XX|GT|LT)?@7.0.0");
    PExpireAt "pexpireat" -3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW UPDATE)
        in Generic("2.6.0", "O(1)", "Lets a key expire at a Unix time in milliseconds")
        args("key unix-time-milliseconds:unix-time condition(NX|XX|GT|LT)?@7.0.0");
    Ttl "ttl" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("1.0.0", "O(1)", "Tells how many seconds a key has to live")
        args("key")
        tips("nondeterministic_output");
    PTtl "pttl" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("2.6.0", "O(1)", "Tells how many milliseconds a key has to live")
        args("key")
        tips("nondeterministic_output");
    ExpireTime "expiretime" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("7.0.0", "O(1)", "Tells the Unix time in seconds at which a key expires")
        args("key");
    PExpireTime "pexpiretime" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("7.0.0", "O(1)", "Tells the Unix time in milliseconds at which a key expires")
        args("key");
    Persist "persist" 2 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW UPDATE)
        in Generic("2.2.0", "O(1)", "Removes the expiry of a key")
        args("key");
    Rename "rename" 3 [WRITE] @[KEYSPACE] keys(1, 1, 1: RW ACCESS DELETE) then(2, 2, 1: OW UPDATE)
        in Generic("1.0.0", "O(N) in the length of the value", "Gives a key another name")
        args("key newkey:key2");
    RenameNx "renamenx" 3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW ACCESS DELETE) then(2, 2, 1: OW INSERT)
        in Generic("1.0.0", "O(N) in the length of the value", "Gives a key another name, unless that one exists")
        args("key newkey:key2");
    Copy "copy" -3 [WRITE DENYOOM] @[KEYSPACE] keys(1, 1, 1: RO ACCESS) then(2, 2, 1: OW UPDATE)
        in Generic("6.2.0", "O(N) in the length of the value", "Copies a key")
        args("source:key destination:key2 DB=destination-db:integer? REPLACE?");
    Move "move" 3 [WRITE FAST] @[KEYSPACE] keys(1, 1, 1: RW ACCESS UPDATE)
        in Generic("1.0.0", "O(N) in the length of the value", "Moves a key to another database")
        args("key db:integer");
    Touch "touch" -2 [READONLY FAST] @[KEYSPACE] keys(1, -1, 1: RO)
        in Generic("3.2.1", "O(N) in the number of keys", "Counts how many of the given keys exist")
        args("key*")
        tips("request_policy:multi_shard", "response_policy:agg_sum");
    RandomKey "randomkey" 1 [READONLY] @[KEYSPACE]
        in Generic("1.0.0", "O(1)", "Gives some key")
        tips("request_policy:all_shards", "nondeterministic_output");
    Object "object" -2 [] @[]
        in Generic("2.2.3", "Depends on the subcommand", "Holds the commands about how values are stored");
    ObjectEncoding "object|encoding" 3 [READONLY] @[KEYSPACE] keys(2, 2, 1: RO)
        in Generic("2.2.3", "O(1)", "Names the encoding that Redis would store the value in")
        args("key")
        tips("nondeterministic_output");
    ObjectFreq "object|freq" 3 [READONLY] @[KEYSPACE] keys(2, 2, 1: RO)
        in Generic("4.0.0", "O(1)", "Tells how often a key is used, were that counted")
        args("key")
        tips("nondeterministic_output");
    ObjectHelp "object|help" 2 [LOADING STALE] @[KEYSPACE]
        in Generic("6.2.0", "O(1)", "Explains the subcommands");
    ObjectIdleTime "object|idletime" 3 [READONLY] @[KEYSPACE] keys(2, 2, 1: RO)
        in Generic("2.2.3", "O(1)", "Tells for how many seconds a key has not been written")
        args("key")
        tips("nondeterministic_output");
    ObjectRefCount "object|refcount" 3 [READONLY] @[KEYSPACE] keys(2, 2, 1: RO)
        in Generic("2.2.3", "O(1)", "Tells how many references Redis would hold to the value")
        args("key")
        tips("nondeterministic_output");
    Dump "dump" 2 [READONLY] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("2.6.0", "O(N) in the length of the value", "Gives the value of a key in the form RESTORE takes")
        args("key")
        tips("nondeterministic_output");
    Restore "restore" -4 [WRITE DENYOOM] @[KEYSPACE DANGEROUS] keys(1, 1, 1: OW UPDATE)
        in Generic("2.6.0", "O(N) in the length of the value", "Makes a key of what DUMP gave")
        args(
            "key ttl:integer serialized-value:string REPLACE?@3.0.0 ABSTTL?@5.0.0 ",
            "IDLETIME=seconds:integer?@5.0.0 FREQ=frequency:integer?@5.0.0"
        );
    Sort "sort" -2 [WRITE DENYOOM MOVABLE_KEYS] @[SET SORTEDSET LIST DANGEROUS] keys(1, 1, 1: RO ACCESS)
        in Generic("1.0.0", "O(N log N) in the number of elements", "Sorts the elements of a collection")
        args(
            "key BY=pattern:pattern1? LIMIT=offset_count{offset:integer count:integer}? GET=pattern:pattern1?** ",
            "order(ASC|DESC)? ALPHA=sorting:pure-token? STORE=destination:key3?"
        );
    SortRo "sort_ro" -2 [READONLY MOVABLE_KEYS] @[SET SORTEDSET LIST DANGEROUS] keys(1, 1, 1: RO ACCESS)
        in Generic("7.0.0", "O(N log N) in the number of elements", "Sorts the elements of a collection, stores nothing")
        args(
            "key BY=pattern:pattern1? LIMIT=offset_count{offset:integer count:integer}? GET=pattern:pattern1?** ",
            "order(ASC|DESC)? ALPHA=sorting:pure-token?"
        );
    Scan "scan" -2 [READONLY] @[KEYSPACE]
        in Generic("2.8.0", "O(1) for a call, O(N) for all keys", "Walks the keys in small steps")
        args("cursor:integer MATCH=pattern:pattern? COUNT=count:integer? TYPE=type:string?@6.0.0")
        tips("nondeterministic_output", "request_policy:special");
    Keys "keys" 2 [READONLY] @[KEYSPACE DANGEROUS]
        in Generic("1.0.0", "O(N) in the number of keys of the database", "Lists the keys that match a pattern")
        args("pattern:pattern")
        tips("request_policy:all_shards", "nondeterministic_output_order");
    DbSize "dbsize" 1 [READONLY FAST] @[KEYSPACE]
        in Server("1.0.0", "O(1)", "Counts the keys of the selected database")
        tips("request_policy:all_shards", "response_policy:agg_sum");
    FlushAll "flushall" -1 [WRITE] @[KEYSPACE DANGEROUS]
        in Server("1.0.0", "O(1)", "Deletes all keys of all databases")
        args("async(ASYNC@4.0.0|SYNC@6.2.0)?")
        tips("request_policy:all_shards", "response_policy:all_succeeded");
    FlushDb "flushdb" -1 [WRITE] @[KEYSPACE DANGEROUS]
        in Server("1.0.0", "O(1)", "Deletes all keys of the selected database")
        args("async(ASYNC@4.0.0|SYNC@6.2.0)?")
        tips("request_policy:all_shards", "response_policy:all_succeeded");

    // Transactions.
    Multi "multi" 1 [NOSCRIPT LOADING STALE FAST ALLOW_BUSY] @[TRANSACTION]
        in Transactions("1.2.0", "O(1)", "Begins to queue commands for EXEC");
    Exec "exec" 1 [NOSCRIPT LOADING STALE SKIP_SLOWLOG] @[TRANSACTION]
        in Transactions("1.2.0", "Depends on the queued commands", "Runs the queued commands as one");
    Discard "discard" 1 [NOSCRIPT LOADING STALE FAST ALLOW_BUSY] @[TRANSACTION]
        in Transactions("2.0.0", "O(N) in the number of queued commands", "Forgets the queued commands");
    Watch "watch" -2 [NOSCRIPT LOADING STALE FAST ALLOW_BUSY] @[TRANSACTION] keys(1, -1, 1: RO)
        in Transactions("2.2.0", "O(N) in the number of keys", "Makes the next EXEC depend on keys staying unchanged")
        args("key*");
    Unwatch "unwatch" 1 [NOSCRIPT LOADING STALE FAST ALLOW_BUSY] @[TRANSACTION]
        in Transactions("2.2.0", "O(1)", "Forgets the watched keys");

    // The connection.
    Ping "ping" -1 [FAST] @[CONNECTION]
        in Connection("1.0.0", "O(1)", "Answers PONG, or its argument")
        args("message:string?")
        tips("request_policy:all_shards", "response_policy:all_succeeded");
    Echo "echo" 2 [LOADING STALE FAST] @[CONNECTION]
        in Connection("1.0.0", "O(1)", "Answers its argument")
        args("message:string");
    Hello "hello" -1 [NOSCRIPT LOADING STALE FAST NO_AUTH ALLOW_BUSY] @[CONNECTION]
        in Connection("6.0.0", "O(1)", "Chooses the protocol version and greets")
        args(
            "arguments{protover:integer AUTH=username_password{username:string password:string}? ",
            "SETNAME=clientname:string?}?"
        );
    Auth "auth" -2 [NOSCRIPT LOADING STALE FAST NO_AUTH ALLOW_BUSY] @[CONNECTION]
        in Connection("1.0.0", "O(N) in the number of passwords of the user", "Authenticates the connection")
        args("username:string?@6.0.0 password:string");
    Select "select" 2 [LOADING STALE FAST] @[CONNECTION]
        in Connection("1.0.0", "O(1)", "Chooses the database of the connection")
        args("index:integer");
    Quit "quit" -1 [NOSCRIPT LOADING STALE FAST NO_AUTH ALLOW_BUSY] @[CONNECTION]
        in Connection("1.0.0", "O(1)", "Closes the connection");
    Reset "reset" 1 [NOSCRIPT LOADING STALE FAST NO_AUTH ALLOW_BUSY] @[CONNECTION]
        in Connection("6.2.0", "O(1)", "Makes the connection as it was when new");
    Client "client" -2 [] @[]
        in Connection("2.4.0", "Depends on the subcommand", "Holds the commands about connections");
    ClientCaching "client|caching" 3 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.0.0", "O(1)", "Is about tracking, which is not here")
        args("mode(YES|NO)");
    ClientGetName "client|getname" 2 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("2.6.9", "O(1)", "Gives the name of the connection");
    ClientGetRedir "client|getredir" 2 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.0.0", "O(1)", "Tells that the connection is not tracked");
    ClientHelp "client|help" 2 [LOADING STALE] @[CONNECTION]
        in Connection("5.0.0", "O(1)", "Explains the subcommands");
    ClientId "client|id" 2 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("5.0.0", "O(1)", "Gives the number of the connection");
    ClientInfo "client|info" 2 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.2.0", "O(1)", "Describes the connection")
        tips("nondeterministic_output");
    ClientKill "client|kill" -3 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("2.4.0", "O(N) in the number of connections", "Closes connections")
        args(
            "filter('ip:port':string!2.8.12|new-format(ID=client-id:integer?@2.8.12|",
            "TYPE=normal_master_slave_pubsub(NORMAL|MASTER@3.2.0|SLAVE|REPLICA@5.0.0|PUBSUB)?@2.8.12|",
            "USER=username:string?|ADDR='ip:port':string?|LADDR='ip:port':string?@6.2.0|",
            "SKIPME=yes/no:string?)*)"
        );
    ClientList "client|list" -2 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("2.4.0", "O(N) in the number of connections", "Describes all connections")
        args(
            "TYPE=normal_master_replica_pubsub(NORMAL|MASTER|REPLICA|PUBSUB)?@5.0.0 ",
            "ID=id{client-id:integer*}?@6.2.0"
        )
        tips("nondeterministic_output");
    ClientNoEvict "client|no-evict" 3 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("7.0.0", "O(1)", "Does nothing: clients are not evicted")
        args("enabled(ON|OFF)");
    ClientPause "client|pause" -3 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("2.9.50", "O(1)", "Makes the commands of this node's clients wait")
        args("timeout:integer mode(WRITE|ALL)?@6.2.0");
    ClientReply "client|reply" 3 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("3.2.0", "O(1)", "Chooses whether the connection gets replies")
        args("on_off_skip(ON|OFF|SKIP)");
    ClientSetInfo "client|setinfo" 4 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("7.2.0", "O(1)", "Tells the name or version of the client's library")
        args("attr(LIB-NAME=libname:string|LIB-VER=libver:string)");
    ClientSetName "client|setname" 3 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("2.6.9", "O(1)", "Names the connection")
        args("connection-name:string");
    ClientTracking "client|tracking" -3 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.0.0", "O(1)", "Refuses to track keys")
        args("status(ON|OFF) REDIRECT=client-id:integer? PREFIX=prefix:string?** BCAST? OPTIN? OPTOUT? NOLOOP?");
    ClientTrackingInfo "client|trackinginfo" 2 [NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.2.0", "O(1)", "Tells that the connection is not tracked");
    ClientUnblock "client|unblock" -3 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("5.0.0", "O(1)", "Ends the waiting of another connection")
        args("client-id:integer timeout_error(TIMEOUT|ERROR)?");
    ClientUnpause "client|unpause" 2 [ADMIN NOSCRIPT LOADING STALE] @[CONNECTION]
        in Connection("6.2.0", "O(N) in the number of connections", "Ends CLIENT PAUSE");

    // The server.
    Acl "acl" -2 [] @[]
        in Server("6.0.0", "Depends on the subcommand", "Holds the commands about users");
    AclHelp "acl|help" 2 [LOADING STALE] @[]
        in Server("6.0.0", "O(1)", "Explains the subcommands");
    AclUsers "acl|users" 2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("6.0.0", "O(1)", "Lists the users: there is one");
    AclWhoAmI "acl|whoami" 2 [NOSCRIPT LOADING STALE] @[]
        in Server("6.0.0", "O(1)", "Names the user of the connection");
    Command "command" -1 [LOADING STALE] @[CONNECTION]
        in Server("2.8.13", "O(N) in the number of commands", "Describes the commands")
        tips("nondeterministic_output_order");
    CommandCount "command|count" 2 [LOADING STALE] @[CONNECTION]
        in Server("2.8.13", "O(1)", "Counts the commands");
    CommandDocs "command|docs" -2 [LOADING STALE] @[CONNECTION]
        in Server("7.0.0", "O(N) in the number of commands", "Documents commands")
        args("command-name:string?*")
        tips("nondeterministic_output_order");
    CommandGetKeys "command|getkeys" -4 [LOADING STALE] @[CONNECTION]
        in Server("2.8.13", "O(N) in the number of arguments", "Picks the keys out of a whole command");
    CommandGetKeysAndFlags "command|getkeysandflags" -4 [LOADING STALE] @[CONNECTION]
        in Server("7.0.0", "O(N) in the number of arguments", "Does GETKEYS, with the flags of each key");
    CommandHelp "command|help" 2 [LOADING STALE] @[CONNECTION]
        in Server("5.0.0", "O(1)", "Explains the subcommands");
    CommandInfo "command|info" -2 [LOADING STALE] @[CONNECTION]
        in Server("2.8.13", "O(N) in the number of commands", "Describes some commands, or all")
        args("command-name:string?*")
        tips("nondeterministic_output_order");
    CommandList "command|list" -2 [LOADING STALE] @[CONNECTION]
        in Server("7.0.0", "O(N) in the number of commands", "Lists the names of the commands")
        args("FILTERBY=filterby(MODULE=module-name:string|ACLCAT=category:string|PATTERN=pattern:pattern)?")
        tips("nondeterministic_output_order");
    Config "config" -2 [] @[]
        in Server("2.0.0", "Depends on the subcommand", "Holds the commands about the configuration");
    ConfigGet "config|get" -3 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.0.0", "O(N) in the number of settings", "Gives the settings that match patterns")
        args("parameter{parameter:string}*");
    ConfigHelp "config|help" 2 [LOADING STALE] @[]
        in Server("5.0.0", "O(1)", "Explains the subcommands");
    ConfigResetStat "config|resetstat" 2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.0.0", "O(1)", "Sets the counters of this node back");
    ConfigRewrite "config|rewrite" 2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.0", "O(1)", "Refuses: the configuration file belongs to the operator");
    ConfigSet "config|set" -4 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.0.0", "O(N) in the number of settings", "Changes settings of this node until it is started again")
        args("parameter_value{parameter:string value:string}*")
        tips("request_policy:all_nodes", "response_policy:all_succeeded");
    Debug "debug" -2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("1.0.0", "Depends on the subcommand", "Sleeps; nothing else of it is here");
    Info "info" -1 [LOADING STALE] @[DANGEROUS]
        in Server("1.0.0", "O(1)", "Reports on the server")
        args("section:string?*")
        tips("nondeterministic_output", "request_policy:all_shards", "response_policy:special");
    Latency "latency" -2 [] @[]
        in Server("2.8.13", "Depends on the subcommand", "Holds the commands about slow commands");
    LatencyDoctor "latency|doctor" 2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Reports on latency in words")
        tips("nondeterministic_output", "request_policy:all_nodes", "response_policy:special");
    LatencyGraph "latency|graph" 3 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Draws the latency of an event")
        args("event:string")
        tips("nondeterministic_output", "request_policy:all_nodes", "response_policy:special");
    LatencyHelp "latency|help" 2 [LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Explains the subcommands");
    LatencyHistogram "latency|histogram" -2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("7.0.0", "O(N) in the number of commands", "Gives the distribution of the time that commands took")
        args("command:string?*")
        tips("nondeterministic_output", "request_policy:all_nodes", "response_policy:special");
    LatencyHistory "latency|history" 3 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Gives the times of an event")
        args("event:string")
        tips("nondeterministic_output", "request_policy:all_nodes", "response_policy:special");
    LatencyLatest "latency|latest" 2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Gives the last time of each event")
        tips("nondeterministic_output", "request_policy:all_nodes", "response_policy:special");
    LatencyReset "latency|reset" -2 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("2.8.13", "O(1)", "Forgets the times of events")
        args("event:string?*")
        tips("request_policy:all_nodes", "response_policy:all_succeeded");
    Lolwut "lolwut" -1 [READONLY FAST] @[]
        in Server("5.0.0", "O(1)", "Tells the version, with a picture")
        args("VERSION=version:integer?");
    Memory "memory" -2 [] @[]
        in Server("4.0.0", "Depends on the subcommand", "Holds the commands about memory");
    MemoryDoctor "memory|doctor" 2 [] @[]
        in Server("4.0.0", "O(1)", "Reports on memory in words")
        tips("nondeterministic_output", "request_policy:all_shards", "response_policy:special");
    MemoryHelp "memory|help" 2 [LOADING STALE] @[]
        in Server("4.0.0", "O(1)", "Explains the subcommands");
    MemoryMallocStats "memory|malloc-stats" 2 [] @[]
        in Server("4.0.0", "O(1)", "Says that the allocator tells nothing")
        tips("nondeterministic_output", "request_policy:all_shards", "response_policy:special");
    MemoryPurge "memory|purge" 2 [] @[]
        in Server("4.0.0", "O(1)", "Does nothing")
        tips("request_policy:all_shards", "response_policy:all_succeeded");
    MemoryStats "memory|stats" 2 [] @[]
        in Server("4.0.0", "O(1)", "Gives figures on memory")
        tips("nondeterministic_output", "request_policy:all_shards", "response_policy:special");
    MemoryUsage "memory|usage" -3 [READONLY] @[] keys(2, 2, 1: RO)
        in Server("4.0.0", "O(1)", "Estimates the bytes that a key and its value take")
        args("key SAMPLES=count:integer?");
    Monitor "monitor" 1 [ADMIN NOSCRIPT LOADING STALE] @[]
        in Server("1.0.0", "O(1)", "Shows the commands that clients send to this node");
    Shutdown "shutdown" -1 [ADMIN NOSCRIPT LOADING STALE NO_MULTI ALLOW_BUSY] @[]
        in Server("1.0.0", "O(1)", "Stops this node")
        args("nosave_save(NOSAVE|SAVE)? NOW?@7.0.0 FORCE?@7.0.0 ABORT?@7.0.0");
    SlowLog "slowlog" -2 [] @[]
        in Server("2.2.12", "Depends on the subcommand", "Holds the commands about the slow log");
    SlowLogGet "slowlog|get" -2 [ADMIN LOADING STALE] @[]
        in Server("2.2.12", "O(N) in the number of entries", "Gives the latest slow commands")
        args("count:integer?")
        tips("request_policy:all_nodes", "nondeterministic_output");
    SlowLogHelp "slowlog|help" 2 [LOADING STALE] @[]
        in Server("6.2.0", "O(1)", "Explains the subcommands");
    SlowLogLen "slowlog|len" 2 [ADMIN LOADING STALE] @[]
        in Server("2.2.12", "O(1)", "Counts the entries of the slow log")
        tips("request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output");
    SlowLogReset "slowlog|reset" 2 [ADMIN LOADING STALE] @[]
        in Server("2.2.12", "O(N) in the number of entries", "Empties the slow log")
        tips("request_policy:all_nodes", "response_policy:all_succeeded");
    Time "time" 1 [LOADING STALE FAST] @[]
        in Server("2.6.0", "O(1)", "Tells the server's time")
        tips("nondeterministic_output");
    Wait "wait" 3 [NOSCRIPT] @[CONNECTION]
        in Generic("3.0.0", "O(1)", "Waits until replicas have the writes of the connection on disk")
        args("numreplicas:integer timeout:integer")
        tips("request_policy:all_shards", "response_policy:agg_min");

    // Our own.
    KvRange "kv.range" -3 [READONLY] @[KEYSPACE]
        in Generic("0.1.0", "O(log N + M), M being the keys given", "Gives the keys from a start to an end, in order")
        args("start:string end:string LIMIT=count:integer? REVERSE? KEYSONLY?");
    KvVersion "kv.version" 2 [READONLY FAST] @[KEYSPACE] keys(1, 1, 1: RO ACCESS)
        in Generic("0.1.0", "O(1)", "Gives the version of a key; 0 if it does not exist")
        args("key");
    KvCas "kv.cas" 4 [WRITE DENYOOM FAST] @[STRING] keys(1, 1, 1: RW ACCESS UPDATE)
        in String("0.1.0", "O(1)", "Sets the value of a key if its version is the one given")
        args("key version:string value:string");
}

/// The container of each row, found by walking up to the nearest name without `|`.
const PARENTS: [Option<CommandId>; COMMAND_COUNT] = {
    let mut parents = [None; COMMAND_COUNT];
    let mut container = IDS[0];
    let mut row = 0;
    while row < COMMAND_COUNT {
        if bar_position(NAMES[row].as_bytes()) == NAMES[row].len() {
            container = IDS[row];
        } else {
            parents[row] = Some(container);
        }
        row += 1;
    }
    parents
};

/// Where the `|` of a name is; its length if it has none.
const fn bar_position(name: &[u8]) -> usize {
    let mut at = 0;
    while at < name.len() && name[at] != b'|' {
        at += 1;
    }
    at
}

/// Slots of the look-up table: a power of two, at least twice the rows so that chains stay short.
const SLOT_COUNT: usize = 512;
const _: () = assert!(SLOT_COUNT.is_power_of_two() && SLOT_COUNT >= 2 * COMMAND_COUNT && COMMAND_COUNT < 255);

/// An empty slot.
const EMPTY: u8 = u8::MAX;

/// Open addressing with linear probing, filled by the compiler: slot to row.
static SLOTS: [u8; SLOT_COUNT] = {
    let mut slots = [EMPTY; SLOT_COUNT];
    let mut row = 0;
    while row < COMMAND_COUNT {
        let full = NAMES[row].as_bytes();
        let name = match PARENTS[row] {
            None => full,
            Some(_) => full.split_at(bar_position(full) + 1).1,
        };
        let mut slot = slot_of(PARENTS[row], name);
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOT_COUNT;
        }
        slots[slot] = row as u8;
        row += 1;
    }
    slots
};

/// FNV-1a over the container and the name in lower case, folded to a slot.
const fn slot_of(parent: Option<CommandId>, name: &[u8]) -> usize {
    let mut hash: u32 = match parent {
        None => 0x811c_9dc5,
        Some(id) => 0x811c_9dc5 ^ (id as u32 + 1),
    };
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at].to_ascii_lowercase() as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    ((hash ^ (hash >> 15)) as usize) % SLOT_COUNT
}

/// Longest name, so that a hostile one costs nothing.
const NAME_BYTES_MAX: usize = {
    let mut longest = 0;
    let mut row = 0;
    while row < COMMAND_COUNT {
        if NAMES[row].len() > longest {
            longest = NAMES[row].len();
        }
        row += 1;
    }
    longest
};

/// The row with this name, in any case, under this container (or under none).
pub(super) fn find(parent: Option<CommandId>, name: &[u8]) -> Option<&'static CommandSpec> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut slot = slot_of(parent, name);
    while SLOTS[slot] != EMPTY {
        let spec = &COMMANDS[usize::from(SLOTS[slot])];
        if spec.parent == parent && spec.name().as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
    None
}

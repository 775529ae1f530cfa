//! Arbitrary requests: whatever a client sends, evaluation answers, keeps its promises about the data, and takes no more
//! memory than its limits and the request account for.
//!
//! `KV_SEED=n` replays a run, `KV_FUZZ=n` makes it that many requests long.

#![allow(unsafe_code)]
#![allow(dead_code, reason = "helpers of the other tests, used in part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the seed comes from the environment")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use dstore_kv::evaluates;
use dstore_resp::{CommandFlags, CommandSpec, Reply, resolve};

#[path = "suite/support.rs"]
mod support;

use dstore_testkit::requests::{Generator, Random};
use support::{Store, setting};

/// Requests in an ordinary test run.
const REQUESTS: u64 = 60_000;

const VALUE_BYTES_MAX: usize = 256 << 10;
const REPLY_BYTES_MAX: usize = 1 << 20;

/// What one evaluation may take at its peak, besides some multiple of the request's own size: a few values (the table of LCS is
/// as large as one) and the reply with its elements.
const MEMORY_BYTES_MAX: usize = 8 * VALUE_BYTES_MAX + 3 * REPLY_BYTES_MAX;
/// What an argument may cost: an operation of BITFIELD touches up to two chunks, which are held until all is done, but
/// they are chunks of one value.
const MEMORY_PER_ARG_BYTES: usize = 512;

/// The system's allocator, keeping account of what each thread holds.
struct Accounting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn account(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes on to the system's allocator unchanged; the accounts are plain cells that never allocate.
unsafe impl GlobalAlloc for Accounting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`, which is also the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        account(-(layout.size() as isize));
        // SAFETY: `ptr` came from one of the above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Accounting = Accounting;

const WORDS: &str = "0 1 -1 2 7 8 16 63 64 255 65536 262143 262144 4294967295 9223372036854775807 -9223372036854775808 #0 #5 \
    18446744073709551615 4611686018427387904 GET SET INCRBY OVERFLOW WRAP SAT FAIL u8 i64 u63 i1 AND OR XOR NOT BIT BYTE EX PX \
    EXAT PXAT KEEPTTL PERSIST NX XX GT LT REPLACE DB ABSTTL IDLETIME FREQ MATCH COUNT TYPE string LEN IDX MINMATCHLEN \
    WITHMATCHLEN LIMIT REVERSE KEYSONLY ASYNC SYNC a b c ab key:1 * ?* [a-z] inf nan 0x1p-16445 1e4932 long";

/// An argument of any kind.
fn argument(random: &mut Random) -> Bytes {
    match random.below(12) {
        0 => {
            let len = [0, 1, 3, 17, 200, 5_000][random.below(6) as usize];
            Bytes::from((0..len).map(|_| random.next() as u8).collect::<Vec<_>>())
        }
        1 => Bytes::from(random.next().to_string()),
        2 => Bytes::from((random.next() as i64 >> random.below(64)).to_string()),
        3 if random.one_in(20) => Bytes::from(vec![random.next() as u8; VALUE_BYTES_MAX]),
        _ => {
            let words: Vec<&str> = WORDS.split_whitespace().collect();
            Bytes::copy_from_slice(random.pick(&words).as_bytes())
        }
    }
}

/// Any command that evaluation knows, with any arguments.
fn arbitrary(random: &mut Random) -> Vec<Bytes> {
    let specs: Vec<&CommandSpec> = CommandSpec::all().iter().filter(|spec| evaluates(spec.id)).collect();
    let spec = specs[random.below(specs.len() as u64) as usize];
    let mut args: Vec<Bytes> = spec.full_name.split('|').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    let least = usize::from(spec.arity.unsigned_abs()).saturating_sub(args.len());
    let count = match spec.arity {
        1.. => least,
        _ if random.one_in(200) => least + 3_000,
        _ => least + random.below(6) as usize,
    };
    args.extend((0..count).map(|_| argument(random)));
    args
}

/// A request that makes sense, with some argument replaced.
fn mutated(generator: &mut Generator) -> Vec<Bytes> {
    let mut request = generator.request();
    for _ in 0..generator.random.below(3) {
        let at = generator.random.below(request.len() as u64) as usize;
        if at > 0 {
            request[at] = argument(&mut generator.random);
        }
    }
    request
}

fn step(store: &mut Store, generator: &mut Generator, request: &[Bytes]) {
    let Ok(spec) = resolve(request) else { return };
    let args_bytes: usize = request.iter().map(|arg| arg.len() + MEMORY_PER_ARG_BYTES).sum();
    let before = HELD.get();
    PEAK.set(before);
    let writes = spec.flags.has(CommandFlags::WRITE);
    let outcome = if writes || generator.random.one_in(4) {
        let stamp = store.next_stamp();
        let outcome = store.evaluate(spec, request, dstore_kv::Mode::Write { stamp, ordinal: 0 });
        assert_memory(request, PEAK.get() - before, args_bytes);
        store.apply(stamp, &outcome);
        outcome
    } else {
        let outcome = store.read(spec, request);
        assert_memory(request, PEAK.get() - before, args_bytes);
        outcome
    };
    let reply_bytes = outcome.reply.bytes_len();
    assert!(reply_bytes <= REPLY_BYTES_MAX + args_bytes, "{request:?}: a reply of {reply_bytes} bytes");
    if matches!(outcome.reply, Reply::Error(_)) {
        assert!(outcome.effects.is_empty(), "{request:?}: an error has no effects");
    }
}

fn assert_memory(request: &[Bytes], taken: isize, args_bytes: usize) {
    let bound = MEMORY_BYTES_MAX + 4 * args_bytes;
    let shown = || request.iter().map(|arg| arg.slice(..arg.len().min(40))).take(8).collect::<Vec<_>>();
    assert!(taken <= bound as isize, "{:?}: {taken} bytes, {bound} are allowed", shown());
}

#[test]
fn no_request_breaks_evaluation() {
    let seed = setting("KV_SEED", 1);
    println!("KV_SEED={seed}");
    let mut generator = Generator::new(seed);
    let mut store = Store::new(1_000_000);
    store.limits.value_bytes_max = VALUE_BYTES_MAX;
    store.limits.reply_bytes_max = REPLY_BYTES_MAX;
    store.limits.read_bytes_max = 4 * VALUE_BYTES_MAX;
    let payload = ["set", "dumped", "0123456789"].map(Bytes::from);
    store.run(&payload);
    let Reply::Bulk(payload) = store.run(&["dump", "dumped"].map(Bytes::from)) else { panic!("DUMP gives a payload") };
    generator.payloads = vec![payload];
    for number in 0..setting("KV_FUZZ", REQUESTS) {
        generator.large = generator.random.one_in(4);
        let request = match generator.random.below(2) {
            0 => arbitrary(&mut generator.random),
            _ => mutated(&mut generator),
        };
        store.now_ms += generator.random.below(3);
        step(&mut store, &mut generator, &request);
        if number % 500 == 0 {
            store.data.check(false);
            store.db = generator.random.below(3) as u8;
        }
        if generator.random.one_in(2_000) {
            store.run(&[Bytes::from("flushall")]);
        }
    }
}

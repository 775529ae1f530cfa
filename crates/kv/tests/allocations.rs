//! What the common commands cost in allocations, which is what they cost.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;

use bytes::Bytes;
use dstore_kv::{Context, Cursors, Direction, Limits, Mode, Outcome, View, ViewError, Visitor, evaluate};
use dstore_resp::{Reply, resolve};
use dstore_storage::RangeId;
use dstore_storage::layout::{Head, Stamp};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator unchanged; the counter is a plain cell that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is also the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A view in which every key has the same record. The record is handed out as an engine does: as a vector of its own,
/// which the count leaves out.
struct Everywhere(Cell<Option<Bytes>>);

impl View for Everywhere {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.take())
    }

    fn scan(&self, _: Range<&[u8]>, _: Direction, _: &mut Visitor<'_>) -> Result<(), ViewError> {
        Ok(())
    }
}

fn allocations_of(line: &str, mode: Mode) -> (usize, Outcome) {
    let args: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    let spec = resolve(&args).expect("a request");
    let (limits, mut cursors) = (Limits::default(), Cursors::new(0));
    let view = Everywhere(Cell::new(Some(Head::string(1, None).encode(b"value"))));
    let context = Context { db: 0, range: RangeId(1), mode, now_ms: 1, limits: &limits, cursors: &mut cursors };
    let before = ALLOCATIONS.get();
    let outcome = evaluate(spec, &args, &view, context).expect("the view does not fail");
    (ALLOCATIONS.get() - before, outcome)
}

#[test]
fn a_get_allocates_nothing() {
    let (allocations, outcome) = allocations_of("GET some:ordinary:key", Mode::Read { applied: Stamp::from_ms(1) });
    assert_eq!(outcome.reply, Reply::bulk_static("value"));
    assert_eq!(allocations, 0);
}

#[test]
fn a_set_allocates_its_key_with_its_record_and_the_list_of_effects() {
    let (allocations, outcome) =
        allocations_of("SET some:ordinary:key value", Mode::Write { stamp: Stamp::from_ms(1), ordinal: 0 });
    assert_eq!(outcome.effects.len(), 1);
    assert_eq!(allocations, 2);
}

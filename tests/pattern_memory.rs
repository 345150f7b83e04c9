//! The memory of a subscribed pattern: at most 32 bytes for each byte of its text, whatever its shape, and
//! nothing after it has been unsubscribed.
//!
//! A global allocator counts the bytes in use. `--nocapture` prints the table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fanout::Bus;

struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    // Relaxed: tests take turns, and each reads it on the thread that allocates.
    IN_USE.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came; counting touches no memory that it
// manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that measures, because the whole process is counted.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_use() -> isize {
    IN_USE.load(Ordering::Relaxed)
}

const SHAPES: [&str; 14] = [
    "?", "a?", "[ac]", "[^a]", "[]", "[]?", "[^]", "*a", "*[ac]", "a?*", "\\a", "a", "[^a]?*b",
    "?[a",
];

/// The number of patterns that are subscribed together.
const PATTERNS: usize = 20;

/// A name for what the patterns have in common, and a function that makes the text of pattern `i` from its long
/// part.
type Sharing = (&'static str, fn(usize, String) -> String);

const SHARING: [Sharing; 2] = [
    ("all but the end", |i, long| format!("{long}{i:02}")),
    ("nothing", |i, long| format!("{i:02}{long}")),
];

#[test]
fn the_counter_counts_bytes_in_use() {
    let _turn = turn();
    let before = in_use();
    // So large that allocations of the harness's own threads do not matter.
    let block = std::hint::black_box(vec![1_u8; 10_000_000]);
    assert!(in_use() - before > 9_000_000);
    drop(block);
    assert!(in_use() - before < 1_000_000);
}

#[test]
fn a_pattern_costs_at_most_32_bytes_per_byte_of_text() {
    let _turn = turn();
    println!("{:>10} {:>7} {:>16} {:>8}", "shape", "bytes", "shared", "a byte");
    for (shape, length) in SHAPES.iter().flat_map(|shape| [(shape, 1 << 10), (shape, 1 << 16)]) {
        for (what, text) in SHARING {
            let long = shape.repeat(length / shape.len());
            let bus: Bus<()> = Bus::new();
            let subscriber = bus.subscriber_builder().lifecycle_events(false).build();
            let subscribe = |text: &str| subscriber.psubscribe(text).unwrap();
            // Memory that the first pattern allocates for all is not counted.
            subscribe("x");
            let before = in_use();
            let mut texts = 0;
            for i in 0..PATTERNS {
                let text = text(i, long.clone());
                texts += text.len();
                subscribe(&text);
            }
            let each = (in_use() - before) as f64 / texts as f64;
            println!("{shape:>10} {length:>7} {what:>16} {each:>8.1}");
            assert_eq!(bus.pattern_count(), 1 + PATTERNS);
            assert!(each <= 32.0, "{shape} of {length} bytes, {what} shared: {each}");
        }
    }
}

#[test]
fn unsubscribing_frees_the_memory_of_patterns() {
    let _turn = turn();
    for (shape, (what, text)) in SHAPES.iter().flat_map(|shape| SHARING.map(|how| (shape, how))) {
        let long = shape.repeat((1 << 12) / shape.len());
        let bus: Bus<()> = Bus::new();
        let subscriber = bus.subscriber_builder().lifecycle_events(false).build();
        let texts: Vec<String> = (0..PATTERNS).map(|i| text(i, long.clone())).collect();
        let round = || {
            for text in &texts {
                subscriber.psubscribe(text).unwrap();
            }
            // Neither in the order of subscription nor in the reverse order.
            for i in 0..PATTERNS {
                subscriber.punsubscribe(&texts[7 * i % PATTERNS]);
            }
            in_use()
        };
        // The first round may leave buffers for later rounds, far smaller than the patterns were.
        let before = in_use();
        let first = round();
        assert!((1..5).all(|_| round() <= first), "{shape}, {what} shared");
        let kept = first - before;
        assert!(kept < 1 << 16, "{shape}, {what} shared: {kept} bytes");
    }
}

#[test]
fn unsubscribed_patterns_leave_no_memory_behind() {
    let _turn = turn();
    let bus: Bus<()> = Bus::new();
    let subscriber = bus.subscriber_builder().lifecycle_events(false).build();
    let round = |length: usize| {
        for shape in SHAPES {
            for i in 0..PATTERNS {
                let text = format!("a{}{i}", shape.repeat(length / shape.len()));
                subscriber.psubscribe(text).unwrap();
            }
        }
        subscriber.punsubscribe_all();
        in_use()
    };
    let short = round(16);
    let long = round(1 << 12);
    assert!(long - short < 1 << 12, "{} bytes", long - short);
}

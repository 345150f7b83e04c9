//! Helpers that the test files share, by purpose: waiting, gates, payloads, inboxes and their books, overflow
//! policies, closed subscribers, user code.

// Each test binary uses only some of it.
#![allow(dead_code, unused_imports)]

mod closed;
mod events;
mod gates;
mod inboxes;
mod overflow;
mod panics;
mod payloads;
mod random;
mod receipts;
mod sequences;
mod user_code;
mod waiting;
mod wakers;

pub use closed::{HOUR, assert_disconnected, assert_ended, assert_holds_nothing};
pub use events::{drain, text};
pub use gates::{Gate, Stop};
pub use inboxes::{assert_books, payloads, silent};
pub use overflow::{
    BLOCK, Copied, QUEUEING, REFUSE, asking, assert_books_after_race, block, bounded,
    emptied_during_a_publish,
};
pub use panics::{panic_of, panic_text};
pub use payloads::{Census, Converted, Hooked, Tracked, UserCode};
pub use random::{Dice, cases, scaled};
pub use receipts::{ReceiptSum, receipt};
pub use sequences::{assert_ascending, is_subsequence, sorted};
pub use user_code::{Act, World, drop_in_clone, full_inbox};
pub use waiting::{
    WATCHDOG, eventually, let_it_wait, linger, spawn_until_asleep, step, steps, watched,
    watched_for,
};
pub use wakers::Counting;

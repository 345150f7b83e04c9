//! Panics as text.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Returns the text that `f` panics with. Fails if it does not panic.
#[track_caller]
pub fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not panic"),
        Err(panic) => panic_text(&*panic),
    }
}

/// Returns the text that a panic was thrown with.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a panic with a text")
}

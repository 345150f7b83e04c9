//! The watchdog of the other tests distinguishes a test that hangs from one that is slow.

mod support;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use support::{panic_of, step, watched, watched_for};

#[test]
fn a_test_that_stands_still_fails() {
    let (_kept, never) = mpsc::channel::<()>();
    let text = panic_of(|| watched_for(Duration::from_millis(200), move || never.recv()));
    assert!(text.contains("deadlock"), "{text}");
}

#[test]
fn a_test_that_makes_steps_may_take_longer_than_the_patience() {
    let steps = watched_for(Duration::from_secs(3), || {
        // More than the patience in all.
        (0..70).fold(0, |steps, _| {
            step();
            thread::sleep(Duration::from_millis(50));
            steps + 1
        })
    });
    assert_eq!(steps, 70);
}

#[test]
fn a_test_that_panics_fails_with_its_own_panic() {
    assert_eq!(panic_of(|| watched(|| panic!("its own"))), "its own");
}

//! Any text as a pattern of either dialect: no panic, no overflow of the stack, and no slow case, told by
//! counting steps.
#![no_main]

use fanout::Pattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The text is also what it is matched against, and so are its halves: they have much in common.
    let middle = (0..=text.len() / 2).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let channels = [text, &text[..middle], &text[middle..]];

    let redis = Pattern::redis(text);
    assert_eq!(redis.as_str(), text);
    assert_eq!(redis, text.parse().unwrap());
    assert!(Pattern::redis(&Pattern::escape(text)).is_match(text));
    for channel in channels {
        let (matched, steps) = fanout::fuzzing::matches(&[text], channel);
        assert_eq!(matched, [redis.is_match(channel)]);
        let most = 2 * (text.len() + 2) * (channel.len() + 1);
        assert!(steps <= most, "{steps} steps, {most} at most");
    }

    match Pattern::glob(text) {
        Ok(glob) => {
            assert_ne!(glob, redis);
            for channel in channels {
                let (confirmed, found) = fanout::fuzzing::finds_glob(&glob, channel);
                assert!(found || !confirmed, "a glob is not found where it matches {channel:?}");
            }
        }
        Err(error) => {
            assert_eq!(error.pattern(), text);
            assert!(error.offset().is_none_or(|at| at <= text.len()));
            assert!(!error.to_string().is_empty());
        }
    }
});

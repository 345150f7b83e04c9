//! Guides that are longer than a type's documentation. These modules hold text and no code, and exist only while the
//! documentation is built or tested.

#[doc = include_str!("redis.md")]
pub mod redis {}

#[doc = include_str!("patterns.md")]
pub mod patterns {}

#[doc = include_str!("slow_subscribers.md")]
pub mod slow_subscribers {}

#[cfg(feature = "async")]
#[doc = include_str!("tasks.md")]
pub mod tasks {}

#[doc = include_str!("many_inboxes.md")]
pub mod many_inboxes {}

#[doc = include_str!("recipes.md")]
pub mod recipes {}

#[doc = include_str!("performance.md")]
// The chart is drawn for a white page.
#[doc = "<div style=\"background: white; overflow-x: auto\">"]
#[doc = include_str!("../../benches/results/peers.svg")]
#[doc = "</div>"]
#[doc = ""]
#[doc = include_str!("../../benches/results/peers.md")]
pub mod performance {}

#[doc = include_str!("../internals.md")]
pub mod internals {}

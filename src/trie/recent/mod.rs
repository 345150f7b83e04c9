//! The bounded memory of names published recently.

pub(super) mod clock;
pub(super) mod ghosts;
pub(super) mod probation;

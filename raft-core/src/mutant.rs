//! Faults that are built in on purpose: each breaks one rule, to see whether the tests would notice.
//!
//! They exist only in a build with `--cfg raft_mutants`, which no release has; `make mutants` makes one. There
//! all of them are compiled in at once, and one is switched on at run time, for the thread that runs the
//! simulation: sixty mutants do not cost sixty builds. In every other build `mutant!` is `false` and
//! `invariant!` is `assert!`.
//!
//! `docs/correctness.md` has the table: which mutant breaks which rule, and what notices.

/// Whether the fault of this name is switched on: `if mutant!(raft_mutant = "votes_twice")`.
macro_rules! mutant {
    (raft_mutant = $name:literal) => {
        cfg!(raft_mutants) && $crate::mutant::is_on($name)
    };
}

/// An `assert!` that is part of the design, live in release builds. Only where mutants are built in can it be
/// switched off, to see whether what checks from outside notices by itself.
macro_rules! invariant {
    ($holds:expr, $($facts:tt)+) => {
        if !cfg!(raft_mutants) || $crate::mutant::are_invariants_on() {
            assert!($holds, $($facts)+);
        }
    };
}

#[cfg(raft_mutants)]
mod switches {
    use std::cell::Cell;

    thread_local! {
        static MUTANT: Cell<&'static str> = const { Cell::new("") };
        static INVARIANTS_OFF: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn is_on(name: &str) -> bool {
        MUTANT.get() == name
    }

    pub(crate) fn are_invariants_on() -> bool {
        !INVARIANTS_OFF.get()
    }

    /// Switches the fault `name` on, on this thread, and every other off; none at all if it is empty.
    pub fn switch_on(name: &'static str) {
        MUTANT.set(name);
    }

    /// Switches the invariants of this crate on or off, on this thread.
    pub fn set_invariants(on: bool) {
        INVARIANTS_OFF.set(!on);
    }
}

#[cfg(raft_mutants)]
pub(crate) use switches::{are_invariants_on, is_on};
#[cfg(raft_mutants)]
pub use switches::{set_invariants, switch_on};

#[cfg(not(raft_mutants))]
pub(crate) const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(not(raft_mutants))]
pub(crate) const fn are_invariants_on() -> bool {
    true
}

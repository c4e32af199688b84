//! What clients build from keys, leases and watches: a [`Lock`], an election ([`Office`]), a
//! [`Counter`]. Library calls over [`Client`](crate::client::Client); the store knows nothing of them.
//!
//! # What a lock is worth
//!
//! Whoever holds a lock holds it by a lease. A process that stops for longer than the lease lives, or is
//! cut off, loses it and may not have noticed when it goes on: no lock over a network can prevent that.
//! So whatever is protected should be given the [`Lock::token`], which is greater with each holder, and
//! refuse a smaller one than it has seen. For keys of this store a comparison with
//! [`Lock::is_held`] in the same transaction does that.

mod counter;
mod elect;
mod lock;
mod tenure;

pub use counter::Counter;
pub use elect::{Observer, Office, campaign, leader, observe};
pub use lock::Lock;
pub use tenure::Tenure;

use crate::client::ClientError;

/// Why a recipe did not come out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A request has failed. After [`ClientError::Unknown`] what was begun goes with its lease.
    #[error(transparent)]
    Request(#[from] ClientError),
    /// The lease has ended, and with it what was held by it. Begin anew.
    #[error("the lease has ended: this client was cut off, or slept, for longer than it lives")]
    Lost,
    /// The key of a counter holds something else. Take another key.
    #[error("the key \"{key}\" is no counter: its value is \"{value}\"")]
    NotACounter {
        /// The key, made readable.
        key: String,
        /// Its value, made readable.
        value: String,
    },
    /// A counter has no room for the sum. It stays as it is.
    #[error("{count} and {delta} is more than a counter holds")]
    Overflow {
        /// What it holds.
        count: i64,
        /// What was to be added.
        delta: i64,
    },
}

//! What commands mean, by version.
//!
//! All nodes must take a command for the same, also while they are upgraded one by one (rule C7). So what a
//! newer program does differently it does only once the log says so, by [`Command::Activate`]; and the
//! leader says so only when every member supports it. From then on a program that does not must not
//! apply any more: it stops.
//!
//! [`Command::Activate`]: crate::Command::Activate

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of what commands mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineVersion(pub u32);

impl MachineVersion {
    /// Where every store begins.
    pub const FIRST: Self = Self(1);
    /// Alarms that stand in the log.
    pub const ALARMS: Self = Self(2);
    /// The newest that this program supports; it supports all before.
    pub const SUPPORTED: Self = Self::ALARMS;
}

impl Default for MachineVersion {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for MachineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

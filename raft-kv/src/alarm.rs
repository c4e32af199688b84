//! What an operator has to know of at once.

use std::fmt;

use raft_core::NodeId;
use serde::{Deserialize, Serialize};

use crate::model::Revision;

/// What is wrong, and with which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Alarm {
    /// The data of a node is not that of the others. It stands in the log: until a comparison finds them
    /// alike, or somebody clears it.
    Diverged {
        /// Which.
        node: NodeId,
        /// As of this revision.
        revision: Revision,
    },
    /// A node is short of space. Ends by itself.
    SpaceLow {
        /// Which.
        node: NodeId,
    },
    /// A node has no space left for more data: puts are refused. Ends by itself.
    NoSpace {
        /// Which.
        node: NodeId,
    },
}

impl Alarm {
    /// The node that it is about.
    pub fn node(self) -> NodeId {
        match self {
            Self::Diverged { node, .. } | Self::SpaceLow { node } | Self::NoSpace { node } => node,
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged { node, revision } => write!(
                f,
                "node {node} holds other data than the others at revision {revision}; remove it and \
                 let a new node join"
            ),
            Self::SpaceLow { node } => {
                write!(f, "node {node} is short of space; delete keys, compact, or raise its quota")
            }
            Self::NoSpace { node } => write!(
                f,
                "node {node} has no space left, puts are refused; delete keys and compact, or raise \
                 its quota"
            ),
        }
    }
}

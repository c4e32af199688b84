//! Why a client has no answer, named for what its user can do.

use std::time::Duration;

use raft_core::Index;

use crate::api::Rejection;
use crate::model::Revision;

/// Why there is no answer. But for [`ClientError::Unknown`], the request has had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nodes answer, but none of them leads. A majority may be down. Try again later.
    #[error("no leader was found within {waited:?}; is a majority of the nodes up? ({last})")]
    NoLeader {
        /// How long it was looked for.
        waited: Duration,
        /// What was heard last.
        last: String,
    },
    /// A node that could do it had too much to do, or waited for others, for as long as it was asked. Try
    /// again after `retry_after`; less at once, if this client is one of many.
    #[error("{message}; try again in {retry_after:?}")]
    Busy {
        /// When it might be worth trying again.
        retry_after: Duration,
        /// Who, and with what.
        message: String,
    },
    /// Nobody answers. Check that the nodes run and that the endpoints are theirs.
    #[error("none of {endpoints} answers ({last}); check that the nodes run there")]
    Unreachable {
        /// Who was asked.
        endpoints: String,
        /// What happened last.
        last: String,
    },
    /// The write may or may not have taken effect (rule C4). Read before doing it again.
    #[error("the outcome is unknown: {message}; read the key before trying again")]
    Unknown {
        /// Why nobody knows.
        message: String,
    },
    /// The request makes no sense, or is over a limit. Change it.
    #[error("{message}")]
    Rejected {
        /// In what way.
        kind: Rejection,
        /// The value and the limit.
        message: String,
    },
    /// The history asked for is gone. Ask for revision `compacted` or a later one.
    #[error("revision {revision} is compacted; the oldest that can be read is {compacted}")]
    Compacted {
        /// What was asked for.
        revision: Revision,
        /// The oldest that can be read.
        compacted: Revision,
    },
    /// This client's certificate is not taken, or it does not take the node's.
    #[error("{message}")]
    NotPermitted {
        /// Which endpoint, and what is wrong.
        message: String,
    },
    /// An endpoint is no address, and there is no other. Write it as `host:port`.
    #[error("{message}")]
    BadEndpoint {
        /// Which one, and what is wrong with it.
        message: String,
    },
    /// No node that answers has come as far as this client has seen. Try again, or read
    /// linearizably.
    #[error("no reachable node has applied index {wanted} yet; the last one was at {applied}")]
    Behind {
        /// What the client has seen.
        wanted: Index,
        /// How far the last node had come.
        applied: Index,
    },
    /// A node answers something this program does not understand. Use programs of one version.
    #[error(
        "{endpoint} answered something else than was asked ({message}); are the versions the same?"
    )]
    NotUnderstood {
        /// Who.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
}

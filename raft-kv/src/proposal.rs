//! What stands in the log: a command, for whom it is, and what time it was.

use bytes::Bytes;
use raft_core::sessions::{SessionTag, Stamp};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::command::Command;
use crate::error::DecodeError;

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// What time it is, says the leader.
    pub stamp: Option<Stamp>,
    /// If it is to be run once, however often it is sent.
    pub session: Option<SessionTag>,
    /// What is to be done.
    pub command: Command,
}

impl From<Command> for Proposal {
    /// A command that nobody repeats, at no particular time.
    fn from(command: Command) -> Self {
        Self { stamp: None, session: None, command }
    }
}

impl Proposal {
    /// As it stands in the log.
    pub fn encode(&self) -> Bytes {
        codec::encode(VERSION, self)
    }

    /// The reverse of [`Proposal::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not a proposal this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(VERSION, bytes)
    }
}

/// The version of the encoding. 1 had puts without a choice what to keep; 2 had commands only.
const VERSION: u8 = 3;

//! What stands in the log around a command, and around its answer.
//!
//! A version byte, then postcard. Variants are only ever added at the end; a change that this does not cover
//! takes a new version byte.

use bytes::Bytes;
use raft_core::sessions::{SessionError, SessionId, SessionTag, Stamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::DecodeError;

/// A request as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// What time it is, says the leader.
    pub stamp: Option<Stamp>,
    /// What is asked for.
    pub request: Request,
}

/// What can be asked of [`Sessions`](crate::Sessions).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Have the inner machine run a command; once, if it has a tag. [`Outcome::Answer`].
    Run {
        /// Whose it is. Without one it is run as often as it is sent.
        tag: Option<SessionTag>,
        /// What the inner machine is given.
        command: Bytes,
    },
    /// Open a session. [`Outcome::Session`].
    Open {
        /// It ends when nothing was heard of it for so many milliseconds: 1,000 to 86,400,000, and what is
        /// outside is brought inside.
        ttl_ms: u64,
    },
    /// Take note that the client of a session lives. [`Outcome::Session`].
    Keep(SessionId),
    /// End a session. [`Outcome::Session`].
    Close(SessionId),
    /// Nothing, but let time move on. [`Outcome::Ticked`].
    Tick,
}

/// What became of a request: the outcome of its entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// What the inner machine answered, now or when the command came first.
    Answer(Bytes),
    /// The session stands as asked.
    Session {
        /// Which.
        session: SessionId,
        /// How long it lives without a word, in milliseconds. 0 if it was closed.
        ttl_ms: u64,
    },
    /// Time has moved on.
    Ticked,
    /// It was not run now. Whether it was earlier, or may be when it is sent again, the error says.
    Refused(SessionError),
}

impl Proposal {
    /// As it stands in the log.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// The reverse of [`Proposal::encode`]. Safe on any bytes: memory is in proportion to their number.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are no proposal that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

impl Outcome {
    /// As the node hands it over.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// The reverse of [`Outcome::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are no outcome that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    // A vector takes any number of bytes, and all our sequences know their length.
    postcard::to_extend(value, vec![VERSION]).expect("encoding into memory does not fail").into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&found, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if found != VERSION {
        return Err(DecodeError::Version { found, supported: VERSION });
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(DecodeError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { bytes: rest.len() }) }
}

/// The version of everything that this crate encodes.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft_core::Term;
    use raft_core::sessions::ClusterTime;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(Proposal::decode(&bytes));
            drop(Outcome::decode(&bytes));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else() {
        let tag = SessionTag { session: SessionId(3), sequence: 2, unacknowledged: 1 };
        let stamp = Stamp { term: Term(4), time: ClusterTime(500) };
        let request = Request::Run { tag: Some(tag), command: Bytes::from_static(b"x") };
        let proposal = Proposal { stamp: Some(stamp), request };
        let bytes = proposal.encode();
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal);
        assert!(matches!(Proposal::decode(&[]), Err(DecodeError::Empty)));
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert!(matches!(Proposal::decode(&newer), Err(DecodeError::Version { .. })));
        let longer = [&bytes[..], b"y"].concat();
        assert!(matches!(Proposal::decode(&longer), Err(DecodeError::Trailing { bytes: 1 })));
        let shorter = &bytes[..bytes.len() - 1];
        assert!(matches!(Proposal::decode(shorter), Err(DecodeError::Malformed(_))));
    }
}

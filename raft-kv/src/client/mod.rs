//! The client of a cluster, generic over the [`Channel`] that carries its requests.
//!
//! It may know one node only, and that node may be any: it follows hints to the leader, learns the
//! other members, and goes on with them when the one it was given dies. It repeats a request on its
//! own only if that cannot do it twice: reads always; writes because they belong to a session, in
//! which nothing is run twice (rule C2). What became of a write is unknown only if no answer was to
//! be had in time, or if its session has ended meanwhile; then that is reported (rule C4).

mod attempt;
mod channel;
mod compare;
mod directory;
mod error;
mod session;
mod status;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;

use tokio::time::Instant;

use crate::api::{Answer, Members, Read, ReadLevel, Rejection, Request, Write};
use crate::command::{
    Command, Compact, CompactOutcome, DeleteOutcome, DeleteRange, Divergence, LeaseGrant,
    LeaseOutcome, Outcome, Put, PutOutcome, Refused,
};
use crate::inspect::{Inspected, Inspection, LeaseStatus, Listing, SessionStatus};
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};
use crate::range::RangeRequest;
use crate::reader::RangeReply;
use crate::txn::{Txn, TxnOutcome};

use self::attempt::Kind;
use self::directory::Directory;
use self::session::{Desk, Slip};

pub use channel::{Channel, ChannelError, NotSentKind, Replies, WatchChannel};
pub(crate) use compare::digest_at;
pub use compare::{Compared, Comparison};
pub use error::ClientError;
pub use status::MemberStatus;
pub use watch::Watching;

/// What an answer holds, if it is of the kind that belongs to the request.
macro_rules! take {
    ($kind:path, $answer:expr) => {
        if let $kind(inner) = $answer { Some(inner) } else { None }
    };
}

/// A client of a cluster. Cloning shares what it has learnt.
///
/// Needs a tokio runtime with time enabled.
pub struct Client<C> {
    channel: Arc<C>,
    directory: Arc<Mutex<Directory>>,
    /// `None` if writes are not to belong to a session.
    desk: Option<Arc<Desk>>,
    timeout: Duration,
}

/// What [`Client::get`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The key, if it is there.
    pub kv: Option<KeyValue>,
    /// The revision of the store when it was read.
    pub revision: Revision,
}

impl<C: Channel> Client<C> {
    /// A client of the cluster that has nodes at `endpoints` (`host:port`), one at least. A request
    /// is given up after `timeout`.
    pub fn new(channel: C, endpoints: Vec<String>, timeout: Duration) -> Self {
        let directory = Arc::new(Mutex::new(Directory::new(endpoints)));
        let desk = Some(Arc::new(Desk::default()));
        Self { channel: Arc::new(channel), directory, desk, timeout }
    }

    /// The same client with another timeout.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client without a session: what it writes is not sent again if it may have arrived,
    /// and its outcome is then unknown. Saves opening a session, which is a write of its own.
    #[must_use]
    pub fn without_session(&self) -> Self {
        Self { desk: None, ..self.clone() }
    }

    /// Writes a key.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] it may be written or not.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<PutOutcome, ClientError> {
        self.put_with(Put::new(key, value)).await
    }

    /// Writes a key, with all there is to say about it.
    ///
    /// # Errors
    ///
    /// As [`Client::put`].
    pub async fn put_with(&self, put: Put) -> Result<PutOutcome, ClientError> {
        self.write(Command::Put(put), |outcome| take!(Outcome::Put, outcome)).await
    }

    /// Deletes the keys of a range.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] they may be deleted or not.
    pub async fn delete(&self, range: KeyRange) -> Result<DeleteOutcome, ClientError> {
        self.delete_with(DeleteRange { range, prev_kv: false }).await
    }

    /// Deletes the keys of a range, with all there is to say about it.
    ///
    /// # Errors
    ///
    /// As [`Client::delete`].
    pub async fn delete_with(&self, delete: DeleteRange) -> Result<DeleteOutcome, ClientError> {
        let command = Command::DeleteRange(delete);
        self.write(command, |outcome| take!(Outcome::DeleteRange, outcome)).await
    }

    /// Gives up the history before `revision`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] it may be gone or not.
    pub async fn compact(&self, revision: Revision) -> Result<CompactOutcome, ClientError> {
        let command = Command::Compact(Compact { revision });
        self.write(command, |outcome| take!(Outcome::Compact, outcome)).await
    }

    /// Does several things as one, depending on what is there.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] all of it may be done or nothing.
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, ClientError> {
        // Of what is nested too deep a node could not even say what is wrong: it does not decode it.
        if let Err(refused @ Refused::TooManyParts { .. }) = txn.check() {
            let (kind, message) = (Rejection::TooMuch, refused.to_string());
            return Err(ClientError::Rejected { kind, message });
        }
        self.write(Command::Txn(txn), |outcome| take!(Outcome::Txn, outcome)).await
    }

    /// Grants a lease that lives for `ttl`; under `lease`, or an id that the cluster chooses.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] there may be one, which goes by itself.
    pub async fn grant(
        &self,
        lease: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<LeaseOutcome, ClientError> {
        let grant = LeaseGrant { lease, ttl_ms: milliseconds(ttl) };
        self.write(Command::GrantLease(grant), |outcome| take!(Outcome::Lease, outcome)).await
    }

    /// Lets a lease begin anew.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<LeaseOutcome, ClientError> {
        self.write(Command::KeepLease(lease), |outcome| take!(Outcome::Lease, outcome)).await
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] it may be gone or not.
    pub async fn revoke(&self, lease: LeaseId) -> Result<LeaseOutcome, ClientError> {
        self.write(Command::RevokeLease(lease), |outcome| take!(Outcome::Lease, outcome)).await
    }

    /// How long a lease has to live, and what keys it has. `None` if there is no such lease.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn time_to_live(
        &self,
        lease: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseStatus>, ClientError> {
        let what = Inspection::Lease { lease, with_keys };
        self.inspect(what, |found| take!(Inspected::Lease, found)).await
    }

    /// The leases there are, without their keys.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn leases(&self) -> Result<Listing<LeaseStatus>, ClientError> {
        self.inspect(Inspection::Leases, |found| take!(Inspected::Leases, found)).await
    }

    /// The sessions there are, of whichever clients.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn sessions(&self) -> Result<Listing<SessionStatus>, ClientError> {
        self.inspect(Inspection::Sessions, |found| take!(Inspected::Sessions, found)).await
    }

    /// Ends the alarms about one node, or all, that stand in the log. Says about which nodes there are any
    /// left.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn clear_alarms(&self, node: Option<NodeId>) -> Result<Vec<Divergence>, ClientError> {
        let command = Command::ClearAlarms(node);
        self.write(command, |outcome| take!(Outcome::Alarms, outcome)).await
    }

    /// Sends a command that does not belong to this client's session, as what concerns sessions has
    /// to be sent. It is not sent again if it may have arrived.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn plainly(&self, command: Command) -> Result<Outcome, ClientError> {
        self.without_session().write(command, Some).await
    }

    async fn inspect<T>(
        &self,
        what: Inspection,
        expect: impl Fn(Inspected) -> Option<T>,
    ) -> Result<T, ClientError> {
        let request = Request::Inspect(what);
        let expect = |answer| take!(Answer::Inspected, answer).and_then(&expect);
        self.run(&request, Kind::Read, expect).await
    }

    /// Reads one key.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn get(&self, key: impl Into<Bytes>, level: ReadLevel) -> Result<Got, ClientError> {
        let found = self.range(RangeRequest::new(KeyRange::One(key.into())), level).await?;
        Ok(Got { kv: found.kvs.into_iter().next(), revision: found.revision })
    }

    /// Reads a range.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn range(
        &self,
        request: RangeRequest,
        level: ReadLevel,
    ) -> Result<RangeReply, ClientError> {
        let min_applied = self.directory().applied();
        let kind = match level {
            ReadLevel::Linearizable | ReadLevel::Lease => Kind::Read,
            ReadLevel::Stale | ReadLevel::Follower | ReadLevel::Within { .. } => Kind::Anyone,
        };
        let request = Request::Range(Read { request, level, min_applied });
        self.run(&request, kind, |answer| take!(Answer::Range, answer)).await
    }

    /// Asks any node who the members are.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn members(&self) -> Result<Members, ClientError> {
        self.run(&Request::Members, Kind::Anyone, |answer| take!(Answer::Members, answer)).await
    }

    async fn write<T>(
        &self,
        command: Command,
        expect: impl Fn(Outcome) -> Option<T>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let expect = |answer| take!(Answer::Written, answer).and_then(&expect);
        let Some(desk) = &self.desk else {
            let request = Request::Write(Write { session: None, command });
            return self.run_until(deadline, &request, Kind::Write, expect).await;
        };
        let mut is_second = false;
        loop {
            let slip = self.slip(desk, deadline).await?;
            let tag = slip.tag();
            let request = Request::Write(Write { session: Some(tag), command: command.clone() });
            let result = self.run_until(deadline, &request, Kind::Session, expect).await;
            match result {
                // It was surely not run: the session had ended before, for want of a sign of life.
                Err(ClientError::Rejected { kind: Rejection::SessionEnded, .. }) if !is_second => {
                    desk.end(tag.session);
                    is_second = true;
                }
                Err(ClientError::Rejected { kind: Rejection::SessionEnded, .. }) => {
                    desk.end(tag.session);
                    return result;
                }
                result => return result,
            }
        }
    }

    /// A number for a command. Opens a session first, if there is none.
    async fn slip<'d>(&self, desk: &'d Desk, deadline: Instant) -> Result<Slip<'d>, ClientError> {
        loop {
            if let Some(slip) = desk.take().await {
                return Ok(slip);
            }
            let _turn = desk.opening.lock().await;
            if desk.has_session() {
                continue; // Somebody else has opened it.
            }
            // Should the answer be lost, the session ends by itself. So this can be asked again.
            let ttl = SESSION_TTL.max(2 * self.timeout);
            let command = Command::OpenSession { ttl_ms: milliseconds(ttl) };
            let request = Request::Write(Write { session: None, command });
            let expect = |answer| {
                let outcome = take!(Answer::Written, answer)?;
                if let Outcome::Session { session, .. } = outcome { Some(session) } else { None }
            };
            desk.begin(self.run_until(deadline, &request, Kind::Read, expect).await?);
        }
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A session ends when nothing was written for so long. The next write opens another.
const SESSION_TTL: Duration = Duration::from_secs(60);

impl<C> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            directory: self.directory.clone(),
            desk: self.desk.clone(),
            timeout: self.timeout,
        }
    }
}

impl<C> fmt::Debug for Client<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("directory", &self.directory)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

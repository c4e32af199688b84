//! What each command does to the store: `write` puts and deletes, `txn` does several at once,
//! `session` sees to it that a command is run once, `lease` that keys go in time; `upkeep` is what the
//! cluster says to itself.
//!
//! Deterministic (rule C1): it looks at the command and at what is stored, and nothing else. In
//! particular not at how entries are cut into batches, which differs from node to node, nor at this
//! node's configuration.

mod lease;
mod session;
mod txn;
mod upkeep;
mod write;

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::sessions::Stamp;
use raft_core::{Entry, LogId, MachineError, Membership, Payload};
use rocksdb::ReadOptions;

use crate::command::{Command, Compact, CompactOutcome, Outcome, Refused};
use crate::error::KvError;
use crate::model::{LeaseId, Revision};
use crate::proposal::Proposal;
use crate::record::{Noted, State, change_key, decode_change, old_key, parse_change_key};
use crate::store::{Families, Store};
use crate::timed::Timed;
use crate::unwritten::{Change, Portion};

/// Entries on their way into one portion of what is to be written.
pub(crate) struct Applier<'a> {
    store: &'a Store,
    families: Families<'a>,
    /// All but `pending`.
    portion: Portion,
    /// What the portion changes in `latest`, because the store does not show it yet: records, and
    /// `None` for a key that it deletes. Also what the command at hand has changed so far. By key, for
    /// commands about ranges.
    pending: BTreeMap<Bytes, Option<Bytes>>,
    /// What the command at hand has changed so far. Not yet in the portion: it may still be refused.
    staged: Vec<Change>,
    /// The leases that end with it.
    ended_leases: Vec<LeaseId>,
    timed: &'a mut Timed,
    state: State,
    membership: Option<(LogId, Membership)>,
    /// How many bytes wait to be written.
    waiting: usize,
}

/// What applying has come to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) state: State,
    /// The last membership among the entries, if there was one.
    pub(crate) membership: Option<(LogId, Membership)>,
    /// How many bytes wait to be written to RocksDB.
    pub(crate) waiting: usize,
}

impl<'a> Applier<'a> {
    /// Goes on from `state` and `timed`, which are what `store` holds.
    pub(crate) fn new(store: &'a Store, state: State, timed: &'a mut Timed) -> Self {
        Self {
            store,
            families: store.families(),
            portion: Portion::default(),
            pending: BTreeMap::new(),
            staged: Vec::new(),
            ended_leases: Vec::new(),
            timed,
            state,
            membership: None,
            waiting: 0,
        }
    }

    /// Applies the next entry and says what became of it.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<Bytes, MachineError> {
        assert_eq!(
            entry.id.index,
            self.state.last.index.next(),
            "the state machine is given entries in order, each once"
        );
        let outcome = match &entry.payload {
            Payload::Empty => Bytes::new(),
            Payload::Command(command) => {
                let proposal = Proposal::decode(command).map_err(|error| {
                    MachineError::Unknown { what: format!("the command at {}: {error}", entry.id) }
                })?;
                let failed = KvError::fatal("applying a command");
                self.proposal(proposal, entry.id).map_err(failed)?
            }
            Payload::Membership(membership) => {
                let membership = (entry.id, Membership::clone(membership));
                self.portion.membership = Some(membership.clone());
                self.membership = Some(membership);
                Bytes::new()
            }
        };
        self.state.last = entry.id;
        Ok(outcome)
    }

    /// Whether enough has come together that it should be handed over before more is applied. Entries
    /// are small or many, but each may replace a value of any size.
    pub(crate) fn is_full(&self) -> bool {
        self.portion.bytes() >= PORTION_BYTES
    }

    /// Hands everything over, with how far it goes, as one (rule C3).
    pub(crate) fn finish(mut self) -> Result<Done, KvError> {
        self.hand_over()?;
        Ok(Done { state: self.state, membership: self.membership, waiting: self.waiting })
    }

    /// Hands what has come together to the store, so that it shows it.
    fn hand_over(&mut self) -> Result<(), KvError> {
        self.state.timed = self.timed.len();
        let mut portion = std::mem::take(&mut self.portion);
        portion.state = Some(self.state);
        portion.latest.extend(std::mem::take(&mut self.pending));
        self.store.turns().begin();
        self.waiting = self.store.add(portion)?;
        Ok(())
    }

    /// Brings everything to the database itself.
    fn write(&mut self) -> Result<(), KvError> {
        self.hand_over()?;
        self.store.write_applied()
    }

    /// Deletes from the disk some of the history that compaction has given up: that of about
    /// `changes` changes. Must come before the entries, since it looks only at the database.
    /// Nothing that can be read depends on it, so nodes may differ in it.
    pub(crate) fn purge(&mut self, changes: usize) -> Result<(), KvError> {
        let State { compacted, purged, .. } = self.state;
        if purged >= compacted {
            return Ok(());
        }
        self.store.write_applied()?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(change_key(compacted.next(), 0));
        options.fill_cache(false);
        let mut rows = self.store.db().raw_iterator_cf_opt(self.families.changes, options);
        rows.seek(change_key(purged.next(), 0));
        let mut left = changes;
        let mut freed = 0;
        while let Some((row, change)) = rows.item() {
            let revision = parse_change_key(row)?;
            // A revision is purged as a whole.
            if left == 0 && revision > self.state.purged.next() {
                self.state.purged = Revision(revision.0 - 1);
                self.state.bytes = self.state.bytes.saturating_sub(freed);
                return Ok(());
            }
            let Noted { kind, key, ended } = decode_change(change)?;
            freed += (row.len() + change.len()) as u64;
            if kind.has_old() {
                let row = old_key(key, revision);
                freed += row.len() as u64 + u64::from(ended);
                self.portion.purge_old(row);
            }
            left = left.saturating_sub(1);
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading what to purge"))?;
        self.portion.purged_through = Some(compacted);
        self.state.purged = compacted;
        self.state.bytes = self.state.bytes.saturating_sub(freed);
        Ok(())
    }

    /// First time moves on, and ends what it ends; then the command is run.
    fn proposal(&mut self, proposal: Proposal, id: LogId) -> Result<Bytes, KvError> {
        let Proposal { stamp, session, command } = proposal;
        let now = Stamp::after(stamp, id.term, self.state.clock);
        // Before anything is changed: what is written has to be the state after some entry.
        let ends_leases = self.timed.leases.due(now).is_some();
        if ends_leases || Self::reads_database(&command) {
            self.write()?;
        }
        self.state.clock = now;
        self.expire_sessions();
        self.expire_leases()?;
        match session {
            None => Ok(self.command(command)?.encode()),
            Some(tag) => self.once(tag, command),
        }
    }

    fn command(&mut self, command: Command) -> Result<Outcome, KvError> {
        let outcome = match command {
            Command::Put(put) => self.put(put).map(Outcome::Put),
            Command::DeleteRange(delete) => self.delete_range(&delete).map(Outcome::DeleteRange),
            Command::Compact(compact) => self.compact(compact).map(Outcome::Compact),
            Command::Txn(txn) => self.txn(&txn).map(Outcome::Txn),
            Command::OpenSession { ttl_ms } => Ok(self.open_session(ttl_ms)),
            Command::KeepSession(session) => self.keep_session(session),
            Command::CloseSession(session) => self.close_session(session),
            Command::Tick => Ok(Outcome::Ticked),
            Command::GrantLease(grant) => self.grant(grant).map(Outcome::Lease),
            Command::KeepLease(lease) => self.keep_lease(lease).map(Outcome::Lease),
            Command::RevokeLease(lease) => self.revoke(lease).map(Outcome::Lease),
            Command::Activate(version) => self.activate(version),
            Command::RaiseAlarm(raised) => self.raise_alarm(raised),
            Command::ClearAlarms(node) => self.clear_alarms(node),
        };
        match outcome {
            Ok(outcome) => {
                self.commit()?;
                Ok(outcome)
            }
            Err(Stop::Refused(refused)) => {
                self.undo();
                Ok(Outcome::Refused(refused))
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn compact(&mut self, compact: Compact) -> Result<CompactOutcome, Stop> {
        let revision = compact.revision;
        let State { revision: current, compacted, .. } = self.state;
        if revision <= compacted {
            return Err(Refused::Compacted { revision, compacted }.into());
        }
        if revision > current {
            return Err(Refused::FutureRevision { revision, current }.into());
        }
        self.state.compacted = revision;
        Ok(CompactOutcome { revision: current, compacted: revision })
    }
}

/// Why a command goes no further.
enum Stop {
    /// It makes no sense. What it has changed so far is undone.
    Refused(Refused),
    /// The node stops.
    Failed(KvError),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Self::Failed(error)
    }
}

/// A portion is handed over when it has this size, at the next entry.
const PORTION_BYTES: usize = 4 << 20;

//! Which sessions there are, and what each has been answered.
//!
//! Deterministic: equal calls make equal tables (rule C1). Bounded: in sessions, in numbers a
//! session may have under way, and in bytes of answers. Where there are too many sessions, the one that
//! would end first ends now; where there are too many answers, the one that holds the most of them.
//! Its client is told so and loses no more than that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ClusterTime, SessionId, SessionTag};

/// The sessions of a cluster, as of some entry of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: BTreeMap<SessionId, Session>,
    /// Each session under the time when it ends.
    deadlines: BTreeSet<(ClusterTime, SessionId)>,
    /// Each session that holds answers, under what they count for.
    holders: BTreeSet<(u64, SessionId)>,
    /// What all answers that are kept count for.
    held_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    record: SessionRecord,
    /// What the answer to each number counts for.
    answered: BTreeMap<u64, u64>,
    held_bytes: u64,
}

/// What a state machine has to store of a session, beside its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// It ends when nothing was heard of it for so long.
    pub ttl_ms: u64,
    /// When something was heard of it last.
    pub active: ClusterTime,
    /// Answers to numbers below this are forgotten.
    pub lowest: u64,
}

/// What is to be done with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whether it was answered before. Then give the first answer again; otherwise run it and call
    /// [`SessionTable::remember`].
    pub is_repeated: bool,
    /// Numbers of this session whose answers will not be asked for any more.
    pub forgotten: Vec<u64>,
}

/// A session that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// Which.
    pub id: SessionId,
    /// The numbers whose answers were kept.
    pub answered: Vec<u64>,
}

/// Why a command was not run. The same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session, any more or at all. Whether the command was run earlier nobody
    /// knows any more. Open another session for the next.
    #[error("session {} has ended; open another", session.0)]
    Ended {
        /// Which.
        session: SessionId,
    },
    /// The client has said that it would not ask for this again.
    #[error("number {sequence} was acknowledged: the lowest that is not is {lowest}")]
    Acknowledged {
        /// What was asked for.
        sequence: u64,
        /// The lowest that can be asked for.
        lowest: u64,
    },
    /// The number is too far beyond the lowest that is not acknowledged.
    #[error("number {sequence} is too far from {lowest}; at most {window} may be under way")]
    Jump {
        /// What was asked for.
        sequence: u64,
        /// The lowest that is not acknowledged.
        lowest: u64,
        /// How many may be under way.
        window: u64,
    },
    /// The answers that the session has not acknowledged are too large.
    #[error("the session has {held} bytes of answers that it did not acknowledge; at most {limit}")]
    TooMuchHeld {
        /// How many bytes.
        held: u64,
        /// The most.
        limit: u64,
    },
}

impl SessionTable {
    /// Puts back a session that was stored.
    pub fn load(&mut self, id: SessionId, record: SessionRecord) {
        self.deadlines.insert((record.deadline(), id));
        let session = Session { record, answered: BTreeMap::new(), held_bytes: 0 };
        self.sessions.insert(id, session);
    }

    /// Puts back an answer of `bytes` bytes that was stored. Without its session it is nothing.
    pub fn load_answer(&mut self, id: SessionId, sequence: u64, bytes: u64) {
        self.hold(id, sequence, bytes);
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// All sessions, by id.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, SessionRecord)> {
        self.sessions.iter().map(|(id, session)| (*id, session.record))
    }

    /// What is to be stored of a session. `None` if there is no such session.
    pub fn record(&self, id: SessionId) -> Option<SessionRecord> {
        self.sessions.get(&id).map(|session| session.record)
    }

    /// Opens a session. `id` must never have been used: take the index of the entry. Gives back the
    /// session that ended to make room, if one had to.
    pub fn open(&mut self, id: SessionId, ttl_ms: u64, now: ClusterTime) -> Option<EndedSession> {
        let is_full = self.sessions.len() >= MAX_SESSIONS;
        let first = self.deadlines.first().filter(|_| is_full).map(|(_, id)| *id);
        let ended = first.and_then(|id| self.close(id));
        let ttl_ms = ttl_ms.clamp(MIN_TTL_MS, MAX_TTL_MS);
        self.load(id, SessionRecord { ttl_ms, active: now, lowest: 1 });
        ended
    }

    /// Takes note that the client of a session is alive.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ended`].
    pub fn renew(&mut self, id: SessionId, now: ClusterTime) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&id).ok_or(SessionError::Ended { session: id })?;
        self.deadlines.remove(&(session.record.deadline(), id));
        session.record.active = session.record.active.max(now);
        self.deadlines.insert((session.record.deadline(), id));
        Ok(())
    }

    /// Ends a session. `None` if there was no such session.
    pub fn close(&mut self, id: SessionId) -> Option<EndedSession> {
        let session = self.sessions.remove(&id)?;
        self.deadlines.remove(&(session.record.deadline(), id));
        self.holders.remove(&(session.held_bytes, id));
        self.held_bytes -= session.held_bytes;
        Some(EndedSession { id, answered: session.answered.into_keys().collect() })
    }

    /// Ends a session of which nothing was heard for too long, as of `now`. Call it until there is
    /// none, whenever the time has moved on.
    pub fn expire(&mut self, now: ClusterTime) -> Option<EndedSession> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now { None } else { self.close(id) }
    }

    /// Decides on a command. An error changes nothing.
    ///
    /// # Errors
    ///
    /// Any [`SessionError`]: the command must not be run.
    pub fn admit(&mut self, tag: SessionTag, now: ClusterTime) -> Result<Admission, SessionError> {
        let SessionTag { session: id, sequence, unacknowledged } = tag;
        let session = self.sessions.get_mut(&id).ok_or(SessionError::Ended { session: id })?;
        let lowest = session.record.lowest.max(unacknowledged);
        if sequence < lowest {
            return Err(SessionError::Acknowledged { sequence, lowest });
        }
        if sequence - lowest >= WINDOW {
            return Err(SessionError::Jump { sequence, lowest, window: WINDOW });
        }
        let is_repeated = session.answered.contains_key(&sequence);
        let kept = session.answered.split_off(&lowest);
        let forgotten = std::mem::replace(&mut session.answered, kept);
        let freed: u64 = forgotten.values().sum();
        let held = session.held_bytes - freed;
        if !is_repeated && held > MAX_SESSION_BYTES {
            // Nothing is changed, so that an error is the same whatever was acknowledged with it.
            session.answered.extend(forgotten);
            return Err(SessionError::TooMuchHeld { held, limit: MAX_SESSION_BYTES });
        }
        session.record.lowest = lowest;
        self.count(id, held);
        self.renew(id, now)?;
        Ok(Admission { is_repeated, forgotten: forgotten.into_keys().collect() })
    }

    /// Takes note that an admitted command was answered in `bytes` bytes. Gives back the sessions
    /// that ended to make room for the answer.
    ///
    /// # Panics
    ///
    /// If it was answered before, or was not admitted.
    pub fn remember(&mut self, tag: SessionTag, bytes: u64) -> Vec<EndedSession> {
        assert!(self.hold(tag.session, tag.sequence, bytes), "it was admitted a moment ago");
        let mut ended = Vec::new();
        while self.held_bytes > MAX_BYTES {
            let most = self.holders.iter().rev().find(|(_, id)| *id != tag.session);
            let Some(session) = most.map(|(_, id)| *id).and_then(|id| self.close(id)) else {
                break;
            };
            ended.push(session);
        }
        ended
    }

    /// Whether there is room in the books: a session, and no answer under this number.
    fn hold(&mut self, id: SessionId, sequence: u64, bytes: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let cost = bytes + ANSWER_BYTES;
        let is_new = session.answered.insert(sequence, cost).is_none();
        let held = session.held_bytes + cost;
        if is_new {
            self.count(id, held);
        }
        is_new
    }

    /// The answers of a session now count for `held` bytes.
    fn count(&mut self, id: SessionId, held: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.held_bytes, held);
        self.held_bytes = self.held_bytes - before + held;
        self.holders.remove(&(before, id));
        if held > 0 {
            self.holders.insert((held, id));
        }
    }
}

impl SessionRecord {
    /// When the session ends, if nothing is heard of it.
    pub fn deadline(&self) -> ClusterTime {
        self.active.plus_ms(self.ttl_ms)
    }
}

// The same on every node: part of what commands mean (rule C1).

/// The most sessions there are.
const MAX_SESSIONS: usize = 1 << 16;
/// The most numbers a session may have under way.
const WINDOW: u64 = 4096;
/// A session that holds more answers than this must acknowledge some before it goes on.
const MAX_SESSION_BYTES: u64 = 8 << 20;
/// The most bytes of answers of all sessions.
const MAX_BYTES: u64 = 64 << 20;
/// What an answer counts for beside its bytes.
const ANSWER_BYTES: u64 = 64;
/// The shortest and the longest time a session lives without a word.
const MIN_TTL_MS: u64 = 1_000;
const MAX_TTL_MS: u64 = 24 * 60 * 60 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: ClusterTime = ClusterTime(12_000);

    fn table() -> (SessionTable, SessionId) {
        let mut table = SessionTable::default();
        let id = SessionId(7);
        assert_eq!(table.open(id, 10_000, NOON), None);
        (table, id)
    }

    fn tag(session: SessionId, sequence: u64, unacknowledged: u64) -> SessionTag {
        SessionTag { session, sequence, unacknowledged }
    }

    fn run(table: &mut SessionTable, tag: SessionTag) -> Admission {
        let admission = table.admit(tag, NOON).unwrap();
        if !admission.is_repeated {
            assert_eq!(table.remember(tag, 10), vec![]);
        }
        admission
    }

    /// Rule C2.
    #[test]
    fn a_number_is_run_once_until_it_is_acknowledged() {
        let (mut table, id) = table();
        assert!(!run(&mut table, tag(id, 1, 1)).is_repeated);
        assert!(run(&mut table, tag(id, 1, 1)).is_repeated);
        // Numbers may arrive in any order.
        assert!(!run(&mut table, tag(id, 3, 1)).is_repeated);
        assert!(!run(&mut table, tag(id, 2, 1)).is_repeated);
        let admission = run(&mut table, tag(id, 4, 3));
        assert_eq!(admission, Admission { is_repeated: false, forgotten: vec![1, 2] });
        let error = table.admit(tag(id, 2, 1), NOON).unwrap_err();
        assert_eq!(error, SessionError::Acknowledged { sequence: 2, lowest: 3 });
        assert!(run(&mut table, tag(id, 3, 1)).is_repeated);
        assert_eq!(table.close(id).unwrap().answered, [3, 4]);
        assert_eq!(table, SessionTable::default());
    }

    /// Rule C2.
    #[test]
    fn a_session_that_has_ended_is_not_taken_for_a_new_one() {
        let (mut table, id) = table();
        run(&mut table, tag(id, 1, 1));
        assert_eq!(table.expire(NOON.plus_ms(9_999)), None);
        table.renew(id, NOON.plus_ms(9_999)).unwrap();
        assert_eq!(table.expire(NOON.plus_ms(19_998)), None);
        let ended = table.expire(NOON.plus_ms(19_999)).unwrap();
        assert_eq!(ended, EndedSession { id, answered: vec![1] });
        let error = SessionError::Ended { session: id };
        assert_eq!(table.admit(tag(id, 1, 1), NOON), Err(error));
        assert_eq!(table.admit(tag(id, 2, 2), NOON), Err(error));
        assert_eq!(table.renew(id, NOON), Err(error));
        assert_eq!(table, SessionTable::default());
    }

    #[test]
    fn a_command_renews_its_session_and_time_does_not_go_back() {
        let (mut table, id) = table();
        table.admit(tag(id, 1, 1), NOON.plus_ms(5_000)).unwrap();
        table.renew(id, NOON).unwrap();
        assert_eq!(table.record(id).unwrap().deadline(), NOON.plus_ms(15_000));
    }

    #[test]
    fn a_number_that_jumps_is_refused_and_changes_nothing() {
        let (mut table, id) = table();
        run(&mut table, tag(id, 1, 1));
        let before = table.clone();
        let far = tag(id, 2 + WINDOW, 2);
        let error = SessionError::Jump { sequence: 2 + WINDOW, lowest: 2, window: WINDOW };
        assert_eq!(table.admit(far, NOON), Err(error));
        assert_eq!(table, before);
        assert!(!run(&mut table, tag(id, 1 + WINDOW, 2)).is_repeated);
        // Nor can the highest number there is be a reason to panic.
        let error = table.admit(tag(id, u64::MAX, 2), NOON).unwrap_err();
        assert!(matches!(error, SessionError::Jump { .. }));
        assert!(table.admit(tag(id, u64::MAX, u64::MAX), NOON).is_ok());
    }

    #[test]
    fn a_session_that_acknowledges_nothing_is_stopped() {
        let (mut table, id) = table();
        for sequence in 1..=8 {
            let tag = tag(id, sequence, 1);
            assert!(!table.admit(tag, NOON).unwrap().is_repeated);
            table.remember(tag, 1 << 20);
        }
        let before = table.clone();
        let error = table.admit(tag(id, 9, 1), NOON).unwrap_err();
        assert!(matches!(error, SessionError::TooMuchHeld { .. }));
        assert_eq!(table, before);
        assert!(table.admit(tag(id, 8, 1), NOON).unwrap().is_repeated);
        assert_eq!(table.admit(tag(id, 9, 8), NOON).unwrap().forgotten.len(), 7);
    }

    #[test]
    fn sessions_and_their_answers_are_bounded() {
        let mut table = SessionTable::default();
        for id in 0..MAX_SESSIONS as u64 {
            assert_eq!(table.open(SessionId(id), 10_000, NOON.plus_ms(id)), None);
        }
        let ended = table.open(SessionId(u64::MAX), 10_000, NOON).unwrap();
        assert_eq!((ended.id, table.len()), (SessionId(0), MAX_SESSIONS));
        // Of those that hold answers, the one that holds the most goes.
        let mut ended = Vec::new();
        for id in 1..100 {
            let tag = tag(SessionId(id), 1, 1);
            table.admit(tag, NOON).unwrap();
            ended.extend(table.remember(tag, if id == 9 { 2 << 20 } else { 1 << 20 }));
            assert!(table.held_bytes <= MAX_BYTES);
        }
        assert_eq!(ended[0], EndedSession { id: SessionId(9), answered: vec![1] });
        assert_eq!(table.len(), MAX_SESSIONS - ended.len());
        assert!(table.record(SessionId(99)).is_some() && table.record(SessionId(100)).is_some());
    }

    #[test]
    fn what_was_stored_is_found_again() {
        let (mut table, id) = table();
        run(&mut table, tag(id, 1, 1));
        run(&mut table, tag(id, 2, 2));
        let mut again = SessionTable::default();
        again.load(id, table.record(id).unwrap());
        again.load_answer(id, 2, 10);
        again.load_answer(SessionId(99), 1, 10);
        assert_eq!(again, table);
    }
}

//! Sessions: which commands are run, and what is answered to those that were run before (rule C2).

use bytes::Bytes;
use raft_core::sessions::{EndedSession, SessionError, SessionId, SessionTag};

use crate::command::{Command, Outcome, Refused};
use crate::error::KvError;
use crate::record::answer_key;

use super::{Applier, Stop};

impl Applier<'_> {
    /// Runs a command of a session, unless it was run before, and gives its first answer.
    pub(super) fn once(&mut self, tag: SessionTag, command: Command) -> Result<Bytes, KvError> {
        if command.concerns_sessions() {
            // It could end the session that it belongs to.
            return Ok(Outcome::Refused(Refused::NotInSession).encode());
        }
        let admission = match self.timed.sessions.admit(tag, self.state.clock) {
            Ok(admission) => admission,
            Err(error) => return Ok(Outcome::Refused(error.into()).encode()),
        };
        for sequence in admission.forgotten {
            self.portion.forget((tag.session, sequence));
        }
        self.store_session(tag.session);
        if admission.is_repeated {
            return self.answer(tag);
        }
        let answer = self.command(command)?.encode();
        for ended in self.timed.sessions.remember(tag, answer.len() as u64) {
            self.end_session(&ended);
        }
        self.portion.answer((tag.session, tag.sequence), answer.clone());
        Ok(answer)
    }

    pub(super) fn open_session(&mut self, ttl_ms: u64) -> Outcome {
        // No other entry has this index, so no other session has ever had this id.
        let session = SessionId(self.state.last.index.next().0);
        if let Some(ended) = self.timed.sessions.open(session, ttl_ms, self.state.clock) {
            self.end_session(&ended);
        }
        self.store_session(session);
        let record = self.timed.sessions.record(session);
        Outcome::Session { session, ttl_ms: record.map_or(0, |record| record.ttl_ms) }
    }

    pub(super) fn keep_session(&mut self, session: SessionId) -> Result<Outcome, Stop> {
        self.timed.sessions.renew(session, self.state.clock).map_err(Refused::from)?;
        self.store_session(session);
        let record = self.timed.sessions.record(session);
        Ok(Outcome::Session { session, ttl_ms: record.map_or(0, |record| record.ttl_ms) })
    }

    pub(super) fn close_session(&mut self, session: SessionId) -> Result<Outcome, Stop> {
        let ended = self.timed.sessions.close(session);
        let ended = ended.ok_or_else(|| Refused::from(SessionError::Ended { session }))?;
        self.end_session(&ended);
        Ok(Outcome::Session { session, ttl_ms: 0 })
    }

    /// Ends the sessions of which nothing was heard for too long.
    pub(super) fn expire_sessions(&mut self) {
        while let Some(ended) = self.timed.sessions.expire(self.state.clock) {
            self.end_session(&ended);
        }
    }

    fn answer(&self, tag: SessionTag) -> Result<Bytes, KvError> {
        let of = (tag.session, tag.sequence);
        let here = self.portion.answers().get(&of).cloned();
        if let Some(answer) = here.or_else(|| self.store.unwritten().answer(of)) {
            return answer.ok_or_else(|| KvError::corrupt(format!("no answer to {tag:?}")));
        }
        let key = answer_key(tag.session, tag.sequence);
        let stored = self.store.db().get_cf(self.families.sessions, key);
        let stored = stored.map_err(KvError::storage("reading an answer"))?;
        stored.map(Bytes::from).ok_or_else(|| KvError::corrupt(format!("no answer to {tag:?}")))
    }

    fn store_session(&mut self, session: SessionId) {
        if let Some(record) = self.timed.sessions.record(session) {
            self.portion.sessions.insert(session, Some(record));
        }
    }

    fn end_session(&mut self, ended: &EndedSession) {
        self.portion.sessions.insert(ended.id, None);
        for sequence in &ended.answered {
            self.portion.forget((ended.id, *sequence));
        }
    }
}

//! The books: which sessions there are, what each was answered, and what time it is, as of some entry.
//!
//! Deterministic (rule C1): what they come to depends on the entries and on nothing else. So books of an
//! earlier entry catch up by taking the same notes again, with the answers that were given then.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::sessions::{
    ClusterTime, EndedSession, SessionError, SessionId, SessionRecord, SessionTable, SessionTag,
    Stamp,
};
use raft_core::{Applied, LogId, Membership, SnapshotMeta};
use serde::{Deserialize, Serialize};

use crate::error::DecodeError;
use crate::proposal::{Outcome, Proposal, Request, decode, encode};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) applied: Applied,
    pub(crate) clock: ClusterTime,
    table: SessionTable,
    answers: BTreeMap<(SessionId, u64), Bytes>,
}

/// What an entry was, as far as the books are concerned, and what the inner machine answered if it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) id: LogId,
    pub(crate) event: Event,
    pub(crate) answer: Option<Bytes>,
}

/// What an entry is, as far as the books are concerned.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Nothing,
    Membership(Membership),
    Request(Proposal),
}

/// What is to be done with a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The inner machine is to run it, and if there is a tag the books are to be told its answer.
    Run(Option<SessionTag>),
    /// It is not for the inner machine.
    Settled(Outcome),
}

/// Books as they are stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    last: LogId,
    membership: Option<(LogId, Membership)>,
    clock: ClusterTime,
    sessions: Vec<(SessionId, SessionRecord)>,
    answers: Vec<(SessionId, u64, Bytes)>,
}

impl Books {
    pub(crate) fn sessions(&self) -> &SessionTable {
        &self.table
    }

    /// Decides on the request of the next entry, `id`. If it is to be run, [`Books::answered`] comes next.
    pub(crate) fn decide(&mut self, id: LogId, proposal: &Proposal) -> Decision {
        self.clock = Stamp::after(proposal.stamp, id.term, self.clock);
        while let Some(ended) = self.table.expire(self.clock) {
            self.forget(&ended);
        }
        self.applied.last = id;
        match &proposal.request {
            Request::Run { tag: None, .. } => Decision::Run(None),
            Request::Run { tag: Some(tag), .. } => self.admit(*tag),
            Request::Open { ttl_ms } => {
                // No other entry has this index, so no other session has ever had this id.
                let session = SessionId(id.index.0);
                if let Some(ended) = self.table.open(session, *ttl_ms, self.clock) {
                    self.forget(&ended);
                }
                Decision::Settled(self.session(session))
            }
            Request::Keep(session) => {
                Decision::Settled(match self.table.renew(*session, self.clock) {
                    Ok(()) => self.session(*session),
                    Err(error) => Outcome::Refused(error),
                })
            }
            Request::Close(session) => Decision::Settled(match self.table.close(*session) {
                Some(ended) => {
                    self.forget(&ended);
                    self.session(*session)
                }
                None => Outcome::Refused(SessionError::Ended { session: *session }),
            }),
            Request::Tick => Decision::Settled(Outcome::Ticked),
        }
    }

    fn admit(&mut self, tag: SessionTag) -> Decision {
        let admission = match self.table.admit(tag, self.clock) {
            Ok(admission) => admission,
            Err(error) => return Decision::Settled(Outcome::Refused(error)),
        };
        for sequence in admission.forgotten {
            self.answers.remove(&(tag.session, sequence));
        }
        if !admission.is_repeated {
            return Decision::Run(Some(tag));
        }
        let answer = self.answers.get(&(tag.session, tag.sequence)).cloned();
        Decision::Settled(Outcome::Answer(
            answer.expect("the table and the answers change together"),
        ))
    }

    /// Takes note of the answer to a command that was to be run.
    pub(crate) fn answered(&mut self, tag: SessionTag, answer: Bytes) {
        let bytes = answer.len() as u64;
        self.answers.insert((tag.session, tag.sequence), answer);
        for ended in self.table.remember(tag, bytes) {
            self.forget(&ended);
        }
    }

    /// An entry that is no request.
    pub(crate) fn pass(&mut self, id: LogId, membership: Option<Membership>) {
        self.applied.last = id;
        if let Some(membership) = membership {
            self.applied.membership = Some((id, membership));
        }
    }

    /// Takes a note of before, with the answer that was given then.
    pub(crate) fn replay(&mut self, note: Note) {
        let Note { id, event, answer } = note;
        match event {
            Event::Nothing => self.pass(id, None),
            Event::Membership(membership) => self.pass(id, Some(membership)),
            Event::Request(proposal) => {
                if let (Decision::Run(Some(tag)), Some(answer)) =
                    (self.decide(id, &proposal), answer)
                {
                    self.answered(tag, answer);
                }
            }
        }
    }

    /// The head of a snapshot that they are part of.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        self.applied.to_meta(&SnapshotMeta::default())
    }

    pub(crate) fn encode(&self) -> Bytes {
        let answer = |((session, sequence), answer): (&(SessionId, u64), &Bytes)| {
            (*session, *sequence, answer.clone())
        };
        encode(&Stored {
            last: self.applied.last,
            membership: self.applied.membership.clone(),
            clock: self.clock,
            sessions: self.table.iter().collect(),
            answers: self.answers.iter().map(answer).collect(),
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Stored { last, membership, clock, sessions, answers } = decode(bytes)?;
        let contradiction = |what| Err(DecodeError::Contradiction { what });
        if !sessions.is_sorted_by(|one, next| one.0 < next.0) {
            return contradiction("a session comes twice, or before one that is older");
        }
        if !answers.is_sorted_by(|one, next| (one.0, one.1) < (next.0, next.1)) {
            return contradiction("an answer comes twice, or before an earlier one");
        }
        let applied = Applied { last, membership };
        let mut books = Self { applied, clock, ..Self::default() };
        for (session, record) in sessions {
            books.table.load(session, record);
        }
        for (session, sequence, answer) in answers {
            if books.table.record(session).is_none() {
                return contradiction("an answer is of no session");
            }
            books.table.load_answer(session, sequence, answer.len() as u64);
            books.answers.insert((session, sequence), answer);
        }
        Ok(books)
    }

    fn session(&self, session: SessionId) -> Outcome {
        let record = self.table.record(session);
        Outcome::Session { session, ttl_ms: record.map_or(0, |record| record.ttl_ms) }
    }

    fn forget(&mut self, ended: &EndedSession) {
        for sequence in &ended.answered {
            self.answers.remove(&(ended.id, *sequence));
        }
    }
}

impl Event {
    /// The same without the command, which is the inner machine's affair.
    pub(crate) fn without_command(self) -> Self {
        match self {
            Self::Request(Proposal { stamp, request: Request::Run { tag, command: _ } }) => {
                Self::Request(Proposal {
                    stamp,
                    request: Request::Run { tag, command: Bytes::new() },
                })
            }
            Self::Nothing | Self::Membership(_) | Self::Request(_) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft_core::{Index, Term};

    use super::*;

    /// What comes at an entry: a request, and how long the answer is if it is to be run.
    fn step() -> impl Strategy<Value = (Request, u64, usize)> {
        let session = || (1..24_u64).prop_map(SessionId);
        let tag = (session(), 1..12_u64, 1..4_u64).prop_map(|(session, sequence, lowest)| {
            SessionTag { session, sequence, unacknowledged: lowest.min(sequence) }
        });
        let length = prop_oneof![0..64_usize, Just(5 << 20)];
        let request = prop_oneof![
            3 => (0..20_000_u64).prop_map(|ttl_ms| Request::Open { ttl_ms }),
            12 => tag.prop_map(|tag| Request::Run { tag: Some(tag), command: Bytes::new() }),
            1 => session().prop_map(Request::Keep),
            1 => session().prop_map(Request::Close),
            1 => Just(Request::Tick),
        ];
        (request, 0..100_u64, length)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Rule C1. At every entry the books are what they would be if they had been stored and read
        /// there, or anywhere before, and if they had caught up by notes.
        #[test]
        fn books_are_the_same_however_one_comes_by_them(
            steps in proptest::collection::vec(step(), 1..160),
            stored_at in 0..120_usize,
        ) {
            let mut live = Books::default();
            let (mut stored, mut late) = (None, Books::default());
            let mut time = ClusterTime(0);
            let zeros = Bytes::from(vec![0; 5 << 20]);
            for (number, (request, ms, length)) in steps.into_iter().enumerate() {
                time = time.plus_ms(ms);
                let id = LogId::new(Term(1), Index(number as u64 + 1));
                let stamp = Some(Stamp { term: Term(1), time });
                // With sessions to begin with, so that their answers come to more than is kept.
                let request = if number < 16 { Request::Open { ttl_ms: 20_000 } } else { request };
                let proposal = Proposal { stamp, request };
                let take = |books: &mut Books| {
                    let decision = books.decide(id, &proposal);
                    let Decision::Run(Some(tag)) = decision else { return None };
                    books.answered(tag, zeros.slice(..length));
                    Some(zeros.slice(..length))
                };
                let answer = take(&mut live);
                if let Some(stored) = &mut stored {
                    prop_assert_eq!(&take(stored), &answer);
                    prop_assert_eq!(&*stored, &live);
                }
                if number == stored_at {
                    stored = Some(Books::decode(&live.encode()).unwrap());
                    prop_assert_eq!(stored.as_ref(), Some(&live));
                }
                late.replay(Note { id, event: Event::Request(proposal.clone()), answer });
                prop_assert_eq!(&late, &live);
            }
            prop_assert_eq!(Books::decode(&live.encode()).unwrap(), live);
        }
    }

    /// They would never end a session, or count below zero.
    #[test]
    fn books_that_contradict_themselves_are_refused() {
        let session = |id| {
            let active = ClusterTime(0);
            (SessionId(id), SessionRecord { ttl_ms: 1_000, active, lowest: 1 })
        };
        let answer = |id, sequence| (SessionId(id), sequence, Bytes::from("x"));
        let decoded = |sessions, answers| {
            let (last, membership, clock) = (LogId::ZERO, None, ClusterTime(0));
            Books::decode(&encode(&Stored { last, membership, clock, sessions, answers }))
        };
        decoded(vec![session(1), session(2)], vec![answer(1, 2), answer(2, 1)]).unwrap();
        for (sessions, answers) in [
            (vec![session(1), session(1)], vec![]),
            (vec![session(1)], vec![answer(1, 2), answer(1, 2)]),
            (vec![session(1)], vec![answer(2, 1)]),
        ] {
            let refused = decoded(sessions, answers);
            assert!(matches!(refused, Err(DecodeError::Contradiction { .. })), "{refused:?}");
        }
    }
}

//! Reports that the node around a replica cannot have made: late, repeated, or out of nowhere.
//!
//! Found by `fuzz.rs`. None of them may stop the replica or take back what it knows.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use raft_core::{
    AppendOutcome, Batch, Config, Effect, Envelope, Event, Index, LogId, Membership, Message,
    NodeId, Raft, Recovered, RoleName, Sent, SnapshotMeta, Span, Term, Ticket, VoteOutcome,
};

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 of two, whose disk is as fast as light.
struct One {
    raft: Raft,
}

impl One {
    fn new() -> Self {
        let membership = Membership::of_voters([1, 2].map(|id| (node(id), format!("host{id}:1"))));
        let base = SnapshotMeta { membership, ..SnapshotMeta::default() };
        let found = Recovered { base, ..Recovered::default() };
        let mut config = Config::new(node(1));
        config.pre_vote = false;
        config.window_bytes = 100;
        Self { raft: Raft::new(config, found, Index(0), 1) }
    }

    /// The same as leader of term 1, whose follower has its first entry.
    fn leader() -> Self {
        let mut one = Self::new();
        while one.raft.role() != RoleName::Candidate {
            one.step(Event::Tick);
        }
        one.hear(1, Message::VoteReply(VoteOutcome::Granted));
        one.hear(1, Message::AppendReply(AppendOutcome::Matched { through: Index(1) }));
        assert_eq!(one.raft.commit(), Index(1));
        one
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.raft.step(event, &mut effects);
        for effect in effects.clone() {
            let Effect::Persist(Batch { seq, .. }) = effect else { continue };
            self.raft.step(Event::Persisted { seq }, &mut effects);
        }
        effects
    }

    fn hear(&mut self, term: u64, message: Message) -> Vec<Effect> {
        let envelope = Envelope { from: node(2), to: node(1), term: Term(term), message };
        self.step(Event::Received(envelope))
    }
}

fn span(effects: &[Effect]) -> Option<Span> {
    effects.iter().find_map(|effect| {
        let Effect::Replicate(span) = effect else { return None };
        Some(*span)
    })
}

/// What was sent cannot be more than what was to be sent, and not more than there is.
#[test]
fn more_was_sent_than_there_is() {
    let mut one = One::leader();
    let effects = one.step(Event::Proposed(vec![(Ticket(1), "x".into())]));
    let span = span(&effects).unwrap();
    let next = |one: &One| one.raft.status().followers[0].next;
    for through in [u64::MAX, 1 << 40, 3] {
        let sent = Sent::Queued;
        let longer = Span { through: Index(through), ..span };
        for span in [span, longer] {
            one.step(Event::Replicated { span, through: Index(through), bytes: 1, sent });
            assert_eq!(next(&one), Index(2), "through {through}");
        }
    }
    let (through, sent) = (span.through, Sent::Queued);
    one.step(Event::Replicated { span, through, bytes: 1, sent });
    assert_eq!(next(&one), Index(3), "the true report counts");
}

/// However many bytes are said to have been sent, the window is full then, and opens again.
#[test]
fn more_bytes_were_sent_than_can_be() {
    let mut one = One::leader();
    for (ticket, bytes) in [(2, 50), (3, usize::MAX)] {
        let span = span(&one.step(Event::Proposed(vec![(Ticket(ticket), "x".into())])));
        let (span, sent) = (span.unwrap(), Sent::Queued);
        one.step(Event::Replicated { span, through: span.through, bytes, sent });
    }
    let effects = one.step(Event::Proposed(vec![(Ticket(4), "x".into())]));
    assert_eq!(span(&effects), None, "the window is full");
    let through = Index(3);
    let effects = one.hear(1, Message::AppendReply(AppendOutcome::Matched { through }));
    assert_eq!(span(&effects).map(|span| span.through), Some(Index(4)));
}

/// While the state machine waits to be replaced nothing is given to it to apply, so it cannot have
/// applied it: the snapshot would take it back (rule R4).
#[test]
fn applied_what_nobody_gave_to_it() {
    let mut one = One::new();
    let entry = |index| raft_core::Entry {
        id: LogId::new(Term(1), Index(index)),
        payload: raft_core::Payload::Empty,
    };
    let entries = vec![entry(1), entry(2)];
    one.hear(1, Message::Append { prev: LogId::ZERO, entries, commit: Index(1) });
    one.step(Event::Applied { through: Index(1) });
    one.step(Event::SnapshotRequested(Ticket(1)));
    one.hear(1, Message::Heartbeat { commit: Index(2), round: 1 });
    one.step(Event::Applied { through: Index(2) });
    assert_eq!(one.raft.status().applied, Index(1), "it was not to apply 2 yet");
    let meta = Box::new(one.raft.meta_at(Index(1)).unwrap());
    one.hear(1, Message::Snapshot(meta.clone()));
    let effects = one.step(Event::SnapshotInstalled(meta));
    assert!(effects.contains(&Effect::Apply { through: Index(2) }), "{effects:?}");
    assert!(effects.contains(&Effect::Done(Ticket(1))), "{effects:?}");
    one.step(Event::Applied { through: Index(2) });
    assert_eq!(one.raft.status().applied, Index(2));
}

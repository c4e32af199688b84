//! Messages and snapshots between hosts: from the sender's wire, over the network, to the receiver.

use raft_core::testing::MemSnapshot;
use raft_core::{
    AppendOutcome, Arrival, Envelope, Index, LogId, Message, NodeId, SnapshotHeader,
    SnapshotOutcome, SnapshotReader, Term, VoteOutcome,
};

use super::coverage::Seen;
use super::host::{CrashPoint, Role};
use super::machine::mix;
use super::network::Way;
use super::truth::{Violation, ensure};
use super::wire::SentSnapshot;
use super::world::{What, World, place_of};

/// So many messages may be on their way; beyond that they are lost, as in a queue that is full.
const ON_THE_WAY: usize = 4_000;

impl World<'_> {
    /// Puts what the node has sent on its way. False if the node died in the middle of that.
    pub(crate) fn send_all(&mut self, place: usize) -> Result<bool, Violation> {
        let mut messages = std::mem::take(&mut self.messages);
        let mut snapshots = std::mem::take(&mut self.snapshots);
        let fulls = self.hosts[place].wire.take(&mut messages, &mut snapshots);
        (0..fulls).for_each(|_| self.seen.meet(Seen::QueueFull));
        let mut dies = false;
        if messages.len() > 1 && self.hosts[place].dies_at(CrashPoint::MidSend) {
            let sent = self.fault_dice.place(messages.len());
            messages.truncate(sent);
            snapshots.clear();
            dies = true;
        }
        for envelope in messages.drain(..) {
            self.check_promise(place, &envelope)?;
            self.send(place, envelope);
        }
        for snapshot in snapshots.drain(..) {
            self.send_snapshot(place, snapshot);
        }
        (self.messages, self.snapshots) = (messages, snapshots);
        if dies {
            self.seen.meet(Seen::CrashMidSend);
            self.crash(place)?;
        }
        Ok(!dies)
    }

    /// What a message promises is on the disk when it leaves: the term it speaks in, the vote it
    /// gives, the log with which it campaigns, the entries it acknowledges (rules E1, E2, L10).
    fn check_promise(&self, from: usize, envelope: &Envelope) -> Result<(), Violation> {
        let Envelope { to, term, message, .. } = envelope;
        let (host, hard) = (&self.hosts[from], self.hosts[from].disk.hard());
        let (id, kept) = (host.id, hard.term >= *term);
        ensure!(
            kept,
            Durability,
            "{id:?} speaks in {term}, its disk is in {}: {message:?}",
            hard.term
        );
        match message {
            Message::VoteReply(VoteOutcome::Granted) => {
                let kept = hard.term > *term || hard.vote == Some(*to);
                ensure!(kept, Durability, "{id:?} gives {to:?} its vote; its disk says {hard:?}");
            }
            // Who has followed somebody meanwhile may have cut its log: nobody counts that vote.
            Message::Vote { last, .. } if host.view.role == Role::Candidate => {
                let end = host.disk.last();
                let kept = end.index >= last.index || hard.term > *term;
                ensure!(kept, Durability, "{id:?} campaigns with {last}, its disk ends at {end}");
            }
            Message::AppendReply(AppendOutcome::Matched { through }) => {
                let end = host.disk.last();
                let kept = hard.term == *term;
                ensure!(
                    kept,
                    Durability,
                    "{id:?} confirms for {term}, its disk is in {}",
                    hard.term
                );
                let kept = end.index >= *through;
                ensure!(kept, Durability, "{id:?} confirms {through}, its disk ends at {end}");
                self.check_agreement(from, *to, *term, *through)?;
            }
            Message::Vote { .. }
            | Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::VoteReply(VoteOutcome::Refused)
            | Message::Append { .. }
            | Message::AppendReply(AppendOutcome::Rejected { .. })
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. } => {}
        }
        Ok(())
    }

    /// What a follower confirms to its leader is what that leader has there (rules L4, L7).
    fn check_agreement(
        &self,
        follower: usize,
        leader: NodeId,
        term: Term,
        through: Index,
    ) -> Result<(), Violation> {
        let Some(host) = self.hosts.get(place_of(leader)) else { return Ok(()) };
        let Some(node) = host.node.as_ref().filter(|_| host.view.leads && host.view.term == term)
        else {
            return Ok(());
        };
        let Some(expected) = node.raft().term_at(through) else { return Ok(()) };
        let (id, entry) = (self.hosts[follower].id, LogId::new(expected, through));
        let agrees = self.hosts[follower].disk.holds(entry);
        ensure!(agrees, LogMatching, "{id:?} confirms {through} to {leader:?}, not having {entry}");
        Ok(())
    }

    pub(crate) fn send(&mut self, from: usize, envelope: Envelope) {
        let to = place_of(envelope.to);
        self.digest = mix(self.digest, envelope.term.0 ^ envelope.to.as_u64() << 50);
        if to >= self.hosts.len() || self.schedule.len() > ON_THE_WAY {
            return;
        }
        match self.network.send(self.plan, &mut self.net_dice, self.now, from, to) {
            Way::Lost => {
                self.seen.meet(Seen::Lost);
                self.tell(from, |_| format!("lost: to {:?} {:?}", envelope.to, envelope.message));
                if self.net_dice.chance(200_000) {
                    let at = self.now + self.net_dice.between(0, 100_000);
                    let life = self.hosts[from].life;
                    self.schedule.put(at, What::Unreachable(from, life, envelope.to));
                }
            }
            Way::Once(at) => {
                if self.network.overtakes(from, to, at) {
                    self.seen.meet(Seen::Overtaken);
                }
                self.schedule.put(at, What::Deliver(Box::new(envelope)));
            }
            Way::Twice(at, again) => {
                self.seen.meet(Seen::Duplicated);
                self.schedule.put(again, What::Deliver(Box::new(envelope.clone())));
                self.schedule.put(at, What::Deliver(Box::new(envelope)));
            }
        }
    }

    pub(crate) fn send_snapshot(&mut self, from: usize, sent: SentSnapshot) {
        self.seen.meet(Seen::SnapshotSent);
        if sent.header.meta.membership.is_joint() {
            self.seen.meet(Seen::SnapshotWhileJoint);
        }
        let (to, life) = (sent.header.to, self.hosts[from].life);
        let (low, high) = self.plan.within_reason(self.plan.delay, self.calm);
        let takes = self.net_dice.between(low * 4, high * 10);
        let way = self.network.send(self.plan, &mut self.net_dice, self.now, from, place_of(to));
        let outcome = match way {
            Way::Lost => {
                self.seen.meet(Seen::SnapshotLost);
                SnapshotOutcome::Failed
            }
            Way::Once(at) | Way::Twice(at, _) => {
                let snapshot = Box::new((sent.header, sent.content));
                self.schedule.put(at + takes, What::DeliverSnapshot(snapshot));
                SnapshotOutcome::Delivered
            }
        };
        // The sender may hear of it before or after the receiver has it, and long after.
        let heard = self.now + self.net_dice.between(takes, takes * 3);
        self.schedule.put(heard, What::SnapshotSent(from, life, to, sent.ticket, outcome));
    }

    pub(crate) fn on_deliver(&mut self, envelope: Envelope) -> Result<(), Violation> {
        let (from, to) = (place_of(envelope.from), place_of(envelope.to));
        if !self.shake_hands(from, to) {
            return Ok(());
        }
        self.tell(to, |_| {
            format!("<- {:?} t{} {:?}", envelope.from, envelope.term, envelope.message)
        });
        if let Message::AppendReply(AppendOutcome::Rejected { .. }) = envelope.message {
            self.seen.meet(Seen::AppendRejected);
        }
        let life = self.hosts[to].life;
        self.arrive(to, life, Arrival::Messages(vec![envelope]))
    }

    /// Whether two hosts talk with each other at all. On the first contact the receiver learns in which
    /// life the sender's disk is.
    pub(crate) fn shake_hands(&mut self, from: usize, to: usize) -> bool {
        if self.network.is_cut(from, to) || self.hosts[to].node.is_none() {
            return false; // The link went while it was on its way.
        }
        let (sender, receiver) = (&self.hosts[from], &self.hosts[to]);
        let refused = receiver.wire.refuses(sender.id, sender.incarnation)
            || sender.wire.refuses(receiver.id, receiver.incarnation);
        if refused {
            self.seen.meet(Seen::WipedFenced);
            return false;
        }
        let (id, incarnation, bit) = (sender.id, sender.incarnation, 1 << (from % 64));
        let receiver = &mut self.hosts[to];
        if receiver.met & bit == 0 {
            receiver.met |= bit;
            let node = receiver.node.as_mut().expect("looked at above");
            node.arrive(Arrival::Met(id, incarnation));
        }
        true
    }

    pub(crate) fn on_deliver_snapshot(
        &mut self,
        (header, content): (SnapshotHeader, MemSnapshot),
    ) -> Result<(), Violation> {
        let (from, to) = (place_of(header.from), place_of(header.to));
        if !self.shake_hands(from, to) {
            return Ok(());
        }
        self.tell(to, |_| format!("<- {:?} t{} {:?}", header.from, header.term, header.meta));
        let reader: Box<dyn SnapshotReader> = Box::new(content);
        let life = self.hosts[to].life;
        self.arrive(to, life, Arrival::Snapshot(header, reader))
    }

    pub(crate) fn arrive(
        &mut self,
        place: usize,
        life: u32,
        arrival: Arrival,
    ) -> Result<(), Violation> {
        if !self.lives(place, life) {
            return Ok(());
        }
        if let Some(node) = &mut self.hosts[place].node {
            node.arrive(arrival);
        }
        self.poke(place)
    }
}

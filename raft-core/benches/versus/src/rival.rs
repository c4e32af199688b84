//! Three replicas of raft-rs in one thread, driven as its `five_mem_node` example does: `ready`, then
//! store, send and apply, then `advance`. Logs are its own `MemStorage`.
//!
//! The work is that of `trio`: the same commands, the same state machine, logs cut at the same length.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole, Storage};

use crate::trio::{LOG_MAX, Machine, RETAINED};

/// How raft-rs is set up and used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    /// Its defaults, but messages and windows large enough for a whole batch.
    Defaults,
    /// And every option by which it does less: appends to one follower are merged, and followers learn
    /// of a commit with the next append, as ours do.
    Options,
    /// And past its own [`RawNode::propose`], which takes a command as a vector of its own and one at a
    /// time: a batch is proposed as one message, made by hand, that shares the commands.
    ByHand,
}

/// Three replicas, of which the first leads.
pub(crate) struct Rival {
    nodes: [Node; 3],
    mail: VecDeque<Message>,
    tuning: Tuning,
}

struct Node {
    raw: RawNode<MemStorage>,
    machine: Machine,
    applied: u64,
}

impl Rival {
    /// Three replicas that have just elected the first.
    pub(crate) fn elected(tuning: Tuning) -> Self {
        let nodes = [1, 2, 3].map(|id| Node::new(id, tuning));
        let mut rival = Self { nodes, mail: VecDeque::new(), tuning };
        rival.nodes[0].raw.campaign().unwrap();
        rival.settle(0);
        assert_eq!(rival.nodes[0].raw.raft.state, StateRole::Leader);
        rival
    }

    /// Has `commands` committed and applied by the leader.
    pub(crate) fn commit(&mut self, commands: impl ExactSizeIterator<Item = Bytes>) {
        let expected = self.nodes[0].machine.commands + commands.len() as u64;
        let leader = &mut self.nodes[0].raw;
        match self.tuning {
            Tuning::Defaults | Tuning::Options => {
                for command in commands {
                    leader.propose(Vec::new(), command.to_vec()).unwrap();
                }
            }
            Tuning::ByHand => {
                let entry = |command| Entry { data: command, ..Entry::default() };
                let mut message = Message::default();
                message.set_msg_type(MessageType::MsgPropose);
                message.from = leader.raft.id;
                message.entries = commands.map(entry).collect::<Vec<_>>().into();
                leader.step(message).unwrap();
            }
        }
        self.settle(0);
        assert_eq!(self.nodes[0].machine.commands, expected, "not all was committed");
        self.nodes.iter_mut().for_each(Node::maybe_compact);
    }

    /// What each state machine has seen, the leader's first.
    pub(crate) fn machines(&self) -> [Machine; 3] {
        [0, 1, 2].map(|at| self.nodes[at].machine)
    }

    /// Carries out what node `at` has to do, and everything that follows from it.
    fn settle(&mut self, at: usize) {
        self.nodes[at].work(&mut self.mail);
        while let Some(message) = self.mail.pop_front() {
            let node = &mut self.nodes[usize::try_from(message.to - 1).unwrap()];
            node.raw.step(message).unwrap();
            node.work(&mut self.mail);
        }
    }
}

impl Node {
    fn new(id: u64, tuning: Tuning) -> Self {
        let config = Config {
            id,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            max_uncommitted_size: 64 << 20,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: tuning != Tuning::Defaults,
            batch_append: tuning != Tuning::Defaults,
            ..Config::default()
        };
        let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], vec![])));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger).unwrap();
        Self { raw, machine: Machine::default(), applied: 0 }
    }

    fn work(&mut self, mail: &mut VecDeque<Message>) {
        while self.raw.has_ready() {
            let store = self.raw.store().clone();
            let mut ready = self.raw.ready();
            mail.extend(ready.take_messages());
            self.apply(ready.take_committed_entries());
            if !ready.entries().is_empty() {
                store.wl().append(ready.entries()).unwrap();
            }
            if let Some(hard) = ready.hs() {
                store.wl().set_hardstate(hard.clone());
            }
            mail.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                store.wl().mut_hard_state().set_commit(commit);
            }
            mail.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            self.applied = entry.index;
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                self.machine.apply(&entry.data);
            }
        }
    }

    fn maybe_compact(&mut self) {
        let store = self.raw.store();
        let first = store.first_index().unwrap();
        let last = store.last_index().unwrap();
        if last - first >= LOG_MAX as u64 {
            store.wl().compact(self.applied - RETAINED).unwrap();
        }
    }
}

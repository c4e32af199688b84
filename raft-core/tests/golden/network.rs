//! The network between the replicas: messages wait in it until a script delivers, drops or repeats
//! them. A link that is cut loses what is sent from then on; what is under way already stays.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Entry, Envelope, NodeId, Sent};

use crate::text;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) envelope: Envelope,
    /// What the state machine of the sender held, if this is a snapshot.
    pub(crate) snapshot: Option<Vec<Entry>>,
}

/// Which messages a command is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    pub(crate) kind: Option<String>,
    /// Leave out so many of the first, then take at most so many.
    pub(crate) skip: usize,
    pub(crate) count: Option<usize>,
}

impl Filter {
    fn fits(&self, envelope: &Envelope) -> bool {
        self.from.is_none_or(|from| from == envelope.from)
            && self.to.is_none_or(|to| to == envelope.to)
            && self.kind.as_deref().is_none_or(|kind| kind == text::kind(&envelope.message))
    }

    /// Whether anything at all fits it.
    pub(crate) fn is_open(&self) -> bool {
        self.from.is_none() && self.to.is_none() && self.kind.is_none()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    /// In the order in which they were sent.
    pub(crate) flights: Vec<Flight>,
    /// From whom to whom nothing gets through.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// What the transport says to appends on this link, if not that they are queued.
    refusing: BTreeMap<(NodeId, NodeId), Sent>,
}

impl Network {
    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Everything gets through again.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.refusing.clear();
    }

    pub(crate) fn refuse(&mut self, from: NodeId, to: NodeId, why: Sent) {
        self.refusing.insert((from, to), why);
    }

    /// What the transport of `from` says to an append for `to`.
    pub(crate) fn sent(&self, from: NodeId, to: NodeId) -> Sent {
        self.refusing.get(&(from, to)).copied().unwrap_or(Sent::Queued)
    }

    /// Takes out what fits, in order.
    pub(crate) fn take(&mut self, filter: &Filter) -> Vec<Flight> {
        let mut taken = Vec::new();
        let mut seen = 0;
        self.flights.retain(|flight| {
            if !filter.fits(&flight.envelope) {
                return true;
            }
            seen += 1;
            let take = seen > filter.skip && filter.count.is_none_or(|count| taken.len() < count);
            if take {
                taken.push(flight.clone());
            }
            !take
        });
        taken
    }
}

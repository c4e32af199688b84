//! The words of the paper as types: who, when in logical time, and where in the log.
//!
//! Paper: Figure 2. Every number of the protocol has a type of its own, so that a term is never
//! added to an index and an index is never mistaken for a count. Nothing here does anything.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names one server of the cluster, for all time: an id is never given to another server (rule M10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The id `id`, or `None` if it is zero, which names nobody.
    pub const fn new(id: u64) -> Option<Self> {
        match NonZeroU64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number, at least 1.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Logical time (§5.1). At most one leader is elected in each term. The first election is for term
/// 1; a node that has never heard of an election is in term 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    ///
    /// # Panics
    ///
    /// If the term is the last that can be counted. At one election a microsecond that takes half
    /// a million years; a peer that claims such a term is refused before it gets here.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("terms are counted one by one from 0"))
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in the log. The first entry is at 1; 0 is the place before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

impl Index {
    /// The place before the first entry.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    ///
    /// # Panics
    ///
    /// If there is none. A log of 2^64 entries cannot be written; an index near the maximum that a
    /// peer claims is refused before it gets here.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The position before this one. The place before the first entry is its own predecessor.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The position `count` further on.
    ///
    /// # Panics
    ///
    /// As [`Index::next`].
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("entries are counted one by one from 1"))
    }

    /// How many entries there are after `earlier`, up to and including this one. None if `earlier`
    /// is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names one entry for all time: a term has one leader, and it never reuses an index (§5.3).
///
/// The field order is deliberate. The derived ordering compares the term first and the index
/// second, which is the "at least as up-to-date" test of §5.4.1.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The term of the leader that first appended the entry.
    pub term: Term,
    /// Where the entry sits in the log. The first entry is at 1.
    pub index: Index,
}

impl LogId {
    /// The place before the first entry, which every log has.
    pub const ZERO: Self = Self { term: Term(0), index: Index(0) };

    /// The entry at `index` that a leader of `term` appended.
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

/// Written `index@term`, as in the golden scripts.
impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What must survive a crash besides the log (Figure 2: `currentTerm`, `votedFor`).
///
/// Term and vote are one value because they are written as one: a crash between the two would let
/// a node vote twice in a term (rule E1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The highest term this node has seen.
    pub term: Term,
    /// Whom this node voted for in that term, if anybody.
    pub vote: Option<NodeId>,
}

/// A span of time, counted in ticks of the node's clock (10 ms each unless configured otherwise).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticks(pub u32);

/// Names a cluster. Nodes and clients of different clusters refuse each other (rule L17).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one life of a node's data directory. A wiped disk that comes back under an old node id is
/// a new incarnation; it may have forgotten votes and acknowledged entries (rule M10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who a node is: written to its data directory at its first start, exchanged in every handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id in that cluster.
    pub node: NodeId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

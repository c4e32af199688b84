//! What a run has met. A green run proves little if nothing ever happened in it, so the situations that
//! matter have names and are counted.

use std::fmt;

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A situation that a good run meets some time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Seen { $($(#[$doc])* $name,)* }

        impl Seen {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

situations! {
    /// A node has won an election.
    Elected,
    /// Two candidates of one term.
    SplitVote,
    /// A candidate has fallen back to follower.
    CandidateGaveUp,
    /// A pre-candidate has fallen back to follower: the others still heard a leader.
    PreCandidateGaveUp,
    /// A leader has stepped down for a higher term.
    Deposed,
    /// A leader has stepped down within its term: it heard no quorum, or was removed.
    SteppedDown,
    /// Two nodes have led at once, in different terms.
    TwoLeaders,
    /// A leader was elected that held uncommitted entries of older terms.
    ElectedWithOldTail,
    /// Entries of an older term were committed under a newer one (Figure 8).
    CommittedOldTerm,
    /// An entry that was on a disk was overwritten.
    Truncated,
    /// A leader has committed what its own disk did not hold yet.
    CommittedBeforeOwnDisk,
    /// A follower's append was rejected.
    AppendRejected,
    /// The reader of the log was asked, because the cache did not have it.
    ReadFromDisk,
    /// A log was cut.
    Compacted,
    /// A snapshot was sent.
    SnapshotSent,
    /// A snapshot was lost on its way.
    SnapshotLost,
    /// A snapshot was installed.
    SnapshotInstalled,
    /// A snapshot was taken while the configuration was joint.
    SnapshotWhileJoint,
    /// A crash before a write.
    CrashBeforeWrite,
    /// A crash that left the first of several writes and not the last.
    CrashTornGroup,
    /// A crash after a write that nobody had heard of.
    CrashAfterWrite,
    /// A crash when only some of the messages had left.
    CrashMidSend,
    /// A crash before something was applied.
    CrashBeforeApply,
    /// A crash in the middle of a batch of entries to apply.
    CrashMidApply,
    /// A crash after something was applied that nobody had heard of.
    CrashAfterApply,
    /// A crash between the installation of a snapshot and the log's learning of it.
    CrashAfterRestore,
    /// A node came back whose log was behind its state machine.
    CameBackAhead,
    /// A node came back whose log held uncommitted entries.
    CameBackWithTail,
    /// A node came back under the same term in which it had voted.
    CameBackHavingVoted,
    /// All nodes were down at once.
    AllDown,
    /// A leader was told to stop, and another led before it was gone.
    HandedOver,
    /// A node has stopped because of its disk.
    StoppedByDisk,
    /// A node has stopped because its disk was full.
    StoppedByFullDisk,
    /// A node has stopped because of its state machine.
    StoppedByMachine,
    /// A write took longer than an election timeout.
    DiskStalled,
    /// A leader was paused.
    LeaderPaused,
    /// A leader was paused so long that another led when it woke.
    WokeDeposed,
    /// A partition with a majority on one side.
    PartitionWithMajority,
    /// A partition without a majority on either side.
    PartitionWithout,
    /// A node could send but not hear, or hear but not send.
    HalfDeaf,
    /// A message was lost.
    Lost,
    /// A message came twice.
    Duplicated,
    /// A message overtook another.
    Overtaken,
    /// A message found its queue full.
    QueueFull,
    /// A write was acknowledged.
    Acknowledged,
    /// A client was told that its write would never take effect, after it had been appended.
    Superseded,
    /// A client was told that the outcome was not known.
    Unknown,
    /// A write whose outcome was not known has taken effect all the same.
    UnknownTookEffect,
    /// A proposal was refused because too much waited.
    RefusedBusy,
    /// A read was served at a leader.
    ReadAtLeader,
    /// A read was served at a follower.
    ReadAtFollower,
    /// A read was served at a learner.
    ReadAtLearner,
    /// A read was served by a lease.
    ReadByLease,
    /// A read failed.
    ReadRefused,
    /// The configuration became joint.
    Joint,
    /// A joint configuration was left under another leader than the one that had entered it.
    JointLeftByAnother,
    /// A node crashed while the configuration was joint.
    CrashWhileJoint,
    /// A configuration was taken back, because its entry was overwritten.
    RolledBack,
    /// A learner was made a voter.
    Promoted,
    /// A leader was removed.
    LeaderRemoved,
    /// A change was refused because another was pending.
    ChangeRefusedPending,
    /// A change was refused because the configuration had moved.
    ChangeRefusedMoved,
    /// Leadership was transferred.
    Transferred,
    /// A transfer did not happen in time.
    TransferTimedOut,
    /// A follower has forgotten its leader.
    Forgot,
    /// A follower had its state machine repaired.
    Repaired,
    /// A node knows that it was removed.
    KnowsItIsRemoved,
    /// A node with an empty disk came back under an old id, and was not heard.
    WipedFenced,
    /// The faults stopped, everything came back, and the cluster made progress.
    Healed,
    /// The faults stopped but for a minority that stayed broken, and the cluster made progress.
    HealedWithoutMinority,
    /// All lost power, and came back together with clocks that agree.
    HealedInStep,
}

/// How often each situation was met.
#[derive(Clone, Debug)]
pub struct Coverage([u64; Seen::ALL.len()]);

impl Coverage {
    /// Nothing met yet.
    pub const fn new() -> Self {
        Self([0; Seen::ALL.len()])
    }

    pub(crate) fn meet(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    /// How often it was met.
    pub const fn count(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    /// Adds what another run has met.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(count, more)| *count += more);
    }

    /// What was never met.
    pub fn missed(&self) -> Vec<Seen> {
        Seen::ALL.iter().copied().filter(|seen| self.count(*seen) == 0).collect()
    }
}

impl Default for Coverage {
    fn default() -> Self {
        Self::new()
    }
}

/// A line for each.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for seen in Seen::ALL {
            writeln!(f, "{:>12}  {seen:?}", self.count(*seen))?;
        }
        Ok(())
    }
}

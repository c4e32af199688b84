//! The faults that are built into `raft-core` on purpose, and who notices them.
//!
//! A simulator is worth what its mutants prove. Each fault breaks one rule the way a real implementation
//! has broken it (docs/correctness.md names the case); each must be noticed by the simulator, within far fewer
//! seeds than CI runs, and without the help of the core's own invariants.
//!
//! The table is always here; running it needs a build with `--cfg raft_mutants` (`make mutants`).

/// The seeds of a CI run (`tests/simulation.rs`).
pub const CI_SEEDS: u64 = 12_000;

/// A fault, and the rule it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// As in `mutant!(raft_mutant = "name")`.
    pub name: &'static str,
    /// Of docs/correctness.md.
    pub rule: &'static str,
    /// Who is to notice.
    pub by: Noticed,
}

/// Who is to notice a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// The simulator, with the core's invariants and without.
    BySimulator,
    /// Golden scripts only: the fault costs time or disturbs, and breaks nothing that can be seen from
    /// above.
    ByScripts,
}

const fn seen(name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, by: Noticed::BySimulator }
}

const fn told(name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, by: Noticed::ByScripts }
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    // Elections.
    seen("forgets_vote_at_restart", "E1"),
    seen("writes_term_and_vote_apart", "E1"),
    seen("stepping_down_clears_vote", "E1"),
    seen("votes_before_fsync", "E1"),
    seen("votes_twice", "E1"),
    seen("campaigns_before_fsync", "E2"),
    seen("counts_own_vote_at_once", "E2"),
    seen("votes_without_comparing_logs", "E3"),
    seen("compares_length_only", "E3"),
    seen("votes_only_for_better_logs", "E3"),
    seen("counts_pre_votes_as_votes", "E10"),
    seen("counts_votes_of_older_terms", "E10"),
    seen("counts_votes_of_strangers", "M3"),
    seen("sole_voter_shortcut", "M6"),
    seen("half_is_a_quorum_to_elect", "M3"),
    seen("joint_vote_asks_one_half", "M3"),
    seen("learner_campaigns", "M12"),
    told("called_learner_stays_silent", "E11"),
    seen("timeouts_are_not_redrawn", "E4"),
    told("silence_is_a_pre_vote", "E9"),
    told("pre_vote_raises_the_term", "E10"),
    told("repeated_vote_is_refused", "E1"),
    told("campaigns_while_installing", "E12"),
    told("never_steps_down", "E13"),
    // Replication.
    seen("appends_without_agreement", "L3"),
    seen("every_append_truncates", "L3"),
    seen("conflict_is_not_truncated", "L3"),
    seen("conflict_truncates_to_commit", "L3"),
    seen("deposed_leader_rolls_back", "L3"),
    seen("deposed_leader_appends_again", "L12"),
    seen("accepts_appends_of_older_terms", "L12"),
    told("acknowledges_own_last_entry", "L7"),
    seen("late_acknowledgement_lowers_match", "L7"),
    seen("full_window_sends_nothing", "L8"),
    seen("window_never_empties", "L8"),
    seen("paused_for_ever", "S6"),
    seen("conflict_search_stalls", "L9"),
    // Commitment.
    seen("commits_older_terms_by_counting", "L1"),
    seen("no_empty_entry", "L2"),
    told("commits_own_last_entry", "L4"),
    seen("commit_set_not_raised", "L4"),
    seen("heartbeat_carries_full_commit", "L5"),
    seen("half_is_a_quorum_to_commit", "M3"),
    seen("joint_commit_asks_one_half", "M3"),
    seen("learners_count", "M12"),
    seen("removed_leader_counts_itself", "M5"),
    seen("room_is_never_released", "L2"),
    // Durability.
    seen("acknowledges_before_fsync", "L10"),
    seen("leader_counts_unsynced_entries", "L10"),
    seen("goes_on_after_a_failed_write", "L14"),
    seen("group_commit_loses_the_vote", "L11"),
    seen("group_commit_forgets_truncation", "L11"),
    seen("acknowledgement_outlives_its_term", "L12"),
    // Of no consequence as long as a campaign waits until its own term is on disk (rule E2): all that was
    // overwritten has been reported by then.
    told("overwritten_write_counts", "L12"),
    seen("truncation_misses_the_cache", "L16"),
    seen("page_skips_an_entry", "L16"),
    // Reads.
    seen("reads_before_own_commit", "R1"),
    seen("reads_without_a_round", "R2"),
    seen("read_joins_an_older_round", "R2"),
    seen("reuses_read_numbers", "R2"),
    told("round_confirms_only_itself", "R2"),
    seen("serves_reads_of_a_lost_leadership", "R3"),
    seen("reads_before_applied", "R4"),
    seen("follower_reads_by_its_own_commit", "R2"),
    seen("joint_read_asks_one_half", "M3"),
    seen("lease_needs_no_promise", "R5"),
    seen("lease_counts_from_the_answer", "R5"),
    seen("restart_forgets_a_promise", "R5"),
    seen("lease_sleeps_through", "E14"),
    seen("lease_outlives_a_transfer", "T3"),
    // Membership.
    seen("two_changes_at_once", "M1"),
    seen("change_before_own_commit", "M2"),
    seen("every_change_is_simple", "M3"),
    seen("successor_stays_joint", "M4"),
    seen("membership_is_not_rolled_back", "M8"),
    seen("snapshot_keeps_old_membership", "M9"),
    told("lives_are_not_told_apart", "M10"),
    seen("transfer_never_ends", "T1"),
    // Snapshots.
    seen("installs_old_snapshots", "S1"),
    // Who has the last entry of a snapshot is hardly ever sent it.
    told("matching_snapshot_drops_tail", "S1"),
    seen("conflicting_snapshot_keeps_tail", "S1"),
    seen("compacts_what_is_not_durable", "S4"),
    seen("failed_snapshot_is_not_noticed", "S6"),
    told("snapshots_pin_nothing", "S8"),
    told("removed_node_goes_on", "M13"),
    seen("applies_what_a_snapshot_holds", "C3"),
    // Clients.
    seen("answers_by_index_alone", "C4"),
    seen("unknown_is_called_void", "C4"),
];

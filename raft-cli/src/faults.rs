//! What the crates complain of, as exit codes.
//!
//! The messages are the crates' own; here it is only decided what a script can do about them. A
//! disk that fails or is full is a matter of this machine, damage a matter of the data, a
//! certificate one of permission. A kind of error that is added later counts as the gravest here
//! until it is sorted.

use raft_core::{MachineError, StartError, StopCause, StoreError};
use raft_kv::KvError;
use raft_log::OpenError;
use raft_net_quic::NetError;

use crate::failure::{Failure, Kind};

/// A data directory that cannot be used.
pub(crate) fn of_directory(error: OpenError) -> Failure {
    let kind = if let OpenError::Log(error) = &error {
        of_log(error)
    } else if matches!(error, OpenError::NotADirectory { .. }) {
        Kind::Usage
    } else if matches!(error, OpenError::Io { .. }) {
        Kind::Failed
    } else {
        Kind::Refused
    };
    Failure::new(kind, error)
}

/// A key-value store that cannot be opened.
pub(crate) fn of_store(error: KvError) -> Failure {
    let kind = if matches!(error, KvError::Io { .. } | KvError::Storage { .. }) {
        Kind::Failed
    } else if matches!(error, KvError::Config(_)) {
        Kind::Usage
    } else {
        Kind::Refused
    };
    Failure::new(kind, error)
}

/// Certificates that cannot be used.
pub(crate) fn of_certificates(error: &NetError) -> Failure {
    let not_permitted = matches!(
        error,
        NetError::Expired { .. }
            | NetError::NotYetValid { .. }
            | NetError::KeyMismatch { .. }
            | NetError::OtherAuthority { .. }
            | NetError::OtherNode { .. }
            | NetError::OtherCluster { .. }
            | NetError::Unusable { .. }
    );
    let kind = if not_permitted {
        Kind::NotPermitted
    } else if matches!(error, NetError::Incoming { .. }) {
        Kind::Failed
    } else {
        Kind::Usage
    };
    Failure::new(kind, error)
}

/// A node that cannot listen, for its certificates or for its address.
pub(crate) fn of_listening(error: &NetError) -> Failure {
    if matches!(error, NetError::PortInUse { .. } | NetError::Socket { .. }) {
        return Failure::usage(format!("--listen: {error}"));
    }
    of_certificates(error)
}

/// A node that cannot start.
pub(crate) fn of_start(error: StartError) -> Failure {
    let kind = match &error {
        StartError::Log(error) => of_log(error),
        StartError::Machine(error) => of_machine(error),
        StartError::Config(_) => Kind::Usage,
        StartError::Thread(_) => Kind::Failed,
        StartError::Behind { .. } | _ => Kind::Refused,
    };
    Failure::new(kind, error)
}

/// A node that stopped by itself.
pub(crate) fn of_stop(cause: &StopCause) -> Failure {
    let kind = match cause {
        StopCause::Log(error) => of_log(error),
        StopCause::Machine(error) => of_machine(error),
        // Whatever broke an invariant may have been written: the data must be looked at first.
        StopCause::Bug(_) | StopCause::Asked | _ => Kind::Refused,
    };
    Failure::new(kind, cause)
}

fn of_log(error: &StoreError) -> Kind {
    let machine = matches!(error, StoreError::Io { .. } | StoreError::Full { .. });
    if machine { Kind::Failed } else { Kind::Refused }
}

fn of_machine(error: &MachineError) -> Kind {
    if matches!(error, MachineError::Storage { .. }) { Kind::Failed } else { Kind::Refused }
}

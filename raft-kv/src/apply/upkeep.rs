//! What the cluster says to itself: which version of commands is in force, and which node is not to be
//! trusted.

use raft_core::NodeId;

use crate::command::{Divergence, Outcome, Refused};
use crate::error::KvError;
use crate::version::MachineVersion;

use super::{Applier, Stop};

impl Applier<'_> {
    /// Rule C7. From the next command on; a program that does not support it goes no further.
    pub(super) fn activate(&mut self, version: MachineVersion) -> Result<Outcome, Stop> {
        let supported = MachineVersion::SUPPORTED;
        if version > supported {
            return Err(KvError::Newer { found: version, supported }.into());
        }
        self.state.machine = self.state.machine.max(version);
        Ok(Outcome::Activated(self.state.machine))
    }

    /// The database shows all alarms, as before every command about them.
    pub(super) fn raise_alarm(&mut self, raised: Divergence) -> Result<Outcome, Stop> {
        self.change_alarms(|alarms| {
            match alarms.binary_search_by_key(&raised.node, |alarm| alarm.node) {
                // The first one tells from when on.
                Ok(_) => {}
                Err(place) => alarms.insert(place, raised),
            }
        })
    }

    pub(super) fn clear_alarms(&mut self, node: Option<NodeId>) -> Result<Outcome, Stop> {
        self.change_alarms(|alarms| {
            alarms.retain(|alarm| node.is_some_and(|cleared| cleared != alarm.node));
        })
    }

    fn change_alarms(
        &mut self,
        change: impl FnOnce(&mut Vec<Divergence>),
    ) -> Result<Outcome, Stop> {
        let (needed, active) = (MachineVersion::ALARMS, self.state.machine);
        if active < needed {
            return Err(Refused::NotActive { needed, active }.into());
        }
        let mut alarms = self.store.alarms()?;
        change(&mut alarms);
        alarms.truncate(MAX_ALARMS);
        self.portion.alarms = Some(alarms.clone());
        Ok(Outcome::Alarms(alarms))
    }
}

/// More nodes than any cluster has. Part of what commands mean.
const MAX_ALARMS: usize = 1024;

//! Reads back what was acknowledged, and compares what the nodes hold.
//!
//! A client remembers, for some keys, the newest revision under which a write of that key was
//! acknowledged, and what it wrote. Afterwards each of those keys must have that revision or a
//! later one; and with that revision, that value. That tells of lost writes; whether a node holds
//! anything else than the others is told by the hash that each has of all its data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_kv::api::ReadLevel;
use raft_kv::client::Comparison;
use tokio::task::JoinSet;

use super::KeySpace;
use super::load::joined;
use super::target::{Connection, Found};
use crate::failure::{Failure, Kind};

/// What was acknowledged, for some keys by their number.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    newest: BTreeMap<u64, Acknowledged>,
    /// The most keys it holds.
    room: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Acknowledged {
    revision: u64,
    /// What was written.
    value: Bytes,
}

impl Sample {
    /// That of one client of so many.
    pub(crate) fn for_one_of(clients: usize) -> Self {
        Self { newest: BTreeMap::new(), room: KEYS.div_ceil(clients) }
    }

    /// A write was acknowledged.
    pub(crate) fn acknowledged(&mut self, key: u64, revision: u64, value: &Bytes) {
        let news = || Acknowledged { revision, value: value.clone() };
        let has_room = self.newest.len() < self.room;
        match self.newest.get_mut(&key) {
            // A client's own writes are acknowledged in order, but those of several are not.
            Some(known) if known.revision < revision => *known = news(),
            Some(_) => {}
            None if has_room => drop(self.newest.insert(key, news())),
            None => {}
        }
    }

    /// Adds what another client was told.
    pub(crate) fn merge(&mut self, other: Self) {
        self.room = self.room.saturating_add(other.room);
        for (key, Acknowledged { revision, value }) in other.newest {
            self.acknowledged(key, revision, &value);
        }
    }

    /// Reads every key of it. Gives how many there are.
    ///
    /// Fails if anything that was acknowledged is missing.
    pub(crate) async fn read_back(
        self,
        keys: &KeySpace,
        connections: &[Arc<Connection>],
    ) -> Result<usize, Failure> {
        let total = self.newest.len();
        let mut lost = Vec::new();
        let mut tasks: JoinSet<Result<Option<String>, Failure>> = JoinSet::new();
        for (turn, (number, written)) in self.newest.into_iter().enumerate() {
            if tasks.len() == AT_ONCE
                && let Some(done) = tasks.join_next().await
            {
                lost.extend(joined(done)??);
            }
            let connection = Arc::clone(&connections[turn % connections.len()]);
            let key = keys.key(number);
            tasks.spawn(async move {
                let found = connection.get(key.clone(), ReadLevel::Linearizable).await?;
                let wrong = written.missing_in(found.as_ref());
                Ok(wrong.map(|wrong| format!("{}: {wrong}", String::from_utf8_lossy(&key))))
            });
        }
        while let Some(done) = tasks.join_next().await {
            lost.extend(joined(done)??);
        }
        let Some(first) = lost.first() else { return Ok(total) };
        Err(Failure::new(
            Kind::Refused,
            format!("{} of {total} acknowledged writes are missing ({first})", lost.len()),
        ))
    }
}

impl Acknowledged {
    /// What is wrong with what was found, if anything is.
    fn missing_in(&self, found: Option<&Found>) -> Option<String> {
        let wrote = format!("revision {} was acknowledged", self.revision);
        match found {
            None => Some(format!("{wrote}, the key is gone")),
            Some(found) if found.revision < self.revision => {
                Some(format!("{wrote}, found {}", found.revision))
            }
            Some(found) if found.revision == self.revision && found.value != self.value => {
                Some(format!("{wrote}, it has another value"))
            }
            Some(_) => None,
        }
    }
}

/// Has all nodes of a cluster of ours say what they hold. `None` for another target, which is not
/// asked.
///
/// Fails if they do not hold the same. That a node does not answer is told by the comparison.
pub(crate) async fn compare(connection: &Connection) -> Result<Option<Comparison>, Failure> {
    let Some(comparison) = connection.compare(COMPARE_WITHIN).await? else { return Ok(None) };
    let diverging = comparison.diverging();
    if diverging.is_empty() {
        return Ok(Some(comparison));
    }
    let nodes: Vec<_> = diverging.iter().map(ToString::to_string).collect();
    Err(Failure::new(
        Kind::Refused,
        format!(
            "the nodes do not hold the same at revision {}: see nodes {} with `raft check \
             consistency --rev {}`",
            comparison.revision,
            nodes.join(", "),
            comparison.revision
        ),
    ))
}

/// About so many keys are read back.
const KEYS: usize = 1000;
const AT_ONCE: usize = 16;

/// For so long a node that is behind is waited for.
const COMPARE_WITHIN: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Bytes {
        Bytes::from(vec![byte])
    }

    #[test]
    fn the_newest_revision_of_a_key_counts() {
        let mut one = Sample::for_one_of(1);
        one.acknowledged(7, 20, &value(1));
        let mut two = Sample::for_one_of(KEYS);
        two.acknowledged(7, 30, &value(2));
        two.acknowledged(7, 10, &value(3));
        two.acknowledged(8, 40, &value(4));
        assert_eq!(two.newest.len(), 1, "there is room for one key");
        one.merge(two);
        assert_eq!(one.newest[&7], Acknowledged { revision: 30, value: value(2) });
    }

    #[test]
    fn what_is_missing_is_told() {
        let written = Acknowledged { revision: 5, value: value(1) };
        let found = |revision, byte| Some(Found { revision, value: value(byte) });
        let wrong = |found: Option<Found>| written.missing_in(found.as_ref()).is_some();
        assert!(wrong(None) && wrong(found(4, 1)) && wrong(found(5, 2)));
        assert!(!wrong(found(5, 1)) && !wrong(found(6, 2)));
    }
}

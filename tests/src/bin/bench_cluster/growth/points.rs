//! What grows, and at which sizes it is measured.

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    Keys,
    Values,
    Nodes,
    Connections,
    /// Not a size: what else is done at the same time.
    Meanwhile,
}

/// What else is done while clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    Nothing,
    /// One follower is not there.
    FollowerDown,
    /// A new node is sent all data.
    Snapshot,
    /// All history is given up, again and again.
    Compaction,
}

/// A place on a curve: all sizes, of which one belongs to the curve.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) curve: Curve,
    pub(crate) nodes: usize,
    /// All are there before anything is measured, and are overwritten then.
    pub(crate) keys: u64,
    pub(crate) value_bytes: u32,
    pub(crate) clients: u32,
    pub(crate) connections: u32,
    pub(crate) meanwhile: Meanwhile,
}

/// All that is measured, curve by curve.
pub(crate) fn all(most_keys: u64, most_connections: u32) -> Vec<Point> {
    let keys = [10_000, 1_000_000, 10_000_000].into_iter().filter(|keys| *keys <= most_keys);
    let keys = keys.map(|keys| Point { keys, ..Point::on(Curve::Keys) });
    // Few keys, so that filling them with the largest values does not take minutes.
    let values = [100, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
    let values =
        values.map(|value_bytes| Point { value_bytes, keys: 1000, ..Point::on(Curve::Values) });
    let nodes = [3, 5, 7].map(|nodes| Point { nodes, ..Point::on(Curve::Nodes) });
    // A connection without a client would carry nothing.
    let connections = [1, 10, 100, 1000, 10_000].into_iter();
    let connections = connections.filter(|count| *count <= most_connections);
    let connections = connections.map(|connections| Point {
        connections,
        clients: connections.max(1000),
        ..Point::on(Curve::Connections)
    });
    let meanwhile =
        [Meanwhile::Nothing, Meanwhile::FollowerDown, Meanwhile::Snapshot, Meanwhile::Compaction];
    // As many keys for all of them as the snapshot needs to take its time.
    let meanwhile = meanwhile.map(|meanwhile| Point {
        meanwhile,
        keys: 300_000.min(most_keys),
        ..Point::on(Curve::Meanwhile)
    });
    keys.chain(values).chain(nodes).chain(connections).chain(meanwhile).collect()
}

impl Curve {
    pub(crate) const ALL: [Self; 5] =
        [Self::Keys, Self::Values, Self::Nodes, Self::Connections, Self::Meanwhile];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Values => "bytes a value",
            Self::Nodes => "nodes",
            Self::Connections => "connections",
            Self::Meanwhile => "meanwhile",
        }
    }

    /// What does not grow.
    pub(crate) fn rest(self) -> &'static str {
        match self {
            Self::Keys => "3 nodes, 256 clients on one connection, values of 256 B",
            Self::Values => "3 nodes, 256 clients on one connection, 1,000 keys",
            Self::Nodes => "256 clients on one connection, 100,000 keys, values of 256 B",
            Self::Connections => {
                "3 nodes, 1,000 clients (10,000 on 10,000 connections), 100,000 keys, values of 256 B"
            }
            Self::Meanwhile => {
                "3 nodes, 256 clients on one connection, 300,000 keys, values of 256 B"
            }
        }
    }
}

impl Meanwhile {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::FollowerDown => "one follower down",
            Self::Snapshot => "a snapshot under way",
            Self::Compaction => "compaction under way",
        }
    }
}

impl Point {
    fn on(curve: Curve) -> Self {
        Self {
            curve,
            nodes: 3,
            keys: 100_000,
            value_bytes: 256,
            clients: 256,
            connections: 1,
            meanwhile: Meanwhile::Nothing,
        }
    }

    /// How large that is which grows.
    pub(crate) fn at(&self) -> String {
        match self.curve {
            Curve::Keys => self.keys.to_string(),
            Curve::Values => self.value_bytes.to_string(),
            Curve::Nodes => self.nodes.to_string(),
            Curve::Connections => self.connections.to_string(),
            Curve::Meanwhile => self.meanwhile.name().to_owned(),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}: {}", self.curve.name(), self.at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_it_is_told_to() {
        let of = |curve, keys, connections| {
            let points = all(keys, connections).into_iter().filter(|point| point.curve == curve);
            points.map(|point| point.at()).collect::<Vec<_>>()
        };
        assert_eq!(of(Curve::Keys, 1_000_000, 1), ["10000", "1000000"]);
        assert_eq!(of(Curve::Keys, u64::MAX, 1).len(), 3);
        assert_eq!(of(Curve::Connections, 1, 100), ["1", "10", "100"]);
        let all = all(10_000, 10_000);
        assert!(
            all.iter().all(|point| point.keys <= 100_000 && point.clients >= point.connections)
        );
    }
}

//! The identity file: who the node is that a data directory belongs to.
//!
//! Text, so that an operator can read it; with a checksum in its last line, so that a damaged file
//! is never mistaken for another node's:
//!
//! ```text
//! raft-identity 1
//! cluster 0123456789abcdef0123456789abcdef
//! node 1
//! incarnation 0123456789abcdef
//! crc32c 01234567
//! ```
//!
//! Every future format starts with `raft-identity` and its number, and ends with the checksum.

use raft_core::{ClusterId, Identity, Incarnation, NodeId};

/// The format this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// No identity file is longer.
pub(crate) const MAX_BYTES: u64 = 4096;

const MAGIC: &str = "raft-identity ";
const SUM: &str = "crc32c ";

/// Why a file says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is damaged, in this way.
    Damaged(&'static str),
    /// It is whole, but of this format.
    Newer(u32),
}

/// The file's content.
pub(crate) fn encode(identity: &Identity) -> String {
    let body = format!(
        "{MAGIC}{FORMAT}\ncluster {}\nnode {}\nincarnation {}\n",
        identity.cluster, identity.node, identity.incarnation
    );
    let sum = crc32c::crc32c(body.as_bytes());
    format!("{body}{SUM}{sum:08x}\n")
}

/// Reads a file's content.
pub(crate) fn decode(bytes: &[u8]) -> Result<Identity, Unreadable> {
    const NO_SUM: Unreadable = Unreadable::Damaged("it has no checksum; it was cut short");
    let damaged = Unreadable::Damaged;
    if bytes.is_empty() {
        return Err(damaged("it is empty"));
    }
    let text = str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let sum_at = text.rfind(SUM).ok_or(NO_SUM)?;
    let (body, last_line) = text.split_at(sum_at);
    if last_line != format!("{SUM}{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not match"));
    }
    parse(body, text)
}

/// Reads a body whose checksum matches.
fn parse(body: &str, text: &str) -> Result<Identity, Unreadable> {
    const SENSELESS: Unreadable = Unreadable::Damaged("its content makes no sense");
    let mut lines = body.lines();
    let mut field = |name| lines.next()?.strip_prefix(name);
    let format = field(MAGIC).and_then(|number| number.parse().ok()).ok_or(SENSELESS)?;
    if format > FORMAT {
        return Err(Unreadable::Newer(format));
    }
    let identity = (|| {
        Some(Identity {
            cluster: ClusterId(u128::from_str_radix(field("cluster ")?, 16).ok()?),
            node: field("node ")?.parse::<NodeId>().ok()?,
            incarnation: Incarnation(u64::from_str_radix(field("incarnation ")?, 16).ok()?),
        })
    })();
    match identity {
        // Comparing with what we would write leaves no room for a second spelling.
        Some(identity) if encode(&identity) == text => Ok(identity),
        Some(_) | None => Err(SENSELESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(0xfeed_beef),
            node: NodeId::new(3).unwrap(),
            incarnation: Incarnation(7),
        }
    }

    #[test]
    fn it_comes_back_as_it_was() {
        assert_eq!(decode(encode(&identity()).as_bytes()), Ok(identity()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&identity()).into_bytes();
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(matches!(decode(&bad), Err(Unreadable::Damaged(_))), "{byte} {bit}");
            }
            assert!(matches!(decode(&good[..byte]), Err(Unreadable::Damaged(_))), "cut {byte}");
        }
        let mut long = good;
        long.push(b'\n');
        assert!(matches!(decode(&long), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn a_newer_format_is_named() {
        let body = "raft-identity 2\nanything else\n";
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(decode(text.as_bytes()), Err(Unreadable::Newer(2)));
    }
}

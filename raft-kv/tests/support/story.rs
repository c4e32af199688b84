//! What is known to have happened to a few keys, to compare with what watches tell.

use std::collections::BTreeMap;

use raft_kv::{Event, EventKind, KeyRange, Revision};

/// What is known to have happened.
#[derive(Default)]
pub(crate) struct Story {
    /// The keys there are.
    pub(crate) now: BTreeMap<String, String>,
    /// By revision: key, value or gone, value before.
    lines: Vec<(Revision, String, String)>,
}

impl Story {
    /// `key` has got this value, or was deleted.
    pub(crate) fn set(&mut self, revision: Revision, key: &str, value: Option<&str>) {
        let before = match value {
            Some(value) => self.now.insert(key.to_owned(), value.to_owned()),
            None => self.now.remove(key),
        };
        let before = before.map_or_else(String::new, |value| format!(" (was {value})"));
        let what = value.map_or_else(|| " gone".to_owned(), |value| format!("={value}"));
        self.lines.push((revision, key.to_owned(), format!("{key}@{revision}{what}{before}")));
    }

    /// What a watch of `range` from `first` on has to tell.
    pub(crate) fn of(&self, range: &KeyRange, first: Revision, prev_kv: bool) -> Vec<String> {
        let lines = self
            .lines
            .iter()
            .filter(|(revision, key, _)| *revision >= first && range.contains(key.as_bytes()));
        let plain = |line: &str| line.split(" (").next().unwrap().to_owned();
        lines.map(|(_, _, line)| if prev_kv { line.clone() } else { plain(line) }).collect()
    }
}

/// An event in short, as a story tells it.
pub(crate) fn line(event: &Event) -> String {
    let kv = &event.kv;
    let what = match event.kind {
        EventKind::Put => format!("={}", kv.value.escape_ascii()),
        EventKind::Delete => " gone".to_owned(),
    };
    let before = event.prev_kv.as_ref();
    let before =
        before.map_or_else(String::new, |kv| format!(" (was {})", kv.value.escape_ascii()));
    format!("{}@{}{what}{before}", kv.key.escape_ascii(), kv.mod_revision)
}

/// The keys of random histories: so many ranges, with something in each.
pub(crate) fn some_range(number: u8) -> KeyRange {
    match number {
        0 => KeyRange::all(),
        1 => KeyRange::prefix("k1"),
        2 => KeyRange::From("k2".into()),
        3 => KeyRange::Between { first: "k0".into(), before: "k2".into() },
        _ => KeyRange::One(key(number).into()),
    }
}

pub(crate) fn key(number: u8) -> String {
    format!("k{}{}", number / 4, number % 4)
}

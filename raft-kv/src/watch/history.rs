//! Events that have happened, read from one state of the store or from what was applied last.

use bytes::Bytes;
use rocksdb::ReadOptions;

use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::record::{
    ChangeKind, Head, Noted, change_key, decode_change, key_value, old_key, parse_change_key,
    parse_old_key, shared_key_value,
};
use crate::scan::View;
use crate::unwritten;

use super::{Event, EventFilter, EventKind, Watched};

/// A change: its revision, and its number within that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) revision: Revision,
    pub(crate) number: u32,
}

impl Position {
    /// The first change of `revision`.
    pub(crate) fn of(revision: Revision) -> Self {
        Self { revision, number: 0 }
    }
}

/// Which events are wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) range: KeyRange,
    pub(super) filter: EventFilter,
    pub(super) prev_kv: bool,
}

/// One change, of which more can be told.
pub(super) trait Happened {
    /// When it happened.
    fn revision(&self) -> Revision;
    /// To which key.
    fn key(&self) -> &Bytes;
    /// What.
    fn kind(&self) -> ChangeKind;
    /// All of it, with what was there before if that is wanted.
    fn event(&self, prev_kv: bool) -> Result<Event, KvError>;

    fn event_kind(&self) -> EventKind {
        match self.kind() {
            ChangeKind::Created | ChangeKind::Modified => EventKind::Put,
            ChangeKind::Deleted => EventKind::Delete,
        }
    }
}

/// One change as it is noted. The rest stands elsewhere.
pub(super) struct Change<'a> {
    view: &'a View<'a>,
    pub(super) at: Position,
    kind: ChangeKind,
    key: Bytes,
}

impl Happened for Change<'_> {
    fn revision(&self) -> Revision {
        self.at.revision
    }

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn kind(&self) -> ChangeKind {
        self.kind
    }

    fn event(&self, prev_kv: bool) -> Result<Event, KvError> {
        let Self { view, at: Position { revision, .. }, kind, key } = self;
        let prev_kv =
            if prev_kv && kind.has_old() { Some(ended_by(view, key, *revision)?) } else { None };
        Ok(match self.event_kind() {
            EventKind::Put => {
                Event { kind: EventKind::Put, kv: written_by(view, key, *revision)?, prev_kv }
            }
            EventKind::Delete => Event::deletion(key.clone(), *revision, prev_kv),
        })
    }
}

/// All of it is in memory.
impl Happened for unwritten::Change {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn kind(&self) -> ChangeKind {
        self.kind()
    }

    fn event(&self, prev_kv: bool) -> Result<Event, KvError> {
        let before = self.before.as_ref().filter(|_| prev_kv);
        let prev_kv = before.map(|record| shared_key_value(&self.key, record)).transpose()?;
        Ok(match &self.after {
            Some(record) => {
                let kv = shared_key_value(&self.key, record)?;
                Event { kind: EventKind::Put, kv, prev_kv }
            }
            None => Event::deletion(self.key.clone(), self.revision, prev_kv),
        })
    }
}

/// Reads on from `from`: what is wanted, in at most about `room` bytes but one event at least, and not
/// more than [`SCAN_CHANGES`] changes. Says where to go on. Whole revisions, unless one alone does not
/// fit. What was compacted is not there: it is the caller's to know.
pub(super) fn read(
    view: &View<'_>,
    wanted: &Wanted,
    from: Position,
    room: usize,
) -> Result<(Watched, Position), KvError> {
    let mut events: Vec<Event> = Vec::new();
    let (mut bytes, mut revision, mut revision_start) = (0, from.revision, 0);
    let mut scanned = 0;
    let mut stop = None;
    each_change(view, from, |change| {
        if change.at.revision > revision {
            (revision, revision_start) = (change.at.revision, events.len());
            if scanned >= SCAN_CHANGES {
                stop = Some(change.at);
                return Ok(false);
            }
        }
        scanned += 1;
        if !wanted.range.contains(change.key()) || !wanted.filter.passes(change.event_kind()) {
            return Ok(true);
        }
        let event = change.event(wanted.prev_kv)?;
        bytes += event.len_bytes();
        if bytes > room && !events.is_empty() {
            stop = Some(change.at);
            return Ok(false);
        }
        events.push(event);
        Ok(true)
    })?;
    let Some(mut next) = stop else {
        let through = view.state().revision.max(Revision(from.revision.0.saturating_sub(1)));
        return Ok((Watched { events, through, more: false }, Position::of(through.next())));
    };
    if next.number > 0 && revision_start > 0 {
        // Before the revision that does not fit there is something: that is a piece.
        events.truncate(revision_start);
        next = Position::of(next.revision);
    }
    let more = next.number > 0;
    let through = if more { next.revision } else { Revision(next.revision.0 - 1) };
    Ok((Watched { events, through, more }, next))
}

/// Shows `each` change from `from` on, in order, until it says to stop by `false`.
pub(super) fn each_change<'a>(
    view: &'a View<'a>,
    from: Position,
    mut each: impl FnMut(Change<'a>) -> Result<bool, KvError>,
) -> Result<(), KvError> {
    let mut rows = view.rows(view.families().changes, None, ReadOptions::default());
    rows.seek(change_key(from.revision, from.number));
    while let Some((row, change)) = rows.item() {
        let revision = parse_change_key(row)?;
        let number = row.last_chunk().copied().map_or(0, u32::from_be_bytes);
        let Noted { kind, key, .. } = decode_change(change)?;
        let at = Position { revision, number };
        if !each(Change { view, at, kind, key: Bytes::copy_from_slice(key) })? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(KvError::storage("reading what has changed"))
}

/// The record of `key` that `revision` replaced or deleted.
fn ended_by(view: &View<'_>, key: &[u8], revision: Revision) -> Result<KeyValue, KvError> {
    match view.get(view.families().old, &old_key(key, revision))? {
        Some(record) => key_value(key, &record),
        None => Err(missing(key, revision, "what it was before")),
    }
}

/// The record of `key` that `revision` wrote.
fn written_by(view: &View<'_>, key: &Bytes, revision: Revision) -> Result<KeyValue, KvError> {
    if let Some(kv) = view.written_lately(key, revision)? {
        return Ok(kv);
    }
    if let Some(record) = view.get(view.families().latest, key)?
        && Head::decode(&record)?.0.mod_revision == revision
    {
        return key_value(key, &record);
    }
    // It has ended since: the first record that ended after it was written.
    let mut rows = view.rows(view.families().old, None, ReadOptions::default());
    rows.seek(old_key(key, revision.next()));
    if let Some((stored, record)) = rows.item()
        && parse_old_key(stored)?.0 == **key
        && Head::decode(record)?.0.mod_revision == revision
    {
        return key_value(key, record);
    }
    rows.status().map_err(KvError::storage("reading old records"))?;
    Err(missing(key, revision, "what was written"))
}

fn missing(key: &[u8], revision: Revision, what: &str) -> KvError {
    let key = key.escape_ascii();
    KvError::corrupt(format!("revision {revision} has changed \"{key}\", but {what} is missing"))
}

/// So many changes are looked at in one go, so that other reads get their turn.
const SCAN_CHANGES: usize = 16 << 10;

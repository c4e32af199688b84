//! One watch: where it is, and what it says next.

use std::sync::Arc;

use crate::error::KvError;
use crate::model::Revision;
use crate::reader::KvReader;
use crate::scan::View;

use super::history::{self, Position, Wanted};
use super::hub::{Hub, Taken, Ticket};
use super::{WatchRequest, Watched};

/// One watch. Whoever has it asks it again and again for the next [`Step`].
#[derive(Debug)]
pub(crate) struct Watcher {
    reader: KvReader,
    hub: Arc<Hub>,
    wanted: Wanted,
    /// The first change that it has not been told.
    position: Position,
    /// Its seat at the hub, if it has caught up.
    ticket: Option<Ticket>,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Say this.
    Say(Watched),
    /// Have it [read](Watcher::read), where that may take its time.
    Read,
    /// Wait for news.
    Wait,
}

impl Watcher {
    /// A watch of what `request` asks for.
    ///
    /// # Errors
    ///
    /// [`KvError::Compacted`] if it is to begin in what is compacted.
    pub(crate) fn new(reader: KvReader, request: &WatchRequest) -> Result<Self, KvError> {
        let hub = reader.hub()?;
        let from = request.from.unwrap_or_else(|| reader.revision().next());
        check_kept(from, reader.compacted())?;
        let wanted = Wanted {
            range: request.range.clone(),
            filter: request.filter,
            prev_kv: request.prev_kv,
        };
        Ok(Self { reader, hub, wanted, position: Position::of(from), ticket: None })
    }

    /// That it has begun, and where.
    pub(crate) fn begun(&self) -> Watched {
        let through = Revision(self.position.revision.0.saturating_sub(1));
        Watched { through, ..Watched::default() }
    }

    /// What comes next, without waiting for anything.
    pub(crate) fn step(&mut self) -> Step {
        let Some(ticket) = &self.ticket else { return Step::Read };
        match ticket.take(self.reader.config().max_reply_bytes) {
            Taken::News(news) => {
                self.position = Position::of(news.through.next());
                Step::Say(news)
            }
            Taken::Nothing => Step::Wait,
            Taken::Lost(revision) => {
                self.position = self.position.max(Position::of(revision));
                self.ticket = None;
                Step::Read
            }
        }
    }

    /// Reads on in the history, and takes a seat once that has come to its end. Reads the disk.
    ///
    /// # Errors
    ///
    /// [`KvError::Compacted`] if what it would have to say next is compacted; [`KvError::Storage`] or
    /// [`KvError::Corrupt`] if the store cannot be read.
    pub(crate) fn read(&mut self) -> Result<Option<Watched>, KvError> {
        let store = self.reader.store();
        let view = View::new(&store)?;
        check_kept(self.position.revision, view.state().compacted)?;
        let room = self.reader.config().max_reply_bytes;
        let (past, next) = history::read(&view, &self.wanted, self.position, room)?;
        self.position = next;
        if next.revision > view.state().revision {
            self.ticket = self.hub.sit(self.reader.live(), &self.wanted, next)?;
        }
        Ok(Some(past).filter(|past| !past.events.is_empty()))
    }

    /// Waits for news, to be called after [`Step::Wait`].
    pub(crate) async fn news(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.news().await;
        }
    }

    /// How far it has come, if there is nothing left to say.
    pub(crate) fn progress(&self) -> Option<Watched> {
        let through = self.ticket.as_ref()?.progress()?;
        Some(Watched { through, ..Watched::default() })
    }
}

fn check_kept(from: Revision, compacted: Revision) -> Result<(), KvError> {
    if from <= compacted {
        return Err(KvError::Compacted { revision: from, compacted: compacted.next() });
    }
    Ok(())
}

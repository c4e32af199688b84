//! Hashes of what the store holds, for whoever compares nodes. They read everything, so one is made at a
//! time, on a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{Answer, ErrorReply};
use crate::digest::RevisionDigest;
use crate::model::Revision;

use super::check::unreadable;
use super::{Answerer, BUSY_MS, Inner, lock};

impl Inner {
    /// Answers with the hash of a revision, which this node has to have come to. Who has not waited for the
    /// answer may ask again: the last one is kept.
    pub(super) fn digest(self: Arc<Self>, revision: Revision, reply: Answerer) {
        let inner = self.clone();
        let job = move |reply: Answerer| {
            let body = inner.digest_of(revision).map(Answer::Digest);
            reply(inner.reply(body).encode());
        };
        if let Err(reply) = self.digester.run(reply, job) {
            let message = "more hashes are asked for than can wait".to_owned();
            let body = Err(ErrorReply::Busy { retry_after_ms: BUSY_MS, message });
            reply(self.reply(body).encode());
        }
    }

    fn digest_of(&self, revision: Revision) -> Result<RevisionDigest, ErrorReply> {
        if self.reader.revision() < revision {
            return Err(ErrorReply::Behind { applied: self.reader.applied().index });
        }
        let last = *lock(&self.last_digest);
        if let Some((at, digest)) = last
            && digest.revision == revision
            && at.elapsed() < KEPT
        {
            return Ok(digest);
        }
        let digest = self.reader.revision_digest(revision).map_err(unreadable)?;
        *lock(&self.last_digest) = Some((Instant::now(), digest));
        Ok(digest)
    }
}

/// What a revision held never changes; but what the disk holds of it may.
const KEPT: Duration = Duration::from_secs(30);

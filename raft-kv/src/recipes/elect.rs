//! An election: at most one holds an office at a time, and everybody can see who and what they say.
//!
//! The queue is that of a [`Lock`]; the value of a key is what its owner has to say.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::api::ReadLevel;
use crate::client::{Client, ClientError, WatchChannel};
use crate::command::{Field, Put};
use crate::model::{KeyRange, KeyValue, Revision};
use crate::txn::{Txn, TxnOp};
use crate::watch::WatchRequest;

use super::lock::{prefix, queue_of};
use super::{Lock, RecipeError};

/// An office that is held. Dropping it resigns.
#[derive(Debug)]
pub struct Office<C: WatchChannel> {
    client: Client<C>,
    lock: Lock<C>,
}

/// Waits to be elected to the office `name`, with `value` to say. If this client is not heard of for
/// `ttl`, another is elected.
///
/// # Errors
///
/// As [`Lock::acquire`].
pub async fn campaign<C: WatchChannel>(
    client: &Client<C>,
    name: impl Into<Bytes>,
    value: impl Into<Bytes>,
    ttl: Duration,
) -> Result<Office<C>, RecipeError> {
    let lock = Lock::acquire_with(client, name, value, ttl).await?;
    Ok(Office { client: client.clone(), lock })
}

/// Who holds the office `name`, by the key in which they say something, and as of which revision.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn leader<C: WatchChannel>(
    client: &Client<C>,
    name: &[u8],
) -> Result<(Option<KeyValue>, Revision), ClientError> {
    let found = client.range(queue_of(&prefix(name)), ReadLevel::Linearizable).await?;
    Ok((found.kvs.into_iter().next(), found.revision))
}

/// Watches who holds the office `name`.
pub fn observe<C: WatchChannel>(client: &Client<C>, name: impl Into<Bytes>) -> Observer<C> {
    Observer { client: client.clone(), name: name.into(), last: None, seen: None }
}

impl<C: WatchChannel> Office<C> {
    /// Says something else.
    ///
    /// # Errors
    ///
    /// [`RecipeError::Lost`] if somebody else holds the office by now; [`RecipeError::Request`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), RecipeError> {
        let put = Put { lease: Field::Keep, ..Put::new(self.lock.key().clone(), value) };
        let compare = vec![self.lock.is_held()];
        let txn = Txn { compare, then: vec![TxnOp::Put(put)], otherwise: Vec::new() };
        if self.client.txn(txn).await?.succeeded { Ok(()) } else { Err(RecipeError::Lost) }
    }

    /// What it is held by: the key, the token, and whether it is lost.
    pub fn lock(&self) -> &Lock<C> {
        &self.lock
    }

    /// Gives it up: the next one is elected when this returns.
    ///
    /// # Errors
    ///
    /// As [`Lock::release`].
    pub async fn resign(self) -> Result<(), ClientError> {
        self.lock.release().await
    }
}

/// Tells who holds an office, again and again.
pub struct Observer<C: WatchChannel> {
    client: Client<C>,
    name: Bytes,
    /// The last one that was told.
    last: Option<KeyValue>,
    /// As of when it was looked last.
    seen: Option<Revision>,
}

impl<C: WatchChannel> Observer<C> {
    /// Waits until somebody else holds the office, or its holder says something else, and tells the key
    /// in which they say it. At first whoever holds it. Of what changes quickly only the last is told.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; to call this again goes on.
    pub async fn next(&mut self) -> Result<KeyValue, ClientError> {
        loop {
            if let Some(seen) = self.seen {
                self.wait_for_news(seen).await?;
            }
            let (found, revision) = leader(&self.client, &self.name).await?;
            self.seen = Some(revision);
            if let Some(found) = found
                && self.last.as_ref() != Some(&found)
            {
                self.last = Some(found.clone());
                return Ok(found);
            }
        }
    }

    async fn wait_for_news(&self, seen: Revision) -> Result<(), ClientError> {
        let range = KeyRange::prefix(prefix(&self.name));
        let request = WatchRequest { from: Some(seen.next()), ..WatchRequest::new(range) };
        let mut watching = self.client.watch(request);
        loop {
            match watching.next().await {
                Ok(said) if said.events.is_empty() => {}
                Ok(_) | Err(ClientError::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl<C: WatchChannel> fmt::Debug for Observer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, last, .. } = self;
        f.debug_struct("Observer").field("name", name).field("last", last).finish_non_exhaustive()
    }
}

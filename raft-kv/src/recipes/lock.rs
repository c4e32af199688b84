//! A lock: at most one holds it, in the order in which they asked.
//!
//! Who asks writes a key of their own under the lock's name, in their lease. The oldest key has the
//! lock; each of the others waits for the one before it to go, so that a release wakes one of them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::api::ReadLevel;
use crate::client::{Client, ClientError, WatchChannel};
use crate::command::{Field, Put};
use crate::model::{KeyRange, KeyValue, Revision};
use crate::range::{Content, Filter, Order, RangeRequest, Sort, SortBy};
use crate::txn::{Compare, Relation, Target};
use crate::watch::{EventFilter, WatchRequest};

use super::{RecipeError, Tenure};

/// A lock that is held. Dropping it gives it up; [`Lock::release`] also says whether that was done.
pub struct Lock<C: WatchChannel> {
    tenure: Tenure<C>,
    key: Bytes,
    token: Revision,
}

impl<C: WatchChannel> Lock<C> {
    /// Waits for the lock `name`, for as long as it takes; dropping the future gives up. If this client
    /// is not heard of for `ttl`, the lock goes to the next.
    ///
    /// A lock uses the keys under `name` and a slash. So no name may begin with another and a slash.
    ///
    /// # Errors
    ///
    /// [`RecipeError::Request`]; [`RecipeError::Lost`] if the lease ended while waiting.
    pub async fn acquire(
        client: &Client<C>,
        name: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Self, RecipeError> {
        Self::acquire_with(client, name, Bytes::new(), ttl).await
    }

    /// The same, with a value that others can read in the key.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`].
    pub async fn acquire_with(
        client: &Client<C>,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Self, RecipeError> {
        let place = Self::queue(client, name.into(), value.into(), ttl).await?;
        let lost = place.tenure.lost();
        tokio::select! {
            turn = place.turn(client) => turn?,
            () = lost => return Err(RecipeError::Lost),
        }
        Ok(place)
    }

    /// Takes the lock `name` if nobody holds it or waits for it, and `None` otherwise.
    ///
    /// # Errors
    ///
    /// [`RecipeError::Request`].
    pub async fn try_acquire(
        client: &Client<C>,
        name: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Option<Self>, RecipeError> {
        let place = Self::queue(client, name.into(), Bytes::new(), ttl).await?;
        match place.before(client).await? {
            None => Ok(Some(place)),
            Some(_) => {
                place.release().await?;
                Ok(None)
            }
        }
    }

    /// The key that stands for holding it.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// A number that is greater with each holder. Whatever the lock protects can use it to refuse one
    /// who has lost the lock and does not know it yet.
    pub fn token(&self) -> Revision {
        self.token
    }

    /// A comparison for a transaction: it holds if the lock is still held.
    pub fn is_held(&self) -> Compare {
        Compare {
            range: KeyRange::One(self.key.clone()),
            relation: Relation::Equal,
            target: Target::CreateRevision(self.token),
        }
    }

    /// The lease by which it is held: whether, and when, it is lost.
    pub fn tenure(&self) -> &Tenure<C> {
        &self.tenure
    }

    /// Gives it up: the next one has it when this returns.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; the lock then goes to the next when the lease has ended.
    pub async fn release(self) -> Result<(), ClientError> {
        self.tenure.end().await
    }

    /// Takes the last place in the queue.
    async fn queue(
        client: &Client<C>,
        name: Bytes,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Self, RecipeError> {
        let tenure = Tenure::begin(client, ttl).await?;
        let key = [&prefix(&name), format!("{:016x}", tenure.lease().0).as_bytes()].concat();
        let key = Bytes::from(key);
        let lease = Field::Set(Some(tenure.lease()));
        let put = Put { lease, ..Put::new(key.clone(), value) };
        let token = client.put_with(put).await?.revision;
        Ok(Self { tenure, key, token })
    }

    /// Waits until nobody is before us.
    async fn turn(&self, client: &Client<C>) -> Result<(), RecipeError> {
        while let Some((before, read_at)) = self.before(client).await? {
            let gone = WatchRequest {
                from: Some(read_at.next()),
                filter: EventFilter { no_put: true, no_delete: false },
                ..WatchRequest::new(KeyRange::One(before.key))
            };
            let mut watching = client.watch(gone);
            // To wait is not to fail: a lock may be waited for longer than no node is to be had. And of
            // what is compacted meanwhile, how things stand is all that matters.
            loop {
                match watching.next().await {
                    Ok(said) if said.events.is_empty() => {}
                    Ok(_) | Err(ClientError::Compacted { .. }) => break,
                    Err(ClientError::Unreachable { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The one before us, and as of when.
    async fn before(
        &self,
        client: &Client<C>,
    ) -> Result<Option<(KeyValue, Revision)>, RecipeError> {
        let name = self.key.rsplit(|byte| *byte == b'/').next().map_or(0, <[u8]>::len);
        let mut request = queue_of(&self.key[..self.key.len() - name]);
        request.sort.order = Order::Descending;
        request.filter.max_create_revision = Some(Revision(self.token.0 - 1));
        let found = client.range(request, ReadLevel::Linearizable).await?;
        Ok(found.kvs.into_iter().next().map(|kv| (kv, found.revision)))
    }
}

impl<C: WatchChannel> fmt::Debug for Lock<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenure, key, token } = self;
        f.debug_struct("Lock")
            .field("tenure", tenure)
            .field("key", key)
            .field("token", token)
            .finish()
    }
}

/// What the keys of a queue begin with.
pub(super) fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The first in the queue of which the keys begin with `prefix`.
pub(super) fn queue_of(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        limit: Some(1),
        content: Content::Full,
        sort: Sort { by: SortBy::CreateRevision, order: Order::Ascending },
        filter: Filter::default(),
        ..RangeRequest::new(KeyRange::prefix(prefix.to_vec()))
    }
}

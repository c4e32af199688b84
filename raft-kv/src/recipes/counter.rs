//! A counter that many add to: nothing is counted twice and nothing is lost.

use std::fmt;

use bytes::Bytes;

use crate::api::ReadLevel;
use crate::client::{Channel, Client};
use crate::command::Put;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::txn::{Compare, Relation, Target, Txn, TxnOp};

use super::RecipeError;

/// A whole number under a key, as decimal text. A key that is not there is 0.
pub struct Counter<C: Channel> {
    client: Client<C>,
    key: Bytes,
}

impl<C: Channel> Counter<C> {
    /// The counter under `key`.
    pub fn new(client: &Client<C>, key: impl Into<Bytes>) -> Self {
        Self { client: client.clone(), key: key.into() }
    }

    /// What it holds.
    ///
    /// # Errors
    ///
    /// [`RecipeError::Request`], [`RecipeError::NotACounter`].
    pub async fn get(&self) -> Result<i64, RecipeError> {
        self.read().await.map(|(count, _)| count)
    }

    /// Adds `delta`, and says what it holds then. Others may add at the same time: it is tried until
    /// nobody came in between.
    ///
    /// # Errors
    ///
    /// [`RecipeError::Overflow`], [`RecipeError::NotACounter`]; [`RecipeError::Request`], and after
    /// [`ClientError::Unknown`](crate::client::ClientError::Unknown) it may be added or not.
    pub async fn add(&self, delta: i64) -> Result<i64, RecipeError> {
        loop {
            let (count, written_at) = self.read().await?;
            let sum = count.checked_add(delta).ok_or(RecipeError::Overflow { count, delta })?;
            let unchanged = Compare {
                range: KeyRange::One(self.key.clone()),
                relation: Relation::Equal,
                target: Target::ModRevision(written_at),
            };
            let put = TxnOp::Put(Put::new(self.key.clone(), sum.to_string()));
            let txn = Txn { compare: vec![unchanged], then: vec![put], otherwise: Vec::new() };
            // A client's transaction is run once, however often it is sent (rule C2).
            if self.client.txn(txn).await?.succeeded {
                return Ok(sum);
            }
        }
    }

    async fn read(&self) -> Result<(i64, Revision), RecipeError> {
        let got = self.client.get(self.key.clone(), ReadLevel::Linearizable).await?;
        got.kv.map_or(Ok((0, Revision(0))), |kv| Ok((parse(&kv)?, kv.mod_revision)))
    }
}

fn parse(kv: &KeyValue) -> Result<i64, RecipeError> {
    let count = str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
    count.ok_or_else(|| RecipeError::NotACounter {
        key: kv.key.escape_ascii().to_string(),
        value: kv.value.escape_ascii().to_string(),
    })
}

impl<C: Channel> fmt::Debug for Counter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("key", &self.key).finish_non_exhaustive()
    }
}

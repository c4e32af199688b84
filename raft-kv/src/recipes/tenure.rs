//! A lease that is kept alive for as long as somebody needs it.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::Rejection;
use crate::client::{Channel, Client, ClientError};
use crate::model::LeaseId;

/// A lease, kept alive by a task of its own. Dropping it has the lease revoked, as far as that can be
/// done by then; otherwise it ends by itself.
pub struct Tenure<C: Channel> {
    client: Client<C>,
    lease: LeaseId,
    is_lost: watch::Receiver<bool>,
    keeper: JoinHandle<()>,
    is_over: bool,
}

impl<C: Channel> Tenure<C> {
    /// Is granted a lease that lives for `ttl` after the last sign of life, and keeps it. Needs a tokio
    /// runtime with time enabled, on which the task runs.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; after [`ClientError::Unknown`] there may be a lease, which ends by itself.
    pub async fn begin(client: &Client<C>, ttl: Duration) -> Result<Self, ClientError> {
        let mut asked_at = Instant::now();
        let lease = client.grant(None, ttl).await?.lease;
        // It lives from some moment since we asked. If that is long ago, because there was no leader
        // for a while, say, next to nothing of it would be sure.
        while asked_at.elapsed() > ttl / 3 {
            asked_at = Instant::now();
            client.keep_alive(lease).await?;
        }
        let (lost, is_lost) = watch::channel(false);
        let keeper = tokio::spawn(keep(client.clone(), lease, ttl, asked_at, lost));
        Ok(Self { client: client.clone(), lease, is_lost, keeper, is_over: false })
    }

    /// Which lease.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Whether the lease has ended, or may have: nobody was reached for about as long as it lives.
    pub fn is_lost(&self) -> bool {
        *self.is_lost.borrow()
    }

    /// Waits until it is lost.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut is_lost = self.is_lost.clone();
        async move {
            // Without the task nobody keeps the lease any more.
            let _ = is_lost.wait_for(|is_lost| *is_lost).await;
        }
    }

    /// Ends the lease, and deletes its keys.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; the lease then ends by itself.
    pub async fn end(mut self) -> Result<(), ClientError> {
        self.is_over = true;
        self.keeper.abort();
        match self.client.revoke(self.lease).await {
            Ok(_) | Err(ClientError::Rejected { kind: Rejection::NoSuchLease, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<C: Channel> Drop for Tenure<C> {
    fn drop(&mut self) {
        self.keeper.abort();
        if !self.is_over
            && let Ok(runtime) = Handle::try_current()
        {
            let (client, lease) = (self.client.clone(), self.lease);
            runtime.spawn(async move { client.revoke(lease).await });
        }
    }
}

impl<C: Channel> fmt::Debug for Tenure<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Keeps `lease` alive until it is lost. What counts is when a request was sent: the lease began anew
/// after that. A tenth less than its life, because our clock may go slower than the cluster's.
async fn keep<C: Channel>(
    client: Client<C>,
    lease: LeaseId,
    ttl: Duration,
    granted_at: Instant,
    lost: watch::Sender<bool>,
) {
    let sure = ttl - ttl / 10;
    let client = client.with_timeout(ttl / 3);
    let mut until = granted_at + sure;
    while Instant::now() < until {
        tokio::time::sleep_until((Instant::now() + ttl / 3).min(until)).await;
        let asked_at = Instant::now();
        // No answer after `until` can come in time.
        match tokio::time::timeout_at(until, client.keep_alive(lease)).await {
            Ok(Ok(_)) => until = asked_at + sure,
            Ok(Err(ClientError::Rejected { kind: Rejection::NoSuchLease, .. })) => break,
            Ok(Err(_)) | Err(_) => {} // There may be another try.
        }
    }
    lost.send_replace(true);
}

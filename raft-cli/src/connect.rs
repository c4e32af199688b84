//! A client's connection to a cluster, and how its errors become ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use raft_kv::api::Rejection;
use raft_kv::client::{Client, ClientError};
use raft_kv::recipes::Lock;
use raft_net_quic::{ClientLimits, QuicClient, TlsFiles};
use tokio::sync::{Mutex, MutexGuard};

use crate::args::Global;
use crate::channel::StoreChannel;
use crate::failure::{Failure, Kind};
use crate::faults;
use crate::founding::checked_address;

/// A client of the cluster. It keeps its connections and what it has learnt about who leads.
pub(crate) struct Session {
    quic: QuicClient,
    client: Client<StoreChannel>,
    /// The locks that a shell holds, by name.
    held: Mutex<BTreeMap<Bytes, Lock<StoreChannel>>>,
}

impl Session {
    /// Checks endpoints and certificates. Nothing is sent before the first request.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        Self::open_with(global, ClientLimits::default())
    }

    pub(crate) fn open_with(global: &Global, limits: ClientLimits) -> Result<Self, Failure> {
        let endpoints = global.endpoints.iter().map(|text| text.trim());
        let endpoints = endpoints
            .filter(|text| !text.is_empty())
            .map(|text| checked_address("--endpoints", text))
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Failure::usage(
                "no node is given; say --endpoints HOST:PORT,... or set RAFT_ENDPOINTS",
            ));
        }
        let tls = global.tls_dir.as_deref().ok_or_else(|| {
            Failure::usage(
                "--tls-dir is missing; give the directory that `raft tls init` made, or set \
                 RAFT_TLS_DIR",
            )
        })?;
        let quic = QuicClient::new(&client_tls(tls), limits);
        let quic = quic.map_err(|error| faults::of_certificates(&error))?;
        let client = Client::new(StoreChannel::new(quic.clone()), endpoints, global.timeout);
        Ok(Self { quic, client, held: Mutex::default() })
    }

    pub(crate) fn client(&self) -> &Client<StoreChannel> {
        &self.client
    }

    /// The locks that are held beyond one request.
    pub(crate) async fn held(&self) -> MutexGuard<'_, BTreeMap<Bytes, Lock<StoreChannel>>> {
        self.held.lock().await
    }

    /// Says goodbye, so that the nodes need not find out by a timeout. The word is sent at once;
    /// whether it has arrived is not worth the user's time.
    pub(crate) async fn close(&self) {
        for (_, lock) in std::mem::take(&mut *self.held().await) {
            // If that does not come through, the lock goes when its lease ends.
            let _ = tokio::time::timeout(RELEASE, lock.release()).await;
        }
        let _ = tokio::time::timeout(FAREWELL, self.quic.close()).await;
    }
}

const RELEASE: Duration = Duration::from_secs(1);
const FAREWELL: Duration = Duration::from_millis(5);

/// The files of a client in the directory that `raft tls init` has made.
pub(crate) fn client_tls(dir: &Path) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.pem"),
        certificate: dir.join("client.pem"),
        key: dir.join("client.key"),
    }
}

/// What a script can do about an error of the client.
pub(crate) fn client_failure(error: ClientError) -> Failure {
    let kind = match &error {
        // That passes: by deletes, or by upgrades.
        ClientError::Rejected { kind: Rejection::NoSpace | Rejection::NotActive, .. } => {
            Kind::Unavailable
        }
        ClientError::Rejected { .. } | ClientError::Compacted { .. } => Kind::Usage,
        ClientError::NotPermitted { .. } => Kind::NotPermitted,
        ClientError::NoLeader { .. }
        | ClientError::Busy { .. }
        | ClientError::Unreachable { .. }
        // A name may resolve again in a minute; how it is written was checked before.
        | ClientError::BadEndpoint { .. }
        | ClientError::Behind { .. }
        | ClientError::NotUnderstood { .. } => Kind::Unavailable,
        // An error that is added later says nothing about what it left undone.
        ClientError::Unknown { .. } | _ => Kind::UnknownOutcome,
    };
    Failure::new(kind, error)
}

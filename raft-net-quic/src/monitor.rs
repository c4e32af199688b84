//! What an operator may want to know of a transport that runs, for metrics and status pages.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::shared::lock;
use crate::tls::CertificateExpiry;

/// Tells how a transport is doing. Cloning gives another handle; it outlives the transport, and then
/// tells what was true last.
#[derive(Clone)]
pub struct Monitor {
    watched: Arc<Watched>,
}

/// What the tasks of a transport write down for its monitors.
#[derive(Debug)]
pub(crate) struct Watched {
    expiry: Mutex<CertificateExpiry>,
}

impl Monitor {
    pub(crate) fn new(watched: Arc<Watched>) -> Self {
        Self { watched }
    }

    /// When the certificates in use end.
    pub fn certificate_expiry(&self) -> CertificateExpiry {
        self.watched.expiry()
    }
}

impl Watched {
    pub(crate) fn new(expiry: CertificateExpiry) -> Self {
        Self { expiry: Mutex::new(expiry) }
    }

    pub(crate) fn expiry(&self) -> CertificateExpiry {
        *lock(&self.expiry)
    }

    pub(crate) fn set_expiry(&self, expiry: CertificateExpiry) {
        *lock(&self.expiry) = expiry;
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

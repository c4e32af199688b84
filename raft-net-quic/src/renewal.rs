//! Takes up new certificates while the node runs, and says in time that old ones end.
//!
//! The files are read again and again and compared: no event of a file system is as reliable, and three
//! small files cost nothing. They are replaced one after the other by whoever replaces them, so what does
//! not fit together is not used, and is reported only if it stays so. Connections that are there were proved
//! with what was valid then, and stay.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::config::TlsFiles;
use crate::endpoint;
use crate::error::NetError;
use crate::shared::{Shared, lock};
use crate::tls::{CertificateExpiry, Contents, Material};

/// Looks at the files every `interval`. Runs until it is aborted.
pub(crate) async fn keep_fresh(
    shared: Arc<Shared>,
    files: TlsFiles,
    mut used: Contents,
    interval: Duration,
) {
    let mut troubled = false;
    let mut reminder = Reminder::default();
    loop {
        reminder.look(&files, shared.watched.expiry());
        tokio::time::sleep(interval.max(MIN_INTERVAL)).await;
        let (looked_at, sharing) = (files.clone(), Arc::clone(&shared));
        let looking = tokio::task::spawn_blocking(move || {
            let renewed = look(&sharing, &looked_at, &used);
            (used, renewed)
        });
        let Ok((before, renewed)) = looking.await else { return }; // The runtime stops.
        used = before;
        match renewed {
            Ok(None) => troubled = false,
            Ok(Some(contents)) => {
                used = contents;
                troubled = false;
                reminder = Reminder::default();
                let path = files.certificate.display();
                info!(certificate = %path, "new certificates are in use; connections stay");
            }
            // The files may be half replaced.
            Err(_) if !troubled => troubled = true,
            Err(error) => {
                if shared.log.pass("renewal", "").is_some() {
                    warn!(%error, "changed certificates are not used; the earlier ones stay");
                }
            }
        }
    }
}

/// Uses what is in the files for connections from now on, if it is not what is used.
fn look(shared: &Shared, files: &TlsFiles, used: &Contents) -> Result<Option<Contents>, NetError> {
    let contents = Contents::read(files)?;
    if contents == *used {
        return Ok(None);
    }
    let material = Material::of(files, &contents)?;
    let names = material.check_node(shared.identity.node)?;
    if names != shared.cluster {
        let (certificate, cluster) = (files.certificate.clone(), shared.cluster.clone());
        return Err(NetError::OtherCluster { certificate, cluster, names });
    }
    let server = endpoint::server_config(&shared.limits, &material)?;
    let peer = endpoint::peer_config(shared.idle_timeout, &shared.limits, &material)?;
    shared.endpoint.set_server_config(Some(server));
    *lock(&shared.peer_config) = peer;
    shared.watched.set_expiry(material.expiry());
    Ok(Some(contents))
}

/// Warns of what ends soon, once a day.
#[derive(Debug, Default)]
struct Reminder {
    last: Option<Instant>,
}

impl Reminder {
    fn look(&mut self, files: &TlsFiles, expiry: CertificateExpiry) {
        if self.last.is_some_and(|last| last.elapsed() < A_DAY) {
            return;
        }
        for (path, ends) in
            [(&files.certificate, expiry.certificate), (&files.ca, expiry.authority)]
        {
            if let Some(days) = days_left(SystemTime::now(), ends) {
                self.last = Some(Instant::now());
                warn!(
                    file = %path.display(), days,
                    "a certificate ends soon; `raft tls renew` makes a new one, the node takes it up by itself"
                );
            }
        }
    }
}

/// Whole days until `ends`, if it is so soon that somebody should act.
fn days_left(now: SystemTime, ends: SystemTime) -> Option<u64> {
    let left = ends.duration_since(now).unwrap_or_default();
    (left <= A_DAY * WARN_DAYS).then(|| left.as_secs() / A_DAY.as_secs())
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WARN_DAYS: u32 = 30;
/// Reading files in a tight loop would be a mistake of the configuration.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_days_are_soon() {
        let now = SystemTime::now();
        let days = |days: u32| days_left(now, now + A_DAY * days);
        assert_eq!(days(31), None);
        assert_eq!(days(30), Some(30));
        assert_eq!(days(1), Some(1));
        assert_eq!(days_left(now, now + A_DAY / 2), Some(0));
        assert_eq!(days_left(now, now - A_DAY), Some(0));
    }
}

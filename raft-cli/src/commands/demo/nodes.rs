//! The nodes of a demo: child processes that never outlive it.
//!
//! Each child has a pipe as its stdin and stops when that ends. So it stops when it is told to,
//! when the demo ends in whatever way, and also when the demo is killed by SIGKILL and can tell
//! nobody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

pub(super) struct Nodes {
    home: PathBuf,
    tls: PathBuf,
    addresses: BTreeMap<u64, String>,
    children: BTreeMap<u64, Child>,
}

impl Nodes {
    /// Starts all of them and waits until each is ready.
    pub(super) fn start(home: &Path, tls: &Path, count: u16) -> Result<Self, Failure> {
        let addresses = (1..).zip(free_addresses(count)?).collect();
        let mut nodes = Self {
            home: home.to_owned(),
            tls: tls.to_owned(),
            addresses,
            children: BTreeMap::new(),
        };
        let ids: Vec<_> = nodes.addresses.keys().copied().collect();
        let ready = ids.iter().map(|id| nodes.launch(*id)).collect::<Result<Vec<_>, _>>()?;
        for (id, stdout) in ids.into_iter().zip(ready) {
            nodes.wait_until_ready(id, stdout)?;
        }
        Ok(nodes)
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.addresses.values().cloned().collect()
    }

    /// SIGKILL: the node gets no chance to finish anything.
    pub(super) fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let Some(mut child) = self.children.remove(&id) else { return Ok(()) };
        child
            .kill()
            .and_then(|()| child.wait())
            .map(|_| ())
            .map_err(|error| Failure::failed(format!("node {id} cannot be killed: {error}")))
    }

    pub(super) fn restart(&mut self, id: u64) -> Result<(), Failure> {
        let stdout = self.launch(id)?;
        self.wait_until_ready(id, stdout)
    }

    /// Fails if a node has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        for (id, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let log = log_path(&self.home, *id);
                return Err(Failure::failed(format!(
                    "node {id} has ended ({status}); it said why in {}",
                    log.display()
                )));
            }
        }
        Ok(())
    }

    /// Ends all of them and waits for it.
    pub(super) fn stop(&mut self) {
        let mut children = std::mem::take(&mut self.children);
        for child in children.values_mut() {
            // The end of its stdin is what it waits for.
            drop(child.stdin.take());
        }
        let start = Instant::now();
        for child in children.values_mut() {
            while start.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
            // One that has ended already cannot be killed; that is as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn launch(&mut self, id: u64) -> Result<ChildStdout, Failure> {
        let failed = |error| Failure::failed(format!("node {id} cannot be started: {error}"));
        let address = self.addresses.get(&id).map(String::as_str).unwrap_or_default();
        let founders: Vec<_> =
            self.addresses.iter().map(|(id, address)| format!("{id}={address}")).collect();
        let log = log_path(&self.home, id);
        let stderr = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["serve", "--exit-with-parent", "--node-id", &id.to_string()])
            .args(["--listen", address, "--bootstrap", &founders.join(",")])
            .arg("--data-dir")
            .arg(self.home.join(format!("node-{id}")))
            .arg("--tls-dir")
            .arg(&self.tls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::failed("a child has no stdout"))?;
        self.children.insert(id, child);
        Ok(stdout)
    }

    fn wait_until_ready(&self, id: u64, stdout: ChildStdout) -> Result<(), Failure> {
        let (tell, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens after the first line, but the pipe must not fill up.
                let _ = tell.send(line);
            }
        });
        match ready.recv_timeout(START) {
            Ok(line) if line.starts_with("ready ") => Ok(()),
            Ok(_) | Err(_) => Err(Failure::failed(format!(
                "node {id} is not ready after {} s; it said why in {} (give --dir to keep that)",
                START.as_secs(),
                log_path(&self.home, id).display()
            ))),
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log_path(home: &Path, id: u64) -> PathBuf {
    home.join(format!("node-{id}.log"))
}

/// Addresses that nobody has right now. All are held until the last is found, so that they differ.
fn free_addresses(count: u16) -> Result<Vec<String>, Failure> {
    let bind = |_| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        Ok((socket, address.to_string()))
    };
    let held: Result<Vec<_>, std::io::Error> = (0..count).map(bind).collect();
    let held = held.map_err(|error| Failure::failed(format!("no UDP port is free: {error}")))?;
    Ok(held.into_iter().map(|(_, address)| address).collect())
}

const START: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);

//! A cluster of processes, ours or etcd's.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Whose cluster it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Raft,
    Etcd,
}

/// How many nodes there are, and what those of ours are told beyond what is needed.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) extra: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, extra: Vec::new() }
    }
}

/// Its nodes are killed when it is dropped.
pub(crate) struct System {
    pub(crate) kind: Kind,
    setup: Setup,
    /// The binary: nodes of ours, and what makes the load on both.
    raft: PathBuf,
    dir: TempDir,
    /// One for clients, and for etcd one for its peers.
    ports: Vec<(u16, u16)>,
    nodes: Vec<Option<Child>>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Etcd => "etcd",
        }
    }
}

impl System {
    /// Starts three nodes without data and waits until a write succeeds.
    pub(crate) fn start(kind: Kind, raft: &Path, data: &Path) -> Result<Self, String> {
        Self::with(kind, Setup::default(), raft, data)
    }

    /// The same with as many nodes as are wanted.
    pub(crate) fn with(kind: Kind, setup: Setup, raft: &Path, data: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("bench-cluster-").tempdir_in(data);
        let dir = dir.map_err(|error| format!("cannot use {}: {error}", data.display()))?;
        // One more than there are nodes, for one that joins.
        let ports = free_ports(setup.nodes + 1)?;
        let raft = raft.canonicalize();
        let raft = raft.map_err(|error| format!("--raft: {error}; use `make bench-cluster`"))?;
        let nodes = (0..setup.nodes).map(|_| None).collect();
        let mut system = Self { kind, setup, raft, dir, ports, nodes };
        if kind == Kind::Raft {
            let tls = system.tls();
            let count = system.ports.len().to_string();
            let words = ["tls", "init", "--nodes", &count, "--dir"];
            done(Command::new(&system.raft).args(words).arg(tls))?;
        }
        system.launch_all()?;
        system.await_write(Duration::from_secs(30))?;
        // Leaders are elected, files made and certificates read: that is not measured here.
        thread::sleep(Duration::from_secs(1));
        Ok(system)
    }

    /// Starts all nodes, none of which is running.
    pub(crate) fn launch_all(&mut self) -> Result<(), String> {
        (0..self.nodes.len()).try_for_each(|node| self.launch(node))
    }

    /// Starts a node that is not running.
    pub(crate) fn launch(&mut self, node: usize) -> Result<(), String> {
        let data = self.data_of(node);
        let mut command = match self.kind {
            Kind::Raft => {
                let mut command = Command::new(&self.raft);
                command.args(["serve", "--node-id", &(node + 1).to_string(), "--data-dir"]);
                command.arg(data).args(["--listen", &self.address(node), "--tls-dir"]);
                command.arg(self.tls()).args(&self.setup.extra);
                if node < self.setup.nodes {
                    command.args(["--bootstrap", &self.founders("", |own, _| own)]);
                } else {
                    command.args(["--join", &self.address(0)]);
                }
                command
            }
            Kind::Etcd => {
                let (client, peer) = self.ports[node];
                let url = |port: u16| format!("http://127.0.0.1:{port}");
                let mut command = Command::new("etcd");
                command.args(["--name", &format!("n{}", node + 1), "--data-dir"]).arg(data);
                command.args(["--listen-client-urls", &url(client)]);
                command.args(["--advertise-client-urls", &url(client)]);
                command.args(["--listen-peer-urls", &url(peer)]);
                command.args(["--initial-advertise-peer-urls", &url(peer)]);
                let founders = self.founders("n", |_, peer| format!("http://{peer}"));
                command.args(["--initial-cluster", &founders, "--logger", "zap"]);
                // The keys of a run are all kept, and there is room for them.
                command.args(["--quota-backend-bytes", "8589934592", "--log-level", "error"]);
                command
            }
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("node-{node}.log")));
        let log = log.map_err(|error| format!("cannot write a log: {error}"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| format!("cannot start {}: {error}", self.kind.name()))?;
        self.nodes[node] = Some(child);
        Ok(())
    }

    /// Starts one more node, which asks to be taken in. Gives which it is.
    pub(crate) fn join(&mut self) -> Result<usize, String> {
        let node = self.nodes.len();
        self.nodes.push(None);
        self.launch(node)?;
        Ok(node)
    }

    /// Ends a node with SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.kill(); // It is our child; at most it is gone already.
            let _ = child.wait();
        }
    }

    /// Asks a node to stop with SIGTERM, and waits until it has. etcd and ours hand leadership over
    /// before.
    pub(crate) fn stop(&mut self, node: usize) -> Result<(), String> {
        let Some(mut child) = self.nodes[node].take() else { return Ok(()) };
        done(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                self.nodes[node] = Some(child);
                return Err(format!("a node of {} does not stop", self.kind.name()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends all nodes with SIGKILL.
    pub(crate) fn kill_all(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
        }
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }

    /// Where the data is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the data of a node is.
    pub(crate) fn data_of(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Child::id).collect()
    }

    /// Which node leads.
    pub(crate) fn leader(&self) -> Result<usize, String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(leader) = self.look_for_leader() {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err(format!("no node of {} leads", self.kind.name()));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The term of a cluster of ours, as its leader says.
    pub(crate) fn term(&self) -> Result<u64, String> {
        self.leader()?;
        let rows = self.status().ok_or("raft status does not answer")?;
        let terms = rows.as_array().into_iter().flatten().filter_map(|row| row["term"].as_u64());
        terms.max().ok_or_else(|| "raft status tells no term".to_owned())
    }

    /// What `raft status` says of the nodes of ours.
    pub(crate) fn status(&self) -> Option<Value> {
        let found = self.client(&["status", "-o", "json"]).output().ok()?;
        serde_json::from_slice(&found.stdout).ok()
    }

    fn look_for_leader(&self) -> Option<usize> {
        match self.kind {
            Kind::Raft => {
                let rows = self.status()?;
                let row = rows.as_array()?.iter().find(|row| row["role"] == "leader")?;
                usize::try_from(row["node_id"].as_u64()?).ok()?.checked_sub(1)
            }
            Kind::Etcd => {
                let words = ["endpoint", "status", "-w", "json"];
                let found = self.etcdctl(&words).output().ok()?;
                let rows: Value = serde_json::from_slice(&found.stdout).ok()?;
                let leads =
                    |row: &&Value| row["Status"]["leader"] == row["Status"]["header"]["member_id"];
                let row = rows.as_array()?.iter().find(leads)?;
                let endpoint = row["Endpoint"].as_str()?.to_owned();
                (0..self.setup.nodes).find(|node| endpoint.contains(&self.address(*node)))
            }
        }
    }

    /// Waits until a write succeeds. Gives how long that took.
    pub(crate) fn await_write(&self, patience: Duration) -> Result<Duration, String> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let mut command = match self.kind {
                Kind::Raft => self.client(&["put", "probe", "here", "--timeout", "1s"]),
                Kind::Etcd => self.etcdctl(&["put", "probe", "here", "--command-timeout=1s"]),
            };
            if command.output().is_ok_and(|output| output.status.success()) {
                return Ok(start.elapsed());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("{} takes no write within {patience:?}", self.kind.name()))
    }

    /// Has every node of a cluster of ours say what it holds. Fails if one holds something else than
    /// the others, or does not say. etcd is not asked.
    pub(crate) fn compare(&self) -> Result<(), String> {
        match self.kind {
            Kind::Raft => {
                let words = ["check", "consistency", "--within", "5m", "-o", "json"];
                done(&mut self.client(&words)).map(|_| ())
            }
            Kind::Etcd => Ok(()),
        }
    }

    /// `raft bench` on this cluster, with these words.
    pub(crate) fn bench(&self, words: &[&str]) -> Command {
        let mut command = match self.kind {
            Kind::Raft => self.client(&["bench"]),
            Kind::Etcd => {
                let mut command = Command::new(&self.raft);
                command.args(["bench", "--target", &format!("etcd://{}", self.endpoints())]);
                command
            }
        };
        command.args(words).args(["-o", "json", "--timeout", "15s"]).stdin(Stdio::null());
        command
    }

    pub(crate) fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.raft);
        command.args(words).args(["--endpoints", &self.endpoints(), "--tls-dir"]).arg(self.tls());
        command
    }

    fn etcdctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints()]).args(words);
        command
    }

    fn endpoints(&self) -> String {
        (0..self.setup.nodes).map(|node| self.address(node)).collect::<Vec<_>>().join(",")
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node].0)
    }

    /// `ID=ADDRESS,...` of all nodes; the address is made of that for clients and that for peers.
    fn founders(&self, prefix: &str, address: impl Fn(String, String) -> String) -> String {
        let one = |node: usize| {
            let peer = format!("127.0.0.1:{}", self.ports[node].1);
            format!("{prefix}{}={}", node + 1, address(self.address(node), peer))
        };
        (0..self.setup.nodes).map(one).collect::<Vec<_>>().join(",")
    }

    fn tls(&self) -> PathBuf {
        self.dir.path().join("tls")
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// What etcd says its version is. `None` if it or its client is missing.
pub(crate) fn etcd_version() -> Option<String> {
    let found = Command::new("etcd").arg("--version").output().ok()?;
    Command::new("etcdctl").arg("version").output().ok()?;
    String::from_utf8(found.stdout).ok()?.lines().next().map(str::to_owned)
}

/// Runs a command that has to succeed.
pub(crate) fn done(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// All are held until all are found, so that they differ.
fn free_ports(nodes: usize) -> Result<Vec<(u16, u16)>, String> {
    let none = |error| format!("no free port: {error}");
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..nodes {
        let client = TcpListener::bind("127.0.0.1:0").map_err(none)?;
        let peer = TcpListener::bind("127.0.0.1:0").map_err(none)?;
        let port = |listener: &TcpListener| listener.local_addr().map(|at| at.port()).map_err(none);
        let udp = UdpSocket::bind(("127.0.0.1", port(&client)?)).map_err(none)?;
        ports.push((port(&client)?, port(&peer)?));
        held.push((client, peer, udp));
    }
    Ok(ports)
}

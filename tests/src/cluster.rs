//! A cluster of real processes: started, killed, stopped and restarted at will.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{self, Ran, raft, raft_reading, signal};
use crate::shell::Shell;

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes found it, with the ids from 1 on.
    pub nodes: u64,
    /// Words that are added to each `raft serve`.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        // Shorter than the defaults of the binary, so that the tests spend less time waiting, and
        // long enough for a machine with two cores that runs several of them.
        let extra = ["--election-timeout", "500ms", "--heartbeat-interval", "50ms"];
        Self { nodes: 3, extra: extra.map(str::to_owned).into() }
    }
}

/// Nodes as processes, with their directories and certificates below one temporary directory.
/// Dropping it kills them and removes everything.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    options: Options,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Child>,
}

impl Cluster {
    /// Starts three nodes and waits until each says that it is ready.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts nodes as `options` has it.
    ///
    /// # Panics
    ///
    /// If a node does not come up.
    pub fn with(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        for id in cluster.ids() {
            cluster.launch(id);
        }
        cluster
    }

    /// Makes certificates and chooses addresses, and starts nothing.
    ///
    /// # Panics
    ///
    /// If the certificates cannot be made.
    pub fn prepare(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let addresses =
            (1..=options.nodes).map(|id| (id, format!("127.0.0.1:{}", free_port()))).collect();
        let cluster = Self { dir, options, addresses, running: BTreeMap::new() };
        // Certificates for a few more, which may join later.
        let count = (cluster.options.nodes + 2).to_string();
        let made = raft(["tls", "init", "--nodes", &count, "--dir", path(&cluster.tls_dir())]);
        assert_eq!(made.code, Some(0), "{made:#?}");
        cluster
    }

    /// The ids of all its nodes, running or not.
    pub fn ids(&self) -> Vec<u64> {
        self.addresses.keys().copied().collect()
    }

    /// The certificates.
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.path().join("tls")
    }

    /// The data directory of a node.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}"))
    }

    /// A directory that nobody uses yet.
    pub fn spare_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where a node listens.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn address(&self, id: u64) -> &str {
        &self.addresses[&id]
    }

    /// The addresses of these nodes, for `--endpoints`.
    pub fn endpoints(&self, ids: &[u64]) -> String {
        ids.iter().map(|id| self.address(*id)).collect::<Vec<_>>().join(",")
    }

    /// What `--bootstrap` says.
    pub fn bootstrap(&self) -> String {
        let founders = self.addresses.iter().take_while(|(id, _)| **id <= self.options.nodes);
        founders.map(|(id, at)| format!("{id}={at}")).collect::<Vec<_>>().join(",")
    }

    /// The words that start a founding node.
    pub fn serve_words(&self, id: u64) -> Vec<String> {
        let mut words = self.words_without_origin(id);
        words.extend(["--bootstrap".to_owned(), self.bootstrap()]);
        words
    }

    fn words_without_origin(&self, id: u64) -> Vec<String> {
        let mut words: Vec<String> =
            ["serve", "--node-id", &id.to_string(), "--data-dir"].map(str::to_owned).into();
        words.push(path(&self.data_dir(id)).to_owned());
        words.extend(["--listen", self.address(id), "--tls-dir"].map(str::to_owned));
        words.push(path(&self.tls_dir()).to_owned());
        words.extend(self.options.extra.iter().cloned());
        words
    }

    /// Starts a node that is not running, and waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn launch(&mut self, id: u64) {
        self.launch_with(id, self.serve_words(id));
    }

    /// Adds a node that asks the running ones to take it in, and starts it.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn join(&mut self, id: u64) {
        let others = self.endpoints(&self.running.keys().copied().collect::<Vec<_>>());
        self.addresses.insert(id, format!("127.0.0.1:{}", free_port()));
        let mut words = self.words_without_origin(id);
        words.extend(["--join".to_owned(), others]);
        self.launch_with(id, words);
    }

    /// Starts a node that is not running with these words, and waits until it says that it is
    /// ready.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn launch_with(&mut self, id: u64, words: Vec<String>) {
        assert!(!self.running.contains_key(&id), "node {id} is running");
        // Appended to, so that the story of several lives is in one place.
        let log = self.log_path(id);
        let stderr = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut child = binary::command()
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary was found, so it can be run");
        let stdout = child.stdout.take().expect("it was piped");
        let (tell, ready) = mpsc::channel();
        thread::spawn(move || {
            // Reads on after the first line, so that the node never blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let line = ready.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("node {id} is not ready:\n{}", fs::read_to_string(&log).unwrap_or_default())
        });
        assert_eq!(line, format!("ready node={id} listen={}", self.address(id)));
        self.running.insert(id, child);
    }

    /// What a node has logged in all its lives.
    pub fn log(&self, id: u64) -> String {
        fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}.log"))
    }

    /// Ends a node with SIGKILL.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn kill(&mut self, id: u64) {
        let mut child = self.running.remove(&id).expect("only a running node can be killed");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Ends all nodes with SIGKILL, as close to one moment as a process can.
    ///
    /// # Panics
    ///
    /// If one is not our child any more.
    pub fn kill_all(&mut self) {
        for child in self.running.values_mut() {
            child.kill().expect("it is our child");
        }
        for (_, mut child) in std::mem::take(&mut self.running) {
            child.wait().expect("it is our child");
        }
    }

    /// Asks a node to stop with SIGTERM and waits for it. Gives its exit code.
    ///
    /// # Panics
    ///
    /// If it is not running, or does not stop.
    pub fn stop(&mut self, id: u64) -> Option<i32> {
        let mut child = self.running.remove(&id).expect("only a running node can be stopped");
        signal("-TERM", child.id());
        let status = until("the node stops", || child.try_wait().expect("it is our child"));
        status.code()
    }

    /// Runs one client command that knows all running nodes.
    pub fn raft(&self, words: &[&str]) -> Ran {
        let ids: Vec<_> = self.running.keys().copied().collect();
        self.raft_at(&ids, words)
    }

    /// Runs one client command that knows only these nodes.
    pub fn raft_at(&self, ids: &[u64], words: &[&str]) -> Ran {
        self.client(ids, words.iter().map(OsStr::new))
    }

    /// Runs one client command whose words need not be text.
    pub fn raft_bytes(&self, words: &[&[u8]]) -> Ran {
        let ids: Vec<_> = self.running.keys().copied().collect();
        self.client(&ids, words.iter().map(|word| OsStr::from_bytes(word)))
    }

    /// Runs one client command that knows all running nodes and reads `text` from its stdin.
    ///
    /// # Panics
    ///
    /// If the text cannot be kept in a file.
    pub fn raft_reading(&self, words: &[&str], text: &str) -> Ran {
        let file = self.dir.path().join("stdin");
        fs::write(&file, text).expect("a temporary file can be written");
        let stdin = File::open(&file).expect("it was just written");
        let ids: Vec<_> = self.running.keys().copied().collect();
        raft_reading(self.client_words(&ids, words.iter().map(OsStr::new)), stdin.into())
    }

    fn client<'a>(&self, ids: &[u64], words: impl Iterator<Item = &'a OsStr>) -> Ran {
        raft(self.client_words(ids, words))
    }

    fn client_words<'a>(
        &self,
        ids: &[u64],
        words: impl Iterator<Item = &'a OsStr>,
    ) -> Vec<OsString> {
        let (endpoints, tls) = (self.endpoints(ids), self.tls_dir());
        let global = ["-o", "json", "--timeout", "15s", "--endpoints", &endpoints, "--tls-dir"];
        let global = global.map(OsString::from).into_iter().chain([tls.into()]);
        global.chain(words.map(OsString::from)).collect()
    }

    /// Starts a client that keeps its connection and knows only these nodes.
    pub fn shell_at(&self, ids: &[u64], timeout: &str) -> Shell {
        Shell::start(&self.endpoints(ids), &self.tls_dir(), timeout)
    }

    /// Starts a client that keeps its connection and knows all nodes.
    pub fn shell(&self) -> Shell {
        self.shell_at(&self.ids(), "15s")
    }

    /// What `raft status` says of each node, by id.
    ///
    /// # Panics
    ///
    /// If nobody answers.
    pub fn status(&self) -> BTreeMap<u64, Value> {
        let ran = self.raft(&["status"]);
        let Value::Array(rows) = ran.json() else { panic!("status is an array: {ran:#?}") };
        rows.into_iter()
            .map(|row| (row["node_id"].as_u64().expect("a node has an id"), row))
            .collect()
    }

    /// Waits until one running node leads and says which.
    pub fn leader(&self) -> u64 {
        until("a node leads", || {
            let ran = self.raft(&["status"]);
            let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap_or_default();
            let leads = |row: &&Value| row["role"] == "leader" && row["reachable"] == true;
            // A deposed leader may not know yet: the highest term counts.
            let leader = rows.iter().filter(leads).max_by_key(|row| row["term"].as_u64())?;
            leader["node_id"].as_u64()
        })
    }

    /// Some running node that does not lead.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        *self.running.keys().find(|id| **id != leader).expect("there is more than one node")
    }

    /// Waits until every running node has applied what the leader has committed by now.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn settle(&self) {
        let leader = self.leader();
        let target = self.status()[&leader]["commit_index"].as_u64().expect("a number");
        until("all nodes have applied it", || {
            let status = self.status();
            let done = |id| status.get(id)?["applied_index"].as_u64();
            self.running.keys().all(|id| done(id) >= Some(target)).then_some(())
        });
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "the end of the story belongs to a failed test")]
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            for id in self.ids() {
                let log = self.log(id);
                let tail = log.lines().rev().take(20).collect::<Vec<_>>();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                eprintln!("-- the end of what node {id} logged:\n{tail}");
            }
        }
    }
}

/// A UDP port of the loopback interface that nobody has right now.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("there is a free port");
    socket.local_addr().expect("a bound socket has an address").port()
}

/// Asks `question` again and again until it has an answer.
///
/// # Panics
///
/// If there is none after half a minute.
pub fn until<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

const PATIENCE: Duration = Duration::from_secs(30);

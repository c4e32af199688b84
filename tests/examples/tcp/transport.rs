//! A transport in under 300 lines of code: TCP and threads, and nothing from this project but the
//! contract.
//!
//! Each node dials each member that it is told of, twice: one connection for data, one for everything
//! else, so that heartbeats never wait behind data. A connection carries messages one way. Snapshots
//! have a connection of their own, each. What is left out is what production needs: proof of identity
//! (a hello is believed), encryption, resumed snapshots, answers to nodes that are not named.

#![allow(clippy::unwrap_used, reason = "locks: nobody panics while holding one")]

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use raft_core::testing::MemSnapshot;
use raft_core::{
    Envelope, Identity, Inbox, Message, NodeId, PeerInfo, Peers, Sent, SnapshotFile,
    SnapshotHeader, SnapshotOutcome, SnapshotSource, SnapshotTicket, Transport,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Carries messages over TCP.
#[derive(Debug)]
pub(crate) struct TcpTransport {
    shared: Arc<Shared>,
    listener: TcpListener,
}

#[derive(Debug)]
struct Shared {
    own: Identity,
    inbox: OnceLock<Inbox>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// All open connections, by number, to break them at the end; `None` once it has come.
    streams: Mutex<Option<BTreeMap<u64, TcpStream>>>,
    numbers: AtomicU64,
}

#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    lanes: [Lane; 2],
}

/// The queue of a connection, while there is one. Dropping it closes the connection.
type Lane = Arc<Mutex<Option<SyncSender<Envelope>>>>;

/// The first frame in either direction.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Hello {
    from: Identity,
    to: NodeId,
    with_snapshot: bool,
}

impl TcpTransport {
    /// Listens at `address`.
    pub(crate) fn bind(own: Identity, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let (inbox, peers, numbers) = (OnceLock::new(), Mutex::default(), AtomicU64::new(1));
        let streams = Mutex::new(Some(BTreeMap::new()));
        Ok(Self { shared: Arc::new(Shared { own, inbox, peers, streams, numbers }), listener })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Transport for TcpTransport {
    fn start(&mut self, inbox: Inbox) {
        let _ = self.shared.inbox.set(inbox);
        let listener = self.listener.try_clone().expect("a process has file descriptors to spare");
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.streams.lock().unwrap().is_none() {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.with(stream, |stream| shared.receive(stream)));
            }
        });
    }

    fn send(&self, envelope: Envelope) -> Sent {
        if envelope.from != self.shared.own.node {
            return Sent::Unreachable; // Rule L17: nobody would believe it.
        }
        let peers = self.shared.peers.lock().unwrap();
        let Some(peer) = peers.get(&envelope.to) else { return Sent::Unreachable };
        let lane = &peer.lanes[usize::from(matches!(envelope.message, Message::Append { .. }))];
        match lane.lock().unwrap().as_ref().map(|queue| queue.try_send(envelope)) {
            Some(Ok(())) => Sent::Queued,
            Some(Err(TrySendError::Full(_))) => Sent::Full,
            Some(Err(TrySendError::Disconnected(_))) | None => Sent::Unreachable,
        }
    }

    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let shared = Arc::clone(&self.shared);
        let ticket = SnapshotTicket(shared.numbers.fetch_add(1, Relaxed));
        thread::spawn(move || {
            let sent =
                shared.dial(header.to, true, |stream| stream_out(stream, &header, &mut *source));
            let outcome = sent.map_or(SnapshotOutcome::Failed, |()| SnapshotOutcome::Delivered);
            shared.inbox().snapshot_sent(header.to, ticket, outcome);
        });
        ticket
    }

    fn set_peers(&self, named: &Peers) {
        let mut peers = self.shared.peers.lock().unwrap();
        peers
            .retain(|id, peer| named.get(id).is_some_and(|info| info.address == peer.info.address));
        for (&id, info) in named.iter().filter(|(id, _)| **id != self.shared.own.node) {
            let lanes = || [self.shared.open(id), self.shared.open(id)];
            let new = || Peer { info: info.clone(), lanes: lanes() };
            peers.entry(id).or_insert_with(new).info = info.clone();
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shared.peers.lock().unwrap().clear();
        let streams = self.shared.streams.lock().unwrap().take();
        for stream in streams.into_iter().flat_map(BTreeMap::into_values) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = self.address().and_then(TcpStream::connect); // Wakes the thread that accepts.
    }
}

impl Shared {
    /// Keeps a connection to `to` for one lane, as long as the lane is there.
    fn open(self: &Arc<Self>, to: NodeId) -> Lane {
        let (shared, lane) = (Arc::clone(self), Lane::default());
        let slot = Arc::downgrade(&lane);
        thread::spawn(move || {
            loop {
                thread::sleep(PAUSE);
                if slot.strong_count() == 0 {
                    return;
                }
                let _ = shared.dial(to, false, |stream| {
                    let Some(lane) = slot.upgrade() else { return Ok(()) };
                    let (queue, messages) = sync_channel(QUEUE);
                    *lane.lock().unwrap() = Some(queue);
                    drop(lane);
                    let written = write_queued(stream, &messages);
                    slot.upgrade().map(|lane| lane.lock().unwrap().take());
                    shared.inbox().unreachable(to); // Rule S6.
                    written
                });
            }
        });
        lane
    }

    /// Connects to `to`, exchanges hellos, and uses the connection.
    fn dial(
        &self,
        to: NodeId,
        with_snapshot: bool,
        work: impl FnOnce(&TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        let info = self.named(to).ok_or(io::ErrorKind::NotFound)?;
        let address = info.address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        self.with(TcpStream::connect_timeout(&address, PATIENCE)?, |mut stream| {
            write_frame(&mut stream, &Hello { from: self.own, to, with_snapshot })?;
            let hello: Hello = read_frame(&mut stream)?;
            check(hello.from.node == to && self.accepts(&hello, Some(&info)))?;
            self.inbox().met(to, hello.from.incarnation);
            work(stream)
        })
    }

    /// Receives what another node sends on a connection that it has opened.
    fn receive(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut input = BufReader::with_capacity(64 << 10, stream);
        let hello: Hello = read_frame(&mut input)?;
        let from = hello.from.node;
        let info = self.named(from);
        check(self.accepts(&hello, info.as_ref()))?;
        write_frame(&mut stream, &Hello { from: self.own, to: from, ..hello })?;
        if hello.with_snapshot {
            let (header, snapshot) = stream_in(&mut input)?;
            check(header.from == from && header.to == self.own.node)?;
            self.inbox().snapshot(header, Box::new(snapshot));
            return stream.write_all(&[1]);
        }
        self.inbox().met(from, hello.from.incarnation);
        stream.set_read_timeout(None)?;
        loop {
            let envelope: Envelope = read_frame(&mut input)?;
            // Rule L17: in its own name, to us. And not after it was removed.
            check(envelope.from == from && envelope.to == self.own.node)?;
            check(info.is_none() || self.named(from).is_some())?;
            self.inbox().messages(vec![envelope]);
        }
    }

    /// Rules L17 and M10: of this cluster, meant for us, in the life that is recorded.
    fn accepts(&self, hello: &Hello, info: Option<&PeerInfo>) -> bool {
        let recorded = info.and_then(|info| info.incarnation);
        hello.from.cluster == self.own.cluster
            && hello.to == self.own.node
            && recorded.is_none_or(|recorded| recorded == hello.from.incarnation)
    }

    /// Uses a connection, which is broken afterwards or when the transport is dropped.
    fn with(
        &self,
        stream: TcpStream,
        work: impl FnOnce(&TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (number, copy) = (self.numbers.fetch_add(1, Relaxed), stream.try_clone()?);
        let mut streams = self.streams.lock().unwrap();
        streams.as_mut().ok_or(io::ErrorKind::NotConnected)?.insert(number, copy);
        drop(streams);
        let worked = work(&stream);
        let _ = stream.shutdown(Shutdown::Both);
        self.streams.lock().unwrap().as_mut().map(|streams| streams.remove(&number));
        worked
    }

    fn named(&self, id: NodeId) -> Option<PeerInfo> {
        self.peers.lock().unwrap().get(&id).map(|peer| peer.info.clone())
    }

    fn inbox(&self) -> &Inbox {
        self.inbox.get().expect("a transport is started before it is told of peers")
    }
}

/// Writes messages until the connection or the queue ends.
fn write_queued(mut stream: &TcpStream, messages: &Receiver<Envelope>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    loop {
        while let Ok(envelope) = messages.try_recv() {
            write_frame(&mut out, &envelope)?;
        }
        out.flush()?; // There is nothing to add.
        match messages.recv_timeout(PAUSE) {
            Ok(envelope) => write_frame(&mut out, &envelope)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            // Nothing is ever answered: whatever can be read is the end.
            Err(RecvTimeoutError::Timeout) => match stream.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Ok(()),
            },
        }
    }
}

/// Sends the header and the list of files, then their bytes. One byte says that all is there.
fn stream_out(
    mut stream: &TcpStream,
    header: &SnapshotHeader,
    source: &mut dyn SnapshotSource,
) -> io::Result<()> {
    let files = source.files().to_vec();
    write_frame(&mut stream, &(header, &files))?;
    let mut buffer = vec![0; 256 << 10];
    for (number, file) in files.iter().enumerate() {
        let mut offset = 0;
        while offset < file.bytes {
            let bytes = source.read_at(number, offset, &mut buffer)?;
            check(bytes > 0)?;
            stream.write_all(&buffer[..bytes])?;
            offset += bytes as u64;
        }
    }
    stream.read_exact(&mut [0])
}

/// Keeps a snapshot in memory, which will do for an example.
fn stream_in(input: &mut impl Read) -> io::Result<(SnapshotHeader, MemSnapshot)> {
    let (header, files): (SnapshotHeader, Vec<SnapshotFile>) = read_frame(input)?;
    let mut contents = Vec::new();
    for file in files {
        let mut content = Vec::new();
        input.take(file.bytes).read_to_end(&mut content)?;
        check(content.len() as u64 == file.bytes)?;
        contents.push((file.name, content.into()));
    }
    let snapshot = MemSnapshot::of_files(header.meta.clone(), contents);
    Ok((header, snapshot))
}

/// Writes a frame: a length in 4 bytes, and so many bytes of postcard.
fn write_frame(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
}

fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    check(length <= LARGEST)?;
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

fn check(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

const QUEUE: usize = 1024;
const LARGEST: u32 = 8 << 20;
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

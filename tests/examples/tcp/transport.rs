//! A transport of one's own: TCP, threads, and nothing from this project but the contract.
//!
//! A node dials each member twice, once for data and once for everything else, so that heartbeats never
//! wait behind data, and once more for each snapshot. A connection carries frames one way. Left out is what
//! production needs: proof of identity (a hello is believed), encryption, snapshots that are larger than
//! memory or resume, and noticing a machine that is gone without closing its connections.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use raft_core::testing::MemSnapshot;
use raft_core::{
    Envelope, Identity, Inbox, Message, NodeId, PeerInfo, Peers, Sent, SnapshotHeader,
    SnapshotOutcome, SnapshotSource, SnapshotTicket, Transport,
};
use serde::{Deserialize, Serialize};

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
    /// The connections that others have opened, by their addresses; `None` once the transport is gone.
    accepted: Mutex<Option<BTreeMap<SocketAddr, TcpStream>>>,
    tickets: AtomicU64,
}

/// A member. Dropping it ends the threads of its lanes.
#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    lanes: [Lane; 2],
}

#[derive(Debug)]
struct Lane {
    queue: SyncSender<Frame>,
    connected: Arc<AtomicBool>,
}

/// What travels. The first in either direction is a hello.
#[derive(Serialize, Deserialize)]
enum Frame {
    Hello { from: Identity, to: NodeId },
    Message(Envelope),
    Snapshot(Box<(SnapshotHeader, MemSnapshot)>),
}

impl TcpTransport {
    pub(crate) fn bind(own: Identity, address: SocketAddr) -> io::Result<Self> {
        let (inbox, peers, tickets) = (OnceLock::new(), Mutex::default(), AtomicU64::new(1));
        let accepted = Mutex::new(Some(BTreeMap::new()));
        let shared = Arc::new(Shared { own, inbox, peers, accepted, tickets });
        Ok(Self { shared, listener: TcpListener::bind(address)? })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Transport for TcpTransport {
    fn start(&mut self, inbox: Inbox) {
        let _ = self.shared.inbox.set(inbox);
        let (shared, listener) = (Arc::clone(&self.shared), self.listener.try_clone().unwrap());
        thread::spawn(move || {
            while let Ok((stream, from)) = listener.accept() {
                let Some(accepted) = &mut *shared.accepted.lock().unwrap() else { return };
                let (Ok(copy), shared) = (stream.try_clone(), Arc::clone(&shared)) else {
                    continue;
                };
                accepted.insert(from, copy);
                thread::spawn(move || {
                    let _ = shared.receive(stream); // It ends in one way or another.
                    shared.accepted.lock().unwrap().as_mut().map(|open| open.remove(&from));
                });
            }
        });
    }

    fn send(&self, envelope: Envelope) -> Sent {
        let peers = self.shared.peers.lock().unwrap();
        let Some(peer) = peers.get(&envelope.to) else { return Sent::Unreachable };
        let lane = &peer.lanes[usize::from(matches!(envelope.message, Message::Append { .. }))];
        if !lane.connected.load(Relaxed) {
            return Sent::Unreachable;
        }
        match lane.queue.try_send(Frame::Message(envelope)) {
            Ok(()) => Sent::Queued,
            Err(TrySendError::Full(_)) => Sent::Full,
            Err(TrySendError::Disconnected(_)) => Sent::Unreachable,
        }
    }

    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let ticket = SnapshotTicket(self.shared.tickets.fetch_add(1, Relaxed));
        let (shared, to) = (Arc::clone(&self.shared), header.to);
        thread::spawn(move || {
            let sent = shared.dial(to).and_then(|mut stream| {
                let snapshot = MemSnapshot::receive(header.meta.clone(), &mut *source)?;
                write_frame(&mut stream, &Frame::Snapshot(Box::new((header, snapshot))))?;
                stream.read_exact(&mut [0]) // All of it is there.
            });
            let outcome = sent.map_or(SnapshotOutcome::Failed, |()| SnapshotOutcome::Delivered);
            shared.inbox().snapshot_sent(to, ticket, outcome);
        });
        ticket
    }

    fn set_peers(&self, named: &Peers) {
        let mut peers = self.shared.peers.lock().unwrap();
        peers.retain(|id, peer| named.get(id) == Some(&peer.info));
        for (&id, info) in named.iter().filter(|(id, _)| **id != self.shared.own.node) {
            let lanes = || [self.shared.open(id), self.shared.open(id)];
            peers.entry(id).or_insert_with(|| Peer { info: info.clone(), lanes: lanes() });
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shared.peers.lock().unwrap().clear();
        let accepted = self.shared.accepted.lock().unwrap().take().unwrap_or_default();
        accepted.values().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
        let _ = self.address().and_then(TcpStream::connect); // Wakes the thread that accepts.
    }
}

impl Shared {
    /// Keeps a connection to `to` for one lane, as long as the lane is there.
    fn open(self: &Arc<Self>, to: NodeId) -> Lane {
        let (queue, queued) = sync_channel(1024);
        let (shared, connected) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
        let lane = Lane { queue, connected: Arc::clone(&connected) };
        thread::spawn(move || {
            while !matches!(queued.try_recv(), Err(TryRecvError::Disconnected)) {
                if let Ok(stream) = shared.dial(to) {
                    connected.store(true, Relaxed);
                    let _ = write_queued(&stream, &queued); // Until it fails.
                    connected.store(false, Relaxed);
                    shared.inbox().unreachable(to); // Rule S6.
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        lane
    }

    /// Connects to `to` and exchanges hellos.
    fn dial(&self, to: NodeId) -> io::Result<TcpStream> {
        let address = self.peers.lock().unwrap().get(&to).map(|peer| peer.info.address.clone());
        let address = address.ok_or(io::ErrorKind::NotFound)?.to_socket_addrs()?.next();
        let address = address.ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        self.prepare(&stream)?;
        write_frame(&mut stream, &Frame::Hello { from: self.own, to })?;
        check(self.greet(&mut stream)?.node == to)?;
        Ok(stream)
    }

    /// Receives what another node sends on a connection that it has opened.
    fn receive(&self, stream: TcpStream) -> io::Result<()> {
        self.prepare(&stream)?;
        let mut input = BufReader::with_capacity(64 << 10, &stream);
        let from = self.greet(&mut input)?;
        write_frame(&mut &stream, &Frame::Hello { from: self.own, to: from.node })?;
        stream.set_read_timeout(None)?;
        let route = (from.node, self.own.node);
        while let Ok(frame) = read_frame(&mut input) {
            self.check_life(from)?;
            match frame {
                // Rule L17: in its own name, to us.
                Frame::Message(envelope) if (envelope.from, envelope.to) == route => {
                    self.inbox().messages(vec![envelope]);
                }
                Frame::Snapshot(sent) if (sent.0.from, sent.0.to) == route => {
                    self.inbox().snapshot(sent.0, Box::new(sent.1));
                    (&stream).write_all(&[1])?;
                }
                Frame::Message(_) | Frame::Snapshot(_) | Frame::Hello { .. } => break,
            }
        }
        self.inbox().unreachable(from.node);
        Ok(())
    }

    /// Reads a hello. Rule L17: of this cluster, meant for us.
    fn greet(&self, input: &mut impl Read) -> io::Result<Identity> {
        let Frame::Hello { from, to } = read_frame(input)? else { return Err(refused()) };
        check(from.cluster == self.own.cluster && to == self.own.node)?;
        self.check_life(from)?;
        self.inbox().met(from.node, from.incarnation);
        Ok(from)
    }

    /// Rule M10: in the life that is recorded.
    fn check_life(&self, of: Identity) -> io::Result<()> {
        let peers = self.peers.lock().unwrap();
        let recorded = peers.get(&of.node).and_then(|peer| peer.info.incarnation);
        check(recorded.is_none_or(|recorded| recorded == of.incarnation))
    }

    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))
    }

    fn inbox(&self) -> &Inbox {
        self.inbox.get().expect("a transport is started before it is told of peers")
    }
}

/// Writes frames until the connection or the queue ends; those that wait together, at once.
fn write_queued(stream: &TcpStream, queued: &Receiver<Frame>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    for frame in queued {
        write_frame(&mut out, &frame)?;
        while let Ok(frame) = queued.try_recv() {
            write_frame(&mut out, &frame)?;
        }
        out.flush()?;
    }
    Ok(())
}

/// Writes a length in 4 bytes, and so many bytes of postcard.
fn write_frame(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let bytes = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
}

fn read_frame(input: &mut impl Read) -> io::Result<Frame> {
    let (mut length, mut bytes) = ([0; 4], Vec::new());
    input.read_exact(&mut length)?;
    input.take(u32::from_le_bytes(length).into()).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

fn check(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(refused()) }
}

fn refused() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

const PATIENCE: Duration = Duration::from_secs(5);

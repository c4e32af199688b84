//! A transport on one stream of bytes: TCP, or TLS on it. What a careful person writes with tokio in
//! a day.
//!
//! The same frames as raft-net-quic has them, many in one write; a bounded queue, a task that writes
//! and a task that reads. It does less: one lane, no peers that come and go, no snapshots, nobody to
//! refuse.

use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, BytesMut};
use raft_core::{
    Envelope, Inbox, Peers, Sent, SnapshotHeader, SnapshotSource, SnapshotTicket, Transport,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// One end of it.
pub struct StreamTransport {
    queue: Sender<Envelope>,
    inbox: Arc<OnceLock<Inbox>>,
}

impl StreamTransport {
    /// Carries messages on `stream`.
    pub fn new<S>(runtime: &Handle, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (input, output) = tokio::io::split(stream);
        let (queue, queued) = channel(QUEUE);
        let inbox = Arc::default();
        runtime.spawn(read(input, Arc::clone(&inbox)));
        runtime.spawn(write(output, queued));
        Self { queue, inbox }
    }
}

impl Transport for StreamTransport {
    fn start(&mut self, inbox: Inbox) {
        assert!(self.inbox.set(inbox).is_ok(), "started once");
    }

    fn send(&self, envelope: Envelope) -> Sent {
        match self.queue.try_send(envelope) {
            Ok(()) => Sent::Queued,
            Err(TrySendError::Full(_)) => Sent::Full,
            Err(TrySendError::Closed(_)) => Sent::Unreachable,
        }
    }

    fn send_snapshot(&self, _: SnapshotHeader, _: Box<dyn SnapshotSource>) -> SnapshotTicket {
        unimplemented!("nobody asks for it here")
    }

    fn set_peers(&self, _: &Peers) {}
}

async fn write<S: AsyncWrite>(mut output: WriteHalf<S>, mut queued: Receiver<Envelope>) {
    let (mut batch, mut out) = (Vec::new(), Vec::new());
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        for envelope in batch.drain(..) {
            let start = out.len();
            out.put_u32_le(0);
            out = postcard::to_extend(&envelope, out).unwrap();
            let bytes = u32::try_from(out.len() - start - 4).unwrap();
            out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
            if out.len() >= BATCH_BYTES {
                output.write_all(&out).await.unwrap();
                out.clear();
            }
        }
        // TLS keeps what it has encrypted until it is told.
        if output.write_all(&out).await.is_err() || output.flush().await.is_err() {
            return; // The other side is gone.
        }
        out.clear();
    }
}

async fn read<S: AsyncRead>(mut input: ReadHalf<S>, inbox: Arc<OnceLock<Inbox>>) {
    let mut buffer = BytesMut::with_capacity(BATCH_BYTES);
    while let Ok(1..) = input.read_buf(&mut buffer).await {
        let mut arrived = Vec::new();
        while let Some(header) = buffer.first_chunk::<4>() {
            let bytes = usize::try_from(u32::from_le_bytes(*header)).unwrap();
            if buffer.len() < 4 + bytes {
                break;
            }
            buffer.advance(4);
            arrived.push(postcard::from_bytes(&buffer.split_to(bytes)).unwrap());
        }
        buffer.reserve(BATCH_BYTES);
        inbox.get().unwrap().messages(arrived);
    }
}

/// As many messages as raft-net-quic queues for a lane, and about as much in one write.
const QUEUE: usize = 4096;
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;

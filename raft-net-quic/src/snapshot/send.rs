//! Sends a snapshot, in pieces that are read just in time.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::SendStream;
use raft_core::{NodeId, SnapshotHeader, SnapshotOutcome, SnapshotSource, SnapshotTicket};
use tracing::{info, warn};

use crate::frame::{self, FrameReader};
use crate::shared::Shared;
use crate::snapshot::CHUNK_BYTES;
use crate::wire::{OPENING_FRAME_BYTES, SNAPSHOT_PRIORITY, SnapshotAnswer, SnapshotOpening};

/// Reports what became of a ticket, exactly once: dropping it reports a failure.
pub(crate) struct Outcome {
    shared: Arc<Shared>,
    to: NodeId,
    ticket: SnapshotTicket,
    outcome: SnapshotOutcome,
}

impl Outcome {
    /// An outcome that is a failure unless it becomes something else.
    pub(crate) fn new(shared: Arc<Shared>, to: NodeId, ticket: SnapshotTicket) -> Self {
        Self { shared, to, ticket, outcome: SnapshotOutcome::Failed }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.shared.deliver(|inbox| inbox.snapshot_sent(self.to, self.ticket, self.outcome));
    }
}

/// Why a snapshot was not sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("there is no connection")]
    Unreachable,
    #[error("the receiver refused: {0}")]
    Refused(String),
    #[error("the transfer broke off: {0}")]
    Broken(String),
    #[error("cannot read {name}: {source}")]
    Source { name: String, source: io::Error },
}

/// Sends a snapshot and reports the outcome.
pub(crate) async fn send(
    shared: Arc<Shared>,
    header: SnapshotHeader,
    source: Box<dyn SnapshotSource>,
    mut outcome: Outcome,
) {
    let (to, last) = (header.to, header.meta.last);
    let Ok(_place) = Arc::clone(&shared.slots.snapshots_sent).acquire_owned().await else { return };
    match transfer(&shared, header, source).await {
        Ok(()) => {
            info!(peer = %to, %last, "sent a snapshot");
            outcome.outcome = SnapshotOutcome::Delivered;
        }
        Err(error) => {
            if let Some(suppressed) = shared.log.pass("snapshot out", &to.to_string()) {
                warn!(peer = %to, %last, %error, suppressed, "snapshot not sent");
            }
        }
    }
}

async fn transfer(
    shared: &Arc<Shared>,
    header: SnapshotHeader,
    mut source: Box<dyn SnapshotSource>,
) -> Result<(), SendError> {
    let link = shared.registry.link(header.to).ok_or(SendError::Unreachable)?;
    let (stream, answers) = link.connection.open_bi().await.map_err(broken)?;
    stream.set_priority(SNAPSHOT_PRIORITY).map_err(broken)?;
    let mut answers = FrameReader::new(answers, OPENING_FRAME_BYTES);
    let mut sink = Sink { stream, stall_timeout: shared.limits.stall_timeout };

    let files = source.files().to_vec();
    info!(peer = %header.to, last = %header.meta.last, files = files.len(), "sending a snapshot");
    let mut frame = BytesMut::new();
    let opening = SnapshotOpening { header, files: files.clone() };
    frame::encode(&opening, OPENING_FRAME_BYTES, &mut frame).map_err(broken)?;
    sink.write(frame.freeze()).await?;
    let (mut number, mut offset) = match next_answer(shared, &mut answers).await? {
        SnapshotAnswer::From { file, offset } => (usize::try_from(file).map_err(broken)?, offset),
        SnapshotAnswer::Refused(why) => return Err(SendError::Refused(printable(&why))),
        SnapshotAnswer::Complete => {
            return Err(SendError::Broken("complete before it began".into()));
        }
    };
    if (number, offset) != (0, 0) {
        return Err(SendError::Broken("the receiver asks for the middle of it".to_owned()));
    }
    while let Some(file) = files.get(number) {
        let mut checksum = 0;
        while offset < file.bytes {
            let left = usize::try_from(file.bytes - offset).unwrap_or(usize::MAX);
            let chunk;
            (source, chunk) = read(source, number, offset, left.min(CHUNK_BYTES)).await?;
            offset += u64::try_from(chunk.len()).map_err(broken)?;
            checksum = crc32c::crc32c_append(checksum, &chunk);
            if let Err(error) = sink.write(chunk).await {
                return Err(refusal(shared, &mut answers).await.unwrap_or(error));
            }
        }
        let checksum = Bytes::copy_from_slice(&checksum.to_le_bytes());
        if let Err(error) = sink.write(checksum).await {
            return Err(refusal(shared, &mut answers).await.unwrap_or(error));
        }
        (number, offset) = (number + 1, 0);
    }
    sink.stream.finish().map_err(broken)?;
    match next_answer(shared, &mut answers).await? {
        SnapshotAnswer::Complete => Ok(()),
        SnapshotAnswer::Refused(why) => Err(SendError::Refused(printable(&why))),
        SnapshotAnswer::From { .. } => Err(SendError::Broken("asked for twice".to_owned())),
    }
}

/// Reads a piece on a thread that may block.
async fn read(
    mut source: Box<dyn SnapshotSource>,
    file: usize,
    offset: u64,
    bytes: usize,
) -> Result<(Box<dyn SnapshotSource>, Bytes), SendError> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; bytes];
        let result = source.read_at(file, offset, &mut buffer);
        (source, buffer, result)
    });
    let (source, mut buffer, result) = reading.await.map_err(broken)?;
    let filled = result.and_then(|filled| {
        // The length was announced and does not change while the snapshot lives.
        if filled == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(filled) }
    });
    match filled {
        Ok(filled) => {
            buffer.truncate(filled);
            Ok((source, Bytes::from(buffer)))
        }
        Err(error) => {
            let name = source.files().get(file).map_or_else(String::new, |file| file.name.clone());
            Err(SendError::Source { name, source: error })
        }
    }
}

/// The stream that is written to. It is reset unless it was finished, so that the receiver never
/// takes a part for the whole.
struct Sink {
    stream: SendStream,
    stall_timeout: std::time::Duration,
}

impl Sink {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SendError> {
        match tokio::time::timeout(self.stall_timeout, self.stream.write_chunk(bytes)).await {
            Ok(written) => written.map_err(broken),
            Err(_) => Err(SendError::Broken("the receiver takes nothing any more".to_owned())),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Does nothing to a stream that was finished and acknowledged.
        let _ = self.stream.reset(quinn::VarInt::from_u32(0));
    }
}

async fn next_answer(
    shared: &Shared,
    answers: &mut FrameReader,
) -> Result<SnapshotAnswer, SendError> {
    let frame = match tokio::time::timeout(shared.limits.stall_timeout, answers.next()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return Err(SendError::Broken("no answer".to_owned())),
        Ok(Err(fault)) => return Err(broken(fault)),
        Err(_) => return Err(SendError::Broken("no answer in time".to_owned())),
    };
    frame::decode(&frame).map_err(broken)
}

/// Why the receiver takes no more, if it says so.
async fn refusal(shared: &Shared, answers: &mut FrameReader) -> Option<SendError> {
    match next_answer(shared, answers).await {
        Ok(SnapshotAnswer::Refused(why)) => Some(SendError::Refused(printable(&why))),
        Ok(SnapshotAnswer::From { .. } | SnapshotAnswer::Complete) | Err(_) => None,
    }
}

/// What the other side wrote goes to our log: without control characters, and not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

fn broken(error: impl ToString) -> SendError {
    SendError::Broken(error.to_string())
}

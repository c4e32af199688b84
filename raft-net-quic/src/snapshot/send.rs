//! Sends a snapshot, in pieces that are read just in time, and takes it up again when a connection was
//! lost and comes back.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::SendStream;
use raft_core::{
    NodeId, SnapshotFile, SnapshotHeader, SnapshotOutcome, SnapshotSource, SnapshotTicket,
};
use tracing::{info, warn};

use crate::frame::{self, FrameReader};
use crate::monitor::{SnapshotDirection, SnapshotProgress, Transfer};
use crate::peer::link::Link;
use crate::shared::Shared;
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
    match Sending::new(&shared, header, source).run().await {
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

/// A snapshot on its way, over as many connections as it takes.
struct Sending<'a> {
    shared: &'a Arc<Shared>,
    header: SnapshotHeader,
    files: Vec<SnapshotFile>,
    /// `None` while it is read, on another thread.
    source: Option<Box<dyn SnapshotSource>>,
    /// Of the files that were read to their end.
    checksums: Vec<u32>,
    /// What the receiver had when it was asked last.
    reached_bytes: u64,
    progress: Transfer,
}

impl<'a> Sending<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        header: SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> Self {
        let files = source.files().to_vec();
        let progress = SnapshotProgress {
            peer: header.to,
            direction: SnapshotDirection::Outgoing,
            last: header.meta.last,
            bytes: 0,
            total_bytes: files.iter().map(|file| file.bytes).sum(),
        };
        let progress = shared.watched.begin(shared.next_number(), progress);
        let (checksums, reached_bytes) = (Vec::new(), 0);
        Self { shared, header, files, source: Some(source), checksums, reached_bytes, progress }
    }

    /// Sends it, and goes on where it broke off when a lost connection comes back soon.
    async fn run(mut self) -> Result<(), SendError> {
        let mut link = self.shared.registry.link(self.header.to).ok_or(SendError::Unreachable)?;
        let mut in_vain = 0;
        loop {
            let before = self.reached_bytes;
            let Err(error) = self.attempt(&link).await else { return Ok(()) };
            in_vain = if self.reached_bytes > before { 0 } else { in_vain + 1 };
            if link.is_open() || in_vain > MAX_IN_VAIN {
                return Err(error);
            }
            link = next_link(self.shared, self.header.to).await.ok_or(error)?;
            info!(peer = %self.header.to, last = %self.header.meta.last, "resuming a snapshot");
        }
    }

    /// Sends what the receiver does not have, on this connection.
    async fn attempt(&mut self, link: &Link) -> Result<(), SendError> {
        let (stream, answers) = link.connection.open_bi().await.map_err(broken)?;
        stream.set_priority(SNAPSHOT_PRIORITY).map_err(broken)?;
        let mut answers = FrameReader::new(answers, OPENING_FRAME_BYTES);
        let mut sink = Sink { stream, stall_timeout: self.shared.limits.stall_timeout };
        let (peer, last) = (self.header.to, self.header.meta.last);
        info!(%peer, %last, files = self.files.len(), "sending a snapshot");
        let opening = SnapshotOpening { header: self.header.clone(), files: self.files.clone() };
        let mut frame = BytesMut::new();
        frame::encode(&opening, OPENING_FRAME_BYTES, &mut frame).map_err(broken)?;
        sink.write(frame.freeze()).await?;
        let start = match next_answer(self.shared, &mut answers).await? {
            SnapshotAnswer::From { file, offset } => self.start(file, offset)?,
            SnapshotAnswer::Refused(why) => return Err(SendError::Refused(printable(&why))),
            SnapshotAnswer::Complete => {
                return Err(SendError::Broken("complete before it began".into()));
            }
        };
        if let Err(error) = self.write_files(&mut sink, start).await {
            // The receiver may have said why it takes no more.
            let theirs = matches!(error, SendError::Broken(_)) && link.is_open();
            let why = if theirs { refusal(self.shared, &mut answers).await } else { None };
            return Err(why.unwrap_or(error));
        }
        sink.stream.finish().map_err(broken)?;
        match next_answer(self.shared, &mut answers).await? {
            SnapshotAnswer::Complete => Ok(()),
            SnapshotAnswer::Refused(why) => Err(SendError::Refused(printable(&why))),
            SnapshotAnswer::From { .. } => Err(SendError::Broken("asked for twice".to_owned())),
        }
    }

    /// Where the receiver wants to begin, if there is such a place.
    fn start(&mut self, file: u32, offset: u64) -> Result<(usize, u64), SendError> {
        let file = usize::try_from(file).map_err(broken)?;
        let bytes = self.files.get(file).map_or(0, |file| file.bytes);
        if file > self.files.len() || offset > bytes {
            return Err(SendError::Broken("asked for what is not there".to_owned()));
        }
        self.reached_bytes = self.files[..file].iter().map(|file| file.bytes).sum::<u64>() + offset;
        Ok((file, offset))
    }

    /// Writes the files from `start` on, and the checksum of each: also of those that the receiver
    /// has, or it could take parts of two snapshots for one.
    async fn write_files(&mut self, sink: &mut Sink, start: (usize, u64)) -> Result<(), SendError> {
        let mut through_bytes = self.reached_bytes;
        self.progress.reached(through_bytes);
        for number in 0..self.files.len() {
            let bytes = self.files[number].bytes;
            let mut offset = match number.cmp(&start.0) {
                Ordering::Less => bytes,
                Ordering::Equal => start.1,
                Ordering::Greater => 0,
            };
            let mut checksum = self.checksum(number, offset).await?;
            while offset < bytes {
                let chunk = self.read(number, offset, bytes).await?;
                self.shared.pace.wait(chunk.len()).await;
                let length = u64::try_from(chunk.len()).map_err(broken)?;
                checksum = crc32c::crc32c_append(checksum, &chunk);
                sink.write(chunk).await?;
                offset += length;
                through_bytes += length;
                self.progress.reached(through_bytes);
            }
            if self.checksums.len() == number {
                self.checksums.push(checksum);
            }
            sink.write(Bytes::copy_from_slice(&checksum.to_le_bytes())).await?;
        }
        Ok(())
    }

    /// The checksum of a file up to `end`.
    async fn checksum(&mut self, file: usize, end: u64) -> Result<u32, SendError> {
        if let Some(known) = self.checksums.get(file)
            && end == self.files[file].bytes
        {
            return Ok(*known);
        }
        let (mut checksum, mut offset) = (0, 0);
        while offset < end {
            let chunk = self.read(file, offset, end).await?;
            checksum = crc32c::crc32c_append(checksum, &chunk);
            offset += u64::try_from(chunk.len()).map_err(broken)?;
        }
        Ok(checksum)
    }

    /// Reads a piece that does not go beyond `end`, on a thread that may block.
    async fn read(&mut self, file: usize, offset: u64, end: u64) -> Result<Bytes, SendError> {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let bytes = left.min(self.shared.pace.chunk_bytes());
        let Some(mut source) = self.source.take() else {
            return Err(SendError::Broken("the snapshot is gone".to_owned()));
        };
        let reading = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; bytes];
            let result = source.read_at(file, offset, &mut buffer);
            (source, buffer, result)
        });
        let (source, mut buffer, result) = reading.await.map_err(broken)?;
        self.source = Some(source);
        let filled = result.and_then(|filled| {
            // The length was announced and does not change while the snapshot lives.
            if filled == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(filled) }
        });
        match filled {
            Ok(filled) => {
                buffer.truncate(filled);
                Ok(Bytes::from(buffer))
            }
            Err(source) => Err(SendError::Source { name: self.files[file].name.clone(), source }),
        }
    }
}

/// Waits for another connection to `to`.
async fn next_link(shared: &Shared, to: NodeId) -> Option<Arc<Link>> {
    let until = Instant::now() + RECONNECT;
    while Instant::now() < until && !shared.registry.is_stopped() {
        match shared.registry.link(to) {
            Some(link) if link.is_open() => return Some(link),
            Some(_) | None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    None
}

/// The stream that is written to. It is reset unless it was finished, so that the receiver never
/// takes a part for the whole.
struct Sink {
    stream: SendStream,
    stall_timeout: Duration,
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

/// How long a lost connection is waited for. The leader begins anew after that.
const RECONNECT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Attempts in a row that bring the receiver nothing.
const MAX_IN_VAIN: u32 = 3;

//! Receives a snapshot: trusts nothing that is announced, keeps nothing that is not verified.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::num::TryFromIntError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use raft_core::{NodeId, SnapshotFile};
use tracing::{info, warn};

use crate::config::Limits;
use crate::frame::{self, FrameReader, ReadFault};
use crate::monitor::{SnapshotDirection, SnapshotProgress, Transfer};
use crate::shared::Shared;
use crate::snapshot::arrived::{Arrived, Directory};
use crate::snapshot::kept::{Part, Shelf};
use crate::snapshot::{CHECKSUM_BYTES, CHUNK_BYTES};
use crate::wire::{OPENING_FRAME_BYTES, SnapshotAnswer, SnapshotOpening};

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    /// The sender is told why, and may try again later.
    #[error("{0}")]
    Refused(String),
    /// The sender has stopped sending it.
    #[error("the transfer broke off: {0}")]
    Broken(String),
    /// The connection is gone or dead; it may come back.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

/// Receives the snapshot that `from` sends on this stream, and hands it to the node.
pub(crate) async fn receive(
    shared: Arc<Shared>,
    from: NodeId,
    mut answers: SendStream,
    stream: RecvStream,
) {
    let mut frames = FrameReader::new(stream, OPENING_FRAME_BYTES);
    let limit = shared.limits.stall_timeout;
    let opening = match tokio::time::timeout(limit, frames.next()).await {
        Ok(Ok(Some(frame))) => frame::decode::<SnapshotOpening>(&frame).map_err(ReadFault::from),
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(fault)) => Err(fault),
    };
    let result = match opening {
        Ok(opening) => take(&shared, from, opening, frames, &mut answers).await,
        Err(ReadFault::Stream(_)) => return,
        Err(ReadFault::Frame(fault)) => Err(ReceiveError::Refused(fault.to_string())),
    };
    let answer = match result {
        Ok(()) => SnapshotAnswer::Complete,
        Err(error) => {
            if let Some(suppressed) = shared.log.pass("snapshot in", &from.to_string()) {
                warn!(peer = %from, %error, suppressed, "snapshot not received");
            }
            match error {
                ReceiveError::Refused(why) => SnapshotAnswer::Refused(why),
                ReceiveError::Broken(_) | ReceiveError::Lost(_) => return,
            }
        }
    };
    let told = answer_with(&mut answers, &answer).await;
    if told.is_ok() && answers.finish().is_ok() {
        // The answer is kept until it has arrived, or the connection is gone.
        let arrived = answers.stopped();
        let _ = tokio::time::timeout(limit, arrived).await;
    }
}

async fn take(
    shared: &Arc<Shared>,
    from: NodeId,
    opening: SnapshotOpening,
    frames: FrameReader,
    answers: &mut SendStream,
) -> Result<(), ReceiveError> {
    let SnapshotOpening { header, files } = opening;
    // Rule L17: a node speaks in its own name, to us.
    if header.from != from || header.to != shared.identity.node {
        let detail = format!("from node {} to node {}", header.from, header.to);
        return Err(ReceiveError::Refused(detail));
    }
    check_files(&files, &shared.limits).map_err(ReceiveError::Refused)?;
    let slots = Arc::clone(&shared.slots.snapshots_received);
    let Ok(_place) = slots.try_acquire_owned() else {
        return Err(ReceiveError::Refused("other snapshots are being received".to_owned()));
    };
    let mut part = resume_or_begin(shared, from, SnapshotOpening { header, files }).await?;
    let last = part.opening.header.meta.last;
    info!(peer = %from, %last, at_bytes = part.bytes(), "receiving a snapshot");
    let had_bytes = part.bytes();
    let mut source = Source::new(shared, frames);
    match fill(&mut part, &mut source, answers).await {
        Ok(()) => {}
        Err(error @ ReceiveError::Lost(_)) => {
            // What brings nothing is not tried forever.
            if part.bytes() > had_bytes {
                Shelf::keep(shared, part);
            }
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    info!(peer = %from, %last, "received a snapshot");
    let Part { opening: SnapshotOpening { header, files }, directory, .. } = part;
    let arrived = Arrived { meta: header.meta.clone(), files, directory, open: None };
    shared.deliver(|inbox| inbox.snapshot(header, Box::new(arrived)));
    Ok(())
}

/// What has arrived of this snapshot already, or room for it.
async fn resume_or_begin(
    shared: &Arc<Shared>,
    from: NodeId,
    opening: SnapshotOpening,
) -> Result<Part, ReceiveError> {
    for _ in 0..LOOKS {
        if let Some(part) = shared.shelf.take(from, &opening) {
            return Ok(Part { opening, ..part }); // Of a later term, perhaps.
        }
        // The sender may be back before the end of the lost connection was noticed here.
        if !shared.watched.is_receiving(from, opening.header.meta.last) {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    begin(shared, from, opening).await
}

/// Makes room for a snapshot of which nothing has arrived.
async fn begin(
    shared: &Arc<Shared>,
    from: NodeId,
    opening: SnapshotOpening,
) -> Result<Part, ReceiveError> {
    let (incoming, number) = (shared.incoming.clone(), shared.next_number());
    let progress = announce(shared, number, from, &opening);
    let stopping = Arc::clone(&shared.stopping);
    let (directory, opening) =
        blocking(move || Ok((Directory::create(&incoming, number, &opening, stopping)?, opening)))
            .await?;
    let (checksums, file) = (Vec::new(), None);
    Ok(Part { opening, directory, checksums, file, offset: 0, checksum: 0, progress })
}

/// Lists what arrives for monitors.
pub(super) fn announce(
    shared: &Shared,
    number: u64,
    from: NodeId,
    opening: &SnapshotOpening,
) -> Transfer {
    let progress = SnapshotProgress {
        peer: from,
        direction: SnapshotDirection::Incoming,
        last: opening.header.meta.last,
        bytes: 0,
        total_bytes: opening.files.iter().map(|file| file.bytes).sum(),
    };
    shared.watched.begin(number, progress)
}

/// Receives what is missing, and makes all of it durable.
async fn fill(
    part: &mut Part,
    source: &mut Source,
    answers: &mut SendStream,
) -> Result<(), ReceiveError> {
    let refused = |error: TryFromIntError| ReceiveError::Refused(error.to_string());
    let file = u32::try_from(part.checksums.len()).map_err(refused)?;
    answer_with(answers, &SnapshotAnswer::From { file, offset: part.offset }).await?;
    for (number, known) in part.checksums.iter().enumerate() {
        if source.read(CHECKSUM_BYTES).await?[..] != known.to_le_bytes() {
            let name = &part.opening.files[number].name;
            let detail = format!("{name} is not what it was when the transfer broke off");
            return Err(ReceiveError::Refused(detail));
        }
    }
    while let Some(expected) = part.current().cloned() {
        receive_file(part, source, &expected).await?;
    }
    source.end().await?;
    let path = part.directory.files().to_owned();
    // A snapshot that is handed over stays.
    blocking(move || Directory::sync(&path)).await
}

/// Writes what is missing of one file, verifies its checksum, and makes it durable.
async fn receive_file(
    part: &mut Part,
    source: &mut Source,
    expected: &SnapshotFile,
) -> Result<(), ReceiveError> {
    if part.file.is_none() {
        let path = part.directory.files().join(&expected.name);
        part.file = Some(blocking(move || File::create_new(path)).await?);
    }
    while part.offset < expected.bytes {
        let left = usize::try_from(expected.bytes - part.offset).unwrap_or(usize::MAX);
        let chunk = source.read(left.min(CHUNK_BYTES)).await?;
        part.offset += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let (file, checksum) = (part.file.take(), part.checksum);
        (part.file, part.checksum) = blocking(move || {
            file.as_ref().map_or(Ok(()), |mut file| file.write_all(&chunk))?;
            Ok((file, crc32c::crc32c_append(checksum, &chunk)))
        })
        .await?;
        part.progress.reached(part.bytes());
    }
    if source.read(CHECKSUM_BYTES).await?[..] != part.checksum.to_le_bytes() {
        let name = &expected.name;
        return Err(ReceiveError::Refused(format!("the checksum of {name} does not match")));
    }
    let (file, mut record, checksum) =
        (part.file.take(), part.directory.record.take(), part.checksum);
    part.directory.record = blocking(move || {
        file.map_or(Ok(()), |file| file.sync_all())?;
        record.as_mut().map_or(Ok(()), |record| record.add(checksum))?;
        Ok(record)
    })
    .await?;
    part.checksums.push(part.checksum);
    (part.offset, part.checksum) = (0, 0);
    Ok(())
}

/// The part of the stream that is not frames.
struct Source {
    stream: RecvStream,
    buffer: BytesMut,
    stall_timeout: Duration,
}

impl Source {
    fn new(shared: &Shared, frames: FrameReader) -> Self {
        let (rest, stream) = frames.into_parts();
        let stall_timeout = shared.limits.stall_timeout;
        Self { stream, buffer: BytesMut::from(rest), stall_timeout }
    }

    /// Exactly so many bytes.
    async fn read(&mut self, bytes: usize) -> Result<Bytes, ReceiveError> {
        while self.buffer.len() < bytes {
            let Some(chunk) = self.next(bytes - self.buffer.len()).await? else {
                return Err(ReceiveError::Refused("the snapshot is shorter than announced".into()));
            };
            self.buffer.extend_from_slice(&chunk);
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }

    /// Nothing may follow the last file.
    async fn end(&mut self) -> Result<(), ReceiveError> {
        if !self.buffer.is_empty() || self.next(1).await?.is_some() {
            return Err(ReceiveError::Refused("the snapshot is longer than announced".into()));
        }
        Ok(())
    }

    async fn next(&mut self, max_bytes: usize) -> Result<Option<Bytes>, ReceiveError> {
        let reading = self.stream.read_chunk(max_bytes, true);
        match tokio::time::timeout(self.stall_timeout, reading).await {
            Ok(Ok(chunk)) => Ok(chunk.map(|chunk| chunk.bytes)),
            Ok(Err(ReadError::ConnectionLost(error))) => Err(ReceiveError::Lost(error.to_string())),
            Ok(Err(error)) => Err(ReceiveError::Broken(error.to_string())),
            Err(_) => {
                let _ = self.stream.stop(VarInt::from_u32(0)); // It may be closed already.
                Err(ReceiveError::Lost("nothing arrived for too long".to_owned()))
            }
        }
    }
}

async fn answer_with(stream: &mut SendStream, answer: &SnapshotAnswer) -> Result<(), ReceiveError> {
    let mut frame = BytesMut::new();
    frame::encode(answer, OPENING_FRAME_BYTES, &mut frame)
        .map_err(|error| ReceiveError::Broken(error.to_string()))?;
    let written = stream.write_chunk(frame.freeze()).await;
    written.map_err(|error| ReceiveError::Broken(error.to_string()))
}

/// Does blocking work elsewhere. What the disk says goes to the sender, who can do nothing but try
/// later; the log line on this side is for the operator.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ReceiveError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ReceiveError::Refused(format!("cannot keep the snapshot: {error}"))),
        Err(_) => Err(ReceiveError::Broken("the node stops".to_owned())),
    }
}

/// Checks what is announced, before any of it is believed: plain and different names, and no more
/// than the limits allow.
pub(super) fn check_files(files: &[SnapshotFile], limits: &Limits) -> Result<(), String> {
    if files.len() > limits.snapshot_files {
        return Err(format!("{} files, at most {}", files.len(), limits.snapshot_files));
    }
    let mut names = BTreeSet::new();
    let mut bytes = 0_u64;
    for file in files {
        if !is_plain(&file.name) {
            return Err(format!("{:?} is not a plain file name", file.name));
        }
        if !names.insert(&file.name) {
            return Err(format!("two files of the name {}", file.name));
        }
        bytes = bytes.saturating_add(file.bytes);
    }
    if bytes > limits.snapshot_bytes {
        return Err(format!("{bytes} bytes, at most {}", limits.snapshot_bytes));
    }
    Ok(())
}

/// Letters, digits, `.`, `-` and `_`: nothing that leads out of a directory, on any system.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(plain)
        && name != "."
        && name != ".."
}

const MAX_NAME_BYTES: usize = 255;
/// How long, and how often, is waited for what arrived on a lost connection.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOKS: u32 = 25;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> SnapshotFile {
        SnapshotFile { name: name.to_owned(), bytes }
    }

    #[test]
    fn only_plain_names_are_taken() {
        for name in ["000012.sst", "CURRENT", "MANIFEST-000004", ".hidden", "a..b", "_"] {
            assert!(is_plain(name), "{name}");
        }
        let long = "x".repeat(256);
        for name in
            ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\\b", "a\0b", "a b", "ä", "a:b", &long]
        {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn what_is_announced_is_bounded() {
        let limits = Limits { snapshot_files: 2, snapshot_bytes: 100, ..Limits::default() };
        let check = |files: &[SnapshotFile]| check_files(files, &limits);
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[file("a", 50), file("b", 50)]), Ok(()));
        assert!(check(&[file("a", 50), file("b", 51)]).is_err());
        assert!(check(&[file("a", u64::MAX), file("b", u64::MAX)]).is_err());
        assert!(check(&[file("a", 1), file("a", 1)]).is_err());
        assert!(check(&[file("a", 1), file("b", 1), file("c", 1)]).is_err());
        assert!(check(&[file("../a", 1)]).is_err());
    }
}

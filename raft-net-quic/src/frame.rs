//! Frames: how a stream of bytes is cut into messages.
//!
//! A frame is a length (4 bytes, little-endian, without itself) and so many bytes. What they mean
//! depends on the stream, see [`crate::wire`]; between nodes they are postcard. A frame over the
//! limit of its stream, a stream that ends inside a frame, and bytes left over after a value are
//! errors of the sender, on which the connection is closed.
//!
//! Small frames are coalesced into one write; large bodies are passed on without a copy.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is wrong with what the other side sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {bytes} bytes, at most {limit} are allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("a stream that ends inside a frame")]
    Truncated,
    #[error("a frame with {bytes} bytes left over at its end")]
    Trailing { bytes: usize },
    #[error("a frame that cannot be decoded: {0}")]
    Garbled(String),
}

/// A value is larger than a frame may be. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes, at most {limit} are allowed")]
pub(crate) struct TooLong {
    pub(crate) bytes: usize,
    pub(crate) limit: usize,
}

/// Appends a frame that holds `value` to `out`.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    limit: usize,
    out: &mut BytesMut,
) -> Result<(), TooLong> {
    let mut frame = Vec::new();
    append(value, limit, &mut frame)?;
    out.extend_from_slice(&frame);
    Ok(())
}

/// The same for those who write much: a vector takes single bytes in a third of the time.
pub(crate) fn append<T: Serialize + ?Sized>(
    value: &T,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    postcard::serialize_with_flavor(value, Appender(out))
        .expect("a buffer that grows takes every value, and ours have known lengths");
    match header(out.len() - start - HEADER_BYTES, limit) {
        Ok(header) => {
            out[start..start + HEADER_BYTES].copy_from_slice(&header);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Reads the value that fills `frame`.
pub(crate) fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, FrameError> {
    let (value, rest) =
        postcard::take_from_bytes(frame).map_err(|error| FrameError::Garbled(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::Trailing { bytes: rest.len() }) }
}

/// Cuts what arrives into frames.
///
/// A frame that lies within one piece, as most small ones do, is a part of that piece and not
/// copied; only what is spread over several is put together.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// What has arrived and was not cut yet, after `begun`. None is empty.
    pieces: VecDeque<Bytes>,
    /// The beginning of a frame of which the rest is in other pieces, or has not arrived.
    begun: BytesMut,
    limit: usize,
}

impl Cutter {
    /// For frames of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { pieces: VecDeque::new(), begun: BytesMut::new(), limit }
    }

    /// Takes what has arrived.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// The next frame that is there as a whole.
    ///
    /// A length over the limit is refused as soon as it is read, before any of the frame is kept.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let mut missing = HEADER_BYTES.saturating_sub(self.begun.len());
            if let Some(header) = self.begun.first_chunk() {
                missing = HEADER_BYTES + announced(*header, self.limit)? - self.begun.len();
                if missing == 0 {
                    self.begun.advance(HEADER_BYTES);
                    return Ok(Some(self.begun.split().freeze()));
                }
            }
            let Some(mut piece) = self.pieces.pop_front() else { return Ok(None) };
            if self.begun.is_empty()
                && let Some(header) = piece.first_chunk()
            {
                let bytes = announced(*header, self.limit)?;
                if piece.len() - HEADER_BYTES >= bytes {
                    piece.advance(HEADER_BYTES);
                    let frame = piece.split_to(bytes);
                    self.put_back(piece);
                    return Ok(Some(frame));
                }
            }
            // Room for what is announced is made step by step, as it comes.
            self.begun.reserve(missing.min(RESERVE_BYTES));
            self.begun.extend_from_slice(&piece.split_to(missing.min(piece.len())));
            self.put_back(piece);
        }
    }

    /// Says whether a stream may end here.
    pub(crate) fn end(&self) -> Result<(), FrameError> {
        let nothing = self.begun.is_empty() && self.pieces.is_empty();
        if nothing { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// What has arrived and was not cut off yet, for streams that go on without frames.
    pub(crate) fn into_rest(self) -> Bytes {
        let mut rest = self.begun;
        self.pieces.iter().for_each(|piece| rest.extend_from_slice(piece));
        rest.freeze()
    }

    fn put_back(&mut self, rest: Bytes) {
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
    }
}

/// The length that a frame begins with, if it is allowed.
fn announced(header: [u8; HEADER_BYTES], limit: usize) -> Result<usize, FrameError> {
    let bytes = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if bytes <= limit { Ok(bytes) } else { Err(FrameError::TooLong { bytes, limit }) }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    cutter: Cutter,
    chunks: Vec<Bytes>,
}

/// Why no more frames can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    /// The other side broke the rules.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection is gone or the other side reset the stream.
    #[error(transparent)]
    Stream(#[from] ReadError),
}

impl FrameReader {
    /// Reads frames of at most `limit` bytes.
    pub(crate) fn new(stream: RecvStream, limit: usize) -> Self {
        Self { stream, cutter: Cutter::new(limit), chunks: vec![Bytes::new(); CHUNKS] }
    }

    /// Waits for more to arrive, and takes all of it. `false` at the end of the stream, which was
    /// not inside a frame. Cancel safe.
    pub(crate) async fn fill(&mut self) -> Result<bool, ReadFault> {
        let Some(count) = self.stream.read_chunks(&mut self.chunks).await? else {
            self.cutter.end()?;
            return Ok(false);
        };
        for chunk in &mut self.chunks[..count] {
            self.cutter.push(std::mem::take(chunk));
        }
        Ok(true)
    }

    /// The next frame that has arrived.
    pub(crate) fn ready(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.cutter.next()
    }

    /// Waits for the next frame. `None` at the end of the stream. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads frames of at most `limit` bytes from here on.
    pub(crate) fn with_limit(mut self, limit: usize) -> Self {
        self.cutter.limit = limit;
        self
    }

    /// The stream, and what of it has arrived after the last frame.
    pub(crate) fn into_parts(self) -> (Bytes, RecvStream) {
        (self.cutter.into_rest(), self.stream)
    }
}

/// Collects the frames of one write.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    small: BytesMut,
    done: Vec<Bytes>,
}

impl Assembly {
    /// Appends a frame that consists of `head` and `body`.
    pub(crate) fn push(&mut self, head: &[u8], body: Bytes, limit: usize) -> Result<(), TooLong> {
        self.small.put_slice(&header(head.len().saturating_add(body.len()), limit)?);
        self.small.put_slice(head);
        if body.len() < COPY_BELOW_BYTES {
            self.small.put_slice(&body);
        } else {
            self.flush();
            self.done.push(body);
        }
        Ok(())
    }

    /// What to write, in order. The assembly is empty afterwards.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.flush();
        std::mem::take(&mut self.done)
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.done.push(self.small.split().freeze());
        }
    }
}

fn header(bytes: usize, limit: usize) -> Result<[u8; HEADER_BYTES], TooLong> {
    match u32::try_from(bytes) {
        Ok(length) if bytes <= limit => Ok(length.to_le_bytes()),
        Ok(_) | Err(_) => Err(TooLong { bytes, limit }),
    }
}

/// Lets postcard append to a buffer that is already there.
struct Appender<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appender<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        match data {
            // Most numbers are small, and a copy of a length that is not known is a call.
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(data),
        }
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

const HEADER_BYTES: usize = 4;
/// Pieces of a stream that are taken at a time; about one a packet.
const CHUNKS: usize = 32;
/// The most that is reserved for bytes that are only announced.
const RESERVE_BYTES: usize = 256 << 10;
/// Copying fewer bytes than this is cheaper than a write of their own.
const COPY_BELOW_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use raft_core::{
        Entry, Envelope, Index, LogId, Membership, Message, NodeId, Payload, Term, VoteOutcome,
    };

    use super::*;

    fn envelope(message: Message) -> Envelope {
        let (from, to) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        Envelope { from, to, term: Term(3), message }
    }

    fn messages() -> Vec<Envelope> {
        let id = |index| LogId::new(Term(3), Index(index));
        let entries = vec![
            Entry { id: id(1), payload: Payload::Empty },
            Entry { id: id(2), payload: Payload::Command(Bytes::from(vec![7; 10_000])) },
            Entry {
                id: id(3),
                payload: Payload::Membership(Box::new(Membership::of_voters([(
                    NodeId::new(1).unwrap(),
                    "a:1".to_owned(),
                )]))),
            },
        ];
        vec![
            envelope(Message::VoteReply(VoteOutcome::Granted)),
            envelope(Message::Append { prev: LogId::ZERO, entries, commit: Index(1) }),
            envelope(Message::TimeoutNow),
            envelope(Message::ReadIndexReply { ticket: u64::MAX, index: None }),
        ]
    }

    #[test]
    fn frames_survive_every_way_of_cutting_the_stream() {
        let mut stream = BytesMut::new();
        for message in messages() {
            encode(&message, 1 << 20, &mut stream).unwrap();
        }
        for step in [1, 2, 3, 5, 7, 4096, usize::MAX] {
            let mut cutter = Cutter::new(1 << 20);
            let mut found = Vec::new();
            for piece in stream.chunks(step.min(stream.len())) {
                cutter.push(Bytes::copy_from_slice(piece));
                while let Some(frame) = cutter.next().unwrap() {
                    found.push(decode::<Envelope>(&frame).unwrap());
                }
            }
            assert_eq!(found, messages());
            assert_eq!(cutter.end(), Ok(()));
        }
    }

    #[test]
    fn a_message_over_the_limit_leaves_nothing_behind() {
        let mut out = BytesMut::from(&b"before"[..]);
        let [_, append, ..] = &messages()[..] else { unreachable!() };
        let error = encode(append, 100, &mut out).unwrap_err();
        assert_eq!(error.limit, 100);
        assert!(error.bytes > 10_000);
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_frame_arrives() {
        let mut cutter = Cutter::new(1000);
        cutter.push(Bytes::copy_from_slice(&1001_u32.to_le_bytes()));
        assert_eq!(cutter.next(), Err(FrameError::TooLong { bytes: 1001, limit: 1000 }));
        let mut cutter = Cutter::new(1000);
        cutter.push(Bytes::copy_from_slice(&u32::MAX.to_le_bytes()));
        assert!(cutter.next().is_err());
    }

    #[test]
    fn a_stream_may_not_end_inside_a_frame() {
        let mut stream = BytesMut::new();
        encode(&messages(), 1 << 20, &mut stream).unwrap();
        for cut in 1..stream.len().min(300) {
            let mut cutter = Cutter::new(1 << 20);
            cutter.push(Bytes::copy_from_slice(&stream[..cut]));
            assert_eq!(cutter.next(), Ok(None));
            assert_eq!(cutter.end(), Err(FrameError::Truncated));
        }
    }

    #[test]
    fn truncated_trailing_unknown_and_random_values_are_errors() {
        for message in messages() {
            let bytes = postcard::to_stdvec(&message).unwrap();
            for cut in 0..bytes.len().min(300) {
                assert!(decode::<Envelope>(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(decode::<Envelope>(&longer), Err(FrameError::Trailing { bytes: 1 }));
        }
        // from, to, term, then a message of a kind that does not exist.
        assert!(matches!(decode::<Envelope>(&[1, 2, 3, 99]), Err(FrameError::Garbled(_))));
        // From node 0, which nobody is.
        assert!(matches!(decode::<Envelope>(&[0, 2, 3, 10]), Err(FrameError::Garbled(_))));
        // An append that claims 2^60 entries must not reserve room for them.
        let mut claim = vec![1, 2, 3, 4, 0, 0];
        claim.extend([0x80; 8]);
        claim.push(0x10);
        assert!(decode::<Envelope>(&claim).is_err());
        let mut random = 1_u64;
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length % 64)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    random.to_le_bytes()[7]
                })
                .collect();
            let _ = decode::<Envelope>(&bytes);
        }
    }

    #[test]
    fn an_assembly_keeps_the_order_of_small_and_large_frames() {
        let mut assembly = Assembly::default();
        let bodies =
            [vec![1; 10], vec![2; COPY_BELOW_BYTES], vec![3; 10], vec![4; 100_000], vec![]];
        for body in &bodies {
            assembly.push(b"head", Bytes::from(body.clone()), 1 << 20).unwrap();
        }
        let error = assembly.push(b"head", Bytes::from_static(b"body"), 7).unwrap_err();
        assert_eq!(error, TooLong { bytes: 8, limit: 7 });
        let pieces = assembly.take();
        assert_eq!(pieces.len(), 5);
        let mut cutter = Cutter::new(1 << 20);
        pieces.into_iter().for_each(|piece| cutter.push(piece));
        for body in &bodies {
            let frame = cutter.next().unwrap().unwrap();
            assert_eq!((&frame[..4], &frame[4..]), (&b"head"[..], &body[..]));
        }
        assert_eq!(cutter.end(), Ok(()));
        assert!(assembly.take().is_empty());
    }
}

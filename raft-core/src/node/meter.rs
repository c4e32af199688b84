//! How much of a snapshot has been read by whoever sends it. It is what a node can tell of a transfer, whatever
//! its transport is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::snapshot::{SnapshotFile, SnapshotMeta, SnapshotSource};

/// Tells how far the source that it belongs to was read.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    read: Arc<AtomicU64>,
    /// The bytes of all files.
    pub(crate) total: u64,
}

impl Meter {
    /// The furthest byte that was read, counted over all files: one that begins in the middle, because the rest
    /// was there before, has come as far.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// A source that is watched by a [`Meter`].
#[derive(Debug)]
pub(crate) struct Metered {
    source: Box<dyn SnapshotSource>,
    /// The bytes of the files before each.
    before: Vec<u64>,
    read: Arc<AtomicU64>,
}

impl Metered {
    pub(crate) fn new(source: Box<dyn SnapshotSource>) -> (Self, Meter) {
        let mut total = 0;
        let mut before = Vec::new();
        for file in source.files() {
            before.push(total);
            total += file.bytes;
        }
        let read = Arc::new(AtomicU64::new(0));
        let meter = Meter { read: Arc::clone(&read), total };
        (Self { source, before, read }, meter)
    }
}

impl SnapshotSource for Metered {
    fn meta(&self) -> &SnapshotMeta {
        self.source.meta()
    }

    fn files(&self) -> &[SnapshotFile] {
        self.source.files()
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read_at(file, offset, buffer)?;
        if let Some(before) = self.before.get(file) {
            let end = before.saturating_add(offset).saturating_add(bytes as u64);
            self.read.fetch_max(end, Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::MemSnapshot;

    #[test]
    fn the_furthest_byte_counts() {
        let files = [("a", 10), ("b", 0), ("c", 20)];
        let files = files.map(|(name, bytes)| (name.to_owned(), Bytes::from(vec![0; bytes])));
        let source = MemSnapshot::of_files(SnapshotMeta::default(), files.into());
        let (mut source, meter) = Metered::new(Box::new(source));
        assert_eq!((meter.read(), meter.total), (0, 30));
        let mut buffer = [0; 8];
        for (file, offset, read) in [(0, 0, 8), (0, 8, 10), (2, 4, 22), (0, 0, 22), (2, 12, 30)] {
            source.read_at(file, offset, &mut buffer).unwrap();
            assert_eq!(meter.read(), read, "{file} from {offset} on");
        }
    }
}

//! The conformance suite of `raft_core::testing`, run against [`RocksLog`](raft_log::RocksLog).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{Opened, Place, log_files};
use raft_core::testing::suites::log_store::LogPlace;
use raft_core::{Batch, LogStore};

raft_core::log_store_suite!(rocks_log, Place::new);

impl LogPlace for Place {
    type Store = Opened;

    fn open(&self) -> Opened {
        Self::open(self).unwrap()
    }

    fn crash(&self, store: Opened) {
        let left = self.copy();
        drop(store);
        self.take_over(&left);
    }

    /// Cuts the write-ahead log within what the batch has added to it. The watermark is as before:
    /// nobody was told of the batch.
    fn crash_within(&self, mut store: Opened, batch: &Batch, point: usize) -> bool {
        const STEP: usize = 13;
        let before = self.copy();
        store.persist(batch).unwrap();
        let after = self.copy();
        drop(store);
        let newest = |place: &Self| log_files(&place.path(), |name| name.ends_with(".log")).pop();
        let (short, long) = (newest(&before).unwrap(), newest(&after).unwrap());
        assert_eq!(short.file_name(), long.file_name(), "the batch fits into the file");
        let (from, bytes) = (fs::read(short).unwrap().len(), fs::read(&long).unwrap());
        let cut = from + point * STEP;
        if cut > bytes.len() {
            return false;
        }
        fs::write(&long, &bytes[..cut]).unwrap();
        fs::copy(before.path().join("watermark"), after.path().join("watermark")).unwrap();
        self.take_over(&after);
        true
    }
}

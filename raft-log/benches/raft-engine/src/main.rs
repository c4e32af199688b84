//! raft-engine under the load of `raft-log/benches/log.rs`, which runs this program in its turns.
//!
//! `bench-raft-engine DIR BYTES BATCH APPENDS` appends to the log in DIR and prints how long each
//! append took, in nanoseconds, one a line. Settings are those of raft-engine, with files recycled
//! and written before their first use, which is its fastest way.

use std::time::Instant;

use raft_proto::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

const GROUP: u64 = 1;

#[derive(Clone)]
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let dir = words.next().expect("a directory");
    let [bytes, batch, appends] =
        [(); 3].map(|()| words.next().and_then(|word| word.parse().ok()).expect("a number"));
    let config = Config {
        dir,
        // The limit and raft-log write what they are given, too.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(64),
        enable_log_recycle: true,
        prefill_for_recycle: true,
        prefill_limit: Some(ReadableSize::mb(256)),
        purge_threshold: ReadableSize::mb(256),
        ..Config::default()
    };
    let engine = Engine::open(config).expect("the directory can be used");
    let mut last = engine.last_index(GROUP).unwrap_or(0);
    let mut laps = Vec::new();
    let data: Vec<u8> = noise(bytes);
    // As many again to begin with, which are not counted.
    for count in 0..appends as usize * 2 {
        let entries: Vec<_> = (0..batch)
            .map(|_| {
                last += 1;
                let mut entry = Entry::default();
                entry.index = last;
                entry.term = 1;
                entry.data = data.clone().into();
                entry
            })
            .collect();
        let start = Instant::now();
        let mut write = LogBatch::default();
        write.add_entries::<Entries>(GROUP, &entries).expect("consecutive entries");
        engine.write(&mut write, true).expect("the disk works");
        if count >= appends as usize {
            laps.push(start.elapsed());
        }
    }
    engine.compact_to(GROUP, last);
    engine.purge_expired_files().expect("the disk works");
    for lap in laps {
        println!("{}", lap.as_nanos());
    }
}

/// Bytes that no disk can compress.
fn noise(len: u64) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(next).collect()
}

//! Workers on any machines that do something one at a time.
//!
//! Paste the line that `make demo` prints, and then in several terminals:
//!
//! ```sh
//! cargo run --release --example lock -- alice
//! ```
//!
//! Each takes the lock, works, and gives it up, a few times. Kill one while it holds the lock: the
//! others go on as soon as its lease has ended.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

mod cluster;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use raft_kv::recipes::Lock;
use raft_kv::{Put, Txn, TxnOp};

#[derive(Debug, Parser)]
struct Args {
    /// Who this is.
    worker: String,
    /// How often to take the lock.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long the work takes each time, in milliseconds.
    #[arg(long, default_value_t = 500)]
    work_ms: u64,
    #[command(flatten)]
    cluster: cluster::Cluster,
}

/// If a worker is not heard of for so long, the lock goes to the next.
const TTL: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { worker, rounds, work_ms, cluster } = Args::parse();
    let client = cluster.client()?;
    for _ in 0..rounds {
        let lock = Lock::acquire(&client, "example/lock", TTL).await?;
        println!("{worker} in, token {}", lock.token());

        // The work. The lock is kept alive meanwhile by a task of its own.
        tokio::time::sleep(Duration::from_millis(work_ms)).await;

        // Whoever is stopped for longer than the lease lives has lost the lock, and cannot know it
        // in time. So what the lock protects is written on one condition: that it is still held.
        let write = Txn {
            compare: vec![lock.is_held()],
            then: vec![TxnOp::Put(Put::new("example/lock-last-worker", worker.clone()))],
            otherwise: Vec::new(),
        };
        if client.txn(write).await?.succeeded {
            println!("{worker} out");
        } else {
            println!("{worker} was too slow: the lock is somebody else's by now");
        }
        lock.release().await?;
    }
    Ok(())
}

//! A counter that many add to at once: nothing is counted twice, and nothing is lost.
//!
//! Paste the line that `make demo` prints, and then in several terminals:
//!
//! ```sh
//! cargo run --release --example counter -- hits --times 1000
//! ```
//!
//! Kill the leader of the cluster meanwhile: the requests that it leaves unanswered are sent again to the
//! next, and are in the session of this client, in which nothing is done twice.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

mod cluster;

use std::error::Error;

use clap::Parser;
use raft_kv::recipes::Counter;

#[derive(Debug, Parser)]
struct Args {
    /// The key that holds the counter.
    key: String,
    /// How often to add.
    #[arg(long, default_value_t = 100)]
    times: u32,
    /// What to add each time.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    cluster: cluster::Cluster,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { key, times, by, cluster } = Args::parse();
    let counter = Counter::new(&cluster.client()?, key.clone());
    println!("{key} was {}", counter.get().await?);
    for _ in 0..times {
        let sum = counter.add(by).await?;
        println!("{key} is {sum}");
    }
    Ok(())
}

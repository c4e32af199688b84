//! Candidates on any machines of which one leads, until it dies.
//!
//! Paste the line that `make demo` prints, and then in several terminals:
//!
//! ```sh
//! cargo run --release --example elect -- alice
//! ```
//!
//! End the one that leads with Ctrl-C, and the next leads at once; kill it with SIGKILL, and the next
//! leads when its lease has ended. Everybody sees who.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

mod cluster;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use raft_kv::client::{Client, ClientError, WatchChannel};
use raft_kv::recipes::{campaign, observe};
use tokio::signal::ctrl_c;

#[derive(Debug, Parser)]
struct Args {
    /// Who this is.
    candidate: String,
    #[command(flatten)]
    cluster: cluster::Cluster,
}

const OFFICE: &str = "example/office";

/// If a leader is not heard of for so long, another is elected.
const TTL: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { candidate, cluster } = Args::parse();
    let client = cluster.client()?;
    tokio::select! {
        observed = tell_who_leads(&client) => Ok(observed?),
        led = lead(&client, &candidate) => led,
    }
}

/// Leads whenever it is elected, until Ctrl-C.
async fn lead<C: WatchChannel>(client: &Client<C>, candidate: &str) -> Result<(), Box<dyn Error>> {
    loop {
        let office = tokio::select! {
            office = campaign(client, OFFICE, candidate.to_owned(), TTL) => office?,
            // Its place in the queue goes with its lease.
            asked = ctrl_c() => return Ok(asked?),
        };
        println!("{candidate}: I lead, with token {}", office.lock().token());

        // A leader works here, for as long as it is sure to be the only one.
        tokio::select! {
            () = office.lock().tenure().lost() => {
                println!("{candidate}: I was not heard of for {TTL:?}, and lead no more");
            }
            asked = ctrl_c() => {
                asked?;
                return Ok(office.resign().await?);
            }
        }
    }
}

/// Tells each new leader, this one included.
async fn tell_who_leads<C: WatchChannel>(client: &Client<C>) -> Result<(), ClientError> {
    let mut observer = observe(client, OFFICE);
    loop {
        match observer.next().await {
            Ok(leader) => println!("{} leads", leader.value.escape_ascii()),
            // It goes on where it was once a node answers again.
            Err(
                ClientError::Unreachable { .. }
                | ClientError::NoLeader { .. }
                | ClientError::Busy { .. },
            ) => {}
            Err(error) => return Err(error),
        }
    }
}

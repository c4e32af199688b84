//! Exactly-once sessions around anybody's state machine (dissertation 6.3, rule C2).
//!
//! Raft alone runs a command as often as it stands in the log, and a client that had no answer has to send
//! it again. [`Sessions`] is a state machine around another one: it remembers what was answered to each
//! command of a session, and gives that answer again instead of running the command twice. The inner machine
//! knows nothing of it.
//!
//! ```text
//! Client: Numbers ──Request──▶ Gate ──Proposal──▶ log ──▶ Sessions<S> ──command──▶ S
//!                               (stamps it with the time)   (runs it once)
//! ```
//!
//! - [`Sessions`] goes into the node, in the place of the machine.
//! - [`Gate`] stands before the node: it puts the time into what is proposed, so that sessions end on every
//!   node at the same entry, and tells refusals from answers.
//! - [`Numbers`](raft_core::sessions::Numbers) gives a client's commands their numbers.
//!
//! # What is kept, and where
//!
//! What was answered must come back from a crash with exactly the state that it was an answer of, and the
//! inner machine has no place for it. So `Sessions` keeps *pairs* in a directory of its own: a snapshot of the
//! inner machine, and the books of the sessions as of the same entry. After a restart the inner machine
//! is put back to the last pair, wherever it stands, and the log does the rest. So a machine that lives in
//! memory alone becomes a durable one; one that keeps its data on disk is copied whenever the log is to be
//! cut. If it is large, let it store the rows of a
//! [`SessionTable`](raft_core::sessions::SessionTable) in the write of its data instead, as `raft-kv` does.

//! # Example
//!
//! A node of one, with a map in memory as its machine:
//!
//! ```
//! use std::sync::mpsc::channel;
//! use std::time::Duration;
//!
//! use raft_core::sessions::Numbers;
//! use raft_core::testing::{MemDisk, MemMachine, MemNet, MemStore};
//! use raft_core::{Config, Membership, Node, NodeId, NodeOptions, RoleName};
//! use raft_sessions::{Gate, Outcome, Request, Sessions};
//!
//! let dir = tempfile::tempdir()?;
//! let sessions = Sessions::open(dir.path(), MemStore::new().machine())?;
//! let view = sessions.view();
//!
//! let id = NodeId::new(1).expect("it is not 0");
//! let disk = MemDisk::founded(Membership::of_voters([(id, "here:1".to_owned())]));
//! let options = NodeOptions::new(Config::new(id));
//! let node = Node::start(options, disk.log(), MemNet::new().transport(id), sessions)?;
//! let gate = Gate::start(node.clone(), view)?;
//! while node.status().role != RoleName::Leader {
//!     std::thread::sleep(Duration::from_millis(1));
//! }
//!
//! let ask = |request| {
//!     let (sender, receiver) = channel();
//!     gate.propose(request, move |outcome| drop(sender.send(outcome)));
//!     receiver.recv().expect("every request is answered")
//! };
//! let Outcome::Session { session, .. } = ask(Request::Open { ttl_ms: 60_000 })? else { panic!() };
//! let mut numbers = Numbers::new(session);
//! let tag = numbers.take();
//! let put = Request::Run { tag, command: MemMachine::put(b"k", b"v") };
//! // Sent twice, because the first answer got lost: it is run once, and this is what it was answered.
//! assert_eq!(ask(put.clone())?, ask(put)?);
//!
//! node.stop(Duration::ZERO);
//! node.wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod books;
mod error;
mod files;
mod gate;
mod keeper;
mod kept;
mod machine;
mod proposal;

pub use error::{DecodeError, SessionsError};
pub use gate::{Gate, GateError};
pub use machine::{Sessions, View};
pub use proposal::{Outcome, Proposal, Request};

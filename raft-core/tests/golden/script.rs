//! The commands of a golden script. Words that name nodes are `n1` and so on; `NODES` may be left out
//! for all that are up, and so may `FROM`, `to TO` and `KIND` for all messages.
//!
//! | command | does |
//! |---|---|
//! | `cluster nodes=3 [OPTIONS]` | founds a cluster; must come first, see [`Script::cluster`] |
//! | `tick [NODES] [count=N]` | lets time pass for some |
//! | `campaign NODE` | lets time pass for one until its election timeout is over |
//! | `elect NODE` | that, and delivers everything; it must lead in the end |
//! | `timeouts NODE NODE draws=N` | draws so many election timeouts of each, and compares them |
//! | `propose NODE WORD... [bytes=N]` | commands, appended together; `bytes` makes one of that size |
//! | `read NODE [lease]` | a linearizable read, by a lease if there is one |
//! | `forget NODE`, `repair NODE` | forgets its leader; has its damaged state machine replaced |
//! | `sleep NODE` | more time has passed for it than it has counted |
//! | `change NODE [voter=N] [learner=N] [admit=N] [remove=N] [at=INDEX] [address=N]` | another membership |
//! | `transfer NODE to NODE` | hands leadership over |
//! | `met NODE NODE life=N` | the transport of the first met the second, with this incarnation |
//! | `deliver [FROM] [to TO] [KIND] [skip=N] [count=N]` | messages that are under way arrive |
//! | `drop ...`, `dup ...` | the same messages are lost, or will arrive twice |
//! | `stabilize` | delivers until nothing is under way |
//! | `cut NODE to NODE`, `isolate NODE`, `partition "1 2" "3"`, `heal` | links; one way, all of one, ... |
//! | `link NODE to NODE full\|unreachable` | what the transport says to appends |
//! | `unreachable NODE to NODE` | the transport of the first lost the second |
//! | `mode NODE [persist=manual] [apply=auto] ...` | what the script does itself from now on |
//! | `persisted NODE [count=N]` | with `persist=manual`: batches are on disk |
//! | `applied NODE [through=INDEX]` | with `apply=manual`: entries are applied |
//! | `replicate NODE [to TO]` | with `replicate=manual`: spans become appends |
//! | `installed NODE` | with `install=manual`: the snapshot is installed |
//! | `compact NODE through=INDEX` | cuts its log |
//! | `crash NODE [saved=N] [machine=INDEX]` | loses what is not on disk, see [`Replica::crash`] |
//! | `restart NODE [prevote=on] [checkquorum=on]` | comes back with what is on disk |
//! | `inject FROM to TO KIND term=TERM ...` | a message by hand, see [`hostile::envelope`] |
//! | `status [NODES]`, `log [NODES]`, `members NODE`, `network` | shows |
//!
//! [`Replica::crash`]: crate::replica::Replica::crash

use std::collections::BTreeSet;

use goldenscript::{ArgumentConsumer, Context};
use raft_core::{
    Change, ChangeStep, ClockDrift, Config, Event, Incarnation, Index, LogId, Membership, NodeId,
    RoleName, Sent, SnapshotMeta, Term, Ticks,
};

use crate::cluster::Cluster;
use crate::disk::Disk;
use crate::hostile;
use crate::network::Filter;
use crate::replica::Manual;
use crate::text;
use crate::text::Error;

/// Runs one script.
#[derive(Debug, Default)]
pub(crate) struct Script {
    cluster: Cluster,
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &Context) -> Result<String, Error> {
        let mut args = command.consume_args();
        let shown = self.execute(&command.name, &mut args)?;
        args.reject_next()?;
        Ok(self.cluster.finish() + &shown)
    }
}

impl Script {
    /// Does one command. What it gives back is shown after what happened.
    fn execute(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Error> {
        match name {
            "cluster" => self.cluster(args)?,
            "tick" => self.tick(args)?,
            "campaign" => self.campaign(one_node(args)?)?,
            "elect" => self.elect(one_node(args)?)?,
            "timeouts" => self.timeouts(args)?,
            "propose" => self.propose(args)?,
            "read" => {
                let id = one_node(args)?;
                match args.next_pos() {
                    None => self.cluster.read(id)?,
                    Some("lease") => self.cluster.lease_read(id)?,
                    Some(other) => return Err(format!("'{other}' is no way to read").into()),
                }
            }
            "forget" => self.cluster.forget(one_node(args)?)?,
            "repair" => self.cluster.repair(one_node(args)?)?,
            "sleep" => {
                let id = one_node(args)?;
                self.cluster.note(&format!("{id:?} has slept and does not know how long"));
                self.cluster.step(id, Event::TicksSkipped)?;
            }
            "change" => self.change(args)?,
            "transfer" => {
                let (from, to) = link(args)?;
                self.cluster.transfer(from, to)?;
            }
            "met" => {
                let id = one_node(args)?;
                let peer = one_node(args)?;
                let life = number(args, "life")?.ok_or("life=N?")?;
                self.cluster.step(id, Event::Met(peer, Incarnation(life)))?;
            }
            "deliver" | "drop" | "dup" => self.messages(name, args)?,
            "stabilize" => self.cluster.stabilize()?,
            "cut" | "isolate" | "partition" | "heal" | "link" | "unreachable" => {
                self.links(name, args)?;
            }
            "persisted" => {
                let id = one_node(args)?;
                let count = number(args, "count")?.map_or(usize::MAX, size);
                self.cluster.persisted(id, count)?;
            }
            "applied" => {
                let id = one_node(args)?;
                let through = number(args, "through")?.map_or(Index(u64::MAX), Index);
                self.cluster.applied(id, through)?;
            }
            "replicate" => {
                let id = one_node(args)?;
                let to = to(args)?;
                self.cluster.replicate(id, to)?;
            }
            "installed" => self.cluster.installed(one_node(args)?)?,
            "compact" => {
                let id = one_node(args)?;
                let through = number(args, "through")?.ok_or("through=INDEX?")?;
                self.cluster.compact(id, Index(through))?;
            }
            "mode" => {
                let id = one_node(args)?;
                set_manual(args, &mut self.cluster.replica(id)?.manual)?;
            }
            "crash" | "restart" => self.life(name, args)?,
            "inject" => {
                let (from, to) = link(args)?;
                let envelope = hostile::envelope(from, to, args)?;
                self.cluster.receive(envelope)?;
            }
            "status" | "log" | "members" | "network" => return self.show(name, args),
            other => return Err(format!("there is no command '{other}'").into()),
        }
        Ok(String::new())
    }

    /// Founds a cluster. Options:
    ///
    /// - `nodes=3` founding voters `n1`..; `learners="4"` founding learners; `spares="5"` nodes that
    ///   know of no membership yet; `voters="1 2"` if not all of `nodes` vote
    /// - `log="1@1 2@1"` on every disk, `n1="..."` on that of one node; `term=`, `n1.term=`, `n1.vote=`;
    ///   `applied=`, `n1.applied=`
    /// - `prevote=off`, `checkquorum=off`, `election=10`, `heartbeat=2` (ticks)
    /// - `lease=PPM` (how far clocks may drift apart), `priority=N`, `n1.priority=N`
    /// - `snapshots_at_once=`, `append_bytes=`, `window_messages=`, `window_bytes=`, `uncommitted_bytes=`
    /// - `persist=manual`, `apply=manual`, `replicate=manual`, `install=manual`
    fn cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        if !self.cluster.replicas.is_empty() {
            return Err("there is a cluster already".into());
        }
        let count = number(args, "nodes")?.unwrap_or_default();
        let mut ids: BTreeSet<NodeId> = (1..=count).filter_map(NodeId::new).collect();
        let set = |text: Option<&str>| text.map(text::nodes).transpose();
        let voters = set(args.take_key("voters"))?.unwrap_or_else(|| ids.clone());
        let learners = set(args.take_key("learners"))?.unwrap_or_default();
        let spares = set(args.take_key("spares"))?.unwrap_or_default();
        ids.extend(voters.iter().chain(&learners).chain(&spares));

        let founding = voters.iter().chain(&learners).map(|&id| (id, text::address(id)));
        let mut membership = Membership::of_voters(founding);
        (membership.voters, membership.learners) = (voters, learners);

        let mut manual = Manual::default();
        set_manual(args, &mut manual)?;
        let config = config(args)?;
        let log = args.take_key("log").unwrap_or_default().to_owned();
        let term = number(args, "term")?;
        let applied = number(args, "applied")?;
        for id in ids {
            let key = format!("n{id}");
            let entries = text::entries(args.take_key(&key).unwrap_or(&log))?;
            let last = entries.last().map_or(LogId::ZERO, |entry| entry.id);
            let term = number(args, &format!("{key}.term"))?.or(term).unwrap_or(last.term.0);
            let vote = args.take_key(&format!("{key}.vote")).map(text::node).transpose()?;
            let applied = number(args, &format!("{key}.applied"))?.or(applied).unwrap_or(0);
            let mut disk = Disk { entries, ..Disk::default() };
            (disk.hard.term, disk.hard.vote) = (Term(term), vote);
            if !spares.contains(&id) {
                disk.base = SnapshotMeta { membership: membership.clone(), ..Default::default() };
            }
            let mut config = Config { id, ..config.clone() };
            if let Some(priority) = number(args, &format!("{key}.priority"))? {
                config.priority = u8::try_from(priority)?;
            }
            config.validate()?;
            self.cluster.add(config, disk, Index(applied.min(last.index.0)));
            self.cluster.replica(id)?.manual = manual;
        }
        Ok(())
    }

    // Time.

    fn tick(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let mut ids = all_nodes(args)?;
        if ids.is_empty() {
            ids = self.cluster.up();
        }
        for _ in 0..number(args, "count")?.unwrap_or(1) {
            for &id in &ids {
                self.cluster.step(id, Event::Tick)?;
            }
        }
        Ok(())
    }

    /// An election timeout is drawn at random, so this counts until the node does something about it.
    fn campaign(&mut self, id: NodeId) -> Result<(), Error> {
        let term = self.cluster.replica(id)?.raft.as_ref().map(raft_core::Raft::term);
        let role = self.cluster.role(id)?;
        self.cluster.note(&format!("{id:?} has waited for its election timeout"));
        for _ in 0..2 * u64::from(self.cluster.replica(id)?.config.election_timeout.0) {
            self.cluster.step(id, Event::Tick)?;
            let now = self.cluster.role(id)?;
            let now_term = self.cluster.replica(id)?.raft.as_ref().map(raft_core::Raft::term);
            let asks = matches!(now, RoleName::PreCandidate | RoleName::Candidate);
            if asks && (role != now || term != now_term) || now == RoleName::Leader {
                return Ok(());
            }
        }
        Ok(()) // It may have campaigned once more in the same role, or may not campaign at all.
    }

    fn elect(&mut self, id: NodeId) -> Result<(), Error> {
        self.campaign(id)?;
        self.cluster.stabilize()?;
        let role = self.cluster.role(id)?;
        if role != RoleName::Leader {
            return Err(format!("{id:?} was not elected, it is {role:?}").into());
        }
        Ok(())
    }

    /// How long each of two nodes that hear nobody waits before it campaigns, again and again.
    fn timeouts(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let (one, other) = (one_node(args)?, one_node(args)?);
        let draws = size(number(args, "draws")?.unwrap_or(1));
        let (a, b) = (self.draw(one, draws)?, self.draw(other, draws)?);
        for (id, ticks) in [(one, &a), (other, &b)] {
            let all: BTreeSet<_> = ticks.iter().collect();
            let all: Vec<_> = all.into_iter().map(ToString::to_string).collect();
            self.cluster.note(&format!("{id:?} waited for {} ticks", all.join(", ")));
        }
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        self.cluster.note(&format!("equally long {same} times of {draws}"));
        Ok(())
    }

    /// The next `draws` timeouts of a node, in ticks.
    fn draw(&mut self, id: NodeId, draws: usize) -> Result<Vec<u64>, Error> {
        let mut drawn = Vec::new();
        let (mut ticks, mut before) = (0, self.cluster.term(id)?);
        while drawn.len() < draws {
            self.cluster.step_in_silence(id, Event::Tick)?;
            ticks += 1;
            let term = self.cluster.term(id)?;
            if term > before {
                drawn.push(std::mem::take(&mut ticks));
                before = term;
            }
        }
        Ok(drawn)
    }

    // Requests.

    fn propose(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let id = one_node(args)?;
        let mut commands = Vec::new();
        while let Some(word) = args.next_pos() {
            commands.push(word.as_bytes().to_vec());
        }
        if let Some(bytes) = number(args, "bytes")? {
            commands.push(vec![b'x'; size(bytes)]);
        }
        self.cluster.propose(id, &commands)
    }

    fn change(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let id = one_node(args)?;
        let expected_at = number(args, "at")?.map(Index);
        let mut steps = Vec::new();
        while let Some((what, who)) = args.next_key() {
            for node in text::nodes(who)? {
                let address = Some(text::address(node));
                steps.push(match what {
                    "voter" => ChangeStep::AddVoter(node, address),
                    "admit" => ChangeStep::Admit(node, address),
                    "learner" => ChangeStep::AddLearner(node, address),
                    "remove" => ChangeStep::Remove(node),
                    "address" => ChangeStep::SetAddress(node, text::address(node)),
                    other => return Err(format!("'{other}' is no change").into()),
                });
            }
        }
        self.cluster.change(id, Change { steps, expected_at })
    }

    // Messages and links.

    fn messages(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let mut filter = Filter::default();
        while let Some(word) = args.next_pos() {
            match word {
                "to" => filter.to = Some(text::node(args.next_pos().ok_or("to whom?")?)?),
                word if word.starts_with('n') => filter.from = Some(text::node(word)?),
                kind => filter.kind = Some(kind.to_owned()),
            }
        }
        filter.skip = number(args, "skip")?.map_or(0, size);
        filter.count = number(args, "count")?.map(size);
        let found = match name {
            "deliver" => self.cluster.deliver(&filter)?,
            "drop" => self.cluster.drop(&filter)?,
            _ => self.cluster.duplicate(&filter),
        };
        if found == 0 && !filter.is_open() {
            return Err("no such message is under way".into());
        }
        Ok(())
    }

    fn links(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        match name {
            "heal" => self.cluster.network.heal(),
            "cut" => {
                let (from, to) = link(args)?;
                self.cluster.network.cut(from, to);
            }
            "isolate" => {
                let id = one_node(args)?;
                let all: Vec<_> = self.cluster.replicas.keys().copied().collect();
                for other in all {
                    self.cluster.network.cut(id, other);
                    self.cluster.network.cut(other, id);
                }
            }
            "partition" => {
                let mut sides = Vec::new();
                while let Some(side) = args.next_pos() {
                    sides.push(text::nodes(side)?);
                }
                for (i, side) in sides.iter().enumerate() {
                    for other in sides.iter().skip(i + 1) {
                        for &a in side {
                            for &b in other {
                                self.cluster.network.cut(a, b);
                                self.cluster.network.cut(b, a);
                            }
                        }
                    }
                }
            }
            "unreachable" => {
                let (id, peer) = link(args)?;
                self.cluster.note(&format!("{id:?} has lost its connection to {peer:?}"));
                self.cluster.step(id, Event::Unreachable(peer))?;
            }
            _ => {
                let (from, to) = link(args)?;
                let why = match args.next_pos() {
                    Some("full") => Sent::Full,
                    Some("unreachable") => Sent::Unreachable,
                    Some("ok") => Sent::Queued,
                    other => return Err(format!("full, unreachable or ok, not {other:?}").into()),
                };
                self.cluster.network.refuse(from, to, why);
            }
        }
        Ok(())
    }

    // Life and death.

    fn life(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<(), Error> {
        let id = one_node(args)?;
        if name == "crash" {
            let saved = number(args, "saved")?.map_or(0, size);
            let machine = number(args, "machine")?.map(Index);
            self.cluster.replica(id)?.crash(saved, machine);
            return Ok(());
        }
        let pre_vote = switch(args, "prevote")?;
        let check_quorum = switch(args, "checkquorum")?;
        let replica = self.cluster.replica(id)?;
        if replica.raft.is_some() {
            return Err(format!("{id:?} is up").into());
        }
        replica.config.pre_vote = pre_vote.unwrap_or(replica.config.pre_vote);
        replica.config.check_quorum = check_quorum.unwrap_or(replica.config.check_quorum);
        replica.start();
        Ok(())
    }

    // Looking.

    fn show(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Error> {
        let mut lines = Vec::new();
        if name == "network" {
            for flight in &self.cluster.network.flights {
                let raft_core::Envelope { from, to, term, message } = &flight.envelope;
                let message = text::show_message(message);
                lines.push(format!("{from:?}@{term} -> {to:?} {message} is under way"));
            }
            return Ok(lines.join("\n"));
        }
        let mut ids = all_nodes(args)?;
        if ids.is_empty() {
            ids = self.cluster.replicas.keys().copied().collect();
        }
        for id in ids {
            let replica = self.cluster.replica(id)?;
            lines.push(match name {
                "status" => replica.state(),
                "log" => replica.show_log(),
                _ => {
                    let raft = replica.raft.as_ref().ok_or("it is down")?;
                    let status = raft.status();
                    let membership = text::show_membership(&status.membership);
                    format!("{id:?} uses {membership} (from {})", status.membership_at)
                }
            });
        }
        // The lines are the answer; they need not be printed as changes as well.
        self.cluster.finish();
        Ok(lines.join("\n"))
    }
}

/// The options of `cluster` that are settings of the core.
fn config(args: &mut ArgumentConsumer<'_>) -> Result<Config, Error> {
    let any = NodeId::new(1).ok_or("node ids begin at 1")?;
    let mut config = Config::new(any);
    config.pre_vote = switch(args, "prevote")?.unwrap_or(true);
    config.check_quorum = switch(args, "checkquorum")?.unwrap_or(true);
    let ticks = |number: u64| u32::try_from(number).map(Ticks);
    config.election_timeout = ticks(number(args, "election")?.unwrap_or(10))?;
    config.heartbeat_interval = ticks(number(args, "heartbeat")?.unwrap_or(2))?;
    if let Some(ppm) = number(args, "lease")? {
        config.lease = Some(ClockDrift { ppm: u32::try_from(ppm)? });
    }
    config.priority = u8::try_from(number(args, "priority")?.unwrap_or(0))?;
    for (key, value) in [
        ("snapshots_at_once", &mut config.snapshots_at_once),
        ("append_bytes", &mut config.append_bytes),
        ("window_messages", &mut config.window_messages),
        ("window_bytes", &mut config.window_bytes),
        ("uncommitted_bytes", &mut config.uncommitted_bytes),
    ] {
        if let Some(number) = number(args, key)? {
            *value = size(number);
        }
    }
    Ok(config)
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<u64>, Error> {
    args.take_key(key).map(text::number).transpose()
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn switch(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<bool>, Error> {
    match args.take_key(key) {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(format!("{key}={other}: on or off").into()),
    }
}

/// `persist=manual`, `apply=auto` and so on.
fn set_manual(args: &mut ArgumentConsumer<'_>, manual: &mut Manual) -> Result<(), Error> {
    for (key, value) in [
        ("persist", &mut manual.persist),
        ("apply", &mut manual.apply),
        ("replicate", &mut manual.replicate),
        ("install", &mut manual.install),
    ] {
        match args.take_key(key) {
            None => {}
            Some("auto") => *value = false,
            Some("manual") => *value = true,
            Some(other) => return Err(format!("{key}={other}: auto or manual").into()),
        }
    }
    Ok(())
}

fn one_node(args: &mut ArgumentConsumer<'_>) -> Result<NodeId, Error> {
    text::node(args.next_pos().ok_or("which node?")?)
}

/// `FROM to TO`.
fn link(args: &mut ArgumentConsumer<'_>) -> Result<(NodeId, NodeId), Error> {
    let from = one_node(args)?;
    let to = to(args)?.ok_or("to whom?")?;
    Ok((from, to))
}

fn to(args: &mut ArgumentConsumer<'_>) -> Result<Option<NodeId>, Error> {
    match args.next_pos() {
        None => Ok(None),
        Some("to") => one_node(args).map(Some),
        Some(other) => Err(format!("'to NODE' was expected, not '{other}'").into()),
    }
}

/// The nodes among the words that are left.
fn all_nodes(args: &mut ArgumentConsumer<'_>) -> Result<Vec<NodeId>, Error> {
    let mut ids = Vec::new();
    while let Some(word) = args.next_pos() {
        ids.push(text::node(word)?);
    }
    Ok(ids)
}

//! The clients: each sends one request, waits for the answer, thinks, and sends the next.

use std::sync::{Arc, Mutex, PoisonError};

use raft_core::{Committed, Index, LogId, ReadLevel, Refusal, RequestError};

use super::coverage::Seen;
use super::machine::{Command, REGISTERS};
use super::schedule::Micros;
use super::truth::Violation;
use super::world::{What, World};

/// A client that was refused waits at least this long: no client asks a hundred times a tick.
const RETRY_PAUSE: Micros = 5_000;

/// What a client or an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Write(Command),
    Read {
        register: u8,
    },
    LeaseRead {
        register: u8,
    },
    StaleRead,
    /// Asked of the node at this place, in this life of its.
    Change {
        place: usize,
        life: u32,
    },
    Transfer,
    Forget,
    Repair,
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) request: Request,
    /// Who sent it: a client, or nobody if it was the operator.
    pub(crate) client: Option<usize>,
    /// What clients knew when it was sent.
    pub(crate) floor: u64,
    /// The client has gone on without an answer.
    pub(crate) abandoned: bool,
    pub(crate) answered: bool,
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Write(Result<Committed, RequestError>),
    Read(Result<Index, RequestError>),
    Change(Result<LogId, RequestError>),
    Transfer(Result<(), RequestError>),
    Forget(Result<(), RequestError>),
    Repair(Result<(), RequestError>),
}

/// Where nodes put their answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<(u32, Answer)>>>);

impl Answers {
    pub(crate) fn put(&self, op: u32, answer: Answer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((op, answer));
    }

    /// Moves what has come to the end of `into`.
    pub(crate) fn take(&self, into: &mut Vec<(u32, Answer)>) {
        into.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl World<'_> {
    pub(crate) fn on_ask(&mut self, client: usize) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        if self.now < self.hush_until {
            self.schedule.put(self.hush_until, What::Ask(client));
            return Ok(());
        }
        let Some(to) = self.choose_host(client) else {
            let later = self.now + 50_000;
            self.schedule.put(later, What::Ask(client));
            return Ok(());
        };
        let op = u32::try_from(self.ops.len()).expect("fewer than 2^32 operations");
        let dice = &mut self.client_dice;
        let register = u8::try_from(dice.below(REGISTERS as u64)).expect("a handful of registers");
        let request = match dice.below(10) {
            0..4 => Request::Write(Command::Put { register, op }),
            4..6 => Request::Write(Command::Once { op }),
            6..9 if self.plan.lease > 0 && dice.flip() => Request::LeaseRead { register },
            6..9 => Request::Read { register },
            _ => Request::StaleRead,
        };
        self.schedule.put(self.now + self.plan.patience, What::GiveUp(op));
        self.waiting[client] = Some((op, to));
        self.ask(Some(client), to, request)
    }

    /// Sends a request to a host that is up.
    pub(crate) fn ask(
        &mut self,
        client: Option<usize>,
        to: usize,
        request: Request,
    ) -> Result<(), Violation> {
        let op = u32::try_from(self.ops.len()).expect("fewer than 2^32 operations");
        let floor = self.truth.floor;
        self.ops.push(Op { request, client, floor, abandoned: false, answered: false });
        self.tell(to, |_| format!("is asked: #{op} {request:?}"));
        let answers = self.answers.clone();
        let Some(node) = &mut self.hosts[to].node else { return Ok(()) };
        match request {
            Request::Write(command) => {
                let bytes = command.encode(self.plan.padding);
                node.propose(bytes, move |result| answers.put(op, Answer::Write(result)));
            }
            Request::Read { .. } => {
                let done = move |result| answers.put(op, Answer::Read(result));
                node.read_barrier(ReadLevel::Linearizable, done);
            }
            Request::LeaseRead { .. } => {
                let done = move |result| answers.put(op, Answer::Read(result));
                node.read_barrier(ReadLevel::Lease, done);
            }
            Request::StaleRead => {
                let done = move |result| answers.put(op, Answer::Read(result));
                node.read_barrier(ReadLevel::Stale, done);
            }
            Request::Change { .. } | Request::Transfer | Request::Forget | Request::Repair => {
                unreachable!("these come from the operator")
            }
        }
        self.poke(to)
    }

    /// Where a client turns to: to whom it last had an answer from, be it deposed or not; otherwise
    /// mostly to the leader, as far as anybody can tell.
    fn choose_host(&mut self, client: usize) -> Option<usize> {
        let home = self.homes[client].filter(|home| self.hosts[*home].node.is_some());
        if home.is_some() && self.client_dice.chance(850_000) {
            return home;
        }
        let up = |place: &usize| self.hosts[*place].node.is_some();
        let places: Vec<_> = (0..self.hosts.len()).filter(up).collect();
        if places.is_empty() {
            return None;
        }
        let leader = places.iter().copied().filter(|place| self.hosts[*place].view.leads);
        let leader = leader.max_by_key(|place| self.hosts[*place].view.term);
        if let Some(leader) = leader.filter(|_| self.client_dice.chance(700_000)) {
            return Some(leader);
        }
        Some(self.client_dice.pick(&places))
    }

    pub(crate) fn on_give_up(&mut self, op: u32) {
        let Some(asked) = self.ops.get_mut(op as usize) else { return };
        if !asked.answered && !asked.abandoned {
            asked.abandoned = true;
            if let Some(client) = asked.client {
                self.schedule.put(self.now, What::Ask(client));
            }
        }
    }

    /// Looks at what clients were told.
    pub(crate) fn take_answers(&mut self, place: usize) -> Result<(), Violation> {
        let mut answered = std::mem::take(&mut self.answered);
        self.answers.take(&mut answered);
        for (op, answer) in answered.drain(..) {
            self.on_answer(place, op, answer)?;
        }
        self.answered = answered;
        Ok(())
    }

    pub(crate) fn on_answer(
        &mut self,
        place: usize,
        op: u32,
        answer: Answer,
    ) -> Result<(), Violation> {
        self.tell(place, |_| format!("answers #{op}: {answer:?}"));
        let asked = &mut self.ops[op as usize];
        asked.answered = true;
        let asked = *asked;
        if let Some(client) = asked.client.filter(|_| !asked.abandoned) {
            let failed = matches!(&answer, Answer::Write(Err(_)) | Answer::Read(Err(_)));
            self.homes[client] = (!failed).then_some(place);
            let pause = if failed { RETRY_PAUSE } else { 0 };
            let think = pause + self.client_dice.between(0, 2 * self.plan.think);
            self.schedule.put(self.now + think, What::Ask(client));
        }
        let id = self.hosts[place].id;
        match (asked.request, answer) {
            (Request::Write(command), Answer::Write(Ok(done))) => {
                self.seen.meet(Seen::Acknowledged);
                let outcome =
                    done.outcome.first_chunk().copied().map_or(u32::MAX, u32::from_be_bytes);
                self.truth.on_acknowledged(command, done.id, outcome, asked.floor)?;
                if let Command::Put { register, .. } = command {
                    self.send_doubters(register);
                }
                Ok(())
            }
            (Request::Write(command), Answer::Write(Err(error))) => {
                self.on_write_failed(command, &error)
            }
            (
                Request::Read { register } | Request::LeaseRead { register },
                Answer::Read(Ok(index)),
            ) => {
                if let Request::LeaseRead { .. } = asked.request
                    && self.hosts[place].node.as_ref().is_some_and(|node| node.raft().has_lease())
                {
                    self.seen.meet(Seen::ReadByLease);
                }
                let membership = self.hosts[place].membership();
                let learner = membership.is_some_and(|members| members.learners.contains(&id));
                self.seen.meet(match (self.hosts[place].view.leads, learner) {
                    (true, _) => Seen::ReadAtLeader,
                    (false, true) => Seen::ReadAtLearner,
                    (false, false) => Seen::ReadAtFollower,
                });
                let store = &self.hosts[place].store;
                let (at, value) = (store.applied().index.0, store.register(register));
                self.truth.on_read(id, register, (index.0, at), value, asked.floor)
            }
            (Request::Read { .. } | Request::LeaseRead { .. }, Answer::Read(Err(_))) => {
                self.seen.meet(Seen::ReadRefused);
                Ok(())
            }
            (_, answer) => {
                self.on_operator_answer(answer);
                Ok(())
            }
        }
    }

    /// A write was acknowledged: somebody who has heard of it reads at once where it is least likely to be
    /// known, at a leader that was deposed and does not know it, or anywhere.
    fn send_doubters(&mut self, register: u8) {
        if self.calm {
            return;
        }
        let newest = self.hosts.iter().filter(|host| host.view.leads).map(|host| host.view.term);
        let newest = newest.max().unwrap_or_default();
        for place in 0..self.hosts.len() {
            let host = &self.hosts[place];
            let deposed = host.view.leads && host.view.term < newest;
            let asked = self.client_dice.chance(if deposed { 500_000 } else { 20_000 });
            if host.node.is_some() && asked {
                let at = self.now + self.client_dice.below(1_000);
                self.schedule.put(at, What::Doubt(place, host.life, register));
            }
        }
    }

    pub(crate) fn on_first_write(&mut self, place: usize) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let op = u32::try_from(self.ops.len()).expect("fewer than 2^32 operations");
        let register = self.client_dice.below(REGISTERS as u64);
        let register = u8::try_from(register).expect("a handful of registers");
        self.ask(None, place, Request::Write(Command::Put { register, op }))
    }

    pub(crate) fn on_doubt(&mut self, place: usize, register: u8) -> Result<(), Violation> {
        let leased = self.plan.lease > 0 && self.client_dice.flip();
        let request =
            if leased { Request::LeaseRead { register } } else { Request::Read { register } };
        self.ask(None, place, request)
    }

    /// A process has died, and half of those who wait for its answer notice that their connection broke.
    pub(crate) fn break_connections(&mut self, place: usize) {
        for client in 0..self.waiting.len() {
            let Some((op, _)) = self.waiting[client].filter(|(_, at)| *at == place) else {
                continue;
            };
            if self.client_dice.flip() {
                self.schedule.put(self.now + RETRY_PAUSE, What::GiveUp(op));
            }
        }
    }

    pub(crate) fn on_write_failed(
        &mut self,
        command: Command,
        error: &RequestError,
    ) -> Result<(), Violation> {
        match error {
            RequestError::Unknown | RequestError::Stopped(_) => {
                self.seen.meet(Seen::Unknown);
                if self.truth.was_applied(command.op()) {
                    self.seen.meet(Seen::UnknownTookEffect);
                }
                return Ok(());
            }
            RequestError::Superseded => self.seen.meet(Seen::Superseded),
            RequestError::Busy | RequestError::Refused(Refusal::Busy { .. }) => {
                self.seen.meet(Seen::RefusedBusy);
            }
            RequestError::Refused(_) | RequestError::TooLarge { .. } | _ => {}
        }
        self.truth.on_void(command)
    }
}

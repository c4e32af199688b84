//! A few threads for work that may block, with a limit on how much of it waits.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::KvError;

/// Runs jobs one after the other on each of its threads. They end once it is dropped and what waits
/// is done.
pub(crate) struct Pool {
    jobs: SyncSender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Pool {
    /// Threads that are called `name`, and at most so many jobs that wait for one.
    pub(crate) fn start(name: &str, threads: usize, waiting: usize) -> Result<Self, KvError> {
        let (jobs, queue) = sync_channel::<Job>(waiting);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = queue.clone();
            thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || work(&queue))
                .map_err(KvError::io("starting a thread for", name))?;
        }
        Ok(Self { jobs })
    }

    /// Has `job` done with `input`, or gives `input` back if too much waits already.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        input: T,
        job: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), T> {
        // The input travels beside the job, so that it can be had back.
        let input = Arc::new(Mutex::new(Some(input)));
        let taken = input.clone();
        let job = move || {
            if let Some(input) = take(&taken) {
                job(input);
            }
        };
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => match take(&input) {
                Some(input) => Err(input),
                None => Ok(()),
            },
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting: the thread that has it is the next to be given a job.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_too_much_comes_back_and_the_rest_is_done() {
        let pool = Pool::start("test", 1, 2).unwrap();
        let (block, blocked) = channel::<()>();
        let (started, start) = channel();
        let (done, results) = channel();
        pool.run((), move |()| {
            started.send(()).unwrap();
            blocked.recv().unwrap();
        })
        .unwrap();
        start.recv().unwrap();
        for number in 0..2 {
            let done = done.clone();
            pool.run(number, move |number| done.send(number).unwrap()).unwrap();
        }
        assert_eq!(pool.run(7, |_| panic!("there was no room")), Err(7));
        block.send(()).unwrap();
        assert_eq!((results.recv().unwrap(), results.recv().unwrap()), (0, 1));
    }
}

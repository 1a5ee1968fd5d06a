//! A pool over fake machines that count.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::lease::Acquire;
use super::scheduler::Scheduler;
use super::state::{Manager, PoolOptions, Urgency};
use crate::Error;
use crate::error::HostError;

/// A timeout that only a hang reaches.
const HANG: Duration = Duration::from_secs(60);
const RULES: PoolOptions =
    PoolOptions { min: 0, max: 2, idle_timeout: HANG, acquire_timeout: HANG, restores: true };

#[derive(Debug, Default)]
struct Count {
    made: AtomicUsize,
    alive: AtomicUsize,
    most_alive: AtomicUsize,
    resets: AtomicUsize,
    refuses_to_make: AtomicBool,
    panics_on_making: AtomicBool,
    refuses_to_reset: AtomicBool,
    /// Held to block the pool's thread.
    gate: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct FakeManager(Arc<Count>);

/// A machine: its number, and its users since its reset.
#[derive(Debug)]
struct Fake {
    number: usize,
    users: usize,
    is_dead: bool,
    count: Arc<Count>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.count.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Manager for FakeManager {
    type Machine = Fake;

    fn create(&self, urgency: Urgency) -> Result<Fake, Error> {
        if urgency == Urgency::Ahead {
            drop(self.0.gate.lock().unwrap());
        }
        assert!(!self.0.panics_on_making.load(Ordering::SeqCst), "as the test asks for");
        if self.0.refuses_to_make.load(Ordering::SeqCst) {
            return Err(Error::Host { source: HostError::NoCacheDir });
        }
        let alive = self.0.alive.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_alive.fetch_max(alive, Ordering::SeqCst);
        let number = self.0.made.fetch_add(1, Ordering::SeqCst);
        Ok(Fake { number, users: 0, is_dead: false, count: Arc::clone(&self.0) })
    }

    fn reset(&self, machine: &mut Fake) -> Result<(), Error> {
        if thread::current().name() == Some(THREAD) {
            drop(self.0.gate.lock().unwrap());
        }
        if self.0.refuses_to_reset.load(Ordering::SeqCst) {
            return Err(Error::Host { source: HostError::NoCacheDir });
        }
        self.0.resets.fetch_add(1, Ordering::SeqCst);
        machine.users = 0;
        Ok(())
    }

    fn is_healthy(&self, machine: &Fake) -> bool {
        !machine.is_dead
    }
}

/// Acquires a machine.
fn take(scheduler: &Arc<Scheduler<FakeManager>>) -> Result<Fake, Error> {
    Acquire::new(scheduler).wait()?.fulfill()
}

const THREAD: &str = "tends";

/// A pool's scheduler with its thread.
struct Tended {
    scheduler: Arc<Scheduler<FakeManager>>,
    count: Arc<Count>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tended {
    fn new(options: PoolOptions) -> Self {
        Self::with(FakeManager::default(), options)
    }

    fn with(manager: FakeManager, options: PoolOptions) -> Self {
        let count = Arc::clone(&manager.0);
        let scheduler = Arc::new(Scheduler::new(manager, options));
        let tended = Arc::clone(&scheduler);
        let builder = thread::Builder::new().name(THREAD.into());
        let thread = Some(builder.spawn(move || tended.tend()).unwrap());
        Self { scheduler, count, thread }
    }

    fn close(&mut self) {
        self.scheduler.close();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.scheduler.clear();
    }

    fn alive(&self) -> usize {
        self.count.alive.load(Ordering::SeqCst)
    }

    /// Waits for a condition.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + HANG;
        while !is_so(self) {
            assert!(Instant::now() < end, "never {what}: {:?}", self.scheduler.stats());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.close();
    }
}

#[test]
fn min_machines_are_kept_warm() {
    let pool = Tended::new(PoolOptions { min: 2, max: 3, ..RULES });
    pool.until("warm", |pool| pool.scheduler.stats().idle == 2);
    let machine = take(&pool.scheduler).unwrap();
    assert!(machine.number < 2);
    pool.until("warm again", |pool| pool.scheduler.stats().idle == 2);
    assert_eq!((pool.alive(), pool.scheduler.stats().in_use), (3, 1));
    pool.scheduler.give_back(machine, true);
    pool.until("reset", |pool| pool.scheduler.stats().idle == 3);
    assert_eq!((pool.scheduler.stats().created, pool.scheduler.stats().reset), (3, 1));
}

#[test]
fn caller_makes_a_machine_when_none_is_warm() {
    let pool = Tended::new(PoolOptions { min: 2, max: 4, ..RULES });
    let count = Arc::clone(&pool.count);
    pool.until("warm", |pool| pool.scheduler.stats().idle == 2);
    // The thread may have room for one, but is blocked.
    let gate = count.gate.lock().unwrap();
    let machines: Vec<Fake> = (0..3).map(|_| take(&pool.scheduler).unwrap()).collect();
    assert_eq!(pool.scheduler.stats().in_use, 3);
    machines.into_iter().for_each(|machine| pool.scheduler.give_back(machine, true));
    drop(gate);
}

#[test]
fn used_machine_is_reset_by_the_next_caller() {
    const TURNS: usize = 100;
    let count = Arc::new(Count::default());
    let held = count.gate.lock().unwrap();
    // The thread works on a machine, and is blocked.
    let pool =
        Tended::with(FakeManager(Arc::clone(&count)), PoolOptions { min: 1, max: 2, ..RULES });
    // Released before the pool closes, even when an assertion fails.
    let gate = held;
    pool.until("starting", |pool| pool.scheduler.stats().starting == 1);
    for turn in 0..TURNS {
        let mut machine = take(&pool.scheduler).unwrap();
        assert_eq!((machine.number, machine.users), (0, 0));
        assert_eq!(count.resets.load(Ordering::SeqCst), turn);
        machine.users += 1;
        pool.scheduler.give_back(machine, true);
    }
    assert_eq!(count.made.load(Ordering::SeqCst), 1);
    drop(gate);
    // The last use is reset by the thread.
    pool.until("reset", |pool| pool.scheduler.stats().idle == 2);
    assert_eq!(
        (count.made.load(Ordering::SeqCst), count.resets.load(Ordering::SeqCst)),
        (2, TURNS)
    );
}

#[test]
fn without_reset_the_next_user_sees_the_previous_state() {
    let pool = Tended::new(PoolOptions { max: 1, restores: false, ..RULES });
    let mut machine = take(&pool.scheduler).unwrap();
    machine.users = 7;
    pool.scheduler.give_back(machine, true);
    let machine = take(&pool.scheduler).unwrap();
    assert_eq!(machine.users, 7);
    assert_eq!(pool.count.resets.load(Ordering::SeqCst), 0);
    pool.scheduler.give_back(machine, true);
}

#[test]
fn longest_waiting_caller_is_served_first() {
    const CALLERS: usize = 8;
    let pool = Tended::new(PoolOptions { max: 1, ..RULES });
    let machine = take(&pool.scheduler).unwrap();
    let (served, order) = mpsc::channel();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (pool, served) = (&pool, served.clone());
            scope.spawn(move || {
                let machine = take(&pool.scheduler).unwrap();
                served.send(caller).unwrap();
                pool.scheduler.give_back(machine, true);
            });
            pool.until("waiting", |pool| pool.scheduler.stats().waiting == caller + 1);
        }
        pool.scheduler.give_back(machine, true);
    });
    assert_eq!(order.try_iter().collect::<Vec<_>>(), (0..CALLERS).collect::<Vec<_>>());
}

#[test]
fn acquire_timeout_reports_machines_in_use() {
    let limit = Duration::from_millis(20);
    let pool = Tended::new(PoolOptions { acquire_timeout: limit, ..RULES });
    let machines = [take(&pool.scheduler).unwrap(), take(&pool.scheduler).unwrap()];
    match take(&pool.scheduler) {
        Err(Error::PoolExhausted { in_use: 2, max: 2, waited }) => assert!(waited >= limit),
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.scheduler.stats().waiting, 0);
    // A caller that gave up is not served.
    machines.into_iter().for_each(|machine| pool.scheduler.give_back(machine, true));
    let machine = take(&pool.scheduler).unwrap();
    assert_eq!(pool.scheduler.stats().in_use, 1);
    pool.scheduler.give_back(machine, true);
}

/// Counts its wake-ups.
#[derive(Debug, Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn abandoned_acquire_loses_no_machine() {
    let pool = Tended::new(PoolOptions { max: 1, restores: false, ..RULES });
    let machine = take(&pool.scheduler).unwrap();
    let alarms: Vec<Arc<Alarm>> = (0..4).map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = alarms.iter().map(|alarm| Waker::from(Arc::clone(alarm))).collect();
    let mut places: Vec<_> = wakers
        .iter()
        .map(|waker| {
            let mut place = Acquire::new(&pool.scheduler);
            assert!(place.try_now().is_none() && place.poll(waker).is_pending());
            place
        })
        .collect();
    // A second poll keeps the turn, and replaces the waker.
    assert!(places[2].poll(&wakers[3]).is_pending());
    let rung = || alarms.iter().map(|alarm| alarm.0.load(Ordering::SeqCst)).collect::<Vec<_>>();

    // The first is dropped before it is served, the second with its grant.
    drop(places.remove(0));
    pool.scheduler.give_back(machine, true);
    assert_eq!(rung(), [0, 1, 0, 0]);
    drop(places.remove(0));
    assert_eq!(rung(), [0, 1, 0, 1]);
    let Poll::Ready(lease) = places[0].poll(&wakers[2]) else { panic!("it was served") };
    assert!(places[1].poll(&wakers[3]).is_pending());
    // The third has a lease and drops it.
    drop(lease);
    assert_eq!(rung(), [0, 1, 0, 2]);
    let Poll::Ready(lease) = places[1].poll(&wakers[3]) else { panic!("it was served") };
    let machine = lease.fulfill().unwrap();
    assert_eq!((pool.scheduler.stats().in_use, pool.scheduler.stats().waiting), (1, 0));
    assert_eq!(pool.count.made.load(Ordering::SeqCst), 1);
    pool.scheduler.give_back(machine, true);
    drop(places);
    assert_eq!((pool.scheduler.stats().in_use, pool.scheduler.stats().idle), (0, 1));
}

#[test]
fn lease_returned_to_a_closed_pool_stops() {
    let mut pool = Tended::new(PoolOptions { max: 2, restores: false, ..RULES });
    let machine = take(&pool.scheduler).unwrap();
    pool.scheduler.give_back(machine, true);
    let lots = [
        Acquire::new(&pool.scheduler).try_now().unwrap(),
        Acquire::new(&pool.scheduler).try_now().unwrap(),
    ];
    pool.close();
    assert_eq!(pool.alive(), 1);
    drop(lots);
    assert_eq!(pool.alive(), 0);
    assert!(pool.scheduler.is_empty());
}

#[test]
fn idle_machines_beyond_min_are_evicted() {
    let idle_timeout = Duration::from_millis(50);
    let pool = Tended::new(PoolOptions { min: 1, max: 4, idle_timeout, ..RULES });
    let machines: Vec<Fake> = (0..4).map(|_| take(&pool.scheduler).unwrap()).collect();
    machines.into_iter().for_each(|machine| pool.scheduler.give_back(machine, true));
    pool.until("shrunk", |pool| pool.alive() == 1 && pool.scheduler.stats().idle == 1);
    thread::sleep(2 * idle_timeout);
    assert_eq!((pool.alive(), pool.scheduler.stats().idle), (1, 1));
}

#[test]
fn machine_that_failed_in_use_is_replaced() {
    let pool = Tended::new(PoolOptions { min: 1, max: 1, ..RULES });
    let mut machine = take(&pool.scheduler).unwrap();
    machine.is_dead = true;
    let dead = machine.number;
    pool.scheduler.give_back(machine, true);
    let machine = take(&pool.scheduler).unwrap();
    assert_ne!(machine.number, dead);
    assert_eq!(pool.scheduler.stats().replaced, 1);
    pool.scheduler.give_back(machine, true);
    assert_eq!(pool.count.most_alive.load(Ordering::SeqCst), 1);
}

#[test]
fn machine_that_failed_idle_is_not_handed_out() {
    let pool = Tended::new(PoolOptions { max: 1, restores: false, ..RULES });
    let machine = take(&pool.scheduler).unwrap();
    let dead = machine.number;
    pool.scheduler.give_back(machine, true);
    pool.scheduler.for_idle(|machine| machine.is_dead = true);
    let machine = take(&pool.scheduler).unwrap();
    assert_ne!(machine.number, dead);
    assert_eq!(pool.scheduler.stats().replaced, 1);
    pool.scheduler.give_back(machine, true);
}

#[test]
fn machine_that_cannot_be_reset_is_replaced() {
    let pool = Tended::new(PoolOptions { max: 1, ..RULES });
    pool.count.refuses_to_reset.store(true, Ordering::SeqCst);
    for turn in 0..20 {
        let machine = take(&pool.scheduler).unwrap();
        assert_eq!(machine.number, turn);
        pool.scheduler.give_back(machine, true);
    }
    pool.until("ended", |pool| pool.alive() == 0);
    assert_eq!(pool.count.most_alive.load(Ordering::SeqCst), 1);
    assert_eq!(pool.scheduler.stats().replaced, 20);
}

#[test]
fn failed_start_is_reported_and_leaves_room() {
    let pool = Tended::new(PoolOptions { max: 1, ..RULES });
    pool.count.refuses_to_make.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(matches!(
            take(&pool.scheduler),
            Err(Error::Host { source: HostError::NoCacheDir })
        ));
    }
    assert_eq!((pool.scheduler.stats().in_use, pool.scheduler.stats().failures), (0, 3));
    pool.count.refuses_to_make.store(false, Ordering::SeqCst);
    let machine = take(&pool.scheduler).unwrap();
    pool.scheduler.give_back(machine, true);
}

#[test]
fn panic_during_a_start_leaves_room() {
    let pool = Tended::new(PoolOptions { max: 1, ..RULES });
    pool.count.panics_on_making.store(true, Ordering::SeqCst);
    let scheduler = Arc::clone(&pool.scheduler);
    assert!(thread::spawn(move || take(&scheduler).map(drop)).join().is_err());
    pool.count.panics_on_making.store(false, Ordering::SeqCst);
    let machine = take(&pool.scheduler).unwrap();
    pool.scheduler.give_back(machine, true);
}

#[test]
fn failed_start_ahead_does_not_block_callers() {
    let pool = Tended::new(PoolOptions { min: 1, max: 1, ..RULES });
    pool.until("warm", |pool| pool.scheduler.stats().idle == 1);
    pool.count.refuses_to_make.store(true, Ordering::SeqCst);
    let mut machine = take(&pool.scheduler).unwrap();
    machine.is_dead = true;
    pool.scheduler.give_back(machine, true);
    assert!(matches!(take(&pool.scheduler), Err(Error::Host { source: HostError::NoCacheDir })));
    pool.count.refuses_to_make.store(false, Ordering::SeqCst);
    pool.until("warm again", |pool| pool.scheduler.stats().idle == 1);
}

#[test]
fn machine_taken_out_makes_room_for_another() {
    let pool = Tended::new(PoolOptions { max: 1, ..RULES });
    let kept = take(&pool.scheduler).unwrap();
    pool.scheduler.let_go();
    let machine = take(&pool.scheduler).unwrap();
    assert_ne!(machine.number, kept.number);
    pool.scheduler.give_back(machine, true);
}

#[test]
fn closed_pool_leaves_machines_to_their_users() {
    let mut pool = Tended::new(PoolOptions { min: 1, max: 3, ..RULES });
    let machines: Vec<Fake> = (0..3).map(|_| take(&pool.scheduler).unwrap()).collect();
    pool.close();
    assert_eq!(pool.alive(), 3);
    for (left, machine) in (0..3).rev().zip(machines) {
        pool.scheduler.give_back(machine, true);
        assert_eq!(pool.alive(), left);
    }
    assert!(pool.scheduler.is_empty());
}

#[test]
fn many_threads_share_few_machines() {
    const THREADS: usize = 16;
    const TURNS: usize = 200;
    let pool = Tended::new(PoolOptions { min: 2, max: 5, ..RULES });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let mut machine = take(&pool.scheduler).unwrap();
                    assert_eq!(machine.users, 0);
                    machine.users += 1;
                    machine.is_dead = (thread + turn) % 50 == 0;
                    pool.scheduler.give_back(machine, turn % 17 != 0);
                }
            });
        }
    });
    assert!(pool.count.most_alive.load(Ordering::SeqCst) <= 5);
    let stats = pool.scheduler.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.failures), (0, 0, 0));
    pool.until("settled", |pool| {
        let stats = pool.scheduler.stats();
        pool.alive() == stats.idle && stats.returning == 0 && stats.starting == 0
    });
}

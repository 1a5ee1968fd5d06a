//! The books of a pool, over machines that only count.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::shelf::{Haste, Maker, Rules, Shelf};
use crate::Error;

/// Far more than anything here takes: only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);
const RULES: Rules =
    Rules { min: 0, max: 2, idle_timeout: HANG, acquire_timeout: HANG, restores: true };

#[derive(Debug, Default)]
struct Count {
    made: AtomicUsize,
    alive: AtomicUsize,
    most_alive: AtomicUsize,
    resets: AtomicUsize,
    refuses_to_make: AtomicBool,
    panics_on_making: AtomicBool,
    refuses_to_reset: AtomicBool,
    /// Held to keep the pool's thread from making and resetting.
    gate: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct FakeMaker(Arc<Count>);

/// A machine: its number, and who used it since it was reset.
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

impl Maker for FakeMaker {
    type Machine = Fake;

    fn make(&self, haste: Haste) -> Result<Fake, Error> {
        if haste == Haste::Ahead {
            drop(self.0.gate.lock().unwrap());
        }
        assert!(!self.0.panics_on_making.load(Ordering::SeqCst), "as the test asks for");
        if self.0.refuses_to_make.load(Ordering::SeqCst) {
            return Err(Error::NoCacheDir);
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
            return Err(Error::NoCacheDir);
        }
        self.0.resets.fetch_add(1, Ordering::SeqCst);
        machine.users = 0;
        Ok(())
    }

    fn is_well(&self, machine: &Fake) -> bool {
        !machine.is_dead
    }
}

const THREAD: &str = "tends";

/// A pool's shelf with its thread.
struct Tended {
    shelf: Arc<Shelf<FakeMaker>>,
    count: Arc<Count>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tended {
    fn new(rules: Rules) -> Self {
        Self::with(FakeMaker::default(), rules)
    }

    fn with(maker: FakeMaker, rules: Rules) -> Self {
        let count = Arc::clone(&maker.0);
        let shelf = Arc::new(Shelf::new(maker, rules));
        let tended = Arc::clone(&shelf);
        let builder = thread::Builder::new().name(THREAD.into());
        let thread = Some(builder.spawn(move || tended.tend()).unwrap());
        Self { shelf, count, thread }
    }

    fn close(&mut self) {
        self.shelf.close();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.shelf.clear();
    }

    fn alive(&self) -> usize {
        self.count.alive.load(Ordering::SeqCst)
    }

    /// Waits until it is so.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + HANG;
        while !is_so(self) {
            assert!(Instant::now() < end, "never {what}: {:?}", self.shelf.stats());
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
fn the_least_number_is_kept_warm() {
    let pool = Tended::new(Rules { min: 2, max: 3, ..RULES });
    pool.until("warm", |pool| pool.shelf.stats().idle == 2);
    let machine = pool.shelf.take().unwrap();
    assert!(machine.number < 2);
    pool.until("warm again", |pool| pool.shelf.stats().idle == 2);
    assert_eq!((pool.alive(), pool.shelf.stats().in_use), (3, 1));
    pool.shelf.give_back(machine, true);
    pool.until("reset", |pool| pool.shelf.stats().idle == 3);
    assert_eq!((pool.shelf.stats().created, pool.shelf.stats().reset), (3, 1));
}

#[test]
fn with_nothing_warm_the_caller_makes_a_machine() {
    let pool = Tended::new(Rules { min: 2, max: 4, ..RULES });
    let count = Arc::clone(&pool.count);
    pool.until("warm", |pool| pool.shelf.stats().idle == 2);
    // The thread may have room for one, but does not get on.
    let gate = count.gate.lock().unwrap();
    let machines: Vec<Fake> = (0..3).map(|_| pool.shelf.take().unwrap()).collect();
    assert_eq!(pool.shelf.stats().in_use, 3);
    machines.into_iter().for_each(|machine| pool.shelf.give_back(machine, true));
    drop(gate);
}

#[test]
fn a_used_machine_is_reset_by_who_takes_it() {
    const TURNS: usize = 100;
    let count = Arc::new(Count::default());
    let held = count.gate.lock().unwrap();
    // The thread is busy with a machine of its own, and does not get on.
    let pool = Tended::with(FakeMaker(Arc::clone(&count)), Rules { min: 1, max: 2, ..RULES });
    // Let go before the pool ends, also if something here fails.
    let gate = held;
    pool.until("starting", |pool| pool.shelf.stats().starting == 1);
    for turn in 0..TURNS {
        let mut machine = pool.shelf.take().unwrap();
        assert_eq!((machine.number, machine.users), (0, 0));
        assert_eq!(count.resets.load(Ordering::SeqCst), turn);
        machine.users += 1;
        pool.shelf.give_back(machine, true);
    }
    assert_eq!(count.made.load(Ordering::SeqCst), 1);
    drop(gate);
    // The last use is reset by the thread.
    pool.until("reset", |pool| pool.shelf.stats().idle == 2);
    assert_eq!(
        (count.made.load(Ordering::SeqCst), count.resets.load(Ordering::SeqCst)),
        (2, TURNS)
    );
}

#[test]
fn without_restoring_the_next_user_finds_what_was_left() {
    let pool = Tended::new(Rules { max: 1, restores: false, ..RULES });
    let mut machine = pool.shelf.take().unwrap();
    machine.users = 7;
    pool.shelf.give_back(machine, true);
    let machine = pool.shelf.take().unwrap();
    assert_eq!(machine.users, 7);
    assert_eq!(pool.count.resets.load(Ordering::SeqCst), 0);
    pool.shelf.give_back(machine, true);
}

#[test]
fn who_waits_longest_is_served_first() {
    const CALLERS: usize = 8;
    let pool = Tended::new(Rules { max: 1, ..RULES });
    let machine = pool.shelf.take().unwrap();
    let (served, order) = mpsc::channel();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (pool, served) = (&pool, served.clone());
            scope.spawn(move || {
                let machine = pool.shelf.take().unwrap();
                served.send(caller).unwrap();
                pool.shelf.give_back(machine, true);
            });
            pool.until("waiting", |pool| pool.shelf.stats().waiting == caller + 1);
        }
        pool.shelf.give_back(machine, true);
    });
    assert_eq!(order.try_iter().collect::<Vec<_>>(), (0..CALLERS).collect::<Vec<_>>());
}

#[test]
fn who_waits_too_long_is_told_how_many_are_in_use() {
    let limit = Duration::from_millis(20);
    let pool = Tended::new(Rules { acquire_timeout: limit, ..RULES });
    let machines = [pool.shelf.take().unwrap(), pool.shelf.take().unwrap()];
    match pool.shelf.take() {
        Err(Error::PoolExhausted { in_use: 2, max: 2, waited }) => assert!(waited >= limit),
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.shelf.stats().waiting, 0);
    // Nobody is served in the place of who gave up.
    machines.into_iter().for_each(|machine| pool.shelf.give_back(machine, true));
    let machine = pool.shelf.take().unwrap();
    assert_eq!(pool.shelf.stats().in_use, 1);
    pool.shelf.give_back(machine, true);
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn place_that_is_given_up_loses_no_machine() {
    let pool = Tended::new(Rules { max: 1, restores: false, ..RULES });
    let machine = pool.shelf.take().unwrap();
    let alarms: Vec<Arc<Alarm>> = (0..4).map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = alarms.iter().map(|alarm| Waker::from(Arc::clone(alarm))).collect();
    let mut places: Vec<_> = wakers
        .iter()
        .map(|waker| {
            let mut place = pool.shelf.place();
            assert!(place.look().is_none() && place.poll(waker).is_pending());
            place
        })
        .collect();
    // Asking again does not cost the place, and changes who is woken.
    assert!(places[2].poll(&wakers[3]).is_pending());
    let rung = || alarms.iter().map(|alarm| alarm.0.load(Ordering::SeqCst)).collect::<Vec<_>>();

    // The first is gone before it is served, the second with what it was given.
    drop(places.remove(0));
    pool.shelf.give_back(machine, true);
    assert_eq!(rung(), [0, 1, 0, 0]);
    drop(places.remove(0));
    assert_eq!(rung(), [0, 1, 0, 1]);
    let Poll::Ready(lot) = places[0].poll(&wakers[2]) else { panic!("it was served") };
    assert!(places[1].poll(&wakers[3]).is_pending());
    // The third has it in hand and does not take it.
    drop(lot);
    assert_eq!(rung(), [0, 1, 0, 2]);
    let Poll::Ready(lot) = places[1].poll(&wakers[3]) else { panic!("it was served") };
    let machine = lot.furnish().unwrap();
    assert_eq!((pool.shelf.stats().in_use, pool.shelf.stats().waiting), (1, 0));
    assert_eq!(pool.count.made.load(Ordering::SeqCst), 1);
    pool.shelf.give_back(machine, true);
    drop(places);
    assert_eq!((pool.shelf.stats().in_use, pool.shelf.stats().idle), (0, 1));
}

#[test]
fn lot_that_comes_back_to_a_closed_pool_ends() {
    let mut pool = Tended::new(Rules { max: 2, restores: false, ..RULES });
    let machine = pool.shelf.take().unwrap();
    pool.shelf.give_back(machine, true);
    let lots = [pool.shelf.place().look().unwrap(), pool.shelf.place().look().unwrap()];
    pool.close();
    assert_eq!(pool.alive(), 1);
    drop(lots);
    assert_eq!(pool.alive(), 0);
    assert!(pool.shelf.is_empty());
}

#[test]
fn machines_beyond_the_least_number_end_after_a_while() {
    let idle_timeout = Duration::from_millis(50);
    let pool = Tended::new(Rules { min: 1, max: 4, idle_timeout, ..RULES });
    let machines: Vec<Fake> = (0..4).map(|_| pool.shelf.take().unwrap()).collect();
    machines.into_iter().for_each(|machine| pool.shelf.give_back(machine, true));
    pool.until("shrunk", |pool| pool.alive() == 1 && pool.shelf.stats().idle == 1);
    thread::sleep(2 * idle_timeout);
    assert_eq!((pool.alive(), pool.shelf.stats().idle), (1, 1));
}

#[test]
fn a_machine_that_died_in_use_is_replaced() {
    let pool = Tended::new(Rules { min: 1, max: 1, ..RULES });
    let mut machine = pool.shelf.take().unwrap();
    machine.is_dead = true;
    let dead = machine.number;
    pool.shelf.give_back(machine, true);
    let machine = pool.shelf.take().unwrap();
    assert_ne!(machine.number, dead);
    assert_eq!(pool.shelf.stats().replaced, 1);
    pool.shelf.give_back(machine, true);
    assert_eq!(pool.count.most_alive.load(Ordering::SeqCst), 1);
}

#[test]
fn a_machine_that_died_idle_is_not_handed_out() {
    let pool = Tended::new(Rules { max: 1, restores: false, ..RULES });
    let machine = pool.shelf.take().unwrap();
    let dead = machine.number;
    pool.shelf.give_back(machine, true);
    pool.shelf.for_idle(|machine| machine.is_dead = true);
    let machine = pool.shelf.take().unwrap();
    assert_ne!(machine.number, dead);
    assert_eq!(pool.shelf.stats().replaced, 1);
    pool.shelf.give_back(machine, true);
}

#[test]
fn a_machine_that_cannot_be_reset_is_replaced() {
    let pool = Tended::new(Rules { max: 1, ..RULES });
    pool.count.refuses_to_reset.store(true, Ordering::SeqCst);
    for turn in 0..20 {
        let machine = pool.shelf.take().unwrap();
        assert_eq!(machine.number, turn);
        pool.shelf.give_back(machine, true);
    }
    pool.until("ended", |pool| pool.alive() == 0);
    assert_eq!(pool.count.most_alive.load(Ordering::SeqCst), 1);
    assert_eq!(pool.shelf.stats().replaced, 20);
}

#[test]
fn a_failure_to_make_is_told_and_leaves_room() {
    let pool = Tended::new(Rules { max: 1, ..RULES });
    pool.count.refuses_to_make.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(matches!(pool.shelf.take(), Err(Error::NoCacheDir)));
    }
    assert_eq!((pool.shelf.stats().in_use, pool.shelf.stats().failures), (0, 3));
    pool.count.refuses_to_make.store(false, Ordering::SeqCst);
    let machine = pool.shelf.take().unwrap();
    pool.shelf.give_back(machine, true);
}

#[test]
fn a_panic_while_making_leaves_room() {
    let pool = Tended::new(Rules { max: 1, ..RULES });
    pool.count.panics_on_making.store(true, Ordering::SeqCst);
    let shelf = Arc::clone(&pool.shelf);
    assert!(thread::spawn(move || shelf.take().map(drop)).join().is_err());
    pool.count.panics_on_making.store(false, Ordering::SeqCst);
    let machine = pool.shelf.take().unwrap();
    pool.shelf.give_back(machine, true);
}

#[test]
fn a_failure_to_make_ahead_does_not_keep_others_waiting() {
    let pool = Tended::new(Rules { min: 1, max: 1, ..RULES });
    pool.until("warm", |pool| pool.shelf.stats().idle == 1);
    pool.count.refuses_to_make.store(true, Ordering::SeqCst);
    let mut machine = pool.shelf.take().unwrap();
    machine.is_dead = true;
    pool.shelf.give_back(machine, true);
    assert!(matches!(pool.shelf.take(), Err(Error::NoCacheDir)));
    pool.count.refuses_to_make.store(false, Ordering::SeqCst);
    pool.until("warm again", |pool| pool.shelf.stats().idle == 1);
}

#[test]
fn a_machine_that_is_kept_makes_room_for_another() {
    let pool = Tended::new(Rules { max: 1, ..RULES });
    let kept = pool.shelf.take().unwrap();
    pool.shelf.let_go();
    let machine = pool.shelf.take().unwrap();
    assert_ne!(machine.number, kept.number);
    pool.shelf.give_back(machine, true);
}

#[test]
fn a_closed_pool_leaves_machines_to_their_users() {
    let mut pool = Tended::new(Rules { min: 1, max: 3, ..RULES });
    let machines: Vec<Fake> = (0..3).map(|_| pool.shelf.take().unwrap()).collect();
    pool.close();
    assert_eq!(pool.alive(), 3);
    for (left, machine) in (0..3).rev().zip(machines) {
        pool.shelf.give_back(machine, true);
        assert_eq!(pool.alive(), left);
    }
    assert!(pool.shelf.is_empty());
}

#[test]
fn many_threads_share_few_machines() {
    const THREADS: usize = 16;
    const TURNS: usize = 200;
    let pool = Tended::new(Rules { min: 2, max: 5, ..RULES });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let mut machine = pool.shelf.take().unwrap();
                    assert_eq!(machine.users, 0);
                    machine.users += 1;
                    machine.is_dead = (thread + turn) % 50 == 0;
                    pool.shelf.give_back(machine, turn % 17 != 0);
                }
            });
        }
    });
    assert!(pool.count.most_alive.load(Ordering::SeqCst) <= 5);
    let stats = pool.shelf.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.failures), (0, 0, 0));
    pool.until("settled", |pool| {
        let stats = pool.shelf.stats();
        pool.alive() == stats.idle && stats.returning == 0 && stats.starting == 0
    });
}

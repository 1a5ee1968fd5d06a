//! Pools, awaited.

use std::future::poll_fn;
use std::ops::Deref;

use tokio::time::timeout;

use super::vm::{Vm, beside};
use crate::{Error, Image, PoolStats, VmConfig};

/// Warm machines of one snapshot: a [`Pool`](crate::Pool) whose machines are awaited. Blocking and
/// asynchronous callers of a pool share one queue.
///
/// ```no_run
/// use supermachine::{Error, Image, async_};
///
/// # async fn example() -> Result<(), Error> {
/// let image = Image::from_store("snapshots", "python")?;
/// let pool = async_::Pool::from(image.pool().min(2).max(5).build()?);
/// let vm = pool.acquire().await?;
/// vm.exec(["python3", "-c", "print(6 * 7)"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pool(crate::Pool);

impl Pool {
    /// Takes a warm machine. If there is none, a thread of the runtime for blocking work resets a
    /// returned one or starts a new one; if the pool is full, this waits. The queue is first come,
    /// first served.
    ///
    /// When the future is dropped, the caller leaves the queue, and a machine that it was granted
    /// goes to the next.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] when none became free in time, or those of [`Vm::start`].
    pub async fn acquire(&self) -> Result<PooledVm, Error> {
        let mut acquire = self.0.begin_acquire();
        let lease = match acquire.try_now() {
            Some(lease) => lease,
            None => {
                let limit = acquire.timeout();
                let granted = timeout(limit, poll_fn(|cx| acquire.poll(cx.waker()))).await;
                granted.map_err(|_| acquire.exhausted())?
            }
        };
        let vm = if lease.is_ready() {
            crate::PooledVm::new(lease)?
        } else {
            beside(|| crate::PooledVm::new(lease)).await?
        };
        Ok(PooledVm(Vm::pooled(vm)))
    }

    /// The pool's current state and counters.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.0.stats()
    }
}

impl From<crate::Pool> for Pool {
    fn from(pool: crate::Pool) -> Self {
        Self(pool)
    }
}

/// A machine of a pool. Dropping it returns the machine.
#[derive(Debug)]
pub struct PooledVm(Vm);

impl PooledVm {
    /// Takes a warm machine from the pool of [`Image::acquire`].
    ///
    /// # Errors
    /// Those of [`Pool::acquire`].
    pub async fn acquire(image: &Image) -> Result<Self, Error> {
        Self::acquire_with(image, &VmConfig::new()).await
    }

    /// Takes a warm machine from the pool of [`Image::acquire_with`].
    ///
    /// # Errors
    /// Those of [`Pool::acquire`] and [`PoolBuilder::build`](crate::PoolBuilder::build).
    pub async fn acquire_with(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        Pool(image.pool_with(config)?).acquire().await
    }

    /// Takes the machine out of its pool for good; the pool may make another in its place.
    #[must_use]
    pub fn into_inner(self) -> Vm {
        self.0.taken_out()
    }

    /// Has the pool stop the machine instead of reusing it.
    pub fn discard(self) {
        self.0.discard();
    }
}

impl Deref for PooledVm {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.0
    }
}

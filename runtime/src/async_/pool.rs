//! Pools whose machines are awaited.

use std::future::poll_fn;
use std::ops::Deref;

use tokio::time::timeout;

use super::vm::{Vm, beside};
use crate::{Error, Image, PoolStats, VmConfig};

/// Warm machines of one snapshot: a [`Pool`](crate::Pool) whose machines are awaited. Those who
/// wait for machines of one pool, by whichever interface, wait in one queue.
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
    /// Takes a warm machine. If there is none, one that was given back is reset, or one is
    /// started, on a thread of the runtime's for blocking work; if the pool has as many as it may
    /// have, this waits. Who waits longest is served first.
    ///
    /// When the future is dropped, its place in the queue is given up, and what it was given goes
    /// to the next.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] when none became free in time, or those of [`Vm::start`].
    pub async fn acquire(&self) -> Result<PooledVm, Error> {
        let mut place = self.0.place();
        let lot = match place.look() {
            Some(lot) => lot,
            None => {
                let patience = place.patience();
                let given = timeout(patience, poll_fn(|cx| place.poll(cx.waker()))).await;
                given.map_err(|_| place.exhausted())?
            }
        };
        let vm = if lot.is_ready() {
            crate::PooledVm::of(lot)?
        } else {
            beside(|| crate::PooledVm::of(lot)).await?
        };
        Ok(PooledVm(Vm::pooled(vm)))
    }

    /// How the pool stands.
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

/// A machine of a pool, which takes it back when this is dropped.
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

    /// Takes the machine out of its pool for good; the pool may have another in its place.
    #[must_use]
    pub fn into_inner(self) -> Vm {
        self.0.taken_out()
    }

    /// Has the pool end the machine, and not use it again.
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

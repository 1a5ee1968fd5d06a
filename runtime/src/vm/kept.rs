//! The end of a machine with volumes: what its programs have written is on the volumes before it stops.

use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::Request;

use crate::Error;
use crate::agent::{Replies, frame};
use crate::disks::Stored;
use crate::machine::{AgentStream, MachineHandle};

/// How long a guest may take to write everything back. One that takes longer stops as by a power cut.
const LIMIT: Duration = Duration::from_secs(30);

/// The volumes of a machine that outlive it. Dropping this has the guest write back what it caches.
#[derive(Debug)]
pub(crate) struct Kept(Option<Arc<dyn MachineHandle>>);

impl Kept {
    /// None.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Those of the machine with this handle.
    pub(crate) fn of(stored: &[Stored], handle: &Arc<dyn MachineHandle>) -> Self {
        Self(stored.iter().any(outlives).then(|| Arc::clone(handle)))
    }

    /// What has the guest write back what it caches. A paused one runs for it; one that has failed cannot.
    pub(crate) fn write_back(&self) -> impl FnOnce() -> Result<(), Error> + Send + 'static {
        let machine = self.0.clone();
        move || {
            let Some(machine) = machine.filter(|machine| machine.exit().is_none()) else {
                return Ok(());
            };
            machine.resume()?;
            let mut replies = Replies::on(AgentStream::open(&machine, &frame(&Request::Settle)?)?);
            replies.set_limit(Some(LIMIT))?;
            replies.only().map(drop)
        }
    }

    /// Does so for the last time. A guest that does not answer stops all the same.
    pub(crate) fn finish(&mut self) {
        let _ = self.write_back()();
        self.0 = None;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Whether a disk outlives the machine, with what the guest changes.
fn outlives(stored: &Stored) -> bool {
    !stored.name.is_empty() && !stored.disk.is_read_only()
}

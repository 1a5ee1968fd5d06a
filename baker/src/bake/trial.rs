//! The trial start: records what a machine uses from its restore to its first command's exit.
//!
//! It starts the snapshot as a user would and runs a command. The snapshot then records the pages
//! that were written and read, for placement in bulk, and the order in which a machine without a
//! mapped form reads chunks.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use supermachine::agent::resume;
use supermachine::{Error, Image, Timings};
use supermachine_formats::pack::{self, CHUNK_SIZE};
use supermachine_formats::snapshot::WorkingSet;
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_formats::wire::{Command, Control, Operation, Reply, Request};
use supermachine_vmm::{ChunkAddress, Chunks, Machine, Origin, Restore};

use super::agent::request;
use super::generators::{self, Generator};

/// How many commands run before the capture.
const EXERCISES: usize = 8;

/// What a start uses.
#[derive(Debug)]
pub(crate) struct StartRecord {
    /// The pages written and read.
    pub(crate) working_set: WorkingSet,
    /// The chunks, in order of use.
    pub(crate) order: Vec<pack::Place>,
    /// The programs that run and have random generators of their own; none if nobody asked for them.
    pub(crate) generators: Vec<Generator>,
}

/// Runs a trial start of the snapshot, and finds random generators in it if they are `wanted`.
pub(crate) fn observe(image: &Image, wanted: bool) -> Result<StartRecord, Error> {
    let mapped = image.mapped()?.clone();
    let origin = Origin::Files { memory: mapped.memory, disks: mapped.disks };
    let machine = restored(image, origin)?;
    let reads = machine.record_reads();
    run_once(&machine)?;
    let mut working_set = machine.touched()?;
    let mut generators = Vec::new();
    if wanted {
        // What the machine does from here on is not recorded.
        machine.run();
        generators = generators::find(&machine)?;
    }
    drop(machine);
    let order = match image.chunks_on_demand()? {
        Some(chunks) => order_of_use(image, chunks)?,
        None => in_rising_order(&working_set),
    };
    if reads.is_err() {
        // Most of these pages were not read, so placing them would cost more than it saves.
        working_set.read.clear();
    }
    Ok(StartRecord { working_set, order, generators })
}

/// Runs commands as a user would, so that kernel and agent have allocated, in few pages, what the
/// first real command needs.
pub(crate) fn exercise(machine: &Machine) -> Result<(), Error> {
    (0..EXERCISES).try_for_each(|_| run_command(machine))
}

fn restored(image: &Image, origin: Origin) -> Result<Machine, Error> {
    let parts = Restore::new(Arc::clone(image.snapshot()), origin);
    Ok(Machine::restore(parts, &mut Timings::start())?)
}

/// Runs the machine from its start to the end of a command.
fn run_once(machine: &Machine) -> Result<(), Error> {
    machine.send_control(&Control::Resume(resume(None)?))?;
    machine.run();
    run_command(machine)
}

fn run_command(machine: &Machine) -> Result<(), Error> {
    // Not every image has this program, but failing to find it takes nearly the same path. One that
    // writes a line would save others that do 0.4 ms, and cost those that don't as much.
    let command = Command { argv: vec![b"true".to_vec()], ..Command::default() };
    let mut replies = request(machine, &Request::Exec(command))?;
    loop {
        match replies.next()? {
            Reply::Failed(failure) if failure.operation == Operation::AfterRestore => {
                return Err(Error::Agent { failure });
            }
            reply if reply.is_final() => return Ok(()),
            _ => {}
        }
    }
}

fn order_of_use(image: &Image, chunks: Box<dyn Chunks>) -> Result<Vec<pack::Place>, Error> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { chunks, asked: Arc::clone(&asked) };
    run_once(&restored(image, Origin::Chunks(Box::new(recorder)))?)?;
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let place = |(space, place): &ChunkAddress| {
        Some(pack::Place { space: u8::try_from(*space).ok()?, place: *place })
    };
    Ok(asked.iter().filter_map(place).collect())
}

/// Records the chunks requested.
#[derive(Debug)]
struct Recorder {
    chunks: Box<dyn Chunks>,
    asked: Arc<Mutex<Vec<ChunkAddress>>>,
}

impl Chunks for Recorder {
    fn chunk(&mut self, place: ChunkAddress) -> io::Result<Option<&[u8]>> {
        let chunk = self.chunks.chunk(place)?;
        if chunk.is_some() {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        }
        Ok(chunk)
    }

    fn first_use(&self) -> Vec<ChunkAddress> {
        Vec::new()
    }
}

/// The chunks touched, in rising order: for hosts that cannot observe the order of use.
fn in_rising_order(touched: &WorkingSet) -> Vec<pack::Place> {
    let runs = touched.written.iter().chain(&touched.read);
    let pages = runs.flat_map(|run| run.first..run.end());
    let mut places: Vec<u32> =
        pages.filter_map(|page| u32::try_from(page * PAGE_SIZE / CHUNK_SIZE).ok()).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|place| pack::Place { space: 0, place }).collect()
}

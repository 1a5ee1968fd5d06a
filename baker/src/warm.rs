//! The trial start: what a machine needs between its restore and its first command's end.
//!
//! The snapshot is started as a user would start it, a command is run, and what was used goes
//! into the snapshot: pages, to be put in place in bulk, and the order in which chunks are
//! wanted by a machine that starts without a mapped form.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use supermachine::agent::resume;
use supermachine::{Error, Image, Timings};
use supermachine_formats::pack::{self, CHUNK_SIZE};
use supermachine_formats::snapshot::WorkingSet;
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_formats::wire::{Command, Control, Request};
use supermachine_vmm::{ChunkAddress, Chunks, Machine, Origin, Restore};

use crate::ask::ask;

/// How often a command is run before the capture.
const EXERCISES: usize = 3;

/// What a start uses.
#[derive(Debug)]
pub(crate) struct Use {
    /// Pages that are written.
    pub(crate) working_set: WorkingSet,
    /// Chunks, in the order of their use.
    pub(crate) order: Vec<pack::Place>,
}

/// Starts the snapshot on trial.
pub(crate) fn observe(image: &Image) -> Result<Use, Error> {
    let mapped = image.mapped()?.clone();
    let origin = Origin::Files { memory: mapped.memory, disks: mapped.disks };
    let machine = run_once(image, origin)?;
    let touched = machine.touched()?;
    drop(machine);
    let order = match image.chunks_on_demand()? {
        Some(chunks) => order_of_use(image, chunks)?,
        None => in_rising_order(&touched),
    };
    // Pages that are only read are shared with the page cache; putting them in place ahead of
    // time costs as much as it saves.
    Ok(Use { working_set: WorkingSet { read: Vec::new(), ..touched }, order })
}

/// Runs commands as a user would, so that what the guest's kernel and agent set aside for one
/// is at hand, in few pages, when the first real one comes.
pub(crate) fn exercise(machine: &Machine) -> Result<(), Error> {
    (0..EXERCISES).try_for_each(|_| run_command(machine))
}

fn run_once(image: &Image, origin: Origin) -> Result<Machine, Error> {
    let parts = Restore { snapshot: Arc::clone(image.snapshot()), origin };
    let machine = Machine::restore(parts, &mut Timings::start())?;
    machine.send_control(&Control::Resume(resume(None)?))?;
    machine.run();
    run_command(&machine)?;
    Ok(machine)
}

fn run_command(machine: &Machine) -> Result<(), Error> {
    // Not every image has this program; the way to finding that out is nearly the same.
    let command = Command { argv: vec![b"true".to_vec()], ..Command::default() };
    let mut replies = ask(machine, &Request::Exec(command))?;
    while !replies.next()?.is_final() {}
    Ok(())
}

fn order_of_use(image: &Image, chunks: Box<dyn Chunks>) -> Result<Vec<pack::Place>, Error> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { chunks, asked: Arc::clone(&asked) };
    drop(run_once(image, Origin::Chunks(Box::new(recorder)))?);
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let place = |(space, place): &ChunkAddress| {
        Some(pack::Place { space: u8::try_from(*space).ok()?, place: *place })
    };
    Ok(asked.iter().filter_map(place).collect())
}

/// Writes down what is asked for.
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

/// What was touched, where the order cannot be seen.
fn in_rising_order(touched: &WorkingSet) -> Vec<pack::Place> {
    let runs = touched.written.iter().chain(&touched.read);
    let pages = runs.flat_map(|run| run.first..run.end());
    let mut places: Vec<u32> =
        pages.filter_map(|page| u32::try_from(page * PAGE_SIZE / CHUNK_SIZE).ok()).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|place| pack::Place { space: 0, place }).collect()
}

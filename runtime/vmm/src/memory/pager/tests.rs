//! Pages that arrive when they are touched. These tests need a process that may use `userfaultfd`:
//! as root, or with access to `/dev/userfaultfd`.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::super::ram::{Ram, RamWindow, reserve_disk};
use super::*;

const CHUNK: usize = CHUNK_SIZE as usize;
const PAGE: usize = 4096;

/// Chunks that hold their number; every third is zeros.
#[derive(Debug, Default, Clone)]
struct Numbered {
    first_use: Vec<ChunkAddress>,
    content: Vec<u8>,
    /// Receives the address of each chunk that is read.
    asked: Option<Sender<ChunkAddress>>,
    /// Notified when the chunks of first use are filled in.
    done: Option<Sender<()>>,
    lost: Option<ChunkAddress>,
    /// Whether other threads get a supplier of their own.
    is_shared: bool,
    /// The threads that read a chunk.
    readers: Arc<Mutex<HashSet<ThreadId>>>,
}

fn filling((space, number): ChunkAddress) -> u8 {
    if number % 3 == 2 { 0 } else { (space as u8) * 100 + number as u8 % 90 + 1 }
}

impl Chunks for Numbered {
    fn chunk(&mut self, place: ChunkAddress) -> io::Result<Option<&[u8]>> {
        if let Some(asked) = &self.asked {
            let _ = asked.send(place);
        }
        if self.lost == Some(place) {
            return Err(io::Error::other("it is gone"));
        }
        self.readers.lock().unwrap().insert(thread::current().id());
        self.content = vec![filling(place); CHUNK];
        Ok((filling(place) != 0).then_some(&self.content))
    }

    fn first_use(&self) -> Vec<ChunkAddress> {
        self.first_use.clone()
    }

    fn first_use_done(&mut self) {
        if let Some(done) = &self.done {
            let _ = done.send(());
        }
    }

    fn another(&self) -> Option<Box<dyn Chunks>> {
        self.is_shared.then(|| Box::new(self.clone()) as Box<dyn Chunks>)
    }
}

fn region(chunks: usize) -> Arc<MmapRegion> {
    reserve_disk((chunks * CHUNK) as u64).unwrap()
}

fn userfault() -> Userfault {
    Userfault::open().expect("these tests need a process that may use userfaultfd")
}

fn start(ranges: &[(usize, u64, &Arc<MmapRegion>)], chunks: Numbered) -> Pager {
    let range = |(space, offset, region): &(usize, u64, &Arc<MmapRegion>)| MappedRange {
        space: *space,
        offset: *offset,
        region: Arc::clone(region),
    };
    let on_loss = Box::new(|error: &io::Error| panic!("{error}"));
    let ranges = ranges.iter().map(range).collect();
    Pager::start(userfault(), ranges, Box::new(chunks), on_loss).unwrap()
}

fn byte(region: &MmapRegion, at: usize) -> u8 {
    assert!(at < region.size());
    let place = region.as_ptr().wrapping_add(at);
    // SAFETY: the place is within the region, which is mapped readable.
    unsafe { place.read_volatile() }
}

fn all(receiver: &Receiver<ChunkAddress>) -> Vec<ChunkAddress> {
    receiver.try_iter().collect()
}

#[test]
fn touched_page_arrives_with_its_chunk() {
    let memory = region(8);
    let (asked, log) = mpsc::channel();
    let _pager = start(&[(0, 0, &memory)], Numbered { asked: Some(asked), ..Numbered::default() });
    for chunk in [3, 2, 7] {
        for page in [5, 0, 15, 9] {
            let at = chunk * CHUNK + page * PAGE + 17;
            assert_eq!(byte(&memory, at), filling((0, chunk as u32)));
        }
    }
    assert_eq!(all(&log), [(0, 3), (0, 2), (0, 7)]);
}

#[test]
fn pages_of_spaces_and_windows_differ() {
    let (low, high, disk) = (region(2), region(3), region(4));
    let windows = [(0, 0, &low), (0, 2 * CHUNK_SIZE, &high), (1, 0, &disk)];
    let _pager = start(&windows, Numbered::default());
    let check = |region: &MmapRegion, space, first: usize| {
        for chunk in 0..region.size() / CHUNK {
            let place = (space, (first + chunk) as u32);
            assert_eq!(byte(region, chunk * CHUNK + 1), filling(place), "{place:?}");
        }
    };
    check(&high, 0, 2);
    check(&disk, 1, 0);
    check(&low, 0, 0);
}

#[test]
fn chunks_of_first_use_arrive_before_a_touch() {
    let memory = region(8);
    let (asked, log) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    // One chunk twice, and some that are mapped nowhere.
    let first_use = vec![(0, 6), (0, 1), (0, 6), (3, 0), (0, 800), (0, 5)];
    let chunks =
        Numbered { first_use, asked: Some(asked), done: Some(done), ..Numbered::default() };
    let pager = start(&[(0, 0, &memory)], chunks);
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    for chunk in [6, 1, 5] {
        assert_eq!(byte(&memory, chunk * CHUNK), filling((0, chunk as u32)));
    }
    assert_eq!(all(&log), [(0, 6), (0, 1), (0, 5)]);
    drop(pager);
    assert!(is_done.try_recv().is_err(), "told twice");
}

#[test]
fn chunks_of_first_use_are_read_once_on_all_processors() {
    const COUNT: u32 = 2000;
    let processors = thread::available_parallelism().unwrap().get();
    let memory = region(COUNT as usize);
    let (asked, log) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let chunks = Numbered {
        first_use: (0..COUNT).map(|number| (0, number)).collect(),
        asked: Some(asked),
        done: Some(done),
        is_shared: true,
        ..Numbered::default()
    };
    let readers = Arc::clone(&chunks.readers);
    let _pager = start(&[(0, 0, &memory)], chunks);
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    let mut all = all(&log);
    all.sort_unstable();
    assert!(all.into_iter().eq((0..COUNT).map(|number| (0, number))));
    for chunk in 0..COUNT as usize {
        assert_eq!(byte(&memory, chunk * CHUNK + PAGE), filling((0, chunk as u32)));
    }
    let readers = readers.lock().unwrap().len();
    assert!(
        readers <= processors && (readers > 1) == (processors > 1),
        "{readers} of {processors}"
    );
}

#[test]
fn chunk_lost_on_a_helper_thread_stops_the_machine() {
    let memory = region(400);
    let (tell, told) = mpsc::channel();
    let on_loss = Box::new(move |error: &io::Error| tell.send(error.to_string()).unwrap());
    let ranges = vec![MappedRange { space: 0, offset: 0, region: Arc::clone(&memory) }];
    let first_use = (0..400).map(|number| (0, number)).collect();
    let lost = Some((0, 7));
    let chunks = Numbered { first_use, lost, is_shared: true, ..Numbered::default() };
    let pager = Pager::start(userfault(), ranges, Box::new(chunks), on_loss).unwrap();
    assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), "it is gone");
    drop(pager);
    assert!(told.recv().is_err(), "told twice");
}

/// Regression test: a touch of the second window hung.
#[test]
fn disk_in_two_windows_arrives_in_both() {
    let (one, two) = (region(4), region(4));
    let pager = start(&[(1, 0, &one), (1, 0, &two)], Numbered::default());
    for chunk in 0..4 {
        assert_eq!(byte(&one, chunk * CHUNK), filling((1, chunk as u32)));
        assert_eq!(byte(&two, chunk * CHUNK + PAGE), filling((1, chunk as u32)));
    }
    drop(pager);
}

#[test]
fn page_given_back_arrives_again() {
    let memory = region(2);
    let _pager = start(&[(0, 0, &memory)], Numbered::default());
    assert_eq!(byte(&memory, 0), filling((0, 0)));
    let second = memory.as_ptr().wrapping_add(PAGE).cast();
    // SAFETY: two pages of the region, to which no reference exists.
    let answer = unsafe { libc::madvise(second, 2 * PAGE, libc::MADV_DONTNEED) };
    assert_eq!(answer, 0);
    for page in 0..16 {
        assert_eq!(byte(&memory, page * PAGE), filling((0, 0)), "{page}");
    }
}

#[test]
fn concurrent_touches_see_the_content() {
    const CHUNKS: usize = 96;
    for round in 0..8 {
        let memory = region(CHUNKS);
        let first_use = (0..CHUNKS as u32).step_by(5).map(|number| (0, number)).collect();
        let pager = start(&[(0, 0, &memory)], Numbered { first_use, ..Numbered::default() });
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let memory = &memory;
                scope.spawn(move || {
                    for step in 0..CHUNKS * 4 {
                        let page = (step * (2 * thread + 7) + thread * 31 + round) % (CHUNKS * 16);
                        let number = (page / 16) as u32;
                        assert_eq!(byte(memory, page * PAGE), filling((0, number)), "{page}");
                    }
                });
            }
        });
        drop(pager);
    }
}

#[test]
fn missing_guest_page_can_be_written() {
    let ram =
        Ram::reserve(vec![RamWindow { guest_address: 0, file_offset: 0, size: 2 << 20 }]).unwrap();
    let (_, memory) = &ram.windows()[0];
    let _pager = start(&[(0, 0, memory)], Numbered::default());
    let place = memory.as_ptr().wrapping_add(3 * CHUNK + 8);
    // SAFETY: the place is within the region, which is mapped writable.
    unsafe { place.write_volatile(255) };
    assert_eq!(byte(memory, 3 * CHUNK + 8), 255);
    assert_eq!(byte(memory, 3 * CHUNK + 9), filling((0, 3)));
}

#[test]
fn lost_page_is_reported_before_its_waiter_resumes() {
    let memory = region(4);
    let is_told = Arc::new(AtomicBool::new(false));
    let tell = {
        let is_told = Arc::clone(&is_told);
        Box::new(move |error: &io::Error| {
            assert_eq!(error.to_string(), "it is gone");
            is_told.store(true, Ordering::SeqCst);
        })
    };
    let ranges = vec![MappedRange { space: 0, offset: 0, region: Arc::clone(&memory) }];
    let chunks = Box::new(Numbered { lost: Some((0, 1)), ..Numbered::default() });
    let pager = Pager::start(userfault(), ranges, chunks, tell).unwrap();
    assert_eq!(byte(&memory, 0), filling((0, 0)));
    assert!(!is_told.load(Ordering::SeqCst));
    assert_eq!(byte(&memory, CHUNK), 0);
    assert!(is_told.load(Ordering::SeqCst));
    // Later touches do not wait.
    assert_eq!(byte(&memory, 3 * CHUNK), 0);
    drop(pager);
}

/// Chunks that take a while to read.
#[derive(Debug, Clone)]
struct Slow(Arc<AtomicUsize>, Vec<u8>);

impl Chunks for Slow {
    fn chunk(&mut self, _: ChunkAddress) -> io::Result<Option<&[u8]>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        Ok(Some(&self.1))
    }

    fn first_use(&self) -> Vec<ChunkAddress> {
        (0..1000).map(|number| (0, number)).collect()
    }

    fn another(&self) -> Option<Box<dyn Chunks>> {
        Some(Box::new(self.clone()))
    }
}

#[test]
fn dropped_pager_reads_no_more_chunks() {
    let memory = region(1000);
    let count = Arc::new(AtomicUsize::new(0));
    let chunks = Box::new(Slow(Arc::clone(&count), vec![1; CHUNK]));
    let ranges = vec![MappedRange { space: 0, offset: 0, region: Arc::clone(&memory) }];
    let pager = Pager::start(userfault(), ranges, chunks, Box::new(|_| ())).unwrap();
    // A fault does not wait for all chunks of first use.
    let begin = Instant::now();
    assert_eq!(byte(&memory, 900 * CHUNK), 1);
    drop(pager);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(count.load(Ordering::SeqCst) < 200);
    // A chunk that was not read is zeros now, and a touch does not wait.
    assert_eq!(byte(&memory, 999 * CHUNK), 0);
}

//! What passes between client and worker as descriptors: the parts of a machine, and captures.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use supermachine_formats::codec::Put;
use supermachine_formats::pack::CHUNK_SIZE;
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::Run;
use supermachine_vmm::{Captured, MachineError, Origin, Restore, Timings, VolumeDisk, share_tag};
use tempfile::TempDir;

use super::super::ends::{Ends, RemoteShare};
use super::super::message::{VERSION, WorkerReply, WorkerRequest};
use super::super::parcel::Parcel;
use super::super::parts::{self, put_runs};
use super::super::{Client, capture};
use crate::agent::read_message;
use crate::disks::Stored;
use crate::error::WorkerError;
use crate::image::testing::sample_image;
use crate::machine::MachineHandle;
use crate::machine::testing::{self, STOPPED, memory_file};
use crate::network::Plug;
use crate::shares::LANES;
use crate::{Error, Image, RestoreMode};
use supermachine_formats::wire::{self, Message};
use supermachine_test_support::fuzz::wire_agent::{sample_network, sample_share};
use supermachine_test_support::mutate;
use supermachine_test_support::packs::{self as samples, MEMORY, Made, PAGE};

/// An image in a store, with its cache.
struct Home {
    dir: TempDir,
    made: Made,
    image: Image,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (made, image) = sample_image(dir.path());
        Self { dir, made, image }
    }

    /// The parts of a machine as its worker opens them, after the folders are gone.
    fn passed(&self, first_use: Option<&UnixStream>) -> (Restore, RestoreMode) {
        let (content, mode) = self.image.content(first_use.is_some()).unwrap();
        let parcel = parts::pack(self.image.snapshot(), &content, first_use, &Ends::default());
        assert_no_path(&parcel.bytes, self.dir.path());
        for folder in ["store", "cache"] {
            let gone = self.dir.path().join(format!("{folder}-gone"));
            let _ = std::fs::rename(self.dir.path().join(folder), gone);
        }
        (parts::open(sent(&parcel).unwrap()).unwrap().0, mode)
    }
}

/// Checks that bytes hold no part of a path that is anything but a common word.
fn assert_no_path(bytes: &[u8], path: &Path) {
    let name = path.file_name().unwrap().as_encoded_bytes();
    let found = bytes.windows(name.len()).any(|window| window == name);
    assert!(!found, "{path:?}");
}

/// Sends a parcel through a stream.
fn sent<F: AsFd + Sync>(parcel: &Parcel<F>) -> io::Result<Parcel> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || parcel.send(&mut ours));
        let received = Parcel::receive(&mut theirs, 1 << 30, 5000);
        sending.join().unwrap().unwrap();
        received
    })
}

#[test]
fn mapped_form_passes_without_a_path() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let (Restore { snapshot, origin, .. }, mode) = home.passed(None);
    assert_eq!((&snapshot, mode), (home.image.snapshot(), RestoreMode::Mapped));
    let Origin::Files { memory, disks } = origin else { panic!("{origin:?}") };
    assert_eq!(memory.overlays.len(), 1);
    for (page, expected) in (0..).zip(home.made.image_memory.as_chunks::<PAGE>().0) {
        let mut content = [0; PAGE];
        memory.read_page(page, &mut content).unwrap();
        assert!(content == *expected, "page {page}");
    }
    let mut disk = vec![0; home.made.disk.len()];
    let [file] = &disks[..] else { panic!("{disks:?}") };
    file.read_exact_at(&mut disk, 0).unwrap();
    assert!(disk == home.made.disk);
}

#[test]
fn pack_passes_without_a_path_and_reports_its_first_use() {
    let home = Home::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (Restore { snapshot, origin, .. }, mode) = home.passed(Some(&theirs));
    drop(theirs);
    assert_eq!((&snapshot, mode), (home.image.snapshot(), RestoreMode::OnDemand));
    let Origin::Chunks(mut chunks) = origin else { panic!("{origin:?}") };
    assert_eq!(chunks.first_use(), [(0, 5), (0, 0)]);
    for (space, wanted) in [(0, &home.made.image_memory), (1, &home.made.disk)] {
        for (place, wanted) in (0..).zip(wanted.chunks(CHUNK_SIZE as usize)) {
            match chunks.chunk((space, place)).unwrap() {
                Some(found) => assert!(found == wanted, "{space} {place}"),
                None => assert!(wanted.iter().all(|byte| *byte == 0), "{space} {place}"),
            }
        }
    }
    ours.set_nonblocking(true).unwrap();
    let ends = |stream: &UnixStream| io::Read::read(&mut &*stream, &mut [0]).map_err(|e| e.kind());
    assert_eq!(ends(&ours), Err(io::ErrorKind::WouldBlock));
    chunks.first_use_done();
    assert_eq!(ends(&ours), Ok(0));
}

#[test]
fn network_passes_as_the_first_file() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let (content, _) = home.image.content(false).unwrap();
    let (frames, end) = UnixDatagram::pair().unwrap();
    let plug = Plug { frames, setup: sample_network() };
    let ends = Ends { plug: Some(&plug), ..Ends::default() };
    let parcel = parts::pack(home.image.snapshot(), &content, None, &ends);
    let (restore, found) = parts::open(sent(&parcel).unwrap()).unwrap();
    assert_eq!(found.network, Some(sample_network()));
    let Origin::Files { disks, .. } = restore.origin else { panic!() };
    assert_eq!(disks.len(), restore.snapshot.disks.len());
    let link = restore.network.expect("a link");
    drop(plug);
    end.send(b"a frame").unwrap();
    let socket = UnixDatagram::from(link.as_fd().try_clone_to_owned().unwrap());
    let mut bytes = [0; 16];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 7);
}

#[test]
fn folder_passes_as_the_lanes_to_its_server() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let (content, _) = home.image.content(false).unwrap();
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..LANES).map(|_| UnixStream::pair().unwrap()).unzip();
    let shares = [RemoteShare { setup: sample_share(), lanes: theirs }];
    let ends = Ends { shares: &shares, ..Ends::default() };
    let parcel = parts::pack(home.image.snapshot(), &content, None, &ends);
    assert_no_path(&parcel.bytes, home.dir.path());
    let (restore, setup) = parts::open(sent(&parcel).unwrap()).unwrap();
    let setups = setup.shares;
    assert_eq!(setups, [wire::Share { tag: share_tag(7), ..sample_share() }]);
    let Origin::Files { disks, .. } = restore.origin else { panic!() };
    assert_eq!(disks.len(), restore.snapshot.disks.len());
    let [share] = &restore.shares[..] else { panic!("{:?}", restore.shares) };
    assert_eq!((share.slot, &*share.target), (7, "/project"));
    // The worker holds the other ends.
    drop(shares);
    let answering = thread::spawn(move || {
        let mut question = [0; 12];
        (&ours[0]).read_exact(&mut question).unwrap();
        (&ours[0]).write_all(&[2, 0, 0, 0, b'o', b'k']).unwrap();
        question
    });
    assert_eq!(share.server.answer(b"abc", 9), b"ok");
    assert_eq!(answering.join().unwrap(), *b"\0\x09\0\0\0\x03\0\0\0abc");
}

#[test]
fn volume_passes_as_its_file_with_its_lock() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let (content, _) = home.image.content(false).unwrap();
    let path = home.dir.path().join("volume");
    let file = File::create_new(&path).unwrap();
    file.set_len(8192).unwrap();
    file.try_lock().unwrap();
    let disk = Arc::new(VolumeDisk::new(file, 8192, false));
    let (name, target) = ("data".to_owned(), "/data".to_owned());
    let stored = [Stored { slot: 3, name, target, disk }];
    let ends = Ends { volumes: &stored, ..Ends::default() };
    let parcel = parts::pack(home.image.snapshot(), &content, None, &ends);
    assert_no_path(&parcel.bytes, home.dir.path());
    let (restore, setup) = parts::open(sent(&parcel).unwrap()).unwrap();
    let expected = wire::Volume { slot: 3, target: b"/data".to_vec(), read_only: false };
    assert_eq!(setup.volumes, [expected]);
    let [volume] = &restore.volumes[..] else { panic!("{:?}", restore.volumes) };
    assert_eq!((volume.slot, &*volume.name, &*volume.target), (3, "data", "/data"));
    assert_eq!((volume.disk.size(), volume.disk.is_read_only()), (8192, false));
    // The worker's descriptor keeps the lock.
    drop(stored);
    let is_locked = || File::open(&path).unwrap().try_lock().is_err();
    assert!(is_locked());
    drop(restore);
    assert!(!is_locked());
}

#[test]
fn damaged_parts_are_refused() {
    let home = Home::new();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (chunks, _) = home.image.content(true).unwrap();
    home.image.mapped().unwrap();
    let (files, _) = home.image.content(true).unwrap();
    let all: Vec<Vec<u8>> = [&files, &chunks]
        .map(|content| {
            parts::pack(home.image.snapshot(), content, Some(&ours), &Ends::default()).bytes
        })
        .into();
    for bytes in &all {
        // Without the files.
        let parcel = Parcel { bytes: bytes.clone(), files: Vec::new() };
        assert!(matches!(
            parts::open(parcel),
            Err(Error::Worker { source: WorkerError::Protocol { .. } })
        ));
    }
    let run = |bytes: &[u8]| {
        let files = (0..8).map(|_| tempfile::tempfile().unwrap().into()).collect();
        parts::open(Parcel { bytes: bytes.to_vec(), files }).is_ok()
    };
    mutate::smoke(&all, run);
}

#[test]
fn parcel_keeps_many_files_in_order() {
    let files: Vec<File> = (0..150_u8).map(|number| memory_file(&[number], false)).collect();
    let parcel = sent(&Parcel { bytes: vec![7; 3 << 20], files }).unwrap();
    assert!(parcel.bytes == vec![7; 3 << 20]);
    for (number, file) in (0..150_u8).zip(parcel.files) {
        let mut content = [0];
        File::from(file).read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, [number]);
    }
}

#[test]
fn parcel_beyond_its_limits_or_cut_off_is_refused() {
    let head = |length: u64, count: u32| {
        let mut head = Vec::new();
        head.put_u64(length);
        head.put_u32(count);
        head
    };
    let received = |bytes: &[u8]| {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.write_all(bytes).unwrap();
        drop(ours);
        Parcel::receive(&mut theirs, 16, 1).map(drop).map_err(|error| error.kind())
    };
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    assert_eq!(received(&head(17, 0)), Err(InvalidData));
    assert_eq!(received(&head(u64::MAX, 0)), Err(InvalidData));
    assert_eq!(received(&head(0, 2)), Err(InvalidData));
    assert_eq!(received(&[0; 7]), Err(UnexpectedEof));
    assert_eq!(received(&[head(16, 0), vec![0; 15]].concat()), Err(UnexpectedEof));
    assert_eq!(received(&head(0, 1)), Err(UnexpectedEof));
    // A byte without its descriptor.
    assert!(received(&[head(0, 1), vec![0]].concat()).is_err());
    assert_eq!(received(&[head(16, 0), vec![0; 16]].concat()), Ok(()));
}

/// The state of the sample image.
fn state() -> Snapshot {
    samples::snapshot(supermachine_formats::snapshot::Stage::Image, None, &[samples::DISK])
}

/// A client of a worker that answers a request for a capture as the test says.
fn asked(answer: impl FnOnce(&mut UnixStream) + Send + 'static) -> Result<Captured, Error> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let worker = thread::spawn(move || {
        read_message::<WorkerRequest>(&mut theirs, None).unwrap();
        theirs.write_all(&WorkerReply::Hello { version: VERSION }.to_frame()).unwrap();
        let ask = read_message::<WorkerRequest>(&mut theirs, None).unwrap();
        assert_eq!(ask, WorkerRequest::Capture);
        let (mut outcome, passed) = UnixStream::pair().unwrap();
        let frame = WorkerReply::Stream.to_frame();
        crate::os::send_with_descriptors(&theirs, &frame, &[passed.as_fd()]).unwrap();
        drop(passed);
        answer(&mut outcome);
    });
    let client = Client::greeted(ours, &PathBuf::from("worker"), 1, None).unwrap();
    let captured = client.request_capture(MEMORY);
    worker.join().unwrap();
    captured
}

/// Answers with a capture.
fn answer(outcome: &mut UnixStream, bytes: Vec<u8>, files: Vec<File>) {
    outcome.write_all(&WorkerReply::Captured { stopped: STOPPED }.to_frame()).unwrap();
    // The client may refuse it before it has all of it.
    let _ = Parcel { bytes, files }.send(outcome);
}

/// The bytes of a capture.
fn bytes(state: &[u8], runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_byte_string(state);
    put_runs(&mut bytes, runs);
    bytes
}

#[test]
fn capture_passes_whole() {
    let pages = [(0, samples::page(3)), (1, [0; PAGE]), (255, samples::page(4))];
    let parcel = capture::pack(testing::capture(state(), &pages)).unwrap();
    let files = parcel.files.into_iter().map(File::from).collect();
    let captured = asked(move |outcome| answer(outcome, parcel.bytes, files)).unwrap();
    assert_eq!(captured.snapshot, state());
    assert_eq!(captured.stopped.steps(), Timings::of_step("stopped", STOPPED).steps());
    let found: Vec<_> = captured.dirty.iter().map(|(page, content)| (page, *content)).collect();
    assert!(found == pages);
    // A machine that has written nothing.
    let parcel = capture::pack(testing::capture(state(), &[])).unwrap();
    let files = parcel.files.into_iter().map(File::from).collect();
    let captured = asked(move |outcome| answer(outcome, parcel.bytes, files)).unwrap();
    assert_eq!(captured.dirty.count(), 0);
}

#[test]
fn capture_of_a_hostile_worker_is_refused() {
    let sealed = || vec![memory_file(&[1; 2 * PAGE], true)];
    let run = |first, count| Run { first, count };
    let good = state().encode();
    let one = |runs: &[Run], files: Vec<File>| {
        let bytes = bytes(&good, runs);
        asked(move |outcome| answer(outcome, bytes, files))
    };
    assert!(one(&[run(0, 2)], sealed()).is_ok());
    let refused = [
        one(&[run(0, 1)], sealed()),
        one(&[run(0, 3)], sealed()),
        one(&[run(255, 2)], sealed()),
        one(&[run(u64::MAX, 2)], sealed()),
        one(&[run(5, 1), run(4, 1)], sealed()),
        one(&[run(0, 2)], vec![memory_file(&[1; 2 * PAGE], false)]),
        one(&[run(0, 2)], vec![File::open("/dev/zero").unwrap()]),
        one(&[run(0, 2)], Vec::new()),
        one(&[run(0, 2)], sealed().into_iter().chain(sealed()).collect()),
        one(&[run(0, 0); 200], sealed()),
        asked(move |outcome| answer(outcome, bytes(b"no state", &[run(0, 2)]), sealed())),
        asked(move |outcome| answer(outcome, Vec::new(), sealed())),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::Worker { source: WorkerError::Capture { .. } }),
            "{number}: {error:?}"
        );
    }
}

#[test]
fn descriptor_that_is_no_stream_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let worker = thread::spawn(move || {
        read_message::<WorkerRequest>(&mut theirs, None).unwrap();
        theirs.write_all(&WorkerReply::Hello { version: VERSION }.to_frame()).unwrap();
        read_message::<WorkerRequest>(&mut theirs, None).unwrap();
        let (frame, file) = (WorkerReply::Stream.to_frame(), File::open("/dev/zero").unwrap());
        crate::os::send_with_descriptors(&theirs, &frame, &[file.as_fd()]).unwrap();
    });
    let client = Client::greeted(ours, &PathBuf::from("worker"), 1, None).unwrap();
    let error = client.dial(&[]).unwrap_err();
    assert!(matches!(error, Error::Machine { source: MachineError::Stream { .. } }), "{error:?}");
    worker.join().unwrap();
}

#[test]
fn worker_that_dies_during_a_capture_is_gone() {
    let gone = |result: Result<Captured, Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Worker { source: WorkerError::Gone }), "{error:?}");
    };
    gone(asked(|_| ()));
    gone(asked(|outcome| {
        outcome.write_all(&WorkerReply::Captured { stopped: STOPPED }.to_frame()).unwrap();
    }));
    gone(asked(|outcome| {
        let mut all = WorkerReply::Captured { stopped: STOPPED }.to_frame();
        all.put_u64(1000);
        all.put_u32(1);
        outcome.write_all(&all).unwrap();
    }));
    let error = asked(|outcome| {
        outcome.write_all(&WorkerReply::Failed { reason: "why".into() }.to_frame()).unwrap();
    });
    assert!(
        matches!(&error, Err(Error::Worker { source: WorkerError::Failed { reason } }) if reason == "why"),
        "{error:?}"
    );
    let error = asked(|outcome| outcome.write_all(&WorkerReply::Done.to_frame()).unwrap());
    assert!(matches!(error, Err(Error::Protocol { .. })), "{error:?}");
}

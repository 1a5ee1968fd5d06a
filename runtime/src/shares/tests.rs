//! A server and its device in two processes.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use supermachine_formats::snapshot::device::{ShareHandle, ShareNode};
use supermachine_vmm::{FileServer, Known};

use super::{LANES, Lanes, serve};

/// Answers with the request and how much room there is.
#[derive(Debug)]
struct Echo;

impl FileServer for Echo {
    fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        [request, &room.to_le_bytes()].concat()
    }

    fn known(&self) -> Known {
        let name = b"a name".to_vec();
        Known {
            nodes: vec![ShareNode { id: 2, parent: 1, name, lookups: 3 }],
            handles: vec![ShareHandle { id: 4, node: 2, flags: 5, is_folder: true }],
        }
    }
}

fn lanes() -> Lanes {
    let lane = |_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(Arc::new(Echo), theirs).unwrap();
        ours
    };
    Lanes::new((0..LANES).map(lane).collect())
}

#[test]
fn questions_of_many_threads_pass_the_lanes() {
    let lanes = lanes();
    std::thread::scope(|scope| {
        for n in 0..8_u8 {
            let lanes = &lanes;
            scope.spawn(move || {
                for length in [0, 1, 100, 1 << 20] {
                    let request = vec![n; length];
                    let answer = lanes.answer(&request, 7);
                    assert!(answer == [&request[..], &7_usize.to_le_bytes()].concat());
                }
            });
        }
    });
    assert_eq!(lanes.known(), Echo.known());
}

#[test]
fn server_that_is_gone_is_an_error_of_the_guest() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let lanes = Lanes::new(vec![ours]);
    let request = |operation: u8| [&[40, 0, 0, 0, operation, 0, 0, 0, 9][..], &[0; 31]].concat();
    let answer = lanes.answer(&request(3), 100);
    assert_eq!(answer, [16, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert!(lanes.answer(&request(2), 100).is_empty());
    assert_eq!(lanes.known(), Known::default());
}

#[test]
fn lane_with_a_question_that_is_too_long_is_closed() {
    for head in [&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &[2, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        serve(Arc::new(Echo), theirs).unwrap();
        ours.write_all(head).unwrap();
        assert_eq!(std::io::Read::read(&mut ours, &mut [0]).unwrap(), 0);
    }
}

//! A server whose machine is replaced while it is served.

use super::*;

fn another() -> (Hosted, Arc<Facts>, Receiver<UnixStream>) {
    let (sender, streams) = channel();
    let facts = Arc::new(Facts::default());
    let fake = Fake { streams: Mutex::new(sender), facts: Arc::clone(&facts) };
    (hosted(fake), facts, streams)
}

#[test]
fn clients_stay_connected_to_the_machine_that_replaces_another() {
    let mut stage = Stage::new();
    let client = stage.client();
    let exit = Exit {
        status: wire::ExitStatus::Code(3),
        timed_out: false,
        duration_us: 1,
        peak_rss_kib: 2,
    };
    stage.entrypoint.write_all(&Reply::Exited(exit).to_frame()).unwrap();
    client.vm().pause().unwrap();
    let (machine, facts, streams) = another();
    stage.control.set_label("again soon");
    assert_eq!(client.status().unwrap().label, "again soon");
    stage.control.replace_hosted(machine, "another label".into()).unwrap();
    assert!(*stage.facts.dropped.lock().unwrap());
    // Neither the exit nor the pause of the old machine is the new one's.
    let status = client.status().unwrap();
    assert_eq!((status.label.as_str(), status.state), ("another label", State::Running));
    let mut entrypoint = streams.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read_message::<Request>(&mut entrypoint, None).unwrap(), Request::WaitEntrypoint);
    let stopping = thread::spawn(move || client.stop());
    drop(stage.stop());
    stopping.join().unwrap().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

#[test]
fn machine_that_was_stopped_is_not_replaced() {
    let mut stage = Stage::new();
    let client = stage.client();
    let stopping = thread::spawn(move || client.stop());
    drop(stage.stop());
    stopping.join().unwrap().unwrap();
    let (machine, facts, _streams) = another();
    let refused = stage.control.replace_hosted(machine, String::new());
    assert!(matches!(refused, Err(Error::Stopped)), "{refused:?}");
    assert!(*facts.dropped.lock().unwrap());
    assert!(stage.control.handle().is_none());
}

#[test]
fn moved_socket_file_is_no_reason_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let (machine, facts, _streams) = another();
    let server = Server::bind(&old).unwrap();
    let is_reachable = {
        let new = new.clone();
        move || new.exists()
    };
    let serving = server.prepare_hosted(machine, String::new()).unwrap();
    let serving = serving.reachable_while(is_reachable);
    std::fs::rename(&old, &new).unwrap();
    let server = thread::spawn(move || serving.run().map(drop));
    thread::sleep(Duration::from_millis(500));
    let client = Client::connect(&new).unwrap();
    assert_eq!(client.status().unwrap().state, State::Running);
    drop(client);
    std::fs::remove_file(&new).unwrap();
    server.join().unwrap().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

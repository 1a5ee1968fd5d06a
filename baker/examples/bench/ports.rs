//! What TCP through an exposed port costs: a connection, a round trip, and a MiB each way.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Image, Vm, VmConfig};

use crate::machines::run_script;
use crate::{RUNS, ms, report};

/// What one run passes.
const SIZE: usize = 16 << 20;
const PORTS: [(u16, &str); 3] =
    [(7000, "cat"), (7001, "cat > /dev/null"), (7002, "head -c 16777216 /dev/zero")];

pub(crate) fn measure(image: &Image) -> Result<(), Box<dyn Error>> {
    let vm = image.start(&VmConfig::new())?;
    for (port, program) in PORTS {
        serve(&vm, port, program)?;
    }
    let forwards = PORTS.map(|(port, _)| vm.expose_tcp(0, port));
    let [echo, sink, source] = forwards;
    let (echo, sink, source) = (echo?, sink?, source?);
    measure_round_trips(echo.local_addr())?;
    for (name, address) in [
        ("into the guest", sink.local_addr()),
        ("out of the guest", source.local_addr()),
        ("through the guest and back", echo.local_addr()),
    ] {
        measure_bulk(name, address)?;
    }
    Ok(())
}

/// Has a program of the guest serve each connection to a port, and waits until it does.
fn serve(vm: &Vm, port: u16, program: &str) -> Result<(), Box<dyn Error>> {
    let script = format!(
        "setsid nc -ll -p {port} -e sh -c '{program}' </dev/null >/dev/null 2>&1 &
        while ! netstat -ltn | grep -q :{port}; do sleep 0.1; done"
    );
    run_script(vm, &script)
}

fn measure_round_trips(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let (mut firsts, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut trip = |times: u32| -> Result<Duration, Box<dyn Error>> {
            let begin = Instant::now();
            for _ in 0..times {
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0])?;
            }
            Ok(begin.elapsed() / times)
        };
        trip(1)?;
        firsts.push(ms(begin.elapsed()));
        trips.push(ms(trip(20)?));
    }
    report("TCP: connect to a program that is started for it, first byte back", "ms", &firsts);
    report("TCP: round trip of a byte", "ms", &trips);
    Ok(())
}

/// Sends and receives at once; the end of what comes back is the end of the run.
fn measure_bulk(name: &str, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let stream = TcpStream::connect(address)?;
        let begin = Instant::now();
        thread::scope(|scope| {
            let sender = scope.spawn(|| send(&stream, name == "out of the guest"));
            let received = receive(&stream)?;
            sender.join().map_err(|_| "sender panicked")??;
            let expected = if name == "into the guest" { 0 } else { SIZE };
            if received == expected { Ok(()) } else { Err(format!("{received} bytes came back")) }
                .map_err(Box::<dyn Error>::from)
        })?;
        let mib = SIZE as f64 / f64::from(1 << 20);
        costs.push(ms(begin.elapsed()) / mib);
        rates.push(mib / begin.elapsed().as_secs_f64());
    }
    report(&format!("TCP: a MiB {name}"), "ms", &costs);
    report(&format!("TCP: throughput {name}"), "MiB/s", &rates);
    Ok(())
}

fn send(mut stream: &TcpStream, nothing: bool) -> std::io::Result<()> {
    let piece = vec![7; 256 << 10];
    for _ in 0..if nothing { 0 } else { SIZE / piece.len() } {
        stream.write_all(&piece)?;
    }
    stream.shutdown(Shutdown::Write)
}

fn receive(mut stream: &TcpStream) -> std::io::Result<usize> {
    let (mut piece, mut count) = (vec![0; 256 << 10], 0);
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(count),
            more => count += more,
        }
    }
}

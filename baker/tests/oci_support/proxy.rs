//! A proxy on a loopback port, which leads every host to servers of the test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request that a proxy received.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `CONNECT`, or a method with a whole address.
    pub(crate) method: String,
    pub(crate) target: String,
    /// The header, without the first line.
    pub(crate) header: String,
}

impl Asked {
    pub(crate) fn has(&self, name: &str) -> bool {
        let start = format!("{}:", name.to_ascii_lowercase());
        self.header.lines().any(|line| line.to_ascii_lowercase().starts_with(&start))
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// Leads tunnels to `tunnels`, and requests with whole addresses to `plain`. Refuses what has no
    /// server.
    pub(crate) fn start(tunnels: Option<SocketAddr>, plain: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, log) = (stream.unwrap(), Arc::clone(&known));
                // Clients and servers hang up.
                std::thread::spawn(move || drop(serve(&stream, &log, tunnels, plain)));
            }
        });
        Self { address, log }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// The requests, as `METHOD TARGET`, sorted, each once.
    pub(crate) fn targets(&self) -> Vec<String> {
        let asked = self.asked().into_iter();
        let mut all: Vec<_> = asked.map(|one| format!("{} {}", one.method, one.target)).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<Asked>>,
    tunnels: Option<SocketAddr>,
    plain: Option<SocketAddr>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let Some(first) = lines.first() else { return Ok(()) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = lines[1..].join("\n");
    let asked = Asked { method: method.clone(), target: target.clone(), header };
    log.lock().unwrap().push(asked);
    let is_tunnel = method == "CONNECT";
    let Some(server) = (if is_tunnel { tunnels } else { plain }) else {
        return (&*stream).write_all(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n");
    };
    let mut server = TcpStream::connect(server)?;
    if is_tunnel {
        (&*stream).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        return relay(stream, &server);
    }
    let path = target.split_once("://").map_or("", |(_, rest)| rest);
    let path = path.find('/').map_or("/", |slash| &path[slash..]);
    write!(server, "{method} {path} HTTP/1.1\r\n")?;
    for line in &lines[1..] {
        if !line.to_ascii_lowercase().starts_with("proxy-") {
            write!(server, "{line}\r\n")?;
        }
    }
    write!(server, "\r\n")?;
    io::copy(&mut server, &mut &*stream)?;
    stream.shutdown(Shutdown::Write)
}

/// Copies in both directions until both sides have hung up.
fn relay(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.shutdown(Shutdown::Write),
                length => to.write_all(&buffer[..length])?,
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(move || drop(copy(client, server)));
        copy(server, client)
    })
}

//! A scripted registry on a loopback port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Image, MANIFEST};

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer, and how to send it.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The announced length, if it is not the real one.
    pub(crate) announced: Option<usize>,
    /// Repeats the body for as long as the client reads.
    pub(crate) endless: bool,
    /// Does not answer, and keeps the connection open.
    pub(crate) hang: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            announced: None,
            endless: false,
            hang: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Announces the whole body, sends `length` bytes of it and hangs up.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        self.announced = Some(self.body.len());
        self.body.truncate(length);
        self
    }

    pub(crate) fn hang() -> Self {
        Self { hang: true, ..Self::new(200, "") }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, handler)
    }

    /// Like [`Server::start`], with TLS.
    pub(crate) fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let thread = std::thread::spawn({
            let (log, stopping) = (log.clone(), stopping.clone());
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let (log, handler, tls) = (log.clone(), handler.clone(), tls.clone());
                    let mut stream = stream.unwrap();
                    // Writes fail if the client closes early, which is fine.
                    std::thread::spawn(move || match tls {
                        None => serve(&mut stream, &log, &*handler).ok(),
                        Some(tls) => {
                            let connection = rustls::ServerConnection::new(tls).unwrap();
                            let mut stream = rustls::StreamOwned::new(connection, stream);
                            let served = serve(&mut stream, &log, &*handler).ok();
                            stream.conn.send_close_notify();
                            let _ = stream.flush();
                            served
                        }
                    });
                }
            }
        });
        Self { address, log, stopping, thread: Some(thread) }
    }

    /// Serves `image` as `test:v1` and by digest, without authorization.
    pub(crate) fn serving(image: &Image) -> Self {
        let image = image.clone();
        Self::start(move |request| honest(&image, request))
    }

    pub(crate) fn reference(&self) -> String {
        format!("{}/test:v1", self.address)
    }

    /// The requested paths, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stopping.store(true, Ordering::Release);
            drop(TcpStream::connect(self.address));
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The answer of a correct registry, including ranges.
pub(crate) fn honest(image: &Image, request: &Request) -> Reply {
    let path = request.path.strip_prefix("/v2/").unwrap_or_default();
    let digest = image.digest().to_string();
    match path.split_once("test/").map(|(_, rest)| rest) {
        None if path.is_empty() => Reply::new(200, "{}"),
        Some(rest) if rest == "manifests/v1" || rest == format!("manifests/{digest}") => {
            Reply::new(200, image.manifest.clone())
                .header("Content-Type", MANIFEST)
                .header("Docker-Content-Digest", &digest)
        }
        Some(rest) => match blob(image, rest) {
            Some(content) => ranged(content, request),
            None => not_found(),
        },
        None => not_found(),
    }
}

pub(crate) fn blob<'a>(image: &'a Image, path: &str) -> Option<&'a Vec<u8>> {
    let (_, digest) = path.rsplit_once("blobs/")?;
    image.blobs.get(&digest.parse().ok()?)
}

pub(crate) fn ranged(content: &[u8], request: &Request) -> Reply {
    let range = request.header("range").map(|range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
    });
    match range {
        None => Reply::new(200, content),
        Some(from) if from >= content.len() => Reply::new(416, ""),
        Some(from) => Reply::new(206, &content[from..]).header(
            "Content-Range",
            &format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
        ),
    }
}

pub(crate) fn not_found() -> Reply {
    Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}"#)
}

fn serve(
    stream: &mut (impl Read + Write),
    log: &Mutex<Vec<Request>>,
    handler: &Handler,
) -> std::io::Result<()> {
    let Some(request) = read_request(stream)? else { return Ok(()) };
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    if reply.hang {
        // Wait until the client closes.
        return std::io::copy(stream, &mut std::io::sink()).map(drop);
    }
    write!(stream, "HTTP/1.1 {} Reply\r\nConnection: close\r\n", reply.status)?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if reply.endless {
        write!(stream, "\r\n")?;
        loop {
            stream.write_all(&reply.body)?;
        }
    }
    let length = reply.announced.unwrap_or(reply.body.len());
    write!(stream, "Content-Length: {length}\r\n\r\n")?;
    stream.write_all(&reply.body)?;
    stream.flush()
}

fn read_request(stream: &mut impl Read) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request { method, path, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    reader.take(length).read_to_string(&mut request.body)?;
    Ok(Some(request))
}

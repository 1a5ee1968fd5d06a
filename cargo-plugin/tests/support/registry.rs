//! A registry with one small image. It can ask for a password, or stall in the middle of a layer.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use supermachine_formats::Digest;

/// `me:secret` in base64.
const LOGIN: &str = "Basic bWU6c2VjcmV0";

pub(crate) struct Registry {
    pub(crate) address: String,
    content: Arc<Content>,
    stalled: Receiver<()>,
}

struct Content {
    manifest: String,
    config: String,
    layer: Vec<u8>,
    wants_login: bool,
    /// Independent of other memory.
    stalls: AtomicBool,
}

impl Registry {
    pub(crate) fn start(wants_login: bool, stalls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Content::new(wants_login, stalls));
        let (sender, stalled) = channel();
        let served = Arc::clone(&content);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (content, sender) = (Arc::clone(&served), sender.clone());
                // The client may hang up.
                thread::spawn(move || drop(content.serve(stream.unwrap(), &sender)));
            }
        });
        Self { address, content, stalled }
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/small", self.address)
    }

    /// Waits until a client has received half of the layer.
    pub(crate) fn wait_until_stalled(&self) {
        self.stalled.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    pub(crate) fn stall_no_more(&self) {
        self.content.stalls.store(false, Ordering::Relaxed);
    }
}

impl Content {
    fn new(wants_login: bool, stalls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Incompressible, so that it arrives in several pieces.
        std::fs::write(folder.path().join("file"), vec![b'x'; 1 << 20]).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["-c", "--owner=0", "--group=0", "-C"]).arg(folder.path()).arg("file");
        let layer = tar.stderr(Stdio::inherit()).output().unwrap().stdout;
        assert!(layer.len() > 1 << 20);
        let digest = Digest::of(&layer);
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["/file"]}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let kind = "application/vnd.oci.image";
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}.manifest.v1+json",
            "config":{{"mediaType":"{kind}.config.v1+json","digest":"{}","size":{}}},
            "layers":[{{"mediaType":"{kind}.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len(),
            layer.len()
        );
        Self { manifest, config, layer, wants_login, stalls: AtomicBool::new(stalls) }
    }

    fn serve(&self, mut stream: TcpStream, stalled: &Sender<()>) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut login = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                login = Some(value.to_owned());
            }
        }
        if self.wants_login && login.as_deref() != Some(LOGIN) {
            return write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        let layer_path = format!("/v2/small/blobs/{}", Digest::of(&self.layer));
        let config_path = format!("/v2/small/blobs/{}", Digest::of(self.config.as_bytes()));
        let body = match path.as_str() {
            "/v2/" => b"".as_slice(),
            path if path.starts_with("/v2/small/manifests/") => self.manifest.as_bytes(),
            path if path == config_path => self.config.as_bytes(),
            path if path == layer_path => &self.layer,
            _ => {
                let lacks =
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                return stream.write_all(lacks.as_bytes());
            }
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        if path == layer_path && self.stalls.load(Ordering::Relaxed) {
            stream.write_all(&body[..body.len() / 2])?;
            let _ = stalled.send(());
            // Until the client hangs up.
            let mut rest = BufReader::new(stream).lines();
            while rest.next().is_some_and(|line| line.is_ok()) {}
            return Ok(());
        }
        stream.write_all(body)
    }
}

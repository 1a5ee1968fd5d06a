//! The test registry: Debian's docker-registry on loopback, serving the test images.
//!
//! Its storage is a folder in the cache, so that the registry can be started anywhere
//! that sees the same files: here, or in an emulated host.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use supermachine_kernel::Arch;

use crate::cache;
use crate::command;
use crate::error::Error;
use crate::packages;
use crate::progress::Step;

/// Names the registry's address, `127.0.0.1:PORT`, to tests and commands.
pub(crate) const ADDRESS: &str = "SUPERMACHINE_TEST_REGISTRY";
/// How long it may take to listen; under emulation this takes seconds.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Where it keeps the blobs and manifests of an architecture's images. They have the same names for
/// each, so that tests need not know which they get.
pub(crate) fn storage(arch: Arch) -> PathBuf {
    folder(arch).join("storage")
}

fn folder(arch: Arch) -> PathBuf {
    cache::dev().join(cache::name_for(arch, "registry"))
}

/// `cargo xtask registry [-- COMMAND…]`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Command to run while the registry serves [default: serve until stopped]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Serves the test images while a command runs, or until stopped.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    // The packages were installed before the host started, and asking takes seconds there.
    if !crate::host::guest::is_inside() {
        packages::ensure(packages::IMAGES)?;
    }
    let mut registry = Registry::start(Arch::host())?;
    let Some((program, rest)) = args.command.split_first() else {
        println!("serving {} on {}", storage(Arch::host()).display(), registry.address);
        registry.child.wait().map_err(Error::system("wait for the registry"))?;
        return Ok(1);
    };
    let mut command = Command::new(program);
    command.args(rest).env(ADDRESS, &registry.address);
    let status = command.status().map_err(|e| command::start(&command, e))?;
    Ok(crate::host::shell_status(status))
}

/// Pushes the images that the storage of an architecture lacks.
pub(crate) fn fill(arch: Arch, images: &[(&str, PathBuf)]) -> Result<(), Error> {
    let _lock = cache::lock(&folder(arch).join("lock"))?;
    // A file beside the storage records the layout that was pushed under a name.
    let stamp = |name: &str| folder(arch).join(format!("{name}.pushed"));
    let is_pushed = |(name, layout): &&(&str, PathBuf)| {
        fs::read(stamp(name)).is_ok_and(|s| s == layout.as_os_str().as_encoded_bytes())
    };
    let wanted: Vec<_> = images.iter().filter(|image| !is_pushed(image)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let registry = Registry::start(arch)?;
    for (name, layout) in wanted {
        let step = Step::new(&format!("pushing the image {name}"), 0);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}:latest", layout.display()));
        skopeo.arg(format!("docker://{}/{name}:latest", registry.address));
        command::output(&mut skopeo)?;
        let path = stamp(name);
        fs::write(&path, layout.as_os_str().as_encoded_bytes())
            .map_err(Error::file("write", &path))?;
        step.finish();
    }
    Ok(())
}

/// A registry that serves until the value is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Registry {
    /// Starts it on a free port with an architecture's images, and waits until it listens.
    pub(crate) fn start(arch: Arch) -> Result<Self, Error> {
        let port = free_port().map_err(Error::system("find a free port"))?;
        let address = format!("127.0.0.1:{port}");
        let storage = storage(arch);
        fs::create_dir_all(&storage).map_err(Error::file("create", &storage))?;
        let mut command = Command::new("docker-registry");
        command.args(["serve", "/dev/stdin"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command::die_with_us(&mut command);
        let mut child = command.spawn().map_err(|e| command::start(&command, e))?;
        let input = child.stdin.take();
        let mut registry = Self { child, address };
        if let Some(mut input) = input {
            // The settings fit into a pipe; closing it is the end of the file.
            let text = settings(&storage, &registry.address);
            input.write_all(text.as_bytes()).map_err(Error::system("configure the registry"))?;
        }
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let not_up = |found: String| Error::Unexpected {
            what: "docker-registry",
            expected: "to listen".into(),
            found,
        };
        while TcpStream::connect(&self.address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(not_up(status.to_string()));
            }
            if began.elapsed() > START_LIMIT {
                return Err(not_up("no answer in time".into()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn settings(storage: &Path, address: &str) -> String {
    let storage = serde_json::Value::from(storage.to_string_lossy().into_owned());
    format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {storage}\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n"
    )
}

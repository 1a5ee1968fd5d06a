//! Runs a web server in a machine and exposes it on a port of this host.
//!
//! ```text
//! web_service STORE NAME HOST_PORT GUEST_PORT
//! ```
//!
//! It serves until its standard input ends: `web_service snapshots nginx 8080 80`.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use supermachine::{Error, Image, VmConfig};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [store, name, host, guest] = words.as_slice() else {
        return fail("usage: web_service STORE NAME HOST_PORT GUEST_PORT");
    };
    let (Ok(host), Ok(guest)) = (host.parse(), guest.parse()) else {
        return fail("a port is a number up to 65535");
    };
    let print = |address| {
        // Standard output may be closed.
        let _ = writeln!(io::stdout(), "http://{address}/");
    };
    match serve(Path::new(store), name, (host, guest), print, &mut io::stdin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&chain(&error)),
    }
}

/// Serves until `until` reaches its end. Calls `print` with the address.
pub(crate) fn serve(
    store: &Path,
    name: &str,
    (host_port, guest_port): (u16, u16),
    print: impl FnOnce(SocketAddr),
    until: &mut impl Read,
) -> Result<(), Error> {
    let vm = Image::from_store(store, name)?.start(&VmConfig::new())?;
    let web = vm.expose_tcp(host_port, guest_port)?;
    print(web.local_addr());
    // A read error stops the service too.
    let _ = io::copy(until, &mut io::sink());
    web.close()?;
    vm.stop()
}

/// An error and its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn fail(reason: &str) -> ExitCode {
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "web_service: {reason}");
    ExitCode::FAILURE
}

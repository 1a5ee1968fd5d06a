//! Runs a service in a machine and exposes it on a port of this host until standard input closes.
//!
//! ```text
//! service [PORT]
//! ```

use std::error::Error;
use std::io;

use supermachine::{Image, VmConfig, include_snapshot};

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(0), |text| text.parse())?;
    let image = Image::from_embedded(include_snapshot!("web"))?;
    let vm = image.start(&VmConfig::new().with_hostname("web"))?;
    let web = vm.expose_tcp(port, 80)?;
    println!("http://{}/passwd", web.local_addr());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(web);
    vm.stop()?;
    Ok(())
}

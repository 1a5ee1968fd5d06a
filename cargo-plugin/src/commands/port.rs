//! `supermachine port`: lists the published ports of a machine.

use std::io::{self, Write};

use crate::background;
use crate::error::{BackgroundError, Error};
use crate::machines::Machines;
use crate::ports::GuestPort;

/// List the published ports of a machine
///
/// Prints a line for each port, as `80/tcp -> 127.0.0.1:8080`. With PORT, prints only the addresses that
/// lead to it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List the ports of this machine
    #[arg(value_name = "MACHINE")]
    name: String,
    /// Print the addresses of this port
    #[arg(value_name = "PORT[/tcp|/udp]")]
    port: Option<GuestPort>,
}

/// Prints the ports.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let label = background::label(&Machines::locate().connect(&args.name)?)?;
    let mut text = String::new();
    for port in &label.ports {
        match args.port {
            None => text += &format!("{} -> {}\n", port.guest(), port.host),
            Some(wanted) if wanted == port.guest() => text += &format!("{}\n", port.host),
            Some(_) => {}
        }
    }
    if let Some(port) = args.port.filter(|_| text.is_empty()) {
        let (name, port) = (args.name.clone(), port.to_string());
        return Err(BackgroundError::NotPublished { name, port }.into());
    }
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

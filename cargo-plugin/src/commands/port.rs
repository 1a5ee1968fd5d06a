//! `supermachine port`: lists the published ports of a machine.

use std::io::{self, Write};

use crate::background;
use crate::error::{BackgroundError, Error};
use crate::machines::Machines;

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
    #[arg(value_name = "PORT[/tcp]", value_parser = port)]
    port: Option<u16>,
}

/// Prints the ports.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let label = background::label(&Machines::locate().connect(&args.name)?)?;
    let mut text = String::new();
    for port in &label.ports {
        match args.port {
            None => text += &format!("{}/tcp -> {}\n", port.guest, port.host),
            Some(wanted) if wanted == port.guest => text += &format!("{}\n", port.host),
            Some(_) => {}
        }
    }
    if let Some(port) = args.port.filter(|_| text.is_empty()) {
        return Err(BackgroundError::NotPublished { name: args.name.clone(), port }.into());
    }
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn port(text: &str) -> Result<u16, String> {
    let number = text.strip_suffix("/tcp").unwrap_or(text);
    number.parse().map_err(|_| "not a port, as 80 or 80/tcp".to_owned())
}

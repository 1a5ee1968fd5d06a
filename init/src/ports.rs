//! Which TCP ports are listened on, from the kernel's socket tables.

use alloc::vec::Vec;

use supermachine_formats::wire::Failure;

use crate::failure::OrFailure;
use crate::sys::{Errno, fd};

/// The state of a listening socket in the tables.
const LISTEN: &[u8] = b"0A";

/// The ports that are listened on now. Among an entrypoint's own processes the agent is none, and
/// has no `/proc/self`.
pub(crate) fn now(is_joined: bool) -> Result<Vec<u16>, Failure> {
    let (tcp, tcp6) = match is_joined {
        false => (c"/proc/net/tcp", c"/proc/net/tcp6"),
        true => (c"/proc/1/net/tcp", c"/proc/1/net/tcp6"),
    };
    let table = fd::read_file(tcp).or_failure("read", tcp.to_bytes())?;
    let table6 = match fd::read_file(tcp6) {
        Err(Errno::NOENT) => Vec::new(),
        other => other.or_failure("read", tcp6.to_bytes())?,
    };
    Ok(listening(&[&table, &table6]))
}

/// Ports of listening sockets in tables of the form of /proc/net/tcp, sorted, each once.
/// Lines of another form are passed over.
fn listening(tables: &[&[u8]]) -> Vec<u16> {
    let lines = tables.iter().flat_map(|table| table.split(|byte| *byte == b'\n'));
    let mut ports: Vec<u16> = lines.filter_map(listening_port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn listening_port(line: &[u8]) -> Option<u16> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state != LISTEN {
        return None;
    }
    let port = local.rsplit(|byte| *byte == b':').next()?;
    u16::from_str_radix(core::str::from_utf8(port).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100\n\
   1: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100\n\
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100\n";
    const TCP6: &[u8] = b"  sl  local_address                         remote_address st\n\
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0\n\
   1: broken\n   2: x:GGGG y:0 0A\n";

    #[test]
    fn listening_ports_come_sorted_and_once() {
        assert_eq!(listening(&[TCP, TCP6]), [22, 8080]);
    }

    #[test]
    fn empty_tables_hold_no_port() {
        assert!(listening(&[b"", b"\n\n"]).is_empty());
    }

    #[test]
    fn hosts_table_lists_an_open_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let table = std::fs::read("/proc/net/tcp").unwrap();
        assert!(listening(&[&table]).contains(&socket.local_addr().unwrap().port()));
    }
}

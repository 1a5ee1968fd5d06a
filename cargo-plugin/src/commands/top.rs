//! `supermachine top`: lists the processes of a machine.
//!
//! Reads the guest's `/proc`, so that the image needs no `ps`.

use std::io::{self, Write};

use supermachine::Vm;

use crate::error::Error;
use crate::{background, format};

/// The most processes to list.
const MOST: usize = 10_000;

/// List the processes of a machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List the processes of this machine
    #[arg(value_name = "MACHINE")]
    name: String,
}

/// Prints a table.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machine = background::connect_running(&args.name)?;
    let mut rows = vec![["PID", "PPID", "UID", "STATE", "COMMAND"].map(str::to_owned)];
    let mut waiting = vec![1];
    while let Some(pid) = waiting.pop().filter(|_| rows.len() <= MOST) {
        // A process may exit at any time.
        let Some(status) = read(&machine, pid, "status") else { continue };
        let children = read(&machine, pid, &format!("task/{pid}/children")).unwrap_or_default();
        waiting.extend(children.split_whitespace().rev().filter_map(|pid| pid.parse::<u32>().ok()));
        let command = read(&machine, pid, "cmdline").unwrap_or_default();
        rows.push(row(pid, &status, &command));
    }
    let text = format::table(&rows);
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn read(machine: &Vm, pid: u32, file: &str) -> Option<String> {
    let bytes = machine.read_file(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn row(pid: u32, status: &str, command: &str) -> [String; 5] {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    let words: Vec<_> = command.split_terminator('\0').map(format::shell_word).collect();
    let command = if words.is_empty() { format!("[{}]", field("Name:")) } else { words.join(" ") };
    [pid.to_string(), field("PPid:"), field("Uid:"), field("State:"), command]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_read_from_proc() {
        let status = "Name:\tsh\nState:\tS (sleeping)\nPPid:\t1\nUid:\t1000\t1000\t1000\t1000\n";
        let found = row(7, status, "sh\0-c\0sleep 1\0");
        assert_eq!(found, ["7", "1", "1000", "S", "sh -c 'sleep 1'"]);
        assert_eq!(row(2, "Name:\tkthreadd\n", "")[4], "[kthreadd]");
    }
}

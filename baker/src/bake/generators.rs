//! Programs of a machine that have random generators of their own.
//!
//! The kernel's generator is seeded afresh in every machine; one in a program's memory continues with
//! the state of the snapshot. The kernel does not count who drew from it, and practically every program
//! does at its start, so a program is recognized by the libraries and runtimes that it maps: those whose
//! generators stay in memory. It need not have used them.

use std::collections::BTreeSet;
use std::fmt;

use supermachine::Error;
use supermachine_formats::wire::{Reply, Request};
use supermachine_vmm::Machine;

use super::agent::request;

/// The most processes to look at.
const MOST: usize = 100;
/// The agent's. The entrypoint and its children descend from it.
const FIRST_PID: u32 = 1;
/// The guest's folder of programs that run after each restore.
const HOOKS: &str = "/etc/supermachine/after-restore.d";
/// How the names of libraries begin, and whose generator that is.
const LIBRARIES: [(&str, &str); 14] = [
    ("libcrypto.so", "OpenSSL"),
    ("libgnutls.so", "GnuTLS"),
    ("libfreebl3.so", "NSS"),
    ("libgcrypt.so", "Libgcrypt"),
    ("libmbedcrypto.so", "Mbed TLS"),
    ("libwolfssl.so", "wolfSSL"),
    ("libjvm.so", "Java"),
    ("libnode.so", "Node.js"),
    ("libpython", "Python"),
    ("libruby", "Ruby"),
    ("libphp", "PHP"),
    ("libperl.so", "Perl"),
    ("libcoreclr.so", ".NET"),
    ("libR.so", "R"),
];
/// The names of programs, which a version may follow: `python3.11`.
const PROGRAMS: [(&str, &str); 8] = [
    ("node", "Node.js"),
    ("python", "Python"),
    ("ruby", "Ruby"),
    ("php", "PHP"),
    ("perl", "Perl"),
    ("beam.smp", "Erlang"),
    ("deno", "Deno"),
    ("bun", "Bun"),
];

/// A program with a random generator of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generator {
    /// The name of the process.
    pub process: String,
    /// Whose generator it is: OpenSSL's, Python's.
    pub library: &'static str,
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.process, self.library)
    }
}

/// Finds them among the processes of a machine, in the order of their names. An image with programs
/// that run after each restore takes care of them itself.
pub(super) fn find(machine: &Machine) -> Result<Vec<Generator>, Error> {
    if has_hooks(machine)? {
        return Ok(Vec::new());
    }
    let mut found = BTreeSet::new();
    let mut waiting = vec![FIRST_PID];
    for _ in 0..MOST {
        let Some(pid) = waiting.pop() else { break };
        let children = read(machine, pid, &format!("task/{pid}/children"))?;
        waiting.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        if pid == FIRST_PID {
            continue;
        }
        let maps = read(machine, pid, "maps")?;
        let process = read(machine, pid, "comm")?.trim_end().to_owned();
        let libraries = libraries(&maps).into_iter();
        found.extend(libraries.map(|library| Generator { process: process.clone(), library }));
    }
    Ok(found.into_iter().collect())
}

/// Whose generators a process has, by the files in its `/proc/PID/maps`.
fn libraries(maps: &str) -> BTreeSet<&'static str> {
    let names = maps.lines().filter_map(|line| line.rsplit_once('/').map(|(_, name)| name));
    names.filter_map(generator).collect()
}

fn generator(name: &str) -> Option<&'static str> {
    let is_version = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let library = LIBRARIES.iter().find(|(start, _)| name.starts_with(start));
    let program =
        || PROGRAMS.iter().find(|(start, _)| name.strip_prefix(start).is_some_and(is_version));
    library.or_else(program).map(|(_, whose)| *whose)
}

fn has_hooks(machine: &Machine) -> Result<bool, Error> {
    let mut replies = request(machine, &Request::CopyOut { path: HOOKS.into() })?;
    Ok(!matches!(replies.next()?, Reply::Failed(_)))
}

/// A file of a process. A process that has exited, or is a kernel's, has an empty one.
fn read(machine: &Machine, pid: u32, file: &str) -> Result<String, Error> {
    let path = format!("/proc/{pid}/{file}").into_bytes();
    let mut replies = request(machine, &Request::ReadFile { path })?;
    let mut content = Vec::new();
    loop {
        match replies.next()? {
            Reply::Data(bytes) => content.extend(bytes),
            reply if reply.is_final() => break,
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(names: &[&str]) -> BTreeSet<&'static str> {
        let line = |path: &&str| format!("7f00-7f10 r-xp 00000000 00:16 99    {path}\n");
        libraries(&names.iter().map(line).collect::<String>())
    }

    #[test]
    fn generators_are_known_by_what_a_process_maps() {
        let nginx = ["/usr/sbin/nginx", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "[heap]", ""];
        assert_eq!(maps(&nginx), ["OpenSSL"].into());
        let python = ["/usr/bin/python3.11", "/usr/lib/libpython3.11.so.1.0", "/lib/libc.so.6"];
        assert_eq!(maps(&python), ["Python"].into());
        assert_eq!(maps(&["/usr/local/bin/node"]), ["Node.js"].into());
        assert_eq!(maps(&["/opt/jdk/lib/server/libjvm.so"]), ["Java"].into());
    }

    #[test]
    fn other_files_are_no_generators() {
        for path in ["/bin/busybox", "/usr/bin/node_exporter", "/usr/bin/phpize", "/usr/bin/bundle"]
        {
            assert_eq!(maps(&[path]), [].into(), "{path}");
        }
    }
}

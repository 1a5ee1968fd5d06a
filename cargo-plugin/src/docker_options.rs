//! Options of `docker run` and `docker exec` that make no sense for a machine, commands of Docker that do not
//! exist here, and what to do instead.

/// Options with the reason why they are refused. A name ends with `*` if it is a prefix.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["--volumes-from", "--volume-driver"],
        "a machine has no volumes of others: -v gives it folders of this host and volumes by name",
    ),
    (
        &["--network-alias", "--link", "--link-local-ip", "--ip", "--ip6", "--mac-address"],
        "a machine is alone on its network, with fixed addresses: --net says what it reaches",
    ),
    (
        &["--dns", "--dns-*", "--add-host"],
        "a machine asks this host's name servers: --net says which names it resolves",
    ),
    (&["--expose", "-P", "--publish-all"], "-p passes connections on to each port that it names"),
    (
        &["--privileged", "--cap-add", "--cap-drop", "--security-opt", "--userns", "--cgroupns"],
        "a machine has a kernel of its own, so its root needs no restriction on the host's kernel",
    ),
    (
        &["--device", "--device-*", "--gpus", "--group-add"],
        "a machine has only virtual devices, and none of the host's",
    ),
    (
        &["--sysctl", "--pids-limit"],
        "a machine has a kernel of its own: run `sysctl` in it, or limit processes with --ulimit nproc",
    ),
    (
        &["--memory-swap", "--memory-*", "--kernel-memory", "--oom-*"],
        "a machine has a fixed memory, without swap: set it with --memory",
    ),
    (
        &["-c", "--cpu-shares", "--cpuset-*", "--cpu-*", "--blkio-*", "--cgroup-parent"],
        "a machine has whole processors: set their number with --vcpus",
    ),
    (&["--isolation", "--runtime"], "every machine is isolated by hardware"),
    (&["--annotation", "--label-file"], "a machine has labels: set each with --label"),
    (&["--use-api-socket"], "a machine reaches no socket of the host: see --net"),
    (&["-a", "--attach"], "`run` without -d is always attached to standard output and error"),
    (&["--cidfile"], "the name of a machine in the background is printed, and set with --name"),
    (
        &["--health-*", "--no-healthcheck"],
        "`supermachine pull --ready` says when a machine is ready",
    ),
    (&["--log-driver", "--log-opt"], "a machine keeps its logs itself: see `supermachine logs`"),
    (&["--detach-keys"], "there is nothing to detach from: -d starts in the background"),
    (&["--ipc", "--pid", "--uts"], "a machine shares no namespace with the host"),
    (&["--domainname"], "set the whole host name with --hostname"),
    (&["--sig-proxy"], "signals are always passed on, unless -it connects to the terminal"),
    (&["--disable-content-trust"], "an image is verified by its digest"),
    (&["--storage-opt"], "--disk SIZE gives a machine a disk for what it writes"),
    (&["-h"], "use --hostname for the host name, and --help for help"),
];

/// What is wrong with `--init` as Docker has it.
pub(crate) const INIT: &str = "--init takes `agent` or `image`: leave it out for an init that reaps, which \
    every machine has, or use `--init image` if the image's entrypoint must be PID 1";

/// Commands of Docker, with what does the same.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["images", "image"], "`supermachine ls` lists snapshots, and `inspect` shows one"),
    (&["rmi"], "`supermachine rm` removes snapshots"),
    (&["container"], "`supermachine ps` lists machines"),
    (&["create", "start"], "`supermachine run -d` starts a machine in the background"),
    (&["attach"], "`supermachine logs -f` follows a machine, and `exec -it` opens a shell in it"),
    (&["save"], "`supermachine export` writes a snapshot to a file"),
    (&["load"], "`supermachine pull docker-archive:FILE` takes what `docker save` wrote"),
    (
        &["build", "builder", "buildx", "commit"],
        "build the image with another tool; `supermachine pull` takes it from a registry, as \
         oci:FOLDER or as docker-archive:FILE",
    ),
    (
        &["login", "logout"],
        "`docker login` and `podman login` store credentials that count here too; or use --username \
         with --password-stdin",
    ),
    (&["tag"], "`supermachine pull --name` names a snapshot, and `push NAME REFERENCE` its image"),
    (
        &["history", "manifest", "trust"],
        "`supermachine inspect` shows what a snapshot was made from",
    ),
    (
        &["diff"],
        "`supermachine export` writes a whole snapshot, and `cp` copies files out of a machine",
    ),
    (&["search"], "search in the registry itself; `supermachine pull` takes what you find"),
    (
        &["update"],
        "a snapshot fixes memory and processors: `run --memory` and `--cpus` bake another",
    ),
    (
        &["config", "context", "node", "plugin", "secret"],
        "there is no daemon, and no cluster: each machine is a process of its own",
    ),
    (
        &["info", "version"],
        "`supermachine doctor` checks this host, and --version prints the version",
    ),
    (&["system", "prune"], "`supermachine df` shows disk usage, and `gc` frees space"),
    (&["network"], "a machine has a network of its own: see `run --net` and `run -p`"),
    (&["compose", "swarm", "service", "stack"], "start each machine with `supermachine run -d`"),
];

/// What does the same as a command of Docker. `None` for other words.
pub(crate) fn instead_of(command: &str) -> Option<&'static str> {
    let found = COMMANDS.iter().find(|(names, _)| names.contains(&command));
    found.map(|(_, instead)| *instead)
}

/// Why an option of Docker is refused. `None` for other options.
pub(crate) fn reason(option: &str) -> Option<&'static str> {
    let name = option.split('=').next().unwrap_or(option);
    let is_named = |known: &&str| match known.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *known,
    };
    // Exact names first: `--cpu-shares` is also `--cpu-*`.
    let found = REFUSED.iter().find(|(names, _)| names.iter().any(&is_named));
    found.map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_docker_have_another_name() {
        assert!(instead_of("rmi").unwrap().contains("`supermachine rm`"));
        for command in
            ["attach", "builder", "config", "diff", "network", "search", "trust", "update"]
        {
            assert!(instead_of(command).is_some(), "{command}");
        }
        assert!(instead_of("nosuch").is_none());
    }

    #[test]
    fn options_of_docker_have_a_reason() {
        for option in
            ["--volumes-from", "--volume-driver=a", "--cpuset-cpus", "--dns-search", "--gpus"]
        {
            assert!(reason(option).is_some(), "{option}");
        }
        assert!(reason("--privileged").unwrap().contains("kernel of its own"));
        for option in ["--nosuch", "--memory", "--cpus", "-x", "--vol"] {
            assert!(reason(option).is_none(), "{option}");
        }
    }
}

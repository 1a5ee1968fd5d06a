//! A zoo of real software: each image starts, restores, and gives in two machines what it gives in a
//! chroot.
//!
//! `/zoo/probe` in an image prints the same wherever it works. The recipe of the image (`xtask/images`)
//! ran it in a chroot on the machine that made the image, and kept the output as `/zoo/expected`.
//! Engines and inits that take over a machine cannot run there; what they must print is in the recipe.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use supermachine::Vm;
use supermachine_baker::{Init, OciImageBuilder, Ready, SweepOptions};
use supermachine_test_support::machines::{bake, expect_baked, sh, start, store, succeeded};

/// A compiler under an emulated hypervisor takes minutes.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// An image whose command does nothing: the probe is all there is.
fn quiet(image: &str, memory_mib: u64) -> OciImageBuilder {
    bake(image).memory_mib(memory_mib).ready(Ready::Auto)
}

/// An image whose command serves: `/zoo/ready` succeeds once it does.
fn serving(image: &str, memory_mib: u64) -> OciImageBuilder {
    let ready = Ready::Exec(vec!["/zoo/ready".into()]);
    bake(image).memory_mib(memory_mib).ready(ready).ready_timeout(TIMEOUT)
}

/// Bakes an image, runs the probe in two machines of it, and checks them and what both printed.
///
/// The snapshot is removed then: all of them at once fill the memory of an emulated host.
fn compare(name: &str, builder: OciImageBuilder, check: impl FnOnce(&[Vm; 2], &str)) {
    expect_baked(builder.name(name).bake(store()));
    let image = store().image(name).unwrap();
    let machines = [start(&image), start(&image)];
    let expected = sh(&machines[0], "cat /zoo/expected");
    for vm in &machines {
        assert_eq!(probe(vm), expected);
    }
    check(&machines, &expected);
    drop((machines, image));
    store().remove(name).unwrap();
    store().sweep(SweepOptions::default(), || {}).unwrap();
}

fn probe(vm: &Vm) -> String {
    let outcome = vm.exec_builder().argv(["/zoo/probe"]).timeout(TIMEOUT).output().unwrap();
    assert!(!outcome.timed_out, "{}", String::from_utf8_lossy(&outcome.stdout));
    succeeded(&outcome, "/zoo/probe")
}

/// Asks a port of the guest through one of the host.
fn http(vm: &Vm, port: u16, path: &str) -> String {
    let forward = vm.expose_tcp(0, port).unwrap();
    let url = format!("http://{}/{path}", forward.local_addr());
    let output = Command::new("curl").args(["-sSf", "--max-time", "300", &url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    forward.close().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn programs_of_32_bits_run() {
    compare("busybox32", quiet("busybox32", 128), |_, printed| {
        assert!(printed.starts_with("    1\nHello, world!\n"), "{printed}");
    });
}

#[test]
fn debugger_stops_at_breakpoints_in_files_of_the_image() {
    compare("gdb", quiet("gdb", 128), |[vm, _], printed| {
        for stop in ["in main ()", "in write ()", "exited with code 0100", "whole"] {
            assert!(printed.contains(stop), "{printed}");
        }
        // The simplest session, as people type it.
        let words =
            ["gdb", "-batch", "-ex", "break main", "-ex", "run", "-ex", "bt", "/usr/bin/perl"];
        let outcome = vm.exec_builder().argv(words).timeout(TIMEOUT).output().unwrap();
        let printed = succeeded(&outcome, "gdb");
        assert!(printed.contains("Breakpoint 1, "), "{printed}");
        let in_main = |line: &str| line.starts_with("#0 ") && line.ends_with("in main ()");
        assert!(printed.lines().any(in_main), "{printed}");
    });
}

#[test]
fn supervisor_as_pid_1_keeps_its_services_up() {
    compare("s6", serving("s6", 128).init(Init::Image), |[_, vm], printed| {
        assert!(printed.starts_with("s6-svscan "), "{printed}");
        // It ends in its own way, by the image's stop signal.
        vm.workload_signal(15).unwrap();
        assert_eq!(vm.wait().unwrap().code(), Some(0));
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn systemd_is_running_without_failed_units() {
    compare("systemd", serving("systemd", 256).init(Init::Image), |_, printed| {
        assert!(printed.starts_with("systemd\nrunning\nactive\n"), "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn compiler_makes_programs_that_run() {
    compare("gcc", quiet("gcc", 512), |_, printed| {
        assert!(printed.starts_with("2004000 12 1.4142135623731\nstatus 7\n"), "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn java_compiles_and_runs() {
    compare("openjdk", quiet("openjdk", 1024), |_, printed| {
        assert_eq!(printed.matches("209715200\nstatus 5\n").count(), 2, "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn go_builds_and_runs() {
    compare("golang", quiet("golang", 1024), |_, printed| {
        assert!(printed.ends_with("in time\nstatus 6\n"), "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn ruby_runs_threads_and_children() {
    compare("ruby", quiet("ruby", 256), |_, printed| {
        assert!(printed.ends_with("asked\nfrom a shell\n"), "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn apache_answers_with_php() {
    compare("php-apache", serving("php-apache", 256), |machines, printed| {
        let first = printed.lines().next().unwrap();
        for vm in machines {
            assert_eq!(http(vm, 80, "index.php?n=20").trim_end(), first);
        }
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn database_keeps_what_was_written_before_the_snapshot_and_after() {
    let builder = serving("mariadb", 512).with_warmup_commands([["/zoo/before"]]);
    compare("mariadb", builder, |_, printed| {
        assert!(printed.starts_with("1\totter\n2\tžába\n3\tlynx\n"), "{printed}");
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn docker_runs_containers_on_a_bridge_with_published_ports() {
    // A container that runs when the snapshot is taken answers in each machine.
    let builder = serving("docker", 1024).with_warmup_commands([["/zoo/before"]]);
    compare("docker", builder, |machines, printed| {
        assert!(printed.starts_with("overlay2 2\n"), "{printed}");
        for vm in machines {
            assert_eq!(http(vm, 8080, ""), "hello from a container\n");
        }
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn podman_runs_containers_of_root_and_of_users() {
    // As with Docker, containers that run when the snapshot is taken answer in each machine.
    let builder = quiet("podman", 1024).with_warmup_commands([["/zoo/before"]]);
    compare("podman", builder, |machines, printed| {
        assert!(printed.starts_with("overlay v2 false\n"), "{printed}");
        for (vm, port) in machines.iter().zip([8080, 8081]) {
            assert_eq!(http(vm, port, ""), "hello from a container\n");
        }
    });
}

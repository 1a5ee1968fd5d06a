//! What runs after a restore: programs in a folder of the guest, the action of the bake, and the
//! generation file. Also the files of the guest that are written for each machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use supermachine::{Error, Image, PooledVm, Vm};
use supermachine_baker::{AfterRestore, OciImageBuilder, Ready};
use supermachine_formats::wire::Operation;
use supermachine_test_support::machines::{
    bake, baked, busybox, causes, folder, own_store, sh, start,
};

const HOOKS: &str = "/etc/supermachine/after-restore.d";

/// A script of the host, to add to an image.
fn script(name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn sleeping() -> OciImageBuilder {
    bake("busybox").entrypoint(["sleep", "1000000"])
}

fn action(text: &str) -> AfterRestore {
    text.parse().unwrap()
}

fn generation(vm: &Vm) -> String {
    let text = sh(vm, "cat /run/supermachine/generation");
    let digits = text.strip_suffix('\n').unwrap();
    assert_eq!(digits.len(), 32, "{digits}");
    assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digits}");
    text
}

fn pooled(image: &Image) -> PooledVm {
    image.acquire().unwrap()
}

#[test]
fn generation_differs_between_restores_and_stays_in_a_machine() {
    let (vm, other) = (start(&busybox()), start(&busybox()));
    let own = generation(&vm);
    assert_ne!(own, generation(&other));
    assert_eq!(own, generation(&vm));
    let taken = vm.snapshot("generation").unwrap();
    assert_ne!(own, generation(&start(&taken.image)));
    assert_eq!(own, generation(&vm), "a capture does not change the machine");
}

/// An image whose hooks each add a line to a file.
fn writing() -> Image {
    baked("hooks-writing", || {
        let line =
            |word: &str| format!("umask 0; echo {word} $(id -u) $(pwd) >> /var/hooks; echo said");
        sleeping()
            .user("app")
            .working_dir("/tmp")
            .file(format!("{HOOKS}/20-second"), script("20-second", &line("second")))
            .file(format!("{HOOKS}/10-first"), script("10-first", &line("first")))
            .after_restore(action("exec:echo last $(id -un) $(pwd) >> /var/hooks"))
    })
}

const WRITTEN: &str = "first 0 /\nsecond 0 /\nlast app /tmp\n";

#[test]
fn hooks_run_in_order_before_the_first_command_of_each_machine() {
    let image = writing();
    assert_eq!(
        image.snapshot().after_restore.as_ref().unwrap().action,
        "exec:echo last $(id -un) $(pwd) >> /var/hooks"
    );
    for _ in 0..2 {
        let vm = start(&image);
        assert_eq!(sh(&vm, "cat /var/hooks"), WRITTEN);
        assert_eq!(sh(&vm, "cat /var/hooks"), WRITTEN);
        vm.stop().unwrap();
    }
}

#[test]
fn hooks_run_after_a_reset_and_in_a_snapshot_of_a_running_machine() {
    let image = writing();
    for _ in 0..3 {
        assert_eq!(sh(&pooled(&image), "cat /var/hooks"), WRITTEN);
    }
    let vm = start(&image);
    assert_eq!(sh(&vm, "cat /var/hooks"), WRITTEN);
    let taken = vm.snapshot("hooks-live").unwrap();
    assert_eq!(taken.image.snapshot().after_restore, image.snapshot().after_restore);
    assert_eq!(sh(&start(&taken.image), "cat /var/hooks"), WRITTEN.repeat(2));
    assert_eq!(sh(&vm, "cat /var/hooks"), WRITTEN);
}

#[test]
fn program_that_a_machine_adds_to_the_folder_runs_in_its_snapshot() {
    let vm = start(&busybox());
    sh(
        &vm,
        &format!(
            "mkdir -p {HOOKS}; cd {HOOKS}; printf '#!/bin/sh\\necho ran > /tmp/ran\\n' > hook; \
             echo text > notes; chmod 755 hook"
        ),
    );
    let taken = vm.snapshot("hooks-added").unwrap();
    assert_eq!(sh(&start(&taken.image), "cat /tmp/ran"), "ran\n");
}

#[test]
fn failing_hook_fails_the_bake_with_its_output() {
    let (_dir, store) = own_store();
    let error = sleeping()
        .name("failing")
        .after_restore(action("exec:echo no key >&2; exit 3"))
        .bake(&store)
        .unwrap_err();
    let text = causes(&error);
    assert!(text.contains("/bin/sh exited with status 3; it wrote: no key"), "{text}");
}

#[test]
fn hook_that_fails_in_a_machine_refuses_every_request() {
    let image = baked("hooks-failing", || {
        let text = "test ! -e /tmp/broken || { echo broken; exit 4; }";
        sleeping().file(format!("{HOOKS}/check"), script("check", text))
    });
    let vm = start(&image);
    sh(&vm, "touch /tmp/broken");
    let broken = start(&vm.snapshot("hooks-broken").unwrap().image);
    for _ in 0..2 {
        let Err(Error::Agent { failure }) = broken.exec(["true"]) else {
            panic!("the hook has failed");
        };
        assert_eq!(failure.operation, Operation::AfterRestore);
        let expected = format!("{HOOKS}/check exited with status 4; it wrote: broken");
        assert_eq!(failure.subject, expected);
    }
    assert!(broken.read_file("/etc/hostname").is_err());
    assert_eq!(sh(&vm, "echo the first still runs"), "the first still runs\n");
}

#[test]
fn hook_that_hangs_is_killed_after_its_time() {
    let (_dir, store) = own_store();
    let error = sleeping()
        .name("hanging")
        .after_restore(action("exec:sleep 1000"))
        .after_restore_timeout(Duration::from_secs(2))
        .bake(&store)
        .unwrap_err();
    let text = causes(&error);
    assert!(text.contains("sleep took longer than 2 s; it wrote nothing"), "{text}");
}

/// A web server that serves a random token, drawn when it starts.
fn token_server(name: &str, after_restore: Option<&str>) -> Image {
    baked(name, || {
        let script = "mkdir -p /tmp/www; cat /proc/sys/kernel/random/uuid > /tmp/www/token; \
            exec httpd -f -p 8080 -h /tmp/www";
        let builder = bake("busybox").entrypoint(["sh", "-c", script]).ready(Ready::Tcp(8080));
        match after_restore {
            Some(text) => builder.after_restore(action(text)),
            None => builder,
        }
    })
}

fn token(vm: &Vm) -> String {
    sh(vm, "wget -q -O - http://127.0.0.1:8080/token")
}

#[test]
fn token_of_a_server_is_shared_unless_it_is_restarted() {
    let image = token_server("token-shared", None);
    assert_eq!(token(&start(&image)), token(&start(&image)));
    let image = token_server("token-own", Some("restart"));
    let (vm, other) = (start(&image), start(&image));
    assert_ne!(token(&vm), token(&other));
    assert_ne!(token(&pooled(&image)), token(&pooled(&image)));
    // A connection from the host waits as well.
    let page = start(&image);
    let forward = page.expose_tcp(0, 8080).unwrap();
    let answer = std::net::TcpStream::connect(forward.local_addr()).unwrap();
    answer.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    std::io::Write::write_all(&mut &answer, b"GET /token HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &answer, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") || text.starts_with("HTTP/1.0 200 OK"), "{text}");
}

#[test]
fn signal_reaches_the_entrypoint_of_each_machine() {
    let image = baked("hooks-signal", || {
        let script = "trap 'cat /proc/sys/kernel/random/uuid > /tmp/token' USR1; echo up; \
            while :; do sleep 1000000 & wait; kill $!; done";
        bake("busybox")
            .entrypoint(["sh", "-c", script])
            .ready("log:up".parse().unwrap())
            .after_restore(action("signal:USR1"))
    });
    let wait = "until test -s /tmp/token; do sleep 0.05; done; cat /tmp/token";
    assert_ne!(sh(&start(&image), wait), sh(&start(&image), wait));
}

#[test]
fn links_in_etc_that_lead_nowhere_are_followed() {
    let image = baked("etc-links", || bake("etc-links"));
    let vm = start(&image);
    assert_eq!(sh(&vm, "grep -c localhost /etc/hosts /run/names/hosts"), {
        "/etc/hosts:2\n/run/names/hosts:2\n"
    });
    assert_eq!(sh(&vm, "cat /srv/gone/deep/hostname"), "supermachine\n");
    assert_eq!(sh(&vm, "readlink /etc/hostname; hostname"), {
        "/srv/gone/deep/hostname\nsupermachine\n"
    });
    assert_eq!(sh(&vm, "wc -c < /run/resolve/stub-resolv.conf"), "0\n");
    assert_eq!(sh(&vm, "test -e /etc/machine-id || echo none"), "none\n");
}

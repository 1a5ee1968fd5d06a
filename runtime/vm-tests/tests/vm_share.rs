//! Folders of the host in a guest: what programs do there, what they cannot, and what snapshots keep.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use supermachine::error::InvalidInput;
use supermachine::{Error, HostFolder, Image, Vm, VmConfig};
use supermachine_baker::Init;
use supermachine_test_support::machines::{
    PATIENCE, bake, baked, busybox, fails, folder, isolated_by, sh, start, until,
};

/// A folder of the host, and files beside it that are out of bounds.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir_in(folder()).unwrap());
        fs::create_dir(home.path("")).unwrap();
        fs::write(home.0.path().join("secret"), "secret").unwrap();
        home
    }

    /// A path in the shared folder.
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("shared").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn folder(&self) -> HostFolder {
        HostFolder::new(self.path(""), "/project")
    }

    fn config(&self) -> VmConfig {
        VmConfig::new().with_share(self.folder())
    }

    fn start(&self) -> Vm {
        busybox().start(&self.config()).unwrap()
    }
}

/// The configuration with a worker that can open no file.
fn isolated(config: VmConfig, programs: &Path) -> VmConfig {
    isolated_by(env!("CARGO_BIN_EXE_locked-worker"), config, programs)
}

#[test]
fn files_pass_both_ways() {
    let home = Home::new();
    fs::write(home.path("in"), "from the host").unwrap();
    let vm = home.start();
    assert_eq!(sh(&vm, "cat /project/in"), "from the host");
    sh(
        &vm,
        "mkdir -p /project/a/b; echo from the guest > /project/a/b/out; chmod 640 /project/a/b/out",
    );
    assert_eq!(home.text("a/b/out"), "from the guest\n");
    assert_eq!(fs::metadata(home.path("a/b/out")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(sh(&vm, "stat -c '%u %g' /project/in /project/a"), "0 0\n0 0\n");
    // What the host changes is there at once, also under the same name and of the same size.
    for text in ["one", "two", "three and more", "4"] {
        fs::write(home.path("in"), text).unwrap();
        assert_eq!(
            sh(&vm, "cat /project/in; stat -c ' %s' /project/in"),
            format!("{text} {}\n", text.len())
        );
    }
    for text in ["one", "two"] {
        fs::write(home.path("new"), text).unwrap();
        fs::rename(home.path("new"), home.path("in")).unwrap();
        assert_eq!(sh(&vm, "cat /project/in"), text);
    }
    fs::remove_file(home.path("in")).unwrap();
    fails(&vm, "cat /project/in");
    fs::write(home.path("late"), "late").unwrap();
    assert_eq!(sh(&vm, "cat /project/late; ls /project"), "latea\nlate\n");
    vm.write_file("/project/by-the-library", "text").unwrap();
    assert_eq!(home.text("by-the-library"), "text");
    assert_eq!(vm.read_file("/project/late").unwrap(), b"late");
    sh(
        &vm,
        "rm -r /project/a /project/late /project/by-the-library; rmdir /project/nothing 2>&1 || true",
    );
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 0);
}

#[test]
fn large_files_pass_whole() {
    let home = Home::new();
    let content: Vec<u8> =
        (0..5_000_000_u32).flat_map(|n| n.wrapping_mul(97).to_le_bytes()).collect();
    fs::write(home.path("in"), &content).unwrap();
    let vm = home.start();
    sh(&vm, "cp /project/in /tmp/copy && cp /tmp/copy /project/out && cmp /project/in /tmp/copy");
    assert!(fs::read(home.path("out")).unwrap() == content);
    sh(&vm, "for n in $(seq 500); do echo $n > /project/$n; done");
    assert_eq!(sh(&vm, "ls /project | wc -l").trim(), "502");
    assert_eq!(home.text("500"), "500\n");
}

#[test]
fn links_lead_out_of_the_folder_in_the_guest_only() {
    let home = Home::new();
    symlink("../secret", home.path("relative")).unwrap();
    symlink(home.0.path().join("secret"), home.path("absolute")).unwrap();
    symlink("/etc/hostname", home.path("guests")).unwrap();
    symlink("..", home.path("above")).unwrap();
    let vm = home.start();
    let name = sh(&vm, "cat /etc/hostname");
    assert_eq!(sh(&vm, "cat /project/guests"), name);
    for path in ["relative", "absolute", "above/secret", "../secret"] {
        fails(&vm, &format!("cat /project/{path}"));
    }
    sh(
        &vm,
        "ln -s ../../secret /project/own; ln -s /project /project/circle; cd /project; echo > circle/new",
    );
    fails(&vm, "cat /project/own");
    assert!(home.path("new").exists());
    assert_eq!(fs::read_link(home.path("own")).unwrap(), Path::new("../../secret"));
    assert_eq!(fs::read(home.0.path().join("secret")).unwrap(), b"secret");
    for script in ["mknod /project/device c 1 3", "mknod /project/device b 8 0"] {
        assert!(fails(&vm, script).contains("not permitted"));
    }
    sh(
        &vm,
        "mkfifo /project/pipe; (echo through > /project/pipe &); cat /project/pipe > /project/got",
    );
    assert_eq!(home.text("got"), "through\n");
}

#[test]
fn read_only_folder_stays_as_it_is() {
    let home = Home::new();
    fs::write(home.path("a"), "content").unwrap();
    let config = VmConfig::new().with_share(home.folder().read_only());
    let vm = busybox().start(&config).unwrap();
    assert_eq!(sh(&vm, "cat /project/a"), "content");
    for script in
        ["echo > /project/b", "echo >> /project/a", "rm /project/a", "chmod 600 /project/a"]
    {
        assert!(fails(&vm, script).contains("Read-only"), "{script}");
    }
    // Not only by the flag of the mount.
    sh(&vm, "mount -o remount,rw /project || mount -o remount,bind,rw /project || true");
    for script in
        ["echo > /project/b", "echo >> /project/a", "rm /project/a", "chmod 600 /project/a"]
    {
        fails(&vm, script);
    }
    assert_eq!(
        (home.text("a"), fs::read_dir(home.path("")).unwrap().count()),
        ("content".into(), 1)
    );
}

#[test]
fn users_of_the_guest_have_the_rights_of_the_named_owner() {
    let home = Home::new();
    let config = VmConfig::new().with_share(home.folder().owned_by(1000, 1000));
    let vm = busybox().start(&config).unwrap();
    let run = |user: &str, script: &str| {
        vm.exec_builder().argv(["sh", "-c", script]).user(user).output().unwrap()
    };
    assert!(
        run("1000:1000", "umask 077; echo mine > /project/a; chown 1000:1000 /project/a").success()
    );
    assert!(!run("1001:1001", "cat /project/a").success());
    assert_eq!(run("1000:1000", "cat /project/a").stdout, b"mine\n");
    assert!(!run("0:0", "chown 0:0 /project/a").success());
    assert_eq!(sh(&vm, "stat -c '%u %g %a' /project/a"), "1000 1000 600\n");
}

#[test]
fn programs_use_files_as_on_any_disk() {
    const PROGRAM: &str = r#"
import errno, fcntl, mmap, os, socket, sqlite3, tempfile
os.chdir("/project")
with open("map", "wb") as file:
    file.truncate(8192)
with open("map", "r+b") as file:
    with mmap.mmap(file.fileno(), 8192) as shared:
        shared[4096:4100] = b"page"
        shared.flush()
with open("map", "rb") as file:
    assert file.read()[4096:4100] == b"page"
with open("holes", "wb") as file:
    file.seek(1 << 20)
    file.write(b"end")
    file.flush()
    assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1 << 20
    os.posix_fallocate(file.fileno(), 0, 4096)
with open("lock", "w") as one, open("lock", "w") as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise SystemExit("locked twice")
    except BlockingIOError:
        pass
with open("gone", "w+") as file:
    os.unlink("gone")
    file.write("still there")
    file.seek(0)
    assert file.read() == "still there" and os.fstat(file.fileno()).st_nlink == 0
try:
    with tempfile.TemporaryFile(dir=".") as file:
        file.write(b"unnamed")
except OSError as error:
    assert error.errno == errno.EOPNOTSUPP
try:
    os.setxattr("map", "user.key", b"value")
    assert os.getxattr("map", "user.key") == b"value" and os.listxattr("map") == ["user.key"]
except OSError as error:
    assert error.errno == errno.EOPNOTSUPP
os.link("map", "linked")
assert os.stat("map").st_ino == os.stat("linked").st_ino and os.stat("map").st_nlink == 2
os.makedirs("deep/er")
os.rename("deep", "moved")
os.rename("linked", "moved/er/linked")
os.utime("map", (1, 2))
assert os.stat("map").st_mtime == 2
database = sqlite3.connect("database")
database.execute("create table t (n integer)")
for number in range(20):
    database.execute("insert into t values (?)", (number,))
    database.commit()
assert database.execute("select count(*), sum(n) from t").fetchone() == (20, 190)
database.execute("pragma journal_mode = wal")
database.execute("insert into t values (100)")
database.commit()
assert database.execute("pragma integrity_check").fetchone() == ("ok",)
database.close()
with open("log", "a") as one, open("log", "a") as two:
    for line in range(50):
        for file in one, two:
            file.write("x" * line + "\n")
            file.flush()
assert len(open("log").readlines()) == 100
assert sorted(os.listdir(".")) == sorted(name.name for name in os.scandir("."))
"#;
    let home = Home::new();
    let python = baked("python3", || bake("python3").entrypoint(["sleep", "1000000"]));
    let vm = python.start(&home.config()).unwrap();
    vm.write_file("/tmp/program.py", PROGRAM).unwrap();
    sh(&vm, "python3 /tmp/program.py 2>&1");
    assert_eq!(&fs::read(home.path("map")).unwrap()[4096..4100], b"page");
    assert!(home.path("moved/er/linked").exists() && !home.path("gone").exists());
    assert_eq!(fs::read_to_string(home.path("log")).unwrap().lines().count(), 100);
}

#[test]
fn two_machines_have_one_folder() {
    let home = Home::new();
    let (one, other) = (home.start(), home.start());
    for number in 0..20 {
        sh(&one, &format!("echo {number} > /project/n; mv /project/n /project/m"));
        assert_eq!(sh(&other, "cat /project/m"), format!("{number}\n"));
        sh(&other, "rm /project/m");
        fails(&one, "cat /project/m");
    }
    thread::scope(|scope| {
        for vm in [&one, &other] {
            scope.spawn(move || sh(vm, "for n in $(seq 100); do echo line >> /project/log; done"));
        }
    });
    assert_eq!(home.text("log"), "line\n".repeat(200));
}

#[test]
fn folders_are_at_their_places() {
    let homes: Vec<_> = (0..8).map(|_| Home::new()).collect();
    for (number, home) in homes.iter().enumerate() {
        fs::write(home.path("number"), number.to_string()).unwrap();
    }
    fs::create_dir(homes[0].path("sub")).unwrap();
    let targets = ["/a", "/a/sub", "/b/c/d", "/tmp/x", "/e", "/f", "/g", "/home/h"];
    let config = |count: usize| {
        let pairs = homes.iter().zip(targets).take(count).rev();
        pairs.fold(VmConfig::new(), |config, (home, target)| {
            config.with_share(HostFolder::new(home.path(""), target))
        })
    };
    let vm = busybox().start(&config(8)).unwrap();
    for (number, target) in targets.iter().enumerate() {
        assert_eq!(sh(&vm, &format!("cat {target}/number")), number.to_string());
    }
    let ninth = config(8).with_share(HostFolder::new(homes[0].path(""), "/ninth"));
    let error = busybox().start(&ninth).unwrap_err();
    assert!(format!("{error:?}").contains("TooManyShares"), "{error:?}");
}

#[test]
fn folder_that_cannot_be_shared_is_an_error() {
    let home = Home::new();
    fs::write(home.path("file"), "").unwrap();
    let start = |folder| busybox().start(&VmConfig::new().with_share(folder)).unwrap_err();
    for (path, target, said) in [
        ("nosuch", "/project", "Missing"),
        ("file", "/project", "NotAFolder"),
        ("", "work", "RelativeTarget"),
        ("", "/", "Target"),
        ("", "/proc", "Target"),
        ("", "/a/../b", "Target"),
    ] {
        let error = start(HostFolder::new(home.path(path), target));
        assert!(format!("{error:?}").contains(said), "{error:?}");
    }
    let error = busybox().start(&home.config().with_share(home.folder())).unwrap_err();
    let Error::Invalid { source: InvalidInput::SharedTwice { target } } = error else {
        panic!("{error:?}")
    };
    assert_eq!(target, "/project");
    // Something else is there in the guest.
    let config = VmConfig::new().with_share(HostFolder::new(home.path(""), "/etc/passwd"));
    let error = busybox().start(&config).unwrap().exec(["true"]).unwrap_err();
    assert!(format!("{error:?}").contains("/etc/passwd"), "{error:?}");
}

/// Leaves a process in the machine that appends to a file, one line for each that it reads.
fn leave_a_writer(vm: &Vm) {
    let script = "mkfifo /tmp/in; \
        (cd /project/folder; exec 3>>log 4<>/tmp/in; while read line <&4; do echo $line >&3; done) \
        > /dev/null 2>&1 < /dev/null &";
    sh(vm, &format!("mkdir -p /project/folder; {script}"));
    tell(vm, "first");
}

fn tell(vm: &Vm, line: &str) {
    sh(vm, &format!("echo {line} > /tmp/in"));
}

#[test]
fn snapshot_goes_on_with_its_open_files_in_the_folder_it_is_given() {
    let home = Home::new();
    let vm = home.start();
    leave_a_writer(&vm);
    until("a line", || {
        fs::read_to_string(home.path("folder/log")).is_ok_and(|log| log == "first\n")
    });
    let image = vm.snapshot("share-live").unwrap().image;
    tell(&vm, "original");
    until("a line", || home.text("folder/log") == "first\noriginal\n");
    drop(vm);
    // Without a folder in its place, it does not start, and the error names it.
    let error = image.start(&VmConfig::new()).unwrap_err();
    assert!(format!("{error:?}").contains("/project"), "{error:?}");
    let elsewhere = VmConfig::new().with_share(HostFolder::new(home.path(""), "/other"));
    let error = image.start(&elsewhere).unwrap_err();
    assert!(format!("{error:?}").contains("/project"), "{error:?}");
    // In the same folder, writing continues.
    let vm = image.start(&home.config()).unwrap();
    tell(&vm, "restored");
    until("a line", || home.text("folder/log") == "first\noriginal\nrestored\n");
    // Another folder stands for it, with another one beside.
    let (other, more) = (Home::new(), Home::new());
    fs::create_dir(other.path("folder")).unwrap();
    fs::write(other.path("folder/log"), "other\n").unwrap();
    fs::write(more.path("more"), "more").unwrap();
    let config = other.config().with_share(HostFolder::new(more.path(""), "/more"));
    let vm = image.start(&config).unwrap();
    tell(&vm, "restored");
    until("a line", || other.text("folder/log") == "other\nrestored\n");
    assert_eq!(sh(&vm, "cat /more/more"), "more");
    // The file is gone, and the writer gets the error.
    let empty = Home::new();
    let vm = image.start(&empty.config()).unwrap();
    tell(&vm, "restored");
    assert_eq!(sh(&vm, "ls -A /project"), "");
    assert_eq!(fs::read_dir(empty.path("")).unwrap().count(), 0);
}

#[test]
fn forks_are_given_the_folder_again() {
    let home = Home::new();
    let vm = home.start();
    leave_a_writer(&vm);
    let error = vm.fork(1).unwrap_err();
    assert!(format!("{error:?}").contains("/project"), "{error:?}");
    let forks = vm.fork_with(2, &home.config()).unwrap();
    for (number, fork) in forks.iter().enumerate() {
        tell(fork, &format!("fork-{number}"));
        until("a line", || home.text("folder/log").contains(&format!("fork-{number}")));
    }
    tell(&vm, "parent");
    until("a line", || home.text("folder/log").contains("parent"));
}

#[test]
fn pool_gives_the_folder_to_each_user() {
    let home = Home::new();
    let pool = busybox().pool().config(&home.config()).max(1).acquire_timeout(PATIENCE).build();
    let pool = pool.unwrap();
    for number in 0..3 {
        let vm = pool.acquire().unwrap();
        assert_eq!(sh(&vm, "ls /tmp | grep -c left || true"), "0\n");
        sh(
            &vm,
            &format!(
                "echo {number} >> /project/log; touch /tmp/left; exec 3>>/project/log; sleep 1 &"
            ),
        );
    }
    assert_eq!(home.text("log"), "0\n1\n2\n");
}

#[test]
fn entrypoint_that_is_pid_1_has_the_folder_also_when_it_starts_again() {
    let script = "cat /project/in > /tmp/seen; while :; do sleep 0.2; done";
    let image = baked("share-init", || {
        let restart = "restart".parse().unwrap();
        bake("busybox").init(Init::Image).entrypoint(["sh", "-c", script]).after_restore(restart)
    });
    let home = Home::new();
    fs::write(home.path("in"), "seen").unwrap();
    let vm = image.start(&home.config()).unwrap();
    until("it has seen the folder", || {
        vm.exec(["cat", "/tmp/seen"]).is_ok_and(|outcome| outcome.stdout == b"seen")
    });
    assert_eq!(sh(&vm, "cat /project/in"), "seen");
}

#[test]
fn service_uses_the_folder_that_covers_its_own() {
    let (home, redis) = (Home::new(), baked("redis", || bake("redis")));
    let beside = start(&redis);
    let [uid, gid] =
        ["-u", "-g"].map(|of| sh(&beside, &format!("id {of}")).trim().parse().unwrap());
    let share = |target| HostFolder::new(home.path(""), target).owned_by(uid, gid);
    let config = VmConfig::new().with_share(share("/data"));
    let vm = redis.start(&config).unwrap();
    assert_eq!(sh(&vm, "redis-cli set key 'a value'; redis-cli save"), "OK\nOK\n");
    assert!(home.path("dump.rdb").is_file());
    let again = redis.start(&config).unwrap();
    assert_eq!(sh(&again, "redis-cli get key"), "a value\n");
    // It continues in the folder that the machine has.
    let pid = sh(&vm, "pidof redis-server");
    let [fork] = <[Vm; 1]>::try_from(vm.fork_with(1, &config).unwrap()).unwrap();
    assert_eq!(sh(&fork, "pidof redis-server"), pid);
    let vm = redis.start(&VmConfig::new().with_share(share("/new"))).unwrap();
    assert_eq!(sh(&vm, "pidof redis-server"), sh(&beside, "pidof redis-server"));
}

#[test]
fn isolated_machine_has_the_folders_of_its_app() {
    let home = Home::new();
    fs::write(home.path("in"), "from the host").unwrap();
    let config = isolated(home.config(), home.0.path());
    let vm = Image::start(&busybox(), &config).unwrap();
    assert_eq!(sh(&vm, "cat /project/in; echo out > /project/out"), "from the host");
    assert_eq!(home.text("out"), "out\n");
    leave_a_writer(&vm);
    let image = vm.snapshot("share-isolated").unwrap().image;
    vm.stop().unwrap();
    let vm = Image::start(&image, &config).unwrap();
    tell(&vm, "restored");
    until("a line", || home.text("folder/log") == "first\nrestored\n");
}

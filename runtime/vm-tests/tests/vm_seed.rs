//! Typical uses of the library, written as applications write them.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use supermachine::{AssetPaths, Image, Vm, VmConfig};
use supermachine_test_support::machines::{bake, baked, busybox, folder, store};

fn web() -> Image {
    baked("web", || bake("busybox").entrypoint(["httpd", "-f", "-p", "80", "-h", "/etc"]))
}

#[test]
fn eval_loop_uses_a_pool_of_five_from_threads() {
    let image = busybox();
    let tasks: Vec<u32> = (0..12).collect();
    let mut results: Vec<(u32, String)> = thread::scope(|scope| {
        let threads: Vec<_> = tasks
            .chunks(3)
            .map(|tasks| {
                let image = &image;
                scope.spawn(move || -> Result<Vec<(u32, String)>, supermachine::Error> {
                    let config = VmConfig::new().with_pool_warm(5);
                    let mut results = Vec::new();
                    for task in tasks {
                        let vm = image.acquire_with(&config)?;
                        vm.write_file("/tmp/task.sh", format!("echo $(({task} * {task}))"))?;
                        let outcome = vm
                            .exec_builder()
                            .argv(["sh", "/tmp/task.sh"])
                            .timeout(Duration::from_secs(30))
                            .output()?;
                        results.push((*task, String::from_utf8_lossy(&outcome.stdout).into()));
                        // Dropping the lease resets the machine.
                    }
                    Ok(results)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    results.sort();
    let expected: Vec<_> = (0..12).map(|n| (n, format!("{}\n", n * n))).collect();
    assert_eq!(results, expected);
}

#[test]
fn long_lived_service_is_exposed_at_a_port() -> Result<(), Box<dyn Error>> {
    let image = web();
    let vm = image.start(&VmConfig::new())?;
    let web = match vm.expose_tcp(8080, 80) {
        Ok(web) => web,
        // Another program of this host uses that port.
        Err(_) => vm.expose_tcp(0, 80)?,
    };
    let mut stream = TcpStream::connect(web.local_addr())?;
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    assert!(page.contains(" 200 OK\r\n") && page.contains("root:"), "{page}");
    drop(web);
    vm.stop()?;
    Ok(())
}

#[test]
fn cat_streams_until_its_input_is_closed() -> Result<(), Box<dyn Error>> {
    let vm = busybox().start(&VmConfig::new())?;
    let mut child = vm.exec_builder().argv(["cat"]).spawn()?;
    let mut stdin = child.stdin().unwrap();
    let mut stdout = child.stdout().unwrap();
    stdin.write_all(b"hello\n")?;
    let mut line = [0; 6];
    stdout.read_exact(&mut line)?;
    assert_eq!(&line, b"hello\n");
    stdin.write_all(b"goodbye\n")?;
    stdin.close()?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    assert_eq!(rest, "goodbye\n");
    let status = child.wait()?;
    assert!(status.success());
    Ok(())
}

#[test]
fn file_is_written_and_run_with_a_time_out() -> Result<(), Box<dyn Error>> {
    let vm = busybox().start(&VmConfig::new())?;
    vm.write_file("/tmp/main.sh", b"echo out; echo err >&2; exit 3")?;
    let outcome = vm
        .exec_builder()
        .argv(["sh", "/tmp/main.sh"])
        .env("HOME", "/tmp")
        .cwd("/tmp")
        .timeout(Duration::from_secs(30))
        .output()?;
    assert_eq!(outcome.status.code(), Some(3));
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert!(!outcome.success() && !outcome.timed_out);
    assert!(outcome.duration < Duration::from_secs(30));
    Ok(())
}

#[test]
fn machine_starts_from_an_image_and_a_configuration() -> Result<(), Box<dyn Error>> {
    let image = busybox();
    let config = VmConfig::new().with_memory_mib(128).with_vcpus(1);
    let vm = Vm::start(&image, &config)?;
    assert_eq!(vm.exec(["echo", "hello"])?.stdout, b"hello\n");
    vm.stop()?;
    let vm = image.acquire()?;
    assert!(vm.exec(["true"])?.success());
    Ok(())
}

#[test]
fn snapshot_that_ships_with_the_program_is_found_by_its_folder() -> Result<(), Box<dyn Error>> {
    busybox();
    let dir = tempfile::tempdir_in(folder())?;
    store().export("busybox", &dir.path().join("busybox.tar"))?;
    let assets = AssetPaths::from_dir(dir.path());
    let config = VmConfig::new().with_assets(AssetPaths::from_dir(dir.path()));
    let vm = Image::from_assets(&assets, "busybox")?.start(&config)?;
    assert_eq!(vm.exec(["echo", "hello"])?.stdout, b"hello\n");
    vm.stop()?;
    Ok(())
}

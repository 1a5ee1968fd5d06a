use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::super::super::cache::key;
use super::super::super::lock::LOCK_FILE;
use super::*;
use crate::oci::Error as FetchError;
use supermachine_test_support::stores::{Sample, put};

const IMAGE: &str = "registry.invalid/app:1";

/// What cargo would read.
#[derive(Clone, Default)]
struct CargoOutput(Arc<Mutex<Vec<u8>>>);

impl CargoOutput {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).unwrap()
    }

    fn has(&self, line: &str) -> bool {
        self.text().lines().any(|found| found == line)
    }
}

impl Write for CargoOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A package, its output folder and a cache.
struct Home {
    dir: TempDir,
    environment: CargoEnv,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["package", "out"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let environment = CargoEnv {
            package: "app".into(),
            dir: dir.path().join("package"),
            out: dir.path().join("out"),
            target: (std::env::consts::ARCH.into(), std::env::consts::OS.into()),
            wanted: BuildEnv { offline: true, ..BuildEnv::default() },
            has_assets: false,
        };
        Self { dir, environment }
    }

    fn builds(&self) -> BuildCache {
        BuildCache::open_in(self.dir.path().join("cache")).unwrap()
    }

    fn script(&self) -> (BuildScript, CargoOutput) {
        let output = CargoOutput::default();
        let (environment, cargo) = (self.environment.clone(), Box::new(output.clone()));
        (BuildScript::with(environment, Some(self.builds()), cargo).unwrap(), output)
    }

    /// Pins the image, and notes what its bake gave.
    fn remember(&self, builder: &OciImageBuilder) -> Digest {
        let image = Digest::of(b"image");
        let mut lock = Lock::beside(&self.environment.dir).unwrap();
        lock.pin(IMAGE, image);
        lock.save().unwrap();
        let made = put(self.builds().store().layout(), &sample()).digest;
        let key = key(&builder.clone().pinned(image), "app.web", image).unwrap();
        self.builds().store().remember(key, made).unwrap();
        made
    }
}

/// A snapshot with 64 MiB of memory, the least that can be asked for.
fn sample() -> Sample {
    Sample { chunks: 1024, ..Sample::new(1) }
}

fn builder() -> OciImageBuilder {
    OciImageBuilder::new(IMAGE).unwrap().name("web").memory_mib(64)
}

#[test]
fn cached_bake_needs_neither_network_nor_hypervisor() {
    let home = Home::new();
    let made = home.remember(&builder());
    let (mut script, output) = home.script();
    let built = script.bake(builder()).unwrap();
    assert!(built.was_cached);
    assert_eq!(built.digest, Some(made));
    let pack = Pack::open_at(&built.path, Some("web")).unwrap();
    assert_eq!(pack.digest, made);
    let path = home.environment.out.join("web.tar");
    assert!(output.has(&format!("cargo::rustc-env=SUPERMACHINE_SNAPSHOT_web={}", path.display())));
    let lock = home.environment.dir.join(LOCK_FILE);
    assert!(output.has(&format!("cargo::rerun-if-changed={}", lock.display())));
    assert!(output.has("cargo::rerun-if-env-changed=SUPERMACHINE_NO_BAKE"));
    assert!(!output.text().contains("warning"), "{}", output.text());
    assert_eq!(home.builds().store().digest("app.web").unwrap(), made);
}

#[test]
fn pack_is_written_once_and_again_after_a_change() {
    use std::os::unix::fs::MetadataExt;
    let home = Home::new();
    home.remember(&builder());
    let bake = || home.script().0.bake(builder()).unwrap().path;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let first = inode(&bake());
    assert_eq!(inode(&bake()), first);
    fs::write(home.environment.out.join("web.tar"), "cut off").unwrap();
    Pack::open_at(&bake(), Some("web")).unwrap();
    let written = fs::read_dir(&home.environment.out).unwrap().count();
    assert_eq!(written, 2);
}

#[test]
fn another_value_is_another_bake() {
    let home = Home::new();
    home.remember(&builder());
    // It must be fetched, which is not allowed; or baked, which this host may not do.
    let error = home.script().0.bake(builder().env("A", "2")).unwrap_err();
    let is_expected = matches!(
        error,
        BakeError::Fetch { source: FetchError::NotCached { .. } }
            | BakeError::Host(HostError::NoHypervisor { .. })
    );
    assert!(is_expected, "{error:?}");
}

#[test]
fn image_that_is_not_pinned_is_not_found_offline_nor_pinned_when_locked() {
    let mut home = Home::new();
    let error = home.script().0.bake(builder()).unwrap_err();
    let is_expected = matches!(error, BakeError::Fetch { source: FetchError::NotCached { .. } });
    assert!(is_expected, "{error:?}");
    home.environment.wanted.locked = true;
    let error = home.script().0.bake(builder()).unwrap_err();
    assert!(
        matches!(&error, BakeError::Project(ProjectError::NotLocked { reference, .. }) if reference == IMAGE)
    );
}

#[test]
fn placeholder_is_an_empty_file_and_needs_nothing() {
    let mut home = Home::new();
    home.environment.wanted.left_out = true;
    home.environment.target.0 = "riscv64".into();
    let (mut script, output) = home.script();
    let built = script.bake(builder()).unwrap();
    assert_eq!((built.size, built.digest), (0, None));
    assert_eq!(fs::read(&built.path).unwrap(), b"");
    assert!(output.text().contains("rustc-env=SUPERMACHINE_SNAPSHOT_web="));
    // What has its place later is written in full.
    home.environment.wanted.left_out = false;
    home.environment.target.0 = std::env::consts::ARCH.into();
    home.remember(&builder());
    let baked = home.script().0.bake(builder()).unwrap();
    assert!(baked.size > 0);
    // And stays, for the programs that have it, while another build leaves it out.
    home.environment.wanted.left_out = true;
    assert_eq!(home.script().0.bake(builder()).unwrap().size, 0);
    assert_eq!(fs::metadata(&baked.path).unwrap().len(), baked.size);
}

#[test]
fn other_platforms_and_second_names_are_refused() {
    let mut home = Home::new();
    home.remember(&builder());
    let (mut script, _) = home.script();
    script.bake(builder()).unwrap();
    assert!(matches!(script.bake(builder()), Err(BakeError::Input(InputError::BakedTwice { .. }))));
    assert!(matches!(
        script.bake(builder().name("a=b")),
        Err(BakeError::Input(InputError::InvalidName { .. }))
    ));
    home.environment.target.0 = "riscv64".into();
    assert!(matches!(
        home.script().0.bake(builder()),
        Err(BakeError::Host(HostError::CrossBuild { .. }))
    ));
}

#[test]
fn prebaked_pack_is_used_if_its_machine_size_matches() {
    let mut home = Home::new();
    let folder = home.dir.path().join("prebaked");
    fs::create_dir(&folder).unwrap();
    home.environment.wanted.prebaked = Some(folder.clone());
    home.environment.target.0 = "riscv64".into();
    let (mut script, output) = home.script();
    assert!(matches!(script.bake(builder()), Err(BakeError::Store(StoreError::Pack { .. }))));
    let builds = home.builds();
    let made = put(builds.store().layout(), &sample()).digest;
    builds.store().export_snapshot(made, "web", &folder.join("web.tar")).unwrap();
    let (mut script, _) = home.script();
    assert_eq!(script.bake(builder()).unwrap().digest, Some(made));
    // One that nobody may write to is copied as often as it is wanted.
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(folder.join("web.tar"), mode(0o444)).unwrap();
    for _ in 0..2 {
        let taken = home.script().0.bake(builder()).unwrap().path;
        let found = fs::metadata(taken).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&found) & 0o777, 0o644);
    }
    let error = home.script().0.bake(builder().vcpus(2)).unwrap_err();
    let is_expected = matches!(
        error,
        BakeError::Input(InputError::OtherMachine { wanted: (64, 2), found: (64, 1), .. })
    );
    assert!(is_expected, "{error}");
    let watched = format!("cargo::rerun-if-changed={}", folder.join("web.tar").display());
    assert!(output.has(&watched));
}

#[test]
fn declared_snapshots_are_baked_and_their_files_watched() {
    let home = Home::new();
    let dir = &home.environment.dir;
    fs::write(dir.join("main.py"), "print(1)").unwrap();
    let manifest = format!(
        "[package.metadata.supermachine]\nsnapshots = [{{ name = \"web\", image = \"{IMAGE}\", \
         memory = 64, files = {{ \"/main.py\" = \"main.py\" }} }}]\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    home.remember(&builder().file("/main.py", dir.join("main.py")));
    let (mut script, output) = home.script();
    let built = script.bake_declared().unwrap();
    assert_eq!(built.len(), 1);
    assert!(built[0].was_cached);
    for name in ["main.py", "Cargo.toml"] {
        let path = dir.join(name);
        assert!(output.has(&format!("cargo::rerun-if-changed={}", path.display())), "{name}");
    }
}

#[test]
fn lock_that_the_script_writes_is_older_than_the_script() {
    let home = Home::new();
    let (mut script, _) = home.script();
    script.lock.pin(IMAGE, Digest::of(b"image"));
    script.save_lock().unwrap();
    let written = fs::metadata(home.environment.dir.join(LOCK_FILE)).unwrap().modified().unwrap();
    assert!(written < script.began);
}

#[test]
fn text_of_several_lines_is_several_instructions() {
    let mut output = CargoOutput::default();
    emit(&mut output, "error", "one\n\ncargo::rustc-env=A=B").unwrap();
    assert_eq!(output.text(), "cargo::error=one\ncargo::error=cargo::rustc-env=A=B\n");
}

#[test]
fn damaged_cached_bake_is_repeated() {
    let home = Home::new();
    let made = home.remember(&builder());
    let builds = home.builds();
    let layout = builds.store().layout();
    let source = layout.source().unwrap();
    let manifest = supermachine_snapshots::pack::Manifest::read(&source, made).unwrap();
    let blob = layout.blob_path(manifest.chunks[0].digest);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::write(&blob, bytes).unwrap();
    // Here it cannot be done again, but it is tried.
    let error = home.script().0.bake(builder()).unwrap_err();
    let is_expected = matches!(
        error,
        BakeError::Fetch { source: FetchError::NotCached { .. } }
            | BakeError::Host(HostError::NoHypervisor { .. })
    );
    assert!(is_expected, "{error:?}");
    assert!(!blob.exists());
    assert!(!home.environment.out.join("web.tar").exists());
}

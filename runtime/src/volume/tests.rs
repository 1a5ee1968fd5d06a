//! The files of volumes: their content, their locks and their names.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::limits::MIN_SIZE;
use super::name::check_target;
use super::open::unnamed;
use super::{Volume, VolumeError, VolumeFolder};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn assert_clean(image: &Path) {
    let output = Command::new("/sbin/e2fsck").arg("-fn").arg(image).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn new_volume_is_an_empty_file_system_in_a_sparse_file() {
    let home = folder();
    let volumes = VolumeFolder::new(home.path().join("a/b"));
    assert_eq!(volumes.list().unwrap(), []);
    assert!(volumes.create("data", 1 << 40).unwrap());
    let info = volumes.get("data").unwrap();
    assert_eq!((info.size, info.is_in_use), (1 << 40, false));
    assert!(info.used < 1 << 20, "{} bytes are used", info.used);
    assert_clean(&info.path);
    assert_eq!(fs::metadata(&info.path).unwrap().mode() & 0o777, 0o600);
    // An existing one stays as it is.
    assert!(!volumes.create("data", 1 << 30).unwrap());
    assert_eq!(volumes.get("data").unwrap().size, 1 << 40);
    volumes.create("b.2_-", MIN_SIZE + 1).unwrap();
    assert_eq!(volumes.get("b.2_-").unwrap().size, MIN_SIZE + 4096);
    let names: Vec<_> = volumes.list().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["b.2_-", "data"]);
    assert_eq!(fs::read_dir(volumes.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn names_and_sizes_that_cannot_be_are_refused_and_leave_nothing() {
    let home = folder();
    let volumes = VolumeFolder::new(home.path());
    for name in ["", ".a", "-a", "a/b", "a b", "..", "é", &"n".repeat(129)] {
        let error = volumes.create(name, MIN_SIZE).unwrap_err();
        assert!(matches!(error, VolumeError::Name { .. }), "{name}: {error}");
        assert!(matches!(volumes.remove(name), Err(VolumeError::Name { .. })), "{name}");
    }
    for size in [0, MIN_SIZE - 1, (16 << 40) + 1, u64::MAX] {
        let error = volumes.create("a", size).unwrap_err();
        assert!(matches!(error, VolumeError::Size { .. }), "{size}: {error}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    assert!(matches!(volumes.get("a"), Err(VolumeError::Missing { .. })));
    assert!(matches!(volumes.remove("a"), Err(VolumeError::Missing { .. })));
}

#[test]
fn targets_are_plain_absolute_paths_that_cover_no_system() {
    assert_eq!(check_target("/data//").unwrap(), "/data");
    assert_eq!(check_target("/proc/x").unwrap(), "/proc/x");
    assert_eq!(check_target("/").unwrap(), "/");
    for target in ["", "//", "data", "/a/../b", "/a//b", "/./a", "/dev", "/proc/", "/a\0b"] {
        assert!(matches!(check_target(target), Err(VolumeError::Target { .. })), "{target}");
    }
}

#[test]
fn one_writes_or_many_read() {
    let home = folder();
    let path = home.path().join("volume.ext4");
    let volume = Volume::at(&path).with_size(MIN_SIZE);
    let writer = volume.open().unwrap();
    for other in [volume.clone(), volume.clone().read_only()] {
        let error = other.open().unwrap_err();
        assert!(error.to_string().contains("volume.ext4 is in use"), "{error}");
        assert!(matches!(other.check(), Err(VolumeError::InUse { .. })));
    }
    drop(writer);
    let readers = [(); 3].map(|()| volume.clone().read_only().open().unwrap());
    assert!(matches!(volume.open(), Err(VolumeError::InUse { .. })));
    drop(readers);
    volume.check().unwrap();
    assert_eq!(volume.open().unwrap().1, MIN_SIZE);
}

#[test]
fn volume_in_use_is_listed_as_such_and_not_removed() {
    let home = folder();
    let volumes = VolumeFolder::new(home.path());
    volumes.create("data", MIN_SIZE).unwrap();
    let volume = Volume::at(volumes.get("data").unwrap().path);
    for holder in [volume.clone(), volume.read_only()] {
        let held = holder.open().unwrap();
        assert!(volumes.get("data").unwrap().is_in_use);
        assert!(matches!(volumes.remove("data"), Err(VolumeError::InUse { .. })));
        drop(held);
    }
    volumes.remove("data").unwrap();
    assert_eq!(volumes.list().unwrap(), []);
}

#[test]
fn what_is_no_volume_is_refused() {
    let home = folder();
    let short = home.path().join("short");
    fs::write(&short, "text").unwrap();
    let error = Volume::at(&short).open().unwrap_err();
    assert!(matches!(error, VolumeError::NotAVolume { .. }), "{error}");
    assert_eq!(fs::read(&short).unwrap(), b"text");
    assert!(Volume::at(home.path()).read_only().open().is_err());
    assert!(Volume::at(home.path().join("no/folder")).open().is_err());
}

#[test]
fn scratch_disk_has_no_name() {
    let home = folder();
    let file: File = unnamed(&home.path().join("scratch"), 1 << 30).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);
    assert_eq!(fs::read_dir(home.path().join("scratch")).unwrap().count(), 0);
    assert!(unnamed(home.path(), 1).is_err());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

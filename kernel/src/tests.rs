use std::error::Error as _;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn assets_missing_names_the_path_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(Arch::host().kernel_file()), b"kernel").unwrap();
    let error = Assets::in_dirs(folder.path(), folder.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(folder.path().join(AGENT_FILE).to_str().unwrap()), "{text}");
    assert!(text.contains("cargo xtask assets"), "{text}");
}

#[test]
fn assets_found_are_read_with_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(Arch::host().kernel_file()), b"abc").unwrap();
    fs::write(folder.path().join(AGENT_FILE), b"").unwrap();
    let assets = Assets::in_dirs(folder.path(), folder.path()).unwrap();
    let kernel = assets.kernel().unwrap();
    assert_eq!(kernel.bytes, b"abc");
    // The digest of "abc" in FIPS 180-2, appendix B.1.
    assert_eq!(kernel.digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    assert_eq!(assets.agent().unwrap().bytes, b"");
}

#[test]
fn write_replaces_an_older_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("init");
    fs::write(&path, b"older and longer").unwrap();
    write(&path, b"new", 0o755).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::create_dir_all(path.join("by a folder")).unwrap();
    let error = write(&path, b"new", 0o644).unwrap_err();
    assert!(matches!(error, Error::File { op: "rename", .. }), "{error}");
    assert!(error.source().is_some());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn cache_with_a_relative_path_falls_back_to_home() {
    let home = Some(OsString::from("/home/me"));
    let default = PathBuf::from("/home/me/.cache/supermachine/assets");
    assert_eq!(place::cache_below(None, home.clone()), default);
    assert_eq!(place::cache_below(Some("cache".into()), home.clone()), default);
    let given = place::cache_below(Some("/var/cache".into()), home);
    assert_eq!(given, PathBuf::from("/var/cache/supermachine/assets"));
}

#[test]
fn no_option_is_set_twice() {
    for arch in Arch::ALL {
        let mut names: Vec<_> = COMMON_CONFIG
            .lines()
            .chain(arch.config().lines())
            .filter_map(|line| line.split_once('=').map(|(name, _)| name))
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert!(count > 100);
        assert_eq!(names.len(), count);
    }
}

#[test]
fn every_edit_of_the_layout_has_a_place() {
    let (_, wrapper) = recipe::LAYOUT[0];
    for arch in Arch::ALL {
        for (from, to) in arch.layout_edits("prefix-") {
            assert_eq!(wrapper.matches(from).count(), 1, "{from}");
            assert!(!wrapper.contains(&to), "{to}");
        }
    }
    // Without a prefix, the wrapper of x86_64 is the one of the recipe.
    let [(from, to)] = &Arch::X86_64.layout_edits("")[..] else { panic!() };
    assert_eq!(from, to);
}

#[test]
fn architectures_have_builds_of_their_own() {
    let [one, other] = Arch::ALL;
    assert_ne!(one.kernel_dir(), other.kernel_dir());
    assert_ne!(one.agent_dir(), other.agent_dir());
    assert!(Arch::ALL.contains(&Arch::host()));
}

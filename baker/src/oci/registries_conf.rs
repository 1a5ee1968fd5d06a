//! `registries.conf` of Podman and its relatives, version 2, with its folders of further files.
//!
//! Reads and merges the files: of two tables with the same prefix, or two aliases with the same name,
//! the one that is read last counts. Ignores settings that it does not know.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Error;
use super::registry_files::RegistryFiles;

/// The merged configuration.
#[derive(Debug, Default)]
pub(super) struct RegistriesConf {
    tables: Vec<RegistryTable>,
    /// The registries to search for short names; empty if none are configured.
    pub(super) search: Vec<Setting>,
    aliases: BTreeMap<String, Setting>,
}

/// A value, and the file that it is from.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) value: String,
    pub(super) path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ConfFile {
    unqualified_search_registries: Option<Vec<String>>,
    registry: Vec<RegistryTable>,
    aliases: BTreeMap<String, String>,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RegistryTable {
    prefix: Option<String>,
    pub(super) location: Option<String>,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pub(super) blocked: bool,
    /// Whether mirrors serve only images that are named by a digest.
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    pub(super) mirror: Vec<MirrorTable>,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MirrorTable {
    pub(super) location: String,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFromMirror,
}

/// The references that a mirror serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

impl RegistriesConf {
    /// Reads and merges the files.
    pub(super) fn read(files: &RegistryFiles) -> Result<Self, Error> {
        let mut conf = Self::default();
        let main = files.registries.iter().position(|path| path.is_file());
        if let Some(path) = main.and_then(|main| files.registries.get(main)) {
            conf.add(path)?;
        }
        // The user's file comes first in the list, and its folder last in the order of reading.
        let count = main.map_or(files.registries.len(), |main| main + 1);
        for path in files.registries.iter().take(count).rev() {
            for part in parts_of(path)? {
                conf.add(&part)?;
            }
        }
        if let Some(path) = &files.short_names {
            conf.add(path)?;
        }
        Ok(conf)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let Some(text) = read(path)? else { return Ok(()) };
        let file: ConfFile = toml::from_str(&text).map_err(|source| Error::RegistryFile {
            path: path.to_owned(),
            source: source.into(),
        })?;
        let setting = |value| Setting { value, path: path.to_owned() };
        if let Some(search) = file.unqualified_search_registries {
            self.search = search.into_iter().map(setting).collect();
        }
        for table in file.registry {
            self.tables.retain(|known| known.prefix() != table.prefix());
            self.tables.push(table);
        }
        for (name, target) in file.aliases {
            // An empty one removes an earlier one.
            match target.as_str() {
                "" => drop(self.aliases.remove(&name)),
                _ => drop(self.aliases.insert(name, setting(target))),
            }
        }
        Ok(())
    }

    /// The alias of the short name `name`.
    pub(super) fn alias(&self, name: &str) -> Option<&Setting> {
        self.aliases.get(name)
    }

    /// The table with the longest prefix that covers `name`, as `HOST/REPOSITORY`, and the part of `name`
    /// behind the prefix.
    pub(super) fn table_for<'n>(&self, name: &'n str) -> Option<(&RegistryTable, &'n str)> {
        let covering = self.tables.iter().filter_map(|table| Some((table, table.rest_of(name)?)));
        covering.max_by_key(|(table, _)| table.prefix().len())
    }
}

impl RegistryTable {
    /// What the table is for: `HOST/PATH`, or `*.DOMAIN`.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.as_deref().or(self.location.as_deref()).unwrap_or_default()
    }

    /// The part of a repository's name behind the prefix; `None` if that does not cover it. A prefix stops
    /// at a border of the path.
    fn rest_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let prefix = self.prefix();
        let rest = match prefix.strip_prefix('*') {
            Some(domain) if domain.starts_with('.') => {
                let (host, path) = domain.split_once('/').unwrap_or((domain, ""));
                let (found, rest) = name.split_once('/')?;
                let below = found.strip_suffix(host).filter(|below| !below.is_empty())?;
                let start = below.len() + host.len();
                if path.is_empty() { name.get(start..)? } else { rest.strip_prefix(path)? }
            }
            _ => name.strip_prefix(prefix)?,
        };
        (!prefix.is_empty() && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
    }

    /// The mirrors that serve an image that is named by a digest or not.
    pub(super) fn mirrors(&self, has_digest: bool) -> impl Iterator<Item = &MirrorTable> {
        let only_digests = self.mirror_by_digest_only;
        self.mirror.iter().filter(move |mirror| match mirror.pull_from_mirror {
            PullFromMirror::All => has_digest || !only_digests,
            PullFromMirror::DigestOnly => has_digest,
            PullFromMirror::TagOnly => !has_digest,
        })
    }
}

/// The files `*.conf` in the folder `registries.conf.d` beside a `registries.conf`, sorted by name.
fn parts_of(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(Error::io("read", folder))?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "conf"));
    files.sort();
    Ok(files)
}

/// Reads a configuration file; `None` if it does not exist or the user may not read it.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf_in(dir: &Path, files: &[(&str, &str)]) -> Result<RegistriesConf, Error> {
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let registries = ["user/r.conf", "system/r.conf"].map(|name| dir.join(name)).to_vec();
        let short_names = Some(dir.join("short-names.conf"));
        RegistriesConf::read(&RegistryFiles { registries, short_names, docker: None })
    }

    fn conf(files: &[(&str, &str)]) -> RegistriesConf {
        conf_in(tempfile::tempdir().unwrap().path(), files).unwrap()
    }

    fn alias<'c>(conf: &'c RegistriesConf, name: &str) -> Option<&'c str> {
        conf.alias(name).map(|setting| setting.value.as_str())
    }

    #[test]
    fn later_files_count_over_earlier_ones() {
        let system = "unqualified-search-registries = [\"a.example\"]
            [aliases]\none = \"a.example/one\"\ntwo = \"a.example/two\"\nsix = \"a.example/six\"
            [[registry]]\nlocation = \"x.example\"\ninsecure = true";
        let mut files = vec![("system/r.conf", system)];
        let first = "[aliases]\none = \"b.example/one\"\ntwo = \"\"\n";
        files.push(("system/r.conf.d/000-shortnames.conf", first));
        files.push(("system/r.conf.d/001.conf", "[[registry]]\nlocation = \"x.example\""));
        files.push(("system/r.conf.d/002.conf.bak", "not TOML"));
        files.push(("user/r.conf.d/a.conf", "[aliases]\none = \"c.example/one\""));
        files.push(("short-names.conf", "[aliases]\nfour = \"d.example/four\""));
        let merged = conf(&files);
        let search: Vec<_> = merged.search.iter().map(|one| one.value.as_str()).collect();
        assert_eq!(search, ["a.example"]);
        assert_eq!(alias(&merged, "one"), Some("c.example/one"));
        assert_eq!(alias(&merged, "two"), None);
        assert_eq!(alias(&merged, "four"), Some("d.example/four"));
        assert_eq!(alias(&merged, "six"), Some("a.example/six"));
        assert!(!merged.table_for("x.example/app").unwrap().0.insecure);
        // The user's file hides those of the system.
        files.push((
            "user/r.conf",
            "unqualified-search-registries = [\"u.example\", \"v.example\"]",
        ));
        let merged = conf(&files);
        assert_eq!((merged.search.len(), alias(&merged, "six")), (2, None));
        assert_eq!(alias(&merged, "one"), Some("c.example/one"));
    }

    #[test]
    fn prefix_with_a_star_covers_hosts_below_it() {
        let text = "[[registry]]\nprefix = \"*.x.example\"\nlocation = \"y.example\"
            [[registry]]\nprefix = \"*.x.example/team\"\nblocked = true";
        let merged = conf(&[("system/r.conf", text)]);
        let found = |name: &str| {
            let (table, rest) = merged.table_for(name)?;
            Some((table.blocked, rest.to_owned()))
        };
        assert_eq!(found("a.b.x.example/app/b"), Some((false, "/app/b".to_owned())));
        assert_eq!(found("a.x.example/team/b"), Some((true, "/b".to_owned())));
        assert_eq!(found("a.x.example/teams"), Some((false, "/teams".to_owned())));
        for name in ["x.example/app", "ax.example/app", "a.x.example.org/app"] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn mirrors_serve_digests_or_tags_as_configured() {
        let text = |extra: &str| {
            format!(
                "[[registry]]\nlocation = \"x.example\"\n{extra}
                [[registry.mirror]]\nlocation = \"all\"
                [[registry.mirror]]\nlocation = \"digest\"\npull-from-mirror = \"digest-only\"
                [[registry.mirror]]\nlocation = \"tag\"\npull-from-mirror = \"tag-only\""
            )
        };
        for (extra, has_digest, expected) in [
            ("", true, &["all", "digest"][..]),
            ("", false, &["all", "tag"]),
            ("mirror-by-digest-only = true", false, &["tag"]),
        ] {
            let merged = conf(&[("system/r.conf", &text(extra))]);
            let (table, _) = merged.table_for("x.example/app").unwrap();
            let found: Vec<_> =
                table.mirrors(has_digest).map(|one| one.location.as_str()).collect();
            assert_eq!(found, expected, "{extra}");
        }
    }

    #[test]
    fn malformed_files_are_named() {
        for name in ["system/r.conf", "user/r.conf.d/x.conf", "short-names.conf"] {
            let dir = tempfile::tempdir().unwrap();
            match conf_in(dir.path(), &[(name, "[[registry]")]) {
                Err(Error::RegistryFile { path, .. }) => assert_eq!(path, dir.path().join(name)),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

//! The search order of credential files and helpers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::CredentialFile;
use super::secret::Credentials;
use crate::oci::error::Error;

/// The default time limit of a credential helper.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The folder of Docker's configuration: `$DOCKER_CONFIG`, else `~/.docker`.
#[must_use]
pub fn docker_config_dir() -> Option<PathBuf> {
    docker_dir(&|name| std::env::var_os(name))
}

/// Looks up the credentials for `repository` (`HOST` or `HOST/PATH`) in the `config.json` of the
/// folder `dir`: first the helper configured for it, then the general helper, then the file itself.
/// Returns `None` if none of them has any.
///
/// Blocks until the helper answers, 30 seconds at most. May be called from any thread.
///
/// # Errors
/// [`Error::DockerConfig`], [`Error::CredentialHelper`] and [`Error::Io`].
pub fn find_credentials(dir: &Path, repository: &str) -> Result<Option<Credentials>, Error> {
    let files = [dir.join("config.json")];
    search(&files, repository, HELPER_TIMEOUT, &mut Err)
}

/// Searches `files` in order. Returns the first credentials found. Passes the error of a failed helper or
/// an unusable file to `on_failure`, which decides whether the search continues.
pub(crate) fn search(
    files: &[PathBuf],
    repository: &str,
    helper_timeout: Duration,
    on_failure: &mut dyn FnMut(Error) -> Result<(), Error>,
) -> Result<Option<Credentials>, Error> {
    for path in files {
        let file = match CredentialFile::read(path) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) => {
                on_failure(error)?;
                continue;
            }
        };
        for helper in file.helpers(repository) {
            match helper.get(repository, helper_timeout) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => on_failure(error)?,
            }
        }
        match file.stored(repository) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) => on_failure(error)?,
        }
    }
    Ok(None)
}

/// The user's credential files: only `$REGISTRY_AUTH_FILE` if it is set, else Docker's and then
/// Podman's.
pub(crate) fn default_files() -> Vec<PathBuf> {
    files_of(&|name| std::env::var_os(name))
}

fn files_of(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(file) = stated(variable, "REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let docker = docker_dir(variable).map(|dir| dir.join("config.json"));
    let podman = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"].map(|name| stated(variable, name));
    let home = stated(variable, "HOME").map(|home| home.join(".config"));
    let [runtime, config] = podman;
    let podman = [runtime, config.or(home)].into_iter().flatten();
    docker.into_iter().chain(podman.map(|dir| dir.join("containers/auth.json"))).collect()
}

fn docker_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    stated(variable, "DOCKER_CONFIG")
        .or_else(|| stated(variable, "HOME").map(|home| home.join(".docker")))
}

fn stated(variable: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::error::HelperFault;

    fn config(json: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        dir
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn credentials_without_a_config_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_credentials(dir.path(), "docker.io").unwrap(), None);
    }

    #[test]
    fn credentials_in_auths_are_found_by_host() {
        let dir = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnBhOnNz"},
                "127.0.0.1:5000":{"auth":"YTpi"},
                "https://v2.example/v2/":{"username":"u","password":"p"},
                "token.example":{"identitytoken":"tok"},"empty.example":{}}}"#,
        );
        let find = |registry| find_credentials(dir.path(), registry).unwrap();
        assert_eq!(find("docker.io"), password("hub", "pa:ss"));
        assert_eq!(find("127.0.0.1:5000"), password("a", "b"));
        assert_eq!(find("v2.example"), password("u", "p"));
        assert_eq!(
            find("token.example"),
            Some(Credentials::IdentityToken { token: "tok".to_owned() })
        );
        assert_eq!(find("empty.example"), None);
        assert_eq!(find("127.0.0.1"), None);
    }

    #[test]
    fn credentials_for_a_path_stay_within_it() {
        let dir = config(
            r#"{"auths":{"x.example/team/app":{"auth":"YXBwOnA="},
                "x.example/team":{"auth":"dGVhbTpw"},"https://y.example/a":{"auth":"YTpi"},
                "docker.io/mine":{"auth":"bWluZTpw"},
                "https://index.docker.io/v1/":{"auth":"aHViOnA="},
                "https://index.docker.io/v1/access-token":{"auth":"bm86cA=="}}}"#,
        );
        for (repository, user) in [
            ("x.example/team/app", Some("app")),
            ("x.example/team/app/deep", Some("app")),
            ("x.example/team/apps", Some("team")),
            ("x.example/team", Some("team")),
            ("x.example/teams/app", None),
            ("x.example/other", None),
            ("x.example", None),
            ("x.example:5000/team/app", None),
            ("y.example/a/b", Some("a")),
            ("y.example/b", None),
            ("docker.io/mine/app", Some("mine")),
            ("docker.io/library/redis", Some("hub")),
        ] {
            let found = match find_credentials(dir.path(), repository).unwrap() {
                Some(Credentials::Password { user, .. }) => Some(user),
                _ => None,
            };
            assert_eq!(found.as_deref(), user, "{repository}");
        }
    }

    #[test]
    fn credentials_in_a_broken_config_are_an_error() {
        for json in ["", "{\"auths\":3}", r#"{"auths":{"x.example":{"auth":"!"}}}"#] {
            let dir = config(json);
            assert!(
                matches!(
                    find_credentials(dir.path(), "x.example"),
                    Err(Error::DockerConfig { .. })
                ),
                "{json}"
            );
        }
    }

    #[test]
    fn helper_that_is_not_there_is_named() {
        let dir = config(r#"{"credHelpers":{"x.example":"surely-not-installed"}}"#);
        match find_credentials(dir.path(), "x.example") {
            Err(Error::CredentialHelper { helper, source: HelperFault::Run { .. }, .. }) => {
                assert_eq!(helper, "docker-credential-surely-not-installed");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(find_credentials(dir.path(), "y.example").unwrap(), None);
    }

    #[test]
    fn search_after_a_failed_helper_continues_in_the_file() {
        let dir = config(
            r#"{"credHelpers":{"x.example":"surely-not-installed"},
                "auths":{"x.example":{"auth":"YTpi"}}}"#,
        );
        let mut failures = 0;
        let mut count = |_| {
            failures += 1;
            Ok(())
        };
        let files = [dir.path().join("config.json")];
        let found = search(&files, "x.example/app", HELPER_TIMEOUT, &mut count).unwrap();
        assert_eq!((found, failures), (password("a", "b"), 1));
    }

    #[test]
    fn files_are_dockers_and_podmans_unless_one_is_named() {
        let of = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            files_of(&move |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(*value))
            })
        };
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/1")]),
            paths(&[
                "/h/.docker/config.json",
                "/run/1/containers/auth.json",
                "/h/.config/containers/auth.json"
            ])
        );
        let set = [("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("XDG_CONFIG_HOME", "/c")];
        assert_eq!(of(&set), paths(&["/d/config.json", "/c/containers/auth.json"]));
        assert_eq!(of(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a")]), paths(&["/a"]));
        assert_eq!(of(&[]), paths(&[]));
    }
}

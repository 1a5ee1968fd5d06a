//! Names of images, as users write them.
//!
//! Parses registry references and the forms `oci:`, `oci-archive:` and `docker-archive:`. It opens no
//! image.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::distribution::{ParseError, Reference as Inner};
use supermachine_formats::Digest;

use super::error::{Error, ReferenceProblem};

/// An image in a registry: host, repository, and a tag or a digest.
///
/// Accepts Docker Hub's short forms.
///
/// ```
/// use supermachine_baker::oci::Reference;
///
/// let reference: Reference = "nginx".parse()?;
/// assert_eq!(reference.to_string(), "docker.io/library/nginx:latest");
/// # Ok::<(), supermachine_baker::oci::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    inner: Inner,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry as written, `docker.io` for the short forms.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.inner.registry()
    }

    /// The repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.inner.repository()
    }

    /// The tag. A digest takes precedence.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image, pinned to a digest.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        let (registry, repository) = (self.registry().to_owned(), self.repository().to_owned());
        let inner = match self.tag() {
            Some(tag) => {
                Inner::with_tag_and_digest(registry, repository, tag.to_owned(), digest.to_string())
            }
            None => Inner::with_digest(registry, repository, digest.to_string()),
        };
        Self { inner, digest: Some(digest) }
    }

    /// The same image at `HOST/REPOSITORY`; `None` if that is not one.
    pub(crate) fn moved(&self, location: &str) -> Option<Self> {
        let (host, repository) = location.split_once('/')?;
        let (host, repository) = (host.to_owned(), repository.to_owned());
        let inner = match (self.tag(), self.digest) {
            (Some(tag), Some(digest)) => {
                Inner::with_tag_and_digest(host, repository, tag.to_owned(), digest.to_string())
            }
            (None, Some(digest)) => Inner::with_digest(host, repository, digest.to_string()),
            (tag, None) => Inner::with_tag(host, repository, tag.unwrap_or("latest").to_owned()),
        };
        Some(Self { inner, digest: self.digest })
    }

    /// The host and port that serve this registry.
    pub(crate) fn host(&self) -> &str {
        self.inner.resolve_registry()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |source| Error::InvalidReference { reference: text.to_owned(), source };
        let inner = match split_ipv6_host(text) {
            None => text.parse::<Inner>().map_err(|error| invalid(problem_of(text, error)))?,
            Some((host, rest)) => {
                let path: Inner = format!("localhost/{rest}")
                    .parse()
                    .map_err(|e: ParseError| invalid(e.into()))?;
                let (host, name) = (host.to_owned(), path.repository().to_owned());
                match (path.tag(), path.digest()) {
                    (_, Some(digest)) => Inner::with_digest(host, name, digest.to_owned()),
                    (tag, None) => Inner::with_tag(host, name, tag.unwrap_or("latest").to_owned()),
                }
            }
        };
        let digest = match inner.digest() {
            None => None,
            Some(digest) => Some(digest.parse().map_err(|_| invalid(ReferenceProblem::Digest))?),
        };
        Ok(Self { inner, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// What is wrong with a text that does not parse.
fn problem_of(text: &str, error: ParseError) -> ReferenceProblem {
    let lower = text.to_ascii_lowercase();
    match error.into() {
        ReferenceProblem::Format
            if ["http://", "https://"].iter().any(|it| lower.starts_with(it)) =>
        {
            ReferenceProblem::Protocol
        }
        // The parser sees another error in most such names.
        ReferenceProblem::Format if lower != text && lower.parse::<Inner>().is_ok() => {
            ReferenceProblem::Uppercase
        }
        other => other,
    }
}

impl From<ParseError> for ReferenceProblem {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::NameEmpty => Self::Empty,
            ParseError::NameContainsUppercase => Self::Uppercase,
            ParseError::NameTooLong => Self::TooLong,
            ParseError::DigestInvalidFormat
            | ParseError::DigestInvalidLength
            | ParseError::DigestUnsupported => Self::Digest,
            ParseError::ReferenceInvalidFormat | ParseError::TagInvalidFormat => Self::Format,
        }
    }
}

/// Whether `host`, with or without a port, names this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let name = match bracketed {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Splits `[ADDRESS]:PORT/REST`, which the grammar of references lacks.
fn split_ipv6_host(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once('/')?;
    let (address, port) = host.strip_prefix('[')?.split_once(']')?;
    let port_is_fine = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => port.parse::<u16>().is_ok(),
    };
    (address.parse::<Ipv6Addr>().is_ok() && port_is_fine).then_some((host, rest))
}

/// The source of an image.
///
/// | written | meaning |
/// |---|---|
/// | `NAME[:TAG][@DIGEST]`, `docker://…` | [`ImageSource::Registry`] |
/// | `oci:DIR[:TAG]`, a folder with `oci-layout` | [`ImageSource::Layout`] |
/// | `oci-archive:FILE[:TAG]` | [`ImageSource::OciArchive`] |
/// | `docker-archive:FILE[:TAG]` | [`ImageSource::DockerArchive`] |
/// | a path with an ending such as `.tar` or `.tar.gz`, or that starts with `/`, `./` or `../` | [`ImageSource::Archive`] |
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageSource {
    /// A registry.
    Registry(Reference),
    /// A folder in the OCI image layout.
    Layout {
        /// The folder.
        path: PathBuf,
        /// The image's name, if there are several.
        tag: Option<String>,
    },
    /// The tar of an OCI image layout.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// The image's name, if there are several.
        tag: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The image's name, if there are several.
        tag: Option<String>,
    },
    /// A tar of either kind.
    Archive {
        /// The file.
        path: PathBuf,
    },
}

impl FromStr for ImageSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let empty = || Error::InvalidReference {
            reference: text.to_owned(),
            source: ReferenceProblem::Empty,
        };
        let split = |rest| split_tag(rest).ok_or_else(empty);
        if let Some(rest) = text.strip_prefix("docker://") {
            return rest.parse().map(Self::Registry);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return split(rest).map(|(path, tag)| Self::Layout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return split(rest).map(|(path, tag)| Self::OciArchive { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return split(rest).map(|(path, tag)| Self::DockerArchive { path, tag });
        }
        let path = Path::new(text);
        if is_archive_name(text) {
            return Ok(Self::Archive { path: path.to_owned() });
        }
        if path.join("oci-layout").is_file() {
            return Ok(Self::Layout { path: path.to_owned(), tag: None });
        }
        if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
            return match path.try_exists() {
                Ok(true) => Ok(Self::Archive { path: path.to_owned() }),
                Ok(false) => Err(Error::NoSuchFile { path: path.to_owned() }),
                Err(error) => Err(Error::io("find", path)(error)),
            };
        }
        text.parse().map(Self::Registry)
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::Archive { path } => return path.display().fmt(f),
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, tag } => ("docker-archive", path, tag),
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// Whether text without a prefix is an archive's path by its ending.
fn is_archive_name(text: &str) -> bool {
    const ENDINGS: [&str; 7] =
        [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.zstd"];
    ENDINGS.iter().any(|ending| text.ends_with(ending))
}

/// Splits `PATH[:TAG]`. Both may contain colons: the longest existing path wins, else the path stops
/// at the first colon.
fn split_tag(text: &str) -> Option<(PathBuf, Option<String>)> {
    if text.is_empty() || text.starts_with(':') {
        return None;
    }
    let whole = || (PathBuf::from(text), None);
    let at = |(path, tag): (&str, &str)| {
        (PathBuf::from(path), (!tag.is_empty()).then(|| tag.to_owned()))
    };
    if Path::new(text).exists() {
        return Some(whole());
    }
    let existing = text
        .rmatch_indices(':')
        .filter_map(|(colon, _)| Some((text.get(..colon)?, text.get(colon + 1..)?)))
        .find(|(path, _)| Path::new(path).exists());
    Some(existing.or_else(|| text.split_once(':')).map_or_else(whole, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn reference_short_name_is_docker_hub_latest() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("registry.example/a/b/c:v1", "registry.example/a/b/c:v1"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/x:y", "127.0.0.1:5000/x:y"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ] {
            assert_eq!(reference(short).to_string(), long);
        }
    }

    #[test]
    fn reference_of_docker_hub_is_served_by_its_index_host() {
        assert_eq!(reference("nginx").host(), "index.docker.io");
        assert_eq!(reference("registry.example/x/y").host(), "registry.example");
    }

    #[test]
    fn reference_with_digest_has_no_default_tag() {
        let bare = reference(&format!("nginx@{DIGEST}"));
        assert_eq!(bare.tag(), None);
        assert_eq!(bare.digest().unwrap().to_string(), DIGEST);
        let both = reference(&format!("[::1]/nginx:1@{DIGEST}"));
        assert_eq!(both.digest().unwrap().to_string(), DIGEST);
        assert_eq!(both.registry(), "[::1]");
    }

    #[test]
    fn reference_with_wrong_text_is_refused() {
        for (text, problem) in [
            ("", ReferenceProblem::Empty),
            ("Nginx", ReferenceProblem::Uppercase),
            ("registry.example/Team/app:V1", ReferenceProblem::Uppercase),
            ("http://registry.example/app", ReferenceProblem::Protocol),
            ("nginx:", ReferenceProblem::Format),
            ("a b", ReferenceProblem::Format),
            ("[::1", ReferenceProblem::Format),
            ("nginx@sha256:00112233445566778899aabbccddeeff", ReferenceProblem::Digest),
            (&"a/".repeat(200), ReferenceProblem::Format),
            (&format!("x/{}", "a".repeat(300)), ReferenceProblem::TooLong),
            (
                &format!("nginx@{}", DIGEST.replace("sha256:e", "sha256:E")),
                ReferenceProblem::Digest,
            ),
        ] {
            match text.parse::<Reference>() {
                Err(Error::InvalidReference { source, .. }) => {
                    assert_eq!(source, problem, "{text}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn loopback_is_distinguished_from_lookalikes() {
        for host in ["localhost", "LocalHost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:5"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "[::2]:5", "a"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn source_forms_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
        let existing = dir.path().to_str().unwrap();
        let layout = |tag: Option<&str>| ImageSource::Layout {
            path: dir.path().to_owned(),
            tag: tag.map(ToOwned::to_owned),
        };
        assert_eq!(existing.parse::<ImageSource>().unwrap(), layout(None));
        assert_eq!(format!("oci:{existing}").parse::<ImageSource>().unwrap(), layout(None));
        let tagged = format!("oci:{existing}:busybox:1");
        assert_eq!(tagged.parse::<ImageSource>().unwrap(), layout(Some("busybox:1")));
        assert_eq!(tagged.parse::<ImageSource>().unwrap().to_string(), tagged);
        assert_eq!(
            "oci-archive:none.tar:v1".parse::<ImageSource>().unwrap(),
            ImageSource::OciArchive { path: "none.tar".into(), tag: Some("v1".into()) }
        );
        assert_eq!(
            "docker-archive:none.tar".parse::<ImageSource>().unwrap(),
            ImageSource::DockerArchive { path: "none.tar".into(), tag: None }
        );
        assert_eq!(
            "some/where.tar".parse::<ImageSource>().unwrap(),
            ImageSource::Archive { path: "some/where.tar".into() }
        );
        assert!(matches!("docker://nginx".parse().unwrap(), ImageSource::Registry(_)));
        assert!(matches!("nginx".parse().unwrap(), ImageSource::Registry(_)));
        assert!("oci:".parse::<ImageSource>().is_err());
    }
}

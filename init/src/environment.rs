//! The environment of a command and where its program is looked for.

use alloc::ffi::CString;
use alloc::vec::Vec;

/// The search path of a container that does not set one.
pub(crate) const DEFAULT_PATH: &[u8] =
    b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=value` pairs in order, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment(Vec<Vec<u8>>);

impl Environment {
    /// Takes pairs over; of equal names the last one counts.
    pub(crate) fn merge(&mut self, pairs: &[Vec<u8>]) {
        for pair in pairs {
            let name = name_of(pair);
            match self.0.iter_mut().find(|present| name_of(present) == name) {
                Some(present) => present.clone_from(pair),
                None => self.0.push(pair.clone()),
            }
        }
    }

    /// Sets a variable that is not there yet.
    pub(crate) fn set_default(&mut self, name: &[u8], value: &[u8]) {
        if self.get(name).is_none() {
            self.0.push([name, b"=", value].concat());
        }
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
    }

    /// The pairs.
    pub(crate) fn into_pairs(self) -> Vec<Vec<u8>> {
        self.0
    }
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// The files that `program` may be, in order: itself when it has a slash, otherwise one in
/// each directory of `path`. An empty directory is the working directory.
pub(crate) fn candidates(program: &[u8], path: Option<&[u8]>) -> Vec<CString> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    path.unwrap_or(DEFAULT_PATH)
        .split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { b".".as_slice() } else { directory })
        .filter_map(|directory| CString::new([directory, b"/", program].concat()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[&str]) -> Vec<Vec<u8>> {
        list.iter().map(|pair| pair.as_bytes().to_vec()).collect()
    }

    #[test]
    fn merge_replaces_in_place_and_appends_the_rest() {
        let mut environment = Environment::default();
        environment.merge(&pairs(&["A=1", "B=2", "A=3"]));
        environment.merge(&pairs(&["C=4", "B=", "AB=5"]));
        environment.set_default(b"C", b"no");
        environment.set_default(b"D", b"yes");
        assert_eq!(environment.into_pairs(), pairs(&["A=3", "B=", "C=4", "AB=5", "D=yes"]));
    }

    #[test]
    fn get_finds_the_exact_name() {
        let mut environment = Environment::default();
        environment.merge(&pairs(&["PATHS=x", "NONE", "PATH=/a=b"]));
        assert_eq!(environment.get(b"PATH"), Some(b"/a=b".as_slice()));
        assert_eq!(environment.get(b"NONE"), None);
    }

    #[test]
    fn program_without_slash_is_searched_in_path_order() {
        let found = candidates(b"ls", Some(b"/x::/y"));
        assert_eq!(found, [c"/x/ls", c"./ls", c"/y/ls"].map(CString::from));
        assert_eq!(candidates(b"ls", None).len(), 6);
    }

    #[test]
    fn program_with_slash_is_used_unchanged() {
        assert_eq!(candidates(b"./ls", Some(b"/x")), [CString::from(c"./ls")]);
        assert!(candidates(b"", Some(b"/x")).is_empty());
    }
}

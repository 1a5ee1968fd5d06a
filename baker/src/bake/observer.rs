//! Events of a bake.

use std::fmt;

use super::generators::Generator;
use crate::oci::Event;

/// Receives the events of a bake. Called from any thread; must not block.
pub trait Observer: Send + Sync {
    /// A step begins.
    fn step(&self, step: &str);

    /// Something happened while the image is fetched.
    fn fetch(&self, event: Event<'_>);

    /// The bake succeeds, with something to know about its machines.
    fn warn(&self, warning: &Warning) {
        let _ = warning;
    }
}

/// Something to know about the machines of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Programs have random generators of their own, and nothing is set to run after each restore.
    SharedRandomness {
        /// The programs.
        generators: Vec<Generator>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SharedRandomness { generators } = self;
        let programs: Vec<_> = generators.iter().map(ToString::to_string).collect();
        write!(
            f,
            "random values that a program drew before the snapshot are the same in every machine, and \
             these have generators of their own: {}. Set what runs after each restore, or `none` if \
             that does no harm",
            programs.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_names_each_program_and_whose_generator_it_has() {
        let generator = |process: &str, library| Generator { process: process.into(), library };
        let generators = vec![generator("nginx", "OpenSSL"), generator("python3", "Python")];
        let text = Warning::SharedRandomness { generators }.to_string();
        assert!(text.contains("nginx (OpenSSL), python3 (Python)."), "{text}");
    }
}

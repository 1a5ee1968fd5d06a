//! Credentials in memory. Secrets never appear in debug output.

use std::fmt;

/// Credentials for a registry or its token service.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password, or an access token in its place.
        password: String,
    },
    /// A token that the token service exchanges for others.
    IdentityToken {
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::IdentityToken { .. } => f.debug_struct("IdentityToken").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let shown = format!(
            "{:?} {:?}",
            Credentials::Password { user: "u".to_owned(), password: "geheim".to_owned() },
            Credentials::IdentityToken { token: "geheim".to_owned() }
        );
        assert!(!shown.contains("geheim"), "{shown}");
    }
}

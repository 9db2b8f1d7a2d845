//! Who may ask from elsewhere: passwords as `htpasswd -B` writes them, and tokens.

use std::{collections::HashMap, os::unix::fs::PermissionsExt as _, path::Path};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The highest cost of a password's hash that is taken: 2^15 rounds are seconds.
const HIGHEST_COST: u32 = 15;

/// Longer files are no credentials, in bytes.
const LONGEST: u64 = 1 << 20;

/// What is wrong with a file of credentials.
#[derive(Debug, thiserror::Error)]
#[error("{path}{}: {text}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct CredentialsError {
    path: String,
    line: Option<usize>,
    text: String,
}

/// Passwords by user, and tokens by name.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    users: HashMap<String, String>,
    highest_cost: u32,
    tokens: Vec<(String, [u8; 32])>,
}

impl Credentials {
    /// Reads a file: `NAME:HASH` as `htpasswd -B` writes it, `token NAME HASH` with the token's
    /// SHA-256 in hexadecimal digits, empty lines and comments.
    ///
    /// # Errors
    ///
    /// If it cannot be read, everybody may write to it, or a line is something else.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let wrong = |line: Option<usize>, text: String| CredentialsError {
            path: path.display().to_string(),
            line,
            text,
        };
        let metadata = std::fs::metadata(path).map_err(|error| wrong(None, error.to_string()))?;
        if metadata.permissions().mode() & 0o002 != 0 {
            return Err(wrong(None, "everybody may write to it: chmod o-w it".into()));
        }
        if metadata.len() > LONGEST {
            return Err(wrong(None, "it is longer than 1 MiB".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(None, error.to_string()))?;
        Self::parse(&text).map_err(|(line, text)| wrong(Some(line), text))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut credentials = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            credentials.add(line).map_err(|text| (number, text))?;
        }
        Ok(credentials)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["token", name, hash] = words[..] {
            let digest = digest(hash).ok_or(
                "a token's hash is its SHA-256 in 64 hexadecimal digits: printf %s TOKEN | sha256sum",
            )?;
            self.tokens.push((name.to_owned(), digest));
            return Ok(());
        }
        let (name, hash) = line
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("give `NAME:HASH` as `htpasswd -B` writes it, or `token NAME SHA256`")?;
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| {
            format!("the password of {name} is no bcrypt hash: make one with `htpasswd -B`")
        })?;
        if parts.get_cost() > HIGHEST_COST {
            return Err(format!("the hash of {name} takes too long: at most -C {HIGHEST_COST}"));
        }
        self.highest_cost = self.highest_cost.max(parts.get_cost());
        self.users.insert(name.to_owned(), hash.to_owned());
        Ok(())
    }

    /// Whether it is one of the tokens. How long that takes says nothing of them.
    pub(super) fn has_token(&self, token: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let found = self.tokens.iter().map(|(_, known)| known.ct_eq(&digest));
        found.fold(subtle::Choice::from(0), |any, it| any | it).into()
    }

    /// The hash that a user's password has to have. Takes as long for a user that there is not, who
    /// gets one that no password has.
    pub(super) fn hash_of(&self, user: &str) -> String {
        // Of 32 random bytes that nobody knows.
        const NOBODYS: &str = "$2b$10$VEVzzYzHU5LDqyACPy1Jsum4xbPOw1bFMoHPKbhqIuZxTGwDHxXPG";
        let nobodys = || NOBODYS.replace("$10$", &format!("${:02}$", self.highest_cost.max(4)));
        self.users.get(user).cloned().unwrap_or_else(nobodys)
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens() {
        let hash = bcrypt::hash_with_result("sesame", 4).unwrap();
        let token = Sha256::digest("open").iter().map(|it| format!("{it:02x}")).collect::<String>();
        let text = format!(
            "# who\n\nann:{}\ntoken ci {token}\n",
            hash.format_for_version(bcrypt::Version::TwoY)
        );
        let credentials = Credentials::parse(&text).unwrap();
        assert!(bcrypt::verify("sesame", &credentials.hash_of("ann")).unwrap());
        assert!(!bcrypt::verify("sesame", &credentials.hash_of("bob")).unwrap());
        assert!(credentials.has_token("open"));
        assert!(!credentials.has_token("opem") && !credentials.has_token(""));
    }

    #[test]
    fn what_is_no_credential_is_said() {
        for (text, line, said) in [
            ("\nann:$apr1$x$y", 2, "the password of ann is no bcrypt hash"),
            ("ann:secret", 1, "no bcrypt hash"),
            ("ann", 1, "give `NAME:HASH`"),
            (":x", 1, "give `NAME:HASH`"),
            ("token ci open", 1, "64 hexadecimal digits"),
            ("a:$2y$31$VEVzzYzHU5LDqyACPy1Jsum4xbPOw1bFMoHPKbhqIuZxTGwDHxXPG", 1, "too long"),
        ] {
            let (found, text) = Credentials::parse(text).unwrap_err();
            assert!(found == line && text.contains(said), "{found}: {text}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Credentials::read(&path).unwrap_err().to_string().contains("chmod o-w"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Credentials::read(&path).is_ok());
    }
}

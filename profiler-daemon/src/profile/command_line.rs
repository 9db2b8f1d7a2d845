//! Command lines as they may be shown: without what looks like a secret.

/// What stands for a secret.
const REDACTED: &[u8] = b"[redacted]";

/// Names of options and variables whose value is a secret, wherever they are in a name.
const SECRET: [&[u8]; 9] = [
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"token",
    b"apikey",
    b"accesskey",
    b"privatekey",
    b"credential",
];

/// Takes secrets out of a program's arguments: the values of options and variables whose name says
/// that they are, behind `=` or as the next argument, and passwords in URLs.
pub fn redacted(arguments: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(arguments.len());
    let mut is_value = false;
    for (at, argument) in arguments.split(|&byte| byte == 0).enumerate() {
        if at > 0 {
            shown.push(0);
        }
        let is_option = argument.first() == Some(&b'-');
        if std::mem::take(&mut is_value) && !is_option && !argument.is_empty() {
            shown.extend_from_slice(REDACTED);
            continue;
        }
        match argument.iter().position(|&byte| byte == b'=') {
            Some(equals) if is_secret(&argument[..equals]) => {
                shown.extend_from_slice(&argument[..=equals]);
                shown.extend_from_slice(REDACTED);
            }
            Some(_) => without_password(argument, &mut shown),
            None => {
                is_value = is_option && is_secret(argument);
                without_password(argument, &mut shown);
            }
        }
    }
    shown
}

/// Whether the name of an option or variable says that its value is a secret.
fn is_secret(name: &[u8]) -> bool {
    let plain: Vec<u8> = name
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(u8::to_ascii_lowercase)
        .collect();
    // Not what only leads to one.
    !plain.ends_with(b"file")
        && !plain.ends_with(b"path")
        && SECRET.iter().any(|secret| plain.windows(secret.len()).any(|part| part == *secret))
}

/// Copies an argument; of `scheme://user:password@host` without the password.
fn without_password(argument: &[u8], shown: &mut Vec<u8>) {
    let find = |from: usize, what: &[u8]| {
        argument[from..].windows(what.len()).position(|part| part == what).map(|at| from + at)
    };
    let password = find(0, b"://").and_then(|scheme| {
        let user = scheme + 3;
        let rest = &argument[user..];
        let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let host = user + rest[..end].iter().rposition(|&byte| byte == b'@')?;
        let colon = user + argument[user..host].iter().position(|&byte| byte == b':')?;
        Some((colon + 1, host))
    });
    match password {
        Some((from, to)) => {
            shown.extend_from_slice(&argument[..from]);
            shown.extend_from_slice(REDACTED);
            shown.extend_from_slice(&argument[to..]);
        }
        None => shown.extend_from_slice(argument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &str) -> String {
        let arguments: Vec<_> = arguments.split(' ').collect();
        String::from_utf8(redacted(arguments.join("\0").as_bytes())).unwrap().replace('\0', " ")
    }

    #[test]
    fn values_of_secret_names() {
        for (arguments, expected) in [
            ("app --password=x y", "app --password=[redacted] y"),
            ("app --db-password x y", "app --db-password [redacted] y"),
            ("app --api-key x", "app --api-key [redacted]"),
            ("app AWS_SECRET_ACCESS_KEY=x", "app AWS_SECRET_ACCESS_KEY=[redacted]"),
            ("app --token --verbose", "app --token --verbose"),
            ("app --password-file /etc/x", "app --password-file /etc/x"),
            ("app --user x --port=1", "app --user x --port=1"),
            ("app postgres://u:p@ss@h/db?x=1", "app postgres://u:[redacted]@h/db?x=1"),
            ("app --url=http://u:p@h", "app --url=http://u:[redacted]@h"),
            ("app http://h:80/a@b", "app http://h:80/a@b"),
        ] {
            assert_eq!(shown(arguments), expected);
        }
    }

    #[test]
    fn any_bytes_come_through() {
        let mut bytes = vec![0xff, 0, b'=', b':', b'/', b'/', b'@', b':'];
        for _ in 0..bytes.len() {
            bytes.rotate_left(1);
            redacted(&bytes);
        }
        assert_eq!(redacted(b""), b"");
    }
}

//! Text that other programs give.

/// What a text begins with, of which there is more: ends in `…`, and not in the middle of a character.
pub(crate) fn beginning(read: &[u8]) -> String {
    let valid = match std::str::from_utf8(read) {
        Err(error) if error.error_len().is_none() => &read[..error.valid_up_to()],
        _ => read,
    };
    format!("{}…", String::from_utf8_lossy(valid))
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn text_is_cut_between_characters() {
        let text = "aü".as_bytes();
        assert_eq!(beginning(text), "aü…");
        assert_eq!(beginning(&text[..2]), "a…");
        assert_eq!(beginning(b"\xffa"), "\u{fffd}a…");
        assert_eq!(beginning(b""), "…");
    }
}

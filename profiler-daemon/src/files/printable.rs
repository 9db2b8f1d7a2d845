//! Names made safe and short enough for a terminal: whoever runs a process chooses its comm, and
//! whoever wrote a binary its functions' names.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text` with everything that a terminal would act on, or that hides or reorders its neighbours,
/// as `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unprintable(character) {
            escaped.extend(character.escape_unicode());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, line separators, and those of no width, writing direction among them.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || character.width().unwrap_or(0) == 0 && !character.is_ascii()
}

/// `text` in at most `width` columns: what does not fit is cut from its middle, since both ends of
/// a name tell names apart.
pub(crate) fn cut_middle(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return Cow::Borrowed(text);
    }
    let Some(kept) = width.checked_sub(1) else {
        return Cow::Borrowed("");
    };
    let head = prefix(text.chars(), kept - kept / 2);
    let mut tail: Vec<char> = prefix(text.chars().rev(), kept / 2).chars().collect();
    tail.reverse();
    Cow::Owned(head + "…" + &String::from_iter(tail))
}

/// As many of the first characters as fit `width` columns.
fn prefix(characters: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|character| {
            used += character.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// `text`, `width` columns wide, with spaces after it.
pub(crate) fn left(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// `text`, `width` columns wide, with spaces before it.
pub(crate) fn right(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_are_shown() {
        assert_eq!(escape("a\x1b[31mb"), r"a\u{1b}[31mb");
        assert_eq!(escape("\u{202e}exe.txt"), r"\u{202e}exe.txt");
        assert_eq!(escape("naïve 世界"), "naïve 世界");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(cut_middle("abcdefghij", 10), "abcdefghij");
        assert_eq!(cut_middle("abcdefghij", 6), "abc…ij");
        assert_eq!(cut_middle("世界世界", 5), "世…界");
        assert_eq!(cut_middle("abc", 0), "");
    }

    proptest! {
        #[test]
        fn nothing_unprintable_is_left(text: String) {
            prop_assert!(!escape(&text).contains(char::is_control));
        }

        #[test]
        fn cut_names_fit(text: String, width in 0..40_usize) {
            let escaped = escape(&text);
            prop_assert!(cut_middle(&escaped, width).width() <= width);
        }
    }
}

/// Makes text from outside safe to print: control and formatting characters become spaces, runs of white space one
/// space, and what exceeds `limit` characters is cut with an ellipsis.
pub fn printable(text: &str, limit: usize) -> String {
    let mut printed = String::new();
    let mut length = 0;
    let mut gap = false;
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() || is_invisible(character) {
            gap = !printed.is_empty();
            continue;
        }
        if length + usize::from(gap) >= limit {
            printed.push('…');
            return printed;
        }
        if std::mem::take(&mut gap) {
            printed.push(' ');
            length += 1;
        }
        printed.push(character);
        length += 1;
    }
    printed
}

/// Characters that reorder or hide text on a terminal: the bidirectional controls and zero-width characters of
/// [Unicode Technical Report 36](https://www.unicode.org/reports/tr36/), and the tag block.
const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_from_outside_is_one_line_without_controls() {
        assert_eq!(printable("  a\r\n\tb\u{1b}[31mc\u{202e}d\0 ", 100), "a b [31mc d");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("abc   \n", 3), "abc");
        assert_eq!(printable("\n\n", 3), "");
    }

    proptest! {
        #[test]
        fn nothing_but_printable_characters_comes_out(text in any::<String>(), limit in 0usize..50) {
            let printed = printable(&text, limit);
            prop_assert!(printed.chars().count() <= limit + 1);
            prop_assert!(!printed.chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}

//! Formatting that cannot change what a configuration means.

use std::ops::Range;

use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Parser;

/// Tidies a text: line breaks, blanks at the ends of lines, runs of empty lines and the end of the file.
///
/// Comments, indentation, quotes and the order of keys stay. Lines end as the first one does; apart from that, texts that
/// span several lines are not touched. `None` when the text is not YAML. The result gives the same values as the text, and
/// formatting it again changes nothing.
pub fn format(text: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (before, kept) = events(text)?;
    let ending =
        if text.split_once('\n').is_some_and(|(first, _)| first.ends_with('\r')) { "\r\n" } else { "\n" };
    let mut formatted = String::with_capacity(text.len());
    let (mut at, mut empty) = (0, true);
    let mut next = kept.iter().peekable();
    for line in text.split_inclusive('\n') {
        let range = at..at + line.len();
        at = range.end;
        while next.next_if(|kept| kept.end <= range.start).is_some() {}
        if next.peek().is_some_and(|kept| kept.start < range.end) {
            match line.strip_suffix('\n') {
                Some(content) => {
                    formatted.push_str(content.strip_suffix('\r').unwrap_or(content));
                    formatted.push_str(ending);
                }
                None => formatted.push_str(line),
            }
            empty = false;
            continue;
        }
        let content = line.trim_end();
        if content.is_empty() && empty {
            continue;
        }
        empty = content.is_empty();
        formatted.push_str(content);
        formatted.push_str(ending);
    }
    if kept.last().is_none_or(|last| last.end < text.trim_end().len()) {
        formatted.truncate(formatted.trim_end().len());
        formatted.push_str(ending);
    }
    // Whatever the rules above have overlooked: when in doubt, the text stays as it is.
    let (after, _) = events(&formatted)?;
    Some(if before == after { formatted } else { text.to_owned() })
}

/// What a text says, and where texts of several lines stand in it.
fn events(text: &str) -> Option<(Vec<String>, Vec<Range<usize>>)> {
    let (mut said, mut kept) = (Vec::new(), Vec::new());
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        if let (Event::Scalar(..), Some(range)) = (&event, span.byte_range())
            && text.get(range.clone()).is_some_and(|raw| raw.trim_end().contains('\n'))
        {
            kept.push(range);
        }
        said.push(format!("{event:?}"));
    }
    Some((said, kept))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blanks_and_empty_lines_go_and_comments_stay() {
        let text = "\u{feff}\n\n# top  \r\nversion: 1   # one \r\n\n\n\nproject: a\t\n\n\n";
        assert_eq!(format(text).unwrap(), "# top\nversion: 1   # one\n\nproject: a\n");
    }

    #[test]
    fn texts_of_several_lines_are_not_touched() {
        let text = "a: |\n  one  \n\n\n  two\nb: \"x  \n\n\n  y\"\n";
        assert_eq!(format(text).unwrap(), text);
        let last = "a: |+\n  one\n\n\n";
        assert_eq!(format(last).unwrap(), last);
    }

    #[test]
    fn lines_end_as_the_first_one_does() {
        let text =
            "# top \r\na: |\r\n  one  \r\n\r\n\r\n  two\r\nb: \"x  \r\n  y\"\r\n\r\n\r\nc: 1\t\r\n\r\n";
        let tidy = "# top\r\na: |\r\n  one  \r\n\r\n\r\n  two\r\nb: \"x  \r\n  y\"\r\n\r\nc: 1\r\n";
        assert_eq!(format(text).unwrap(), tidy);
        assert_eq!(format(tidy).unwrap(), tidy);
        let mixed = "a: |\n  one\r\n  two\nb: 1\r\n";
        assert_eq!(format(mixed).unwrap(), mixed.replace('\r', ""));
        assert_eq!(format("a: 1\r\nb: |\n  one\n  two").unwrap(), "a: 1\r\nb: |\r\n  one\r\n  two");
    }

    #[test]
    fn what_is_no_yaml_is_not_formatted() {
        assert_eq!(format("a: [1"), None);
    }

    proptest! {
        #[test]
        fn formatting_keeps_the_meaning_and_settles(text in "([a-c]: |- |#|\\||>|\"| |  |\n|\n\n|\r\n|\r|\t|x|\\[|\\]|,){0,24}") {
            if let Some(once) = format(&text) {
                prop_assert_eq!(events(&once).unwrap().0, events(text.strip_prefix('\u{feff}').unwrap_or(&text)).unwrap().0);
                prop_assert_eq!(format(&once).unwrap(), once);
            }
        }
    }
}

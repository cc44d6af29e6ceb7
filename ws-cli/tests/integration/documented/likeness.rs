//! Whether what is printed is what a page says.

use proptest::prelude::*;

/// Whether a text is what is expected, in which `...` stands for anything but nothing.
pub(super) fn is_like(text: &str, expected: &str) -> bool {
    let Some((begin, end)) = expected.rsplit_once("...") else {
        return text == expected;
    };
    rest_behind(text, begin)
        .and_then(behind_first_char)
        .is_some_and(|rest| rest.ends_with(end))
}

/// What a text has behind what it is to begin with; `None` if it begins otherwise.
fn rest_behind<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    let mut parts = begin.split("...");
    let mut rest = text.strip_prefix(parts.next().unwrap_or_default())?;
    for part in parts {
        (_, rest) = behind_first_char(rest)?.split_once(part)?;
    }
    Some(rest)
}

fn behind_first_char(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    chars.next().map(|_| chars.as_str())
}

/// A text without what is another one each time: figures, with their units, and ids; and however
/// it is laid out.
pub(super) fn shape(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut shape: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let word = without_figures(word);
            let is_behind_figure = shape.last().is_some_and(|last| last.ends_with('#'));
            if !(is_behind_figure && UNITS.contains(&&*word)) {
                shape.push(word);
            }
        }
        shape.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

const UNITS: [&str; 8] = ["B", "KiB", "MiB", "GiB", "us", "ms", "s", "B/s"];

/// Each run of letters, digits and points with a digit in it is `#`, also where it is told as an
/// upper bound, as small rates are: `<0.1/s`.
fn without_figures(word: &str) -> String {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '.';
    let mut result = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let end = rest
            .find(|it| is_part(it) != is_part(first))
            .unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        let is_figure = run.contains(|it: char| it.is_ascii_digit());
        if is_figure && result.ends_with('<') {
            result.pop();
        }
        result.push_str(if is_figure { "#" } else { run });
        rest = behind;
    }
    result
}

#[test]
fn three_points_stand_for_anything() {
    assert!(is_like("a b c", "a ... c"));
    assert!(is_like("a b c", "a..."));
    assert!(!is_like("a b c", "a ... d"));
    assert!(!is_like("a b c", "a b"));
    assert!(is_like("a c c", "a ...c"));
    assert!(is_like("a b c d", "a ... c ..."));
}

#[test]
fn three_points_do_not_stand_for_nothing() {
    assert!(is_like("7 says: hi", "... says: hi"));
    assert!(!is_like(" says: hi", "... says: hi"));
    assert!(!is_like("a", "a..."));
    assert!(!is_like("", "..."));
    assert!(!is_like("ab", "a...b"));
    assert!(!is_like("a b", "a...... b"));
}

proptest! {
    #[test]
    fn prop_a_text_is_like_itself_with_gaps(
        pieces in prop::collection::vec(("[a-c]{0,3}", "[a-cä]{1,3}"), 0..5),
        end in "[a-c]{0,3}",
    ) {
        let whole: String = pieces.iter().map(|(kept, gap)| format!("{kept}{gap}")).collect();
        let with_gaps: String = pieces.iter().map(|(kept, _)| format!("{kept}...")).collect();
        prop_assert!(is_like(&(whole + &end), &(with_gaps + &end)));
    }
}

#[test]
fn shape_has_neither_figures_nor_units() {
    let text = "took 26.7 ms  median; 99 of 100\n1124f1a7ee477bea 127.0.0.1:57916  33 B/s 1.9/s";
    assert_eq!(shape(text), "took # median; # of #\n# #:# # #/s");
    assert_eq!(shape("took 1.7 s median"), shape("took  7 us median"));
    assert_eq!(shape("opened 1 <0.1/s"), shape("opened 4 0.6/s"));
    assert_eq!(shape("< {\n<html>"), "< {\n<html>");
}

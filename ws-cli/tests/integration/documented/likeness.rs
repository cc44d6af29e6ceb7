//! Whether what is printed is what a page says.

/// Whether a text is what is expected, in which `...` stands for anything.
pub(super) fn is_like(text: &str, expected: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut ends_open = false;
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        ends_open = part.is_empty();
        rest = behind;
    }
    ends_open || rest.is_empty()
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

/// Each run of letters, digits and points with a digit in it is `#`.
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
}

#[test]
fn shape_has_neither_figures_nor_units() {
    let text = "took 26.7 ms  median; 99 of 100\n1124f1a7ee477bea 127.0.0.1:57916  33 B/s 1.9/s";
    assert_eq!(shape(text), "took # median; # of #\n# #:# # #/s");
    assert_eq!(shape("took 1.7 s median"), shape("took  7 us median"));
}

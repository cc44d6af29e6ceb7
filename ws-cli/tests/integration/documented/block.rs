//! Fenced blocks of a page, and what they are marked with.

use std::collections::BTreeMap;

/// A fenced block of a page.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) language: String,
    /// What it is for: the word behind the language, `file` of `file=NAME`; empty if it does not say.
    pub(super) verb: String,
    /// `NAME` of `file=NAME`.
    pub(super) name: String,
    /// The words behind, by what stands before `=`.
    pub(super) words: BTreeMap<String, String>,
    pub(super) line: usize,
    pub(super) text: String,
}

impl Block {
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }

    /// What is wrong with what it is marked with: a word that nobody heeds would have it carried out
    /// less strictly than the page wants.
    pub(super) fn fault(&self) -> Option<String> {
        if self.verb.is_empty() || self.language.is_empty() {
            return Some("is this block carried out? Its first line has to say so".to_owned());
        }
        let own: &[&str] = match (&*self.verb, &*self.name) {
            ("file", _) => &["asked", "answered", "cookie", "among"],
            ("serve", _) => &["listen", "asked", "answered", "cookie", "among"],
            ("shown", "") => &["like"],
            ("shown", _) => &["like", "unordered", "among"],
            ("beside", _) => &["until"],
            ("by", "doctor") => &["case"],
            ("by", "unit") => &["unit"],
            _ => &[],
        };
        let is_known = |word: &str| own.contains(&word) || ["needs", "alone"].contains(&word);
        if let Some(unknown) = self.words.keys().find(|word| !is_known(word)) {
            return Some(format!("what is {unknown} of {}?", self.verb));
        }
        let asks = self.word("asked").is_some();
        if asks != self.word("answered").is_some() {
            return Some("asked and answered belong together".to_owned());
        }
        let is_about_answer =
            self.word("cookie").is_some() || self.verb != "shown" && self.word("among").is_some();
        (is_about_answer && !asks).then(|| "what is asked?".to_owned())
    }
}

/// The blocks of a page in their order, those in comments among them.
pub(super) fn blocks(page: &str) -> impl Iterator<Item = Block> {
    let mut lines = page.lines().enumerate();
    std::iter::from_fn(move || {
        let (number, fence) = lines.find(|(_, line)| line.trim_start().starts_with("```"))?;
        let indent = fence.len() - fence.trim_start().len();
        let mut text = String::new();
        for (_, line) in lines.by_ref() {
            if line.trim_start().starts_with("```") {
                break;
            }
            text.push_str(line.get(indent..).unwrap_or_default());
            text.push('\n');
        }
        let info = fence.trim_start().trim_start_matches('`');
        let mut info = shell_words::split(info)
            .unwrap_or_else(|error| panic!("line {}: {error}", number + 1))
            .into_iter();
        let language = info.next().unwrap_or_default();
        let (verb, name) = pair(&info.next().unwrap_or_default());
        Some(Block {
            language,
            verb,
            name,
            words: info.map(|word| pair(&word)).collect(),
            line: number + 1,
            text,
        })
    })
}

fn pair(word: &str) -> (String, String) {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    (name.to_owned(), value.to_owned())
}

#[test]
fn blocks_are_found_with_their_marks() {
    let page = "a\n```sh run\nb\n\nc\n```\n~~~\n- d\n\n  ```text shown=x like more='y z'\n  e\n  ```\n\
        <!--\n```\nf\n```\n-->\n";
    let found: Vec<Block> = blocks(page).collect();
    let expected = [
        ("sh", "run", "", 2, "b\n\nc\n"),
        ("text", "shown", "x", 10, "e\n"),
        ("", "", "", 14, "f\n"),
    ];
    assert_eq!(found.len(), expected.len());
    for (block, expected) in found.iter().zip(expected) {
        let (language, verb, name) = (&*block.language, &*block.verb, &*block.name);
        assert_eq!((language, verb, name, block.line, &*block.text), expected);
    }
    let words = &found[1].words;
    assert_eq!(
        (words.get("like"), words.get("more")),
        (Some(&String::new()), Some(&"y z".to_owned()))
    );
}

#[test]
fn words_that_nobody_heeds_are_faults() {
    let fault = |info: &str| {
        let page = format!("```{info}\n```\n");
        let block = blocks(&page).next().unwrap();
        block.fault()
    };
    for good in [
        "toml file=ws.toml asked=hi answered=ho cookie=a=b among",
        "sh serve listen=own needs=php alone",
        "text shown=a like unordered among",
        "text by=doctor case=x",
    ] {
        assert_eq!(fault(good), None, "{good}");
    }
    for bad in [
        "",
        "sh",
        "sh serve asked=hi awnsered=ho",
        "sh serve asked=hi",
        "sh serve answered=ho",
        "sh serve cookie=a=b",
        "sh serve among",
        "sh run asked=hi answered=ho",
        "console console like",
        "text shown unordered",
        "text by=nginx case=x",
    ] {
        assert!(fault(bad).is_some(), "{bad}");
    }
}

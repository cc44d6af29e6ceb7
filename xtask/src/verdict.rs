//! Verdicts of Autobahn's cases, and what it means that one is worse than another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The number of a case, such as 6.4.3, or of a group of them, such as 6.4; in numerical order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case(Vec<u32>);

impl Case {
    /// Whether it is `group` or stands below it: 12.1.4 is in 12 and in 12.1.
    pub(crate) fn is_in(&self, group: &Self) -> bool {
        self.0.starts_with(&group.0)
    }

    /// The group with this number below this one.
    pub(crate) fn below(&self, number: u32) -> Self {
        let mut numbers = self.0.clone();
        numbers.push(number);
        Self(numbers)
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        numbers
            .map(Self)
            .with_context(|| format!("not the number of a case: {text:?}"))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.pad(&numbers.join("."))
    }
}

/// How an endpoint did, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Ok,
    /// There is no right or wrong in this case.
    Informational,
    /// Allowed, but not how it should be done.
    NonStrict,
    /// The endpoint does not offer what the case is about.
    Unimplemented,
    /// Wrong, or ended without the closing handshake that the case asks for.
    Failed,
    /// The case is on file but was not run.
    Missing,
}

impl Verdict {
    pub(crate) const ALL: [Self; 6] = [
        Self::Ok,
        Self::Informational,
        Self::NonStrict,
        Self::Unimplemented,
        Self::Failed,
        Self::Missing,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Informational => "INFORMATIONAL",
            Self::NonStrict => "NON-STRICT",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Failed => "FAILED",
            Self::Missing => "MISSING",
        }
    }

    /// A word of a report. Those that are not verdicts of ours ("UNCLEAN", "WRONG CODE") are ways
    /// to fail.
    fn of_report(word: &str) -> Self {
        word.parse().unwrap_or(Self::Failed)
    }
}

impl FromStr for Verdict {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == word)
            .with_context(|| format!("not a verdict: {word:?}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A verdict for each case.
pub(crate) type Verdicts = BTreeMap<Case, Verdict>;

/// Reads the index that a run leaves: agent -> case -> behaviour, and behaviour of the close. The
/// worse of the two is the verdict.
pub(crate) fn read_report(json: &str) -> Result<Verdicts> {
    let report: Value = serde_json::from_str(json)?;
    let agents = report.as_object().context("the report is not an object")?;
    ensure!(
        agents.len() == 1,
        "the report is of {} endpoints, not of one",
        agents.len()
    );
    let cases = agents.values().next().and_then(Value::as_object);
    let mut verdicts = Verdicts::new();
    for (case, entry) in cases.context("the report has no cases")? {
        let verdict = ["behavior", "behaviorClose"]
            .into_iter()
            .map(|key| {
                entry[key]
                    .as_str()
                    .map_or(Verdict::Failed, Verdict::of_report)
            })
            .max()
            .unwrap_or(Verdict::Failed);
        verdicts.insert(case.parse()?, verdict);
    }
    Ok(verdicts)
}

/// Reads the file of expected verdicts.
pub(crate) fn read_expected(json: &str) -> Result<Verdicts> {
    let Value::Object(cases) = serde_json::from_str(json)? else {
        bail!("expected verdicts are an object of case and verdict");
    };
    cases
        .iter()
        .map(|(case, verdict)| {
            let verdict = verdict.as_str().context("a verdict is a string")?;
            Ok((case.parse()?, verdict.parse()?))
        })
        .collect()
}

/// Writes the file of expected verdicts, a case a line.
pub(crate) fn write_expected(verdicts: &Verdicts) -> String {
    let lines: Vec<String> = verdicts
        .iter()
        .map(|(case, verdict)| format!("  \"{case}\": \"{verdict}\""))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// A case whose verdict is not the one on file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) case: Case,
    pub(crate) expected: Verdict,
    pub(crate) actual: Verdict,
}

impl Difference {
    pub(crate) fn is_worse(&self) -> bool {
        self.actual > self.expected
    }
}

/// What has changed. A case that is not on file is expected to be OK.
pub(crate) fn compare(expected: &Verdicts, actual: &Verdicts) -> Vec<Difference> {
    let mut cases: Vec<&Case> = expected.keys().chain(actual.keys()).collect();
    cases.sort_unstable();
    cases.dedup();
    cases
        .into_iter()
        .map(|case| Difference {
            case: case.clone(),
            expected: expected.get(case).copied().unwrap_or(Verdict::Ok),
            actual: actual.get(case).copied().unwrap_or(Verdict::Missing),
        })
        .filter(|it| it.expected != it.actual)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict() -> impl Strategy<Value = Verdict> {
        // A file never says that a case is missing.
        prop::sample::select(&Verdict::ALL[..5])
    }

    fn verdicts() -> impl Strategy<Value = Verdicts> {
        let case = prop::collection::vec(0_u32..30, 1..4).prop_map(Case);
        prop::collection::btree_map(case, verdict(), 0..40)
    }

    proptest! {
        #[test]
        fn prop_file_round_trips(verdicts in verdicts()) {
            prop_assert_eq!(read_expected(&write_expected(&verdicts)).unwrap(), verdicts);
        }

        #[test]
        fn prop_nothing_differs_from_itself(verdicts in verdicts()) {
            prop_assert_eq!(compare(&verdicts, &verdicts), []);
        }

        #[test]
        fn prop_exactly_the_changed_case_is_reported(
            verdicts in verdicts(),
            index in any::<prop::sample::Index>(),
            changed in verdict(),
        ) {
            prop_assume!(!verdicts.is_empty());
            let case = verdicts.keys().nth(index.index(verdicts.len())).unwrap().clone();
            let expected = verdicts[&case];
            let mut actual = verdicts.clone();
            actual.insert(case.clone(), changed);
            let differences = compare(&verdicts, &actual);
            prop_assert_eq!(differences.len(), usize::from(changed != expected));
            for difference in differences {
                prop_assert_eq!(difference.is_worse(), changed > expected);
                prop_assert_eq!(difference.case, case.clone());
            }
        }

        #[test]
        fn prop_every_missing_case_is_worse(verdicts in verdicts()) {
            let differences = compare(&verdicts, &Verdicts::new());
            prop_assert_eq!(differences.len(), verdicts.len());
            prop_assert!(differences.iter().all(Difference::is_worse));
        }
    }

    #[test]
    fn cases_are_in_numerical_order() {
        let text = r#"{"10.1.1": "OK", "9.1.10": "OK", "9.1.9": "FAILED"}"#;
        let verdicts = read_expected(text).unwrap();
        let cases: Vec<String> = verdicts.keys().map(Case::to_string).collect();
        assert_eq!(cases, ["9.1.9", "9.1.10", "10.1.1"]);
    }

    #[test]
    fn group_has_the_cases_below_its_number() {
        let case: Case = "12.1.4".parse().unwrap();
        for group in ["12", "12.1", "12.1.4"] {
            assert!(case.is_in(&group.parse().unwrap()), "{group}");
        }
        for group in ["1", "2", "12.2", "12.1.40", "12.1.4.0"] {
            assert!(!case.is_in(&group.parse().unwrap()), "{group}");
        }
    }

    #[test]
    fn worse_half_of_a_report_counts() {
        let report = r#"{"server": {
            "1.1.1": {"behavior": "OK", "behaviorClose": "OK"},
            "3.2": {"behavior": "NON-STRICT", "behaviorClose": "OK"},
            "7.1.1": {"behavior": "OK", "behaviorClose": "UNCLEAN"},
            "7.1.6": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"},
            "9.1.1": {}
        }}"#;
        let verdicts: Vec<Verdict> = read_report(report).unwrap().into_values().collect();
        use Verdict::{Failed, Informational, NonStrict, Ok};
        assert_eq!(verdicts, [Ok, NonStrict, Failed, Informational, Failed]);
    }

    #[test]
    fn new_case_must_be_ok() {
        let actual = read_expected(r#"{"1.1.1": "OK", "1.1.2": "NON-STRICT"}"#).unwrap();
        let differences = compare(&Verdicts::new(), &actual);
        assert_eq!(differences.len(), 1);
        assert!(differences[0].is_worse());
    }

    #[test]
    fn report_of_two_servers_is_refused() {
        assert!(read_report(r#"{"a": {}, "b": {}}"#).is_err());
    }
}

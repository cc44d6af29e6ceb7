//! What was found, as people and scripts are told.

use std::io::{IsTerminal as _, stdout};

use serde::Serialize;
use serde_json::{Value, json};

use super::remedy::{self, Proxy, Remedy};
use crate::failure::{Code, Failure};
use crate::output;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// It could not be looked at, or does not concern anybody here.
    NotChecked,
    /// Clients connect, but not as well as they could.
    Warning,
    /// Clients do not connect, or will not.
    Fault,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }

    /// What a terminal shows it in.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\u{1b}[32m",
            Self::NotChecked => "\u{1b}[2m",
            Self::Warning => "\u{1b}[33m",
            Self::Fault => "\u{1b}[1;31m",
        }
    }
}

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    verdict: Verdict,
    /// Which thing: a word or two for scripts.
    check: &'static str,
    /// A sentence.
    says: String,
    /// What to do.
    advice: Option<String>,
    remedy: Option<Remedy>,
}

impl Finding {
    pub(super) fn new(verdict: Verdict, check: &'static str, says: impl Into<String>) -> Self {
        Self {
            verdict,
            check,
            says: says.into(),
            advice: None,
            remedy: None,
        }
    }

    pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, check, says)
    }

    pub(super) fn not_checked(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(Verdict::NotChecked, check, says)
    }

    pub(super) fn warning(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, check, says)
    }

    pub(super) fn fault(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(Verdict::Fault, check, says)
    }

    /// Says what to do.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Names the lines of a proxy's configuration that do it.
    pub(super) fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Makes it one about something else, which it names. No proxy has to do with it.
    pub(super) fn name_as(&mut self, check: &'static str, what: &str) {
        self.check = check;
        self.says = format!("{what}: {}", self.says);
        self.remedy = None;
    }

    #[cfg(test)]
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let advice = self.advice.as_deref().unwrap_or_default();
        format!("{} {advice}", self.says)
    }

    #[cfg(test)]
    pub(super) fn remedies(&self) -> Option<Remedy> {
        self.remedy
    }
}

/// Everything that was found, in the order in which it was.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    /// Whose lines are shown.
    pub(super) proxy: Option<Proxy>,
    /// Where the server listens, for those lines.
    pub(super) backend: Option<String>,
    /// Whether any server was reached.
    pub(super) is_reached: bool,
}

impl Report {
    pub(super) fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return output::json(&self.json());
        }
        let is_coloured = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        output::text(&self.text(is_coloured))
    }

    /// What the command ends with.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        let count = |verdict| {
            let findings = self.findings.iter();
            findings.filter(|it| it.verdict == verdict).count()
        };
        let (faults, warnings) = (count(Verdict::Fault), count(Verdict::Warning));
        if !self.is_reached {
            return Err(Failure::new(Code::Unreachable, "no server is reached"));
        }
        if faults > 0 {
            let told = format!("faults: {faults}, warnings: {warnings}");
            return Err(Failure::new(Code::Failed, told));
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let findings: Vec<Value> = self.findings.iter().map(|it| self.json_of(it)).collect();
        json!({
            "reached": self.is_reached,
            "proxy": self.proxy.map(Proxy::name),
            "findings": findings,
        })
    }

    fn json_of(&self, finding: &Finding) -> Value {
        json!({
            "verdict": finding.verdict,
            "check": finding.check,
            "says": finding.says,
            "advice": finding.advice,
            "lines": self.lines(finding),
        })
    }

    fn text(&self, is_coloured: bool) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            // The longest is "not checked".
            let name = format!("{:11}", finding.verdict.name());
            let name = match is_coloured {
                true => format!("{}{name}\u{1b}[0m", finding.verdict.colour()),
                false => name,
            };
            let says = output::printable(&finding.says);
            text += &format!("{name}  {}: {says}\n", finding.check);
            if let Some(advice) = &finding.advice {
                text += &format!("{:13}{}\n", "", output::printable(advice));
            }
            let Some(remedy) = finding.remedy else {
                continue;
            };
            match (self.proxy, self.lines(finding)) {
                (Some(proxy), Some(lines)) if !lines.is_empty() => {
                    text += &format!("{:13}{}, as in {}:\n", "", proxy.title(), proxy.file());
                    for line in lines {
                        text += &format!("{:17}{line}\n", "");
                    }
                }
                (Some(_), _) => {}
                (None, _) if remedy::is_shown_for_any(remedy) => {
                    text += &format!(
                        "{:13}--proxy nginx, haproxy, apache or caddy shows the lines of its \
                         configuration.\n",
                        ""
                    );
                }
                (None, _) => {}
            }
        }
        text
    }

    fn lines(&self, finding: &Finding) -> Option<Vec<String>> {
        Some(remedy::lines(
            self.proxy?,
            finding.remedy?,
            self.backend.as_deref(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict], is_reached: bool) -> Report {
        let findings = verdicts.iter();
        let findings = findings.map(|verdict| {
            Finding::new(*verdict, "upgrade", "it is\u{1b}[2J so")
                .advise("do this")
                .remedy(Remedy::Upgrade)
        });
        Report {
            findings: findings.collect(),
            proxy: Some(Proxy::Nginx),
            backend: None,
            is_reached,
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        use Verdict::{Fault, NotChecked, Ok, Warning};
        let code = |verdicts: &[Verdict], is_reached| {
            let outcome = report(verdicts, is_reached).outcome();
            outcome.map_or_else(|failure| failure.code() as u8, |()| 0)
        };
        assert_eq!(code(&[Ok, NotChecked, Warning], true), 0);
        assert_eq!(code(&[Ok, Fault, Warning], true), 1);
        assert_eq!(code(&[Fault], false), 69);
        assert_eq!(code(&[Ok], false), 69);
    }

    #[test]
    fn t71_what_a_peer_said_does_not_reach_the_terminal_as_it_is() {
        let text = report(&[Verdict::Fault], true).text(false);
        assert!(
            text.starts_with("fault        upgrade: it is\\u{1b}[2J so\n"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
        assert!(
            report(&[Verdict::Fault], true)
                .text(true)
                .starts_with("\u{1b}[1;31mfault")
        );
    }

    #[test]
    fn lines_are_shown_for_the_proxy_or_how_to_see_them() {
        let mut report = report(&[Verdict::Fault], true);
        let with = report.text(false);
        assert!(
            with.contains("proxy_set_header Upgrade $http_upgrade;"),
            "{with}"
        );
        assert_eq!(report.json()["proxy"], "nginx");
        assert!(report.json()["findings"][0]["lines"].is_array());
        report.proxy = None;
        let without = report.text(false);
        assert!(without.contains("--proxy nginx"), "{without}");
        assert_eq!(report.json()["findings"][0]["lines"], Value::Null);
    }
}

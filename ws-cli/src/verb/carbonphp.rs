//! `ws carbonphp`: what belongs to an application of CarbonPHP's.

use serde_json::json;
use ws_server::config::Source;
use ws_server::shims;

use crate::args::{CarbonPhpArgs, CarbonPhpCheckArgs, CarbonPhpVerb};
use crate::carbonphp::{self, Asking, Taken};
use crate::config::{self, Layer, Surroundings};
use crate::failure::{Code, Failure};
use crate::output::{self, printable};

pub(crate) fn run(args: &CarbonPhpArgs) -> Result<(), Failure> {
    match &args.verb {
        CarbonPhpVerb::Bridge => output::text(&shims::carbonphp_bridge()),
        CarbonPhpVerb::Check(args) => check(args),
    }
}

fn check(args: &CarbonPhpCheckArgs) -> Result<(), Failure> {
    let surroundings = Surroundings::of_process()?;
    let mut flags = Layer::default();
    if let Some(index) = &args.index {
        let source = Source::new("the command line", &surroundings.directory);
        flags.set(&["carbonphp", "index"], index.as_str(), source);
    }
    let mut raw = config::load(args.config.config.as_deref(), &surroundings, flags)?;
    let taken = carbonphp::prepare(&mut raw, &surroundings, Asking::Now)?;
    // Before it is printed: with a fault it is not what would hold.
    config::check(&raw, &surroundings)?;
    let taken = taken.ok_or_else(|| {
        let text = "there is no application: name its index.php, here or in carbonphp.index";
        Failure::new(Code::Usage, text)
    })?;
    match args.json {
        true => output::json(&json!({ "report": taken.report, "settings": taken.settings })),
        false => print(&taken),
    }
}

/// Prints it as a configuration file with the same meaning.
fn print(taken: &Taken) -> Result<(), Failure> {
    let report = &taken.report;
    let version = report.carbonphp.as_deref().unwrap_or("(unknown version)");
    let head = format!(
        "# {}\n# CarbonPHP {version}, PHP {}, root {}\n# callbacks: validation {}, messages {}",
        taken.index.display(),
        report.php,
        report.root,
        report.callbacks.validate,
        report.callbacks.message,
    );
    let warnings = report.warnings.iter();
    let warnings = warnings.map(|warning| format!("# warning: {warning}"));
    for line in head.lines().map(str::to_owned).chain(warnings) {
        output::line(printable(&line))?;
    }
    let settings = toml::to_string(&taken.settings).map_err(anyhow::Error::from)?;
    output::line(format_args!("\n{}", settings.trim_end()))
}

//! `ws shim`: prints the programs that run scripts as fork servers and workers.

use serde_json::json;
use ws_server::shims::{self, Shim};

use crate::args::ShimArgs;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: &ShimArgs) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        return list(args.json);
    };
    let shim = shims::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = shims::ALL.iter().map(Shim::name).collect();
        let known = known.join(", ");
        Failure::new(Code::Usage, format!("{name} is no shim; there are {known}"))
    })?;
    match args.json {
        true => output::json(&with_source(&shim)),
        false => output::text(shim.source()),
    }
}

fn list(as_json: bool) -> Result<(), Failure> {
    if as_json {
        let shims: Vec<_> = shims::ALL.iter().map(described).collect();
        return output::json(&json!({ "shims": shims }));
    }
    let rows = shims::ALL.iter().map(|shim| {
        let backends = if shim.forks() {
            "fork, worker"
        } else {
            "worker"
        };
        [shim.name(), shim.interpreter(), backends].map(str::to_owned)
    });
    let head = ["NAME", "INTERPRETER", "BACKENDS"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    output::table(&rows).into_iter().try_for_each(output::line)
}

fn described(shim: &Shim) -> serde_json::Value {
    json!({
        "name": shim.name(),
        "interpreter": shim.interpreter(),
        "forks": shim.forks(),
    })
}

fn with_source(shim: &Shim) -> serde_json::Value {
    let mut whole = described(shim);
    whole["source"] = shim.source().into();
    whole
}

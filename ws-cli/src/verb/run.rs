//! `ws run`: runs the application as a user.

use hyper::Method;
use serde_json::json;

use crate::args::RunArgs;
use crate::control;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let body = json!({ "to": control::targets(&args.to), "uri": args.uri, "source": "cli" });
    let answer = control::call(&args.client, Method::POST, "/v1/run", Some(&body))?;
    let queued = control::count(&answer, "queued")?;
    if args.client.json {
        output::json(&answer)
    } else {
        output::line(queued)
    }?;
    if queued == 0 {
        return Err(Failure::new(Code::TryLater, "nobody was reached"));
    }
    Ok(())
}

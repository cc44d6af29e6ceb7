//! `ws kick`: closes connections, and ends a session.

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::args::KickArgs;
use crate::control;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: &KickArgs) -> Result<(), Failure> {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let named = [
        ("users", &args.to.user),
        ("sessions", &args.to.session),
        ("connections", &args.to.connection),
    ];
    let mut paths = named.into_iter().filter_map(|(kind, id)| {
        let id = encode(id.as_ref()?);
        Some(format!("/v1/{kind}/{id}"))
    });
    let path = paths.next().expect("the arguments name one of the three");
    let query = format!("code={}&reason={}", args.code, encode(&args.reason));
    let path = format!("{path}?{query}");
    let answer = control::call(&args.client, Method::DELETE, &path, None)?;
    let count = control::count(&answer, "connections")?;
    if args.client.json {
        output::json(&answer)
    } else {
        output::line(count)
    }?;
    if count == 0 {
        return Err(Failure::new(Code::TryLater, "nobody was reached"));
    }
    Ok(())
}

//! `ws send`: pushes a message, or each line of stdin as one.

mod lines;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::{Value, json};

use crate::args::SendArgs;
use crate::control::{self, Ask};
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: &SendArgs) -> Result<(), Failure> {
    if args.lines {
        return lines::run(args);
    }
    let payload = payload(args.text.as_deref(), io::stdin().lock())?;
    let body = body(args, payload)?;
    let ask = Ask {
        method: Method::POST,
        path: "/v1/send",
        body: Some(&body),
        key: args.key.as_deref(),
        patience: control::TIMEOUT + args.wait.unwrap_or_default(),
    };
    let answer = control::call_with(&args.client, &ask)?;
    let reached = reached(&answer)?;
    if args.client.json {
        output::json(&answer)
    } else {
        output::line(reached)
    }?;
    if reached == 0 {
        return Err(Failure::new(Code::TryLater, "nobody was reached"));
    }
    Ok(())
}

fn payload(text: Option<&OsStr>, mut stdin: impl Read) -> Result<Vec<u8>, Failure> {
    match text {
        Some(text) if text != "-" => Ok(text.as_bytes().to_vec()),
        _ => {
            let mut payload = Vec::new();
            stdin
                .read_to_end(&mut payload)
                .context("cannot read stdin")?;
            Ok(payload)
        }
    }
}

/// One message as the API takes it.
fn body(args: &SendArgs, payload: Vec<u8>) -> Result<Value, Failure> {
    let mut body = json!({ "to": control::targets(&args.to) });
    if args.binary {
        body["base64"] = STANDARD.encode(payload).into();
    } else {
        let text = String::from_utf8(payload).map_err(|_| {
            Failure::new(
                Code::Usage,
                "the message is not UTF-8; --binary sends it as it is",
            )
        })?;
        body["text"] = text.into();
    }
    if let Some(wait) = args.wait {
        body["wait"] = format!("{}ms", wait.as_millis()).into();
    }
    Ok(body)
}

/// A connection whose queue was full was found, but not reached.
fn reached(answer: &Value) -> Result<u64, Failure> {
    let written = control::count(answer, "written")?;
    Ok(written.saturating_add(control::count(answer, "queued")?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Verb};

    #[test]
    fn the_message_is_the_argument_or_stdin_whole() {
        let payload = |text: Option<&str>| payload(text.map(OsStr::new), &b"in\n\xff"[..]).unwrap();
        assert_eq!(payload(Some("text")), b"text");
        assert_eq!(payload(Some("")), b"");
        assert_eq!(payload(Some("-")), b"in\n\xff");
        assert_eq!(payload(None), b"in\n\xff");
    }

    #[test]
    fn text_must_be_utf8_and_binary_need_not() {
        let args = |line: &str| {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            let Some(Verb::Send(args)) = args.verb else {
                panic!("{line}")
            };
            args
        };
        let text = body(&args("ws send --all hi"), b"hi".to_vec()).unwrap();
        assert_eq!(text, json!({ "to": { "all": true }, "text": "hi" }));
        let binary = body(&args("ws send --all --binary"), vec![0xff]).unwrap();
        assert_eq!(binary, json!({ "to": { "all": true }, "base64": "/w==" }));
        let waiting = body(&args("ws send --all --wait=5s"), b"hi".to_vec()).unwrap();
        assert_eq!(waiting["wait"], "5000ms");
        let failure = body(&args("ws send --all"), vec![0xff]).unwrap_err();
        assert_eq!(failure.code(), Code::Usage);
        assert!(failure.to_string().contains("--binary"));
    }

    #[test]
    fn dropped_is_not_reached() {
        let answer = json!({ "connections": 6, "written": 1, "queued": 2, "dropped": 3 });
        assert_eq!(reached(&answer).unwrap(), 3);
        assert!(reached(&json!({})).is_err());
    }
}

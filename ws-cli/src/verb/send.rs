//! `ws send`: pushes a message.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::{Value, json};

use crate::args::SendArgs;
use crate::control;
use crate::failure::{Code, Failure};
use crate::output;

pub(crate) fn run(args: &SendArgs) -> Result<(), Failure> {
    let payload = payload(args.text.as_deref(), io::stdin().lock())?;
    let body = body(control::target(&args.to), payload, args.binary)?;
    let answer = control::call(&args.client, Method::POST, "/v1/send", Some(&body))?;
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

fn body(to: Value, payload: Vec<u8>, binary: bool) -> Result<Value, Failure> {
    if binary {
        return Ok(json!({ "to": to, "base64": STANDARD.encode(payload) }));
    }
    let text = String::from_utf8(payload).map_err(|_| {
        Failure::new(
            Code::Usage,
            "the message is not UTF-8; --binary sends it as it is",
        )
    })?;
    Ok(json!({ "to": to, "text": text }))
}

/// A connection whose queue was full was found, but not reached.
fn reached(answer: &Value) -> Result<u64, Failure> {
    let written = control::count(answer, "written")?;
    Ok(written.saturating_add(control::count(answer, "queued")?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let to = json!({ "all": true });
        let text = body(to.clone(), b"hi".to_vec(), false).unwrap();
        assert_eq!(text, json!({ "to": { "all": true }, "text": "hi" }));
        let binary = body(to.clone(), vec![0xff], true).unwrap();
        assert_eq!(binary, json!({ "to": { "all": true }, "base64": "/w==" }));
        let failure = body(to, vec![0xff], false).unwrap_err();
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

//! Durations, each kind with its bounds.

use std::time::Duration;

pub(super) fn wait(text: &str) -> Result<Duration, String> {
    let wait = ws_server::config::parse_duration(text);
    let wait = wait.filter(|wait| *wait <= Duration::from_secs(600));
    wait.ok_or_else(|| "a duration of at most 10m like 5s or 500ms".to_owned())
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    wait(text).and_then(|interval| match interval.is_zero() {
        true => Err("more than 0s".to_owned()),
        false => Ok(interval),
    })
}

pub(super) fn silence(text: &str) -> Result<Duration, String> {
    let silence = ws_server::config::parse_duration(text);
    let silence = silence.filter(|silence| *silence <= Duration::from_secs(3600));
    silence.ok_or_else(|| "a duration of at most 1h like 65s or 2m".to_owned())
}

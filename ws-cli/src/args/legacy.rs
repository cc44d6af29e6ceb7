//! Flags of CarbonPHP's server.

use std::ffi::OsString;

/// Flags of CarbonPHP's server, which stand in unit files. They work, and the log says what to write.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LegacyFlags {
    #[arg(long = "autoAssignAnyOpenPort", hide = true)]
    pub(crate) any_open_port: bool,

    #[arg(long = "autoAssignOpenPorts", hide = true, num_args = 0..=1,
          default_missing_value = "true", value_name = "true|false")]
    pub(crate) open_ports: Option<bool>,

    #[arg(long = "dontVerifyIP", hide = true)]
    pub(crate) dont_verify_ip: bool,
}

/// Gives flags of CarbonPHP's server that have one dash the two of all others. What stands behind
/// two dashes is a command's own.
pub(crate) fn with_long_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_ours = true;
    let args = args.into_iter().map(|arg| {
        is_ours &= arg != "--";
        match arg.to_str() {
            Some("-dontVerifyIP") if is_ours => "--dontVerifyIP".into(),
            Some("-help") if is_ours => "--help".into(),
            _ => arg,
        }
    });
    args.collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Verb};

    #[test]
    fn flags_of_carbonphp_s_server_are_understood() {
        let parsed = |line: &str| {
            let words = shell_words::split(line).unwrap().into_iter();
            let words = with_long_flags(words.map(OsString::from));
            match Args::try_parse_from(words).unwrap().verb {
                Some(Verb::Serve(args)) => args,
                other => panic!("{other:?}"),
            }
        };
        for (line, port, keeps_ip) in [
            ("", None, true),
            ("--autoAssignOpenPorts", Some(true), true),
            ("--autoAssignOpenPorts true", Some(true), true),
            (
                "--autoAssignOpenPorts=false -dontVerifyIP",
                Some(false),
                false,
            ),
            ("--dontVerifyIP", None, false),
        ] {
            let args = parsed(&format!("ws serve --carbonphp index.php {line}"));
            assert_eq!(args.legacy.open_ports, port, "{line}");
            assert_eq!(args.legacy.dont_verify_ip, !keeps_ip, "{line}");
        }
        let args = parsed("ws serve --autoAssignAnyOpenPort -- cmd -dontVerifyIP -help");
        assert!(args.legacy.any_open_port && !args.legacy.dont_verify_ip);
        assert_eq!(args.command, ["cmd", "-dontVerifyIP", "-help"]);
        let help = with_long_flags(["ws", "serve", "-help"].map(OsString::from));
        assert_eq!(Args::try_parse_from(help).unwrap_err().exit_code(), 0);
    }
}

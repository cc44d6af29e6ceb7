//! The command line: the arguments of each verb have a module of that name, but those of `ws bench`,
//! which stand with what follows from them.
//!
//! Every help text begins with an example that works as printed.

mod carbonphp;
mod cert;
mod client;
mod completions;
mod config;
mod connect;
mod doctor;
mod duration;
mod events;
mod kick;
mod legacy;
mod ls;
mod man;
mod run;
mod send;
mod serve;
mod sessions;
mod shim;
mod status;
mod target;
mod top;

use clap::{Parser, Subcommand};

use crate::verb::bench::BenchArgs;

pub(crate) use self::carbonphp::{CarbonPhpArgs, CarbonPhpCheckArgs, CarbonPhpVerb};
pub(crate) use self::cert::CertArgs;
pub(crate) use self::client::{Client, ConfigFile};
pub(crate) use self::completions::CompletionsArgs;
pub(crate) use self::config::{CheckArgs, ConfigArgs, ConfigVerb, PrintArgs};
pub(crate) use self::connect::ConnectArgs;
pub(crate) use self::doctor::DoctorArgs;
pub(crate) use self::events::EventsArgs;
pub(crate) use self::kick::KickArgs;
pub(crate) use self::legacy::{LegacyFlags, with_long_flags};
pub(crate) use self::ls::ListArgs;
pub(crate) use self::man::ManArgs;
pub(crate) use self::run::RunArgs;
pub(crate) use self::send::SendArgs;
pub(crate) use self::serve::ServeArgs;
pub(crate) use self::sessions::{RevokeArgs, SessionsArgs, SessionsListArgs, SessionsVerb};
pub(crate) use self::shim::ShimArgs;
pub(crate) use self::status::StatusArgs;
pub(crate) use self::target::Targets;
pub(crate) use self::top::{SortKey, TopArgs};

/// A WebSocket application server: any program answers the messages, any program on the host may push.
#[derive(Debug, Parser)]
#[command(
    name = "ws",
    version,
    before_help = "Example: ws serve -- tr a-z A-Z",
    after_help = "Without a command, ws serves the demo application: open the URL that it prints.\n\n\
                  Exit codes: 0 ok, 1 failure at run time, 2 wrong command line, 69 server not reachable,\n\
                  73 cannot create a socket or FIFO (also: port taken), 75 try later (nobody was reached),\n\
                  77 not permitted, 78 bad configuration.",
    disable_help_subcommand = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Serve(ServeArgs),
    Send(SendArgs),
    Run(RunArgs),
    Ls(ListArgs),
    Events(EventsArgs),
    Kick(KickArgs),
    Sessions(SessionsArgs),
    Top(TopArgs),
    Status(StatusArgs),
    Connect(ConnectArgs),
    Doctor(Box<DoctorArgs>),
    Cert(CertArgs),
    Shim(ShimArgs),
    #[command(name = "carbonphp")]
    CarbonPhp(CarbonPhpArgs),
    Bench(Box<BenchArgs>),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Serve(ServeArgs::default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(shell_words::split(line).unwrap())
    }

    #[test]
    fn definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_help_begins_with_an_example_that_parses() {
        fn visit(command: &mut clap::Command) {
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                let example = help
                    .lines()
                    .next()
                    .and_then(|line| line.strip_prefix("Example: "));
                parse(example.unwrap_or_else(|| panic!("{help}"))).unwrap();
            }
            command.get_subcommands_mut().for_each(visit);
        }
        visit(&mut Args::command());
    }

    #[test]
    fn ws_alone_is_ws_serve() {
        let Verb::Serve(args) = parse("ws").unwrap().verb.unwrap_or_default() else {
            panic!()
        };
        assert!(args.listen.is_empty() && args.command.is_empty() && !args.echo);
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let line = "ws serve --listen a:1 --listen b:2 -- cmd --echo -x";
        let Some(Verb::Serve(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        assert_eq!(args.listen, ["a:1", "b:2"]);
        assert_eq!(args.command, ["cmd", "--echo", "-x"]);
        assert!(!args.echo);
    }

    #[test]
    fn several_of_one_kind_may_be_named_and_waited_for() {
        let line = "ws send --user a --user b --except-connection c --wait --key k hello";
        let Some(Verb::Send(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        let users = ["a".to_owned(), "b".to_owned()];
        assert_eq!(args.to.named(), Some(("user", &users[..])));
        assert_eq!(args.wait, Some(Duration::from_secs(30)));
        assert_eq!(args.text.as_deref(), Some("hello".as_ref()));
        let line = "ws send --all --wait=500ms --lines";
        let Some(Verb::Send(args)) = parse(line).unwrap().verb else {
            panic!()
        };
        assert_eq!(args.wait, Some(Duration::from_millis(500)));
        assert!(args.lines && args.to.named().is_none());
    }

    #[test]
    fn wrong_lines_exit_with_2() {
        for line in [
            "ws serve cmd",
            "ws serve --echo -- cmd",
            "ws serve --carbonphp index.php -- cmd",
            "ws serve --carbonphp index.php --echo",
            "ws serve --carbonphp index.php --fork",
            "ws carbonphp",
            "ws send hello",
            "ws send --all --user u hello",
            "ws send --user u --session s hello",
            "ws send --all --except-user u --except-session s hello",
            "ws send --except-user u hello",
            "ws send --all --lines hello",
            "ws send --all --lines --key k",
            "ws send --all --wait=1d hello",
            "ws run /time",
            "ws run --all /time",
            "ws run --user u",
            "ws config",
            "ws config print --default --config ws.toml",
            "ws ls --users --user u",
            "ws nonsense",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

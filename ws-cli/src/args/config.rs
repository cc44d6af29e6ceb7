//! The arguments of `ws config`.

use clap::Subcommand;

use super::serve::ServeArgs;

/// Checks or prints the configuration
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws config print --default")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    Check(CheckArgs),
    Print(PrintArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    about = "Says what is wrong with the configuration; nothing if it is right",
    long_about = "Says what is wrong with the configuration; nothing if it is right\n\n\
                  File, credentials, environment and flags are read as `ws serve` reads them, an application of\n\
                  CarbonPHP's is asked what it configures, and the certificates, keys and tokens that are named\n\
                  are read. Exits with 78 if anything is wrong.",
    before_help = "Example: ws config check"
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    about = "Prints the configuration as it holds, and where each setting is from",
    long_about = "Prints the configuration as it holds, and where each setting is from\n\n\
                  With the flags of `ws serve`, what a server that is started with them has. Passwords are\n\
                  left out. With --default, prints a file that explains every setting and states its default.",
    before_help = "Example: ws config print --default"
)]
pub(crate) struct PrintArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,

    /// Print the defaults, with comments, whatever the configuration says
    #[arg(long, conflicts_with_all = ["ServeArgs", "ConfigFile"])]
    pub(crate) default: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

//! The arguments of `ws carbonphp`.

use clap::Subcommand;

use super::client::ConfigFile;

/// Shows what belongs to an application of CarbonPHP's
///
/// It is served by ws serve --carbonphp index.php, or by carbonphp.index in the configuration.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws carbonphp check index.php")]
pub(crate) struct CarbonPhpArgs {
    #[command(subcommand)]
    pub(crate) verb: CarbonPhpVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CarbonPhpVerb {
    Check(CarbonPhpCheckArgs),
    /// Prints the bridge: the file of PHP that stands in for CarbonPHP's server
    #[command(before_help = "Example: ws carbonphp bridge")]
    Bridge,
}

/// Asks an application what it configures, and prints the settings that become of it
///
/// It is run once, up to its command websocket. What is printed is a configuration file; what is in
/// yours, or in the environment, stands above it and is left out.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws carbonphp check index.php")]
pub(crate) struct CarbonPhpCheckArgs {
    /// Its index.php; without it that of carbonphp.index
    #[arg(value_name = "INDEX")]
    pub(crate) index: Option<String>,

    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Print one JSON object: its report, and the settings
    #[arg(long)]
    pub(crate) json: bool,
}

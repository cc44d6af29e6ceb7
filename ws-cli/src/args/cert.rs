//! The arguments of `ws cert`.

use std::path::PathBuf;

/// Makes a certificate for development
///
/// Writes cert.pem and key.pem, and prints what to put into ws.toml. No client trusts the certificate
/// unless told to. For a public name use one that browsers know, from Let's Encrypt say.
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws cert --out tls --name localhost --name 127.0.0.1")]
pub(crate) struct CertArgs {
    /// A name or an address that clients will ask for; may be repeated [default: localhost,
    /// 127.0.0.1 and ::1]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,

    /// How long it is valid, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,

    /// The directory of the two files, made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,

    /// Replace files that are there already
    #[arg(long)]
    pub(crate) force: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

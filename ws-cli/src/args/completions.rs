//! The arguments of `ws completions`.

/// Prints what a shell completes command lines with
///
/// For bash, say: ws completions bash > ~/.local/share/bash-completion/completions/ws
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws completions bash")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

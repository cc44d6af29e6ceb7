//! The arguments of `ws shim`.

/// Prints a program that makes a script a fork server or a worker
///
/// Without a name it lists them: one for each language, a single file to keep beside the application.
/// Then: ws serve --fork -- php fork.php app.php
#[derive(Debug, clap::Args)]
#[command(before_help = "Example: ws shim fork.py")]
pub(crate) struct ShimArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The name of its file
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

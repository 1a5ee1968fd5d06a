//! How a command prints its result: as a table, or as JSON.

/// Options for the format of a result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FormatArgs {
    /// Choose the format of the result
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: OutputFormat,
    /// Print JSON, as --format json does
    #[arg(long)]
    json: bool,
}

/// The format of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns
    #[default]
    Table,
    /// An array of objects
    Json,
}

impl FormatArgs {
    /// Whether to print JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json || self.format == OutputFormat::Json
    }
}
